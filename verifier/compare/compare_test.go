package compare

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// What is late, silent or empty is no split.
func TestOneHistory(t *testing.T) {
	h := newHistory(t, 700)
	dead := Source{Name: "dead", Kind: KindMirror, Fetch: func(context.Context, string, int64) ([]byte, error) {
		return nil, errors.New("connection refused")
	}}
	r, _ := run(t, nil, dead, h.log("log", 700, "w1", "w2"), h.mirror("mirror", 256), h.witness("w1", 700), h.witness("w2", 699),
		h.mirror("young", 0), shows("w3", nil))
	want(t, r, VerdictConsistent, StatusUnreachable, StatusAgrees, StatusBehind, StatusAgrees, StatusBehind, StatusBehind, StatusNothing)
	if v := r.Views[1]; !v.Quorum || len(v.Cosigned) != 2 || v.Size != 700 || v.History != 1 || v.Behind != 0 {
		t.Errorf("the log: %+v", v)
	}
	if v := r.Views[4]; v.Quorum || len(v.Cosigned) != 1 || v.Behind != 1 {
		t.Errorf("a witness: %+v", v)
	}
	if r.Compared != 5 || r.Origin != origin {
		t.Errorf("%+v", r)
	}
}

// A log that shows two histories is found out whoever shows which, of whatever
// sizes, and there is evidence.
func TestSplit(t *testing.T) {
	for _, size := range []int{4, 256, 300, 512, 600} {
		a := newHistory(t, size)
		for _, other := range []int{size - 1, size, size + 1, size + 300} {
			b := a.fork(size/2, other, "forked")
			name := fmt.Sprintf("%d and %d", size, other)
			t.Run(name+", by the log and a witness", func(t *testing.T) {
				r, _ := run(t, nil, b.log("log", other), a.witness("w1", size))
				if other >= size {
					if r.Verdict != VerdictSplit {
						t.Errorf("%+v", r)
					}
				} else if want(t, r, VerdictNotCompared, StatusNotCompared, StatusAgrees); !strings.Contains(r.Views[0].Problem, "nobody serves") {
					t.Errorf("%+v", r.Views[0])
				}
			})
			t.Run(name+", at two addresses", func(t *testing.T) {
				r, _ := run(t, nil, b.log("there", other), a.log("here", size), a.witness("w1", size), b.witness("w2", other))
				if r.Verdict != VerdictSplit || len(r.Splits) != 1 || r.Views[0].History != r.Views[3].History || r.Views[1].History != r.Views[2].History ||
					r.Views[0].History == r.Views[1].History {
					t.Errorf("%+v", r)
				}
				// The checkpoints with the most cosignatures are evidence.
				for _, note := range [][]byte{r.Splits[0].Evidence.Known, r.Splits[0].Evidence.Submitted} {
					if n, err := checkpoint.ParseNote(note); err != nil || len(n.Signatures) != 2 {
						t.Errorf("evidence has the note\n%s%v", note, err)
					}
				}
			})
		}
	}
}

// Every further history is told from the others.
func TestThreeHistories(t *testing.T) {
	a := newHistory(t, 20)
	b, c := a.fork(5, 15, "b"), a.fork(5, 10, "c")
	r, _ := run(t, nil, a.log("a", 20), b.log("b", 15), c.log("c", 10), a.fork(5, 5, "").mirror("common", 5))
	want(t, r, VerdictSplit, StatusAgrees, StatusDiffers, StatusDiffers, StatusBehind)
	if len(r.Splits) != 3 || r.Views[1].History != 2 || r.Views[2].History != 3 {
		t.Errorf("%+v", r)
	}
}

// Only the log's own word is evidence, and only a witness's own cosignature is
// its word.
func TestInvalidViews(t *testing.T) {
	h := newHistory(t, 20)
	other := h.checkpoint(20)
	other.Origin = "example.com/other"
	tampered := h.signed(20, "w1")
	tampered[len(tampered)-3] ^= 1
	for name, signed := range map[string][]byte{
		"no note":               []byte("404 page not found\n"),
		"empty":                 {},
		"another log":           sign(t, other, origin, "w1"),
		"another key":           sign(t, h.checkpoint(20), "stranger", "w1"),
		"no cosignature":        h.signed(20),
		"another's cosignature": h.signed(20, "w2"),
		"bad cosignature":       tampered,
	} {
		t.Run(name, func(t *testing.T) {
			r, state := run(t, nil, h.log("log", 20), shows("w1", signed), h.witness("w2", 10))
			want(t, r, VerdictInvalid, StatusAgrees, StatusInvalid, StatusBehind)
			if _, seen := state.sources["w1"]; seen {
				t.Error("it is remembered as the witness's")
			}
			if r.Views[1].Problem == "" {
				t.Error("no reason is given")
			}
		})
	}
	// What a witness has not cosigned the log may still have signed.
	fork := h.fork(3, 20, "forked")
	r, _ := run(t, nil, h.log("log", 20), shows("w1", fork.signed(20)))
	if r.Verdict != VerdictSplit {
		t.Errorf("%+v", r)
	}
}

// One view alone is not a comparison, unless it is said to be one.
func TestTooFew(t *testing.T) {
	h := newHistory(t, 20)
	r, state := run(t, nil, h.log("log", 20), shows("w1", nil))
	want(t, r, VerdictTooFew, StatusAgrees, StatusNothing)
	c := &Comparison{Policy: policy(t), Sources: []Source{h.log("log", 20)}, AtLeast: 1}
	if r, _, err := c.Run(t.Context(), state); err != nil || r.Verdict != VerdictConsistent {
		t.Errorf("%+v, %v", r, err)
	}
}

