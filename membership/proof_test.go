package membership

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
)

func cloneLeaf(l Leaf) Leaf {
	c := Leaf{Index: l.Index, Data: bytes.Clone(l.Data)}
	for _, h := range l.Proof {
		c.Proof = append(c.Proof, bytes.Clone(h))
	}
	return c
}

// Every id that is a member has a proof of that and none of absence, and the
// other way round, for every size up to 9; no other pair of leaves passes.
func TestProofsExhaustive(t *testing.T) {
	s := mustGenesis(t)
	for i := 0; s.Count() <= 9; i++ {
		hash, count := s.MembershipHash(), s.Count()
		var leaves []Leaf
		var ids []string
		for p := range s.Principals() {
			leaf, err := s.ProveMember(p.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := CheckMember(hash, count, p.ID, leaf); err != nil || got.ID != p.ID {
				t.Fatalf("%q of %d: %v", p.ID, count, err)
			}
			if _, err := s.ProveAbsent(p.ID); !errors.Is(err, ErrIsMember) {
				t.Fatalf("absence of a member: %v", err)
			}
			leaves, ids = append(leaves, leaf), append(ids, p.ID)
		}
		absent := []string{"0", "alicf", "node", "zz"}
		for _, id := range ids {
			absent = append(absent, id+"0", id[:len(id)-1])
		}
		for _, id := range absent {
			if _, ok := s.Principal(id); ok || !identifier.MatchString(id) {
				continue
			}
			if _, err := s.ProveMember(id); !errors.Is(err, ErrNotMember) {
				t.Fatalf("membership of %q: %v", id, err)
			}
			proof, err := s.ProveAbsent(id)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckAbsent(hash, count, id, proof); err != nil {
				t.Fatalf("absence of %q among %d: %v", id, count, err)
			}
			for i := range leaves {
				for j := range leaves {
					want := j == i+1 && ids[i] < id && id < ids[j]
					if err := CheckAbsent(hash, count, id, []Leaf{leaves[i], leaves[j]}); (err == nil) != want {
						t.Fatalf("absence of %q by %q and %q: %v", id, ids[i], ids[j], err)
					}
				}
				want := i == 0 && id < ids[0] || i == len(ids)-1 && id > ids[i]
				if err := CheckAbsent(hash, count, id, leaves[i:i+1]); (err == nil) != want {
					t.Fatalf("absence of %q by %q alone: %v", id, ids[i], err)
				}
			}
		}
		for _, id := range ids {
			for i := range leaves {
				if CheckAbsent(hash, count, id, leaves[i:min(i+2, len(leaves))]) == nil || CheckAbsent(hash, count, id, leaves[i:i+1]) == nil {
					t.Fatalf("absence of the member %q was shown", id)
				}
			}
		}
		s = mustUnsigned(t, s, AddPrincipal{nodeOf(fmt.Sprint("n", i*7%20))})
	}
}

// A proof with any part changed does not hold.
func TestProofMutations(t *testing.T) {
	s := mustGenesis(t)
	for i := range 9 {
		s = mustUnsigned(t, s, AddPrincipal{nodeOf(fmt.Sprint("n", i))})
	}
	hash, count := s.MembershipHash(), s.Count()
	leaf, err := s.ProveMember("n3")
	if err != nil {
		t.Fatal(err)
	}
	p, _ := s.Principal("n3")
	spaced := bytes.Replace(leaf.Data, []byte(`,"kind"`), []byte(`, "kind"`), 1)
	for name, mutate := range map[string]func(l *Leaf){
		"index":             func(l *Leaf) { l.Index++ },
		"index beyond":      func(l *Leaf) { l.Index = count },
		"huge index":        func(l *Leaf) { l.Index = 1 << 63 },
		"data":              func(l *Leaf) { l.Data[9] ^= 1 },
		"no data":           func(l *Leaf) { l.Data = nil },
		"hash":              func(l *Leaf) { l.Proof[1][0] ^= 1 },
		"hash missing":      func(l *Leaf) { l.Proof = l.Proof[1:] },
		"hash too much":     func(l *Leaf) { l.Proof = append(l.Proof, l.Proof[0]) },
		"short hash":        func(l *Leaf) { l.Proof[0] = l.Proof[0][1:] },
		"no proof":          func(l *Leaf) { l.Proof = nil },
		"very long proof":   func(l *Leaf) { l.Proof = make([][]byte, 1<<20) },
		"not canonical":     func(l *Leaf) { l.Data = spaced },
		"another principal": func(l *Leaf) { *l, _ = s.ProveMember("n4") },
	} {
		l := cloneLeaf(leaf)
		mutate(&l)
		if _, err := CheckMember(hash, count, "n3", l); !errors.Is(err, ErrProof) {
			t.Errorf("%s: got %v, want %v", name, err, ErrProof)
		}
	}
	if _, err := CheckMember(hash, 4*count, "n3", leaf); !errors.Is(err, ErrProof) {
		t.Errorf("another count: %v", err)
	}
	if _, err := CheckMember(digest.Of(nil), count, "n3", leaf); !errors.Is(err, ErrProof) {
		t.Errorf("another hash: %v", err)
	}

	// A root over data that is no leaf data, as an unlawful maker could sign it.
	for name, data := range map[string][]byte{
		"not canonical": spaced,
		"not JSON":      []byte("n3"),
		"unlawful":      bytes.Replace(leaf.Data, []byte(p.Kind), []byte("nude"), 1),
	} {
		l := Leaf{Data: data}
		if _, err := CheckMember(hashLeaf(data), 1, "n3", l); !errors.Is(err, ErrProof) {
			t.Errorf("%s: got %v, want %v", name, err, ErrProof)
		}
	}
}

func TestAbsenceFromNothing(t *testing.T) {
	empty := digest.Of(nil) // the RFC 6962 root of no leaves is SHA-256 of nothing
	if err := CheckAbsent(empty, 0, "x", nil); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another root":  CheckAbsent(digest.Of([]byte("x")), 0, "x", nil),
		"a leaf":        CheckAbsent(empty, 0, "x", []Leaf{{}}),
		"no leaf":       CheckAbsent(empty, 1, "x", nil),
		"three leaves":  CheckAbsent(empty, 3, "x", make([]Leaf, 3)),
		"no identifier": CheckAbsent(empty, 0, "X", nil),
	} {
		if !errors.Is(err, ErrProof) {
			t.Errorf("%s: got %v, want %v", name, err, ErrProof)
		}
	}
	if _, err := mustGenesis(t).ProveAbsent("X"); err == nil {
		t.Error("absence of what is no identifier was proven")
	}
}

