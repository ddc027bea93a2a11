package provenance

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
)

// saying is one attestation as the naive reference keeps it.
type saying struct {
	node string
	what opinion
}

// naive reads docs/formats/execution.md word by word and knows no shortcut: it
// builds every set anew, and tries what each could become.
func naive(log []saying, agreement, ranks int) (opinion, verdict) {
	said := map[string]map[opinion]bool{}
	for _, s := range log {
		if said[s.node] == nil {
			said[s.node] = map[opinion]bool{}
		}
		said[s.node][s.what] = true
	}
	// A node with two attestations that differ is out of every set and count.
	m := 0
	sets := map[opinion][]string{}
	for node, opinions := range said {
		if len(opinions) > 1 {
			continue
		}
		m++
		for o := range opinions {
			sets[o] = append(sets[o], node)
		}
	}
	for o, set := range sets {
		if len(set) >= agreement && 2*len(set) > m {
			return o, agreed
		}
	}
	// Ranks that were heard, void or not, cannot join any more.
	u := ranks - len(said)
	sizes := []int{0}
	for _, set := range sets {
		sizes = append(sizes, len(set))
	}
	for _, size := range sizes {
		if size+u >= agreement && 2*(size+u) > m+u {
			return opinion{}, undecided
		}
	}
	return opinion{}, impossible
}

func opinionOf(result, checkpoint int) opinion {
	return opinion{result: digest.Of([]byte{byte(result)}), checkpoint: CheckpointRef{Size: int64(checkpoint)}}
}

// After every attestation of many random executions the ballot says what the
// reference says.
func TestAgreementAgainstReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	seen := map[verdict]int{}
	for range 20_000 {
		ranks := 1 + rng.IntN(7)
		nodes := 1 + rng.IntN(ranks)
		agreement := nodes/2 + 1 + rng.IntN(nodes-nodes/2)
		var log []saying
		var b ballot
		for range 1 + rng.IntN(2*ranks) {
			s := saying{fmt.Sprint("node-", rng.IntN(ranks)), opinionOf(rng.IntN(3), rng.IntN(2))}
			if b.isNew(s.node, s.what) {
				b.add(s.node, s.what)
			}
			log = append(log, s)
			wantWon, want := naive(log, agreement, ranks)
			won, got := b.judge(agreement, ranks)
			if got != want || won != wantWon {
				t.Fatalf("agreement %d of %d ranks, %v: got %d %v, want %d %v", agreement, ranks, log, got, won, want, wantWon)
			}
			seen[got]++
			if got != undecided {
				break
			}
		}
	}
	if len(seen) != 3 {
		t.Errorf("the executions never came to some verdict: %v", seen)
	}
}

// A verdict depends on who said what, not on the order.
func TestAgreementIgnoresOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var log []saying
		for range 1 + rng.IntN(6) {
			log = append(log, saying{fmt.Sprint("node-", rng.IntN(4)), opinionOf(rng.IntN(2), 0)})
		}
		count := func() (opinion, verdict) {
			var b ballot
			for _, s := range log {
				if b.isNew(s.node, s.what) {
					b.add(s.node, s.what)
				}
			}
			return b.judge(2, 4)
		}
		won, got := count()
		rng.Shuffle(len(log), func(i, j int) { log[i], log[j] = log[j], log[i] })
		if won2, got2 := count(); won2 != won || got2 != got {
			t.Fatalf("%v: %d, in another order %d", log, got2, got)
		}
	}
}

func TestAgreementCases(t *testing.T) {
	a, b, c := opinionOf(0, 0), opinionOf(1, 0), opinionOf(2, 0)
	otherCheckpoint := opinionOf(0, 1)
	say := func(opinions ...opinion) (log []saying) {
		for i, o := range opinions {
			log = append(log, saying{fmt.Sprint("node-", i), o})
		}
		return log
	}
	for _, test := range []struct {
		name             string
		log              []saying
		agreement, ranks int
		want             verdict
	}{
		{"nobody yet", nil, 2, 3, undecided},
		{"one of two", say(a), 2, 3, undecided},
		{"two of three", say(a, a), 2, 3, agreed},
		{"a tie with one to come", say(a, b), 2, 3, undecided},
		{"a tie with nobody to come", say(a, b), 2, 2, impossible},
		{"a tie of twos with one to come", say(a, b, b, a), 2, 5, undecided},
		{"a tie of twos with nobody to come", say(a, b, b, c, a), 2, 5, impossible},
		{"three ways", say(a, b, c), 2, 3, impossible},
		{"enough, and no majority", say(a, b, c, a), 2, 4, impossible},
		{"same result on another checkpoint", say(a, otherCheckpoint), 2, 2, impossible},
		{"one of one", say(a), 1, 1, agreed},
	} {
		var ballot ballot
		for _, s := range test.log {
			ballot.add(s.node, s.what)
		}
		if _, got := ballot.judge(test.agreement, test.ranks); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// A node that contradicts itself leaves every count and keeps its rank.
func TestVoidNode(t *testing.T) {
	a, b := opinionOf(0, 0), opinionOf(1, 0)
	var bal ballot
	bal.add("node-0", a)
	bal.add("node-1", b)
	bal.add("node-2", a)
	bal.add("node-3", b)
	if _, v := bal.judge(2, 4); v != impossible {
		t.Fatalf("two against two of four: %d", v)
	}
	bal.add("node-3", a)
	if won, v := bal.judge(2, 4); v != agreed || won != a {
		t.Errorf("two against one: %d", v)
	}
	if bal.isNew("node-3", b) || bal.isNew("node-3", opinionOf(2, 2)) || bal.isNew("node-0", a) {
		t.Error("a void node, or one that repeats itself, says something new")
	}
	bal = ballot{}
	bal.add("node-0", a)
	bal.add("node-0", b)
	if _, v := bal.judge(2, 2); v != impossible {
		t.Errorf("one of two nodes is void and two must agree: %d", v)
	}
}