// Tiles are believed only as far as they lead to the checkpoint, and any source
// that has them will do.
func TestTilesFromAnybody(t *testing.T) {
	h := newHistory(t, 700)
	liar := h.log("liar", 700)
	honest := liar.Fetch
	liar.Fetch = func(ctx context.Context, path string, limit int64) ([]byte, error) {
		b, err := honest(ctx, path, limit)
		if strings.HasPrefix(path, "tile/") {
			b[0] ^= 1
		}
		return b, err
	}
	r, _ := run(t, nil, liar, h.witness("w1", 300))
	want(t, r, VerdictNotCompared, StatusAgrees, StatusNotCompared)
	r, _ = run(t, nil, liar, h.witness("w1", 300), h.witness("w2", 200), h.mirror("mirror", 400))
	want(t, r, VerdictConsistent, StatusAgrees, StatusBehind, StatusBehind, StatusBehind)
}

// A source that never answers is waited for as long as was said, and no longer.
func TestSilentSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory(t, 20)
		silent := Source{Name: "silent", Kind: KindMirror, Fetch: func(ctx context.Context, _ string, _ int64) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		half := h.log("half", 20) // shows its checkpoint and then nothing
		half.Fetch = func(ctx context.Context, path string, limit int64) ([]byte, error) {
			if path == "checkpoint" {
				return h.signed(20), nil
			}
			return silent.Fetch(ctx, path, limit)
		}
		r, _ := run(t, nil, silent, half, h.witness("w1", 10))
		want(t, r, VerdictNotCompared, StatusUnreachable, StatusAgrees, StatusNotCompared)
		r, _ = run(t, nil, silent, half, h.witness("w1", 10), h.log("log", 20))
		want(t, r, VerdictConsistent, StatusUnreachable, StatusAgrees, StatusBehind, StatusAgrees)

		// Sources that are slow in turn do not add up for ever.
		sources := []Source{h.witness("w1", 10), h.witness("w2", 11), h.witness("w3", 12)}
		for i := range 30 {
			sources = append(sources, half)
			sources[i+3].Name = fmt.Sprint("half ", i)
		}
		r, _ = run(t, nil, sources...)
		if r.Verdict != VerdictNotCompared {
			t.Errorf("%+v", r)
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c := &Comparison{Policy: policy(t), Sources: []Source{silent}}
		if _, _, err := c.Run(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestUnusableComparisons(t *testing.T) {
	h := newHistory(t, 1)
	many := make([]Source, MaxSources+1)
	for i := range many {
		many[i] = h.log(fmt.Sprint(i), 1)
	}
	twice := []Source{h.log("log", 1), h.log("log", 1)}
	for name, sources := range map[string][]Source{
		"none": nil, "too many": many, "twice": twice, "no name": {h.log("", 1)}, "long name": {h.log(strings.Repeat("x", maxSourceName+1), 1)},
		"the name of the memory": {h.log(memoryName, 1)},
	} {
		if _, _, err := (&Comparison{Policy: policy(t), Sources: sources}).Run(t.Context(), nil); !errors.Is(err, ErrSources) {
			t.Errorf("%s: %v", name, err)
		}
	}
	two, err := checkpoint.ParsePolicy([]byte("quorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := (&Comparison{Policy: two, Sources: []Source{h.log("log", 1)}}).Run(t.Context(), nil); !errors.Is(err, checkpoint.ErrManyOrigins) {
		t.Errorf("a policy without log: %v", err)
	}
}

// Whatever trees a log shows to whom: the verdict is a split exactly if two views
// are of trees of which neither extends the other, as long as all trees are
// served; and all views of one history have one number.
func TestRandomHistories(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	trunk := newHistory(t, 600)
	for range 60 {
		histories := []*history{trunk}
		for i := range random.IntN(3) {
			from := histories[random.IntN(len(histories))]
			at := random.IntN(len(from.entries))
			histories = append(histories, from.fork(at, at+1+random.IntN(300), fmt.Sprint("fork ", i)))
		}
		type shown struct {
			h    *history
			size int
		}
		var views []shown
		var sources []Source
		for i, h := range histories {
			v := shown{h, random.IntN(len(h.entries) + 1)}
			views, sources = append(views, v), append(sources, h.log(fmt.Sprint("log ", i), v.size))
		}
		for i := range 1 + random.IntN(5) {
			h := histories[random.IntN(len(histories))]
			v := shown{h, random.IntN(len(h.entries) + 1)}
			s := h.witness("w1", v.size)
			s.Name = fmt.Sprint("witness ", i)
			views, sources = append(views, v), append(sources, s)
		}
		extends := func(a, b shown) bool { // one of them the other
			if a.size > b.size {
				a, b = b, a
			}
			return b.h.checkpoint(a.size) == a.h.checkpoint(a.size)
		}
		split := false
		for i := range views {
			for j := range i {
				split = split || !extends(views[i], views[j])
			}
		}
		r, _ := run(t, nil, sources...)
		if (r.Verdict == VerdictSplit) != split || r.Verdict != VerdictSplit && r.Verdict != VerdictConsistent {
			t.Fatalf("split %v, %+v", split, r)
		}
		for i := range views {
			for j := range i {
				if r.Views[i].History == r.Views[j].History && !extends(views[i], views[j]) {
					t.Fatalf("views %d and %d are not of one history: %+v", i, j, r.Views)
				}
			}
		}
	}
}