// Scores that begin alike are compared as a whole, and equal ones, which nobody
// has ever seen, are ordered by id.
func TestRankTies(t *testing.T) {
	var nodes []*member
	for _, id := range []string{"node-1", "node-2", "node-3", "node-3"} {
		nodes = append(nodes, &member{Principal: nodeOf(id)})
	}
	r := newRanking(nodes, digest.Of(nil), 3)
	for i := range 3 {
		for j := range 3 {
			a, b := r.score.of(nodes[i].ID), r.score.of(nodes[j].ID)
			if got, want := r.before(ranked{7, i}, ranked{7, j}), bytes.Compare(a[:], b[:]) < 0; got != want {
				t.Errorf("%d before %d: %t, want %t", i, j, got, want)
			}
		}
	}
	if !r.before(ranked{7, 2}, ranked{7, 3}) || r.before(ranked{7, 3}, ranked{7, 2}) {
		t.Error("equal scores are not ordered by id")
	}
}

func TestScheduleRefusals(t *testing.T) {
	s := mustGenesis(t)
	for _, req := range []ScheduleRequest{
		{},
		{Nodes: 0, Step: 1, MaxAssigned: 1},
		{Nodes: 2, Step: 1, MaxAssigned: 1},
		{Nodes: 1, Step: 0, MaxAssigned: 2},
		{Nodes: 1, Step: 1, MaxAssigned: 65},
		{Nodes: 1 << 63, Step: 1 << 63, MaxAssigned: 1 << 63},
	} {
		if _, err := s.Schedule(digest.Digest{}, req); !errors.Is(err, ErrScheduleRequest) {
			t.Errorf("%+v: got %v, want %v", req, err, ErrScheduleRequest)
		}
	}
	if _, err := s.Schedule(digest.Digest{}, ScheduleRequest{Nodes: 2, MaxAssigned: 2}); !errors.Is(err, ErrTooFewEligible) {
		t.Errorf("got %v, want %v", err, ErrTooFewEligible)
	}
	sch, err := s.Schedule(digest.Digest{}, ScheduleRequest{Nodes: 1, Step: 1 << 62, MaxAssigned: 64})
	if err != nil {
		t.Fatal(err)
	}
	if got := sch.Assigned(1 << 63); len(got) != 1 || sch.Attempts() != 1 {
		t.Errorf("assigned %q in %d attempts, want 1 and 1", got, sch.Attempts())
	}
	if _, ok := sch.FirstAttempt("nobody"); ok {
		t.Error("somebody unknown is assigned")
	}
}
