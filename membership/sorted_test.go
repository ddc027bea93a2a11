package membership

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
)

func member0(id string) *member {
	return &member{Principal: Principal{ID: id}, leaf: hashLeaf([]byte(id))}
}

// checkSorted holds a list to its invariants and to the ids it should have.
func checkSorted(t *testing.T, s sorted[*member], want []string) {
	t.Helper()
	var got []string
	for i, c := range s.chunks {
		if len(c) == 0 || len(c) > maxChunk {
			t.Fatalf("a chunk of %d", len(c))
		}
		if i > 0 && len(c)+len(s.chunks[i-1]) < maxChunk/8 {
			t.Fatalf("neighbouring chunks of %d and %d", len(s.chunks[i-1]), len(c))
		}
		for _, m := range c {
			got = append(got, m.ID)
		}
	}
	if !slices.Equal(got, want) || s.len() != len(want) {
		t.Fatalf("%d values, len %d, want %d", len(got), s.len(), len(want))
	}
	for i, id := range want {
		if m, ok := s.get(id); !ok || m.ID != id || s.at(i).ID != id {
			t.Fatalf("value %d, %q, is not found", i, id)
		}
		if rank, ok := s.rank(id); !ok || rank != i {
			t.Fatalf("rank of %q is %d, want %d", id, rank, i)
		}
	}
	i := len(want) / 3
	for m := range s.from(i) {
		if m.ID != want[i] {
			t.Fatalf("iteration gives %q at %d, want %q", m.ID, i, want[i])
		}
		i++
	}
}

// List and tree equal flat ones over lives that split and join chunks, and
// earlier versions stay as they were.
func TestSortedAndTree(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var s sorted[*member]
	tr := new(tree)
	var ids []string
	type version struct {
		s    sorted[*member]
		tr   *tree
		ids  []string
		root digest.Digest
	}
	var versions []version
	step := func(id string) {
		rank, exists := s.rank(id)
		if _, ok := s.get(id); ok != exists {
			t.Fatalf("get and rank differ on %q", id)
		}
		if exists {
			s = s.without(id)
			ids = slices.Delete(ids, rank, rank+1)
		} else {
			s = s.with(member0(id))
			ids = slices.Insert(ids, rank, id)
		}
		leaves := func(yield func(digest.Digest) bool) {
			for m := range s.from(rank) {
				if !yield(m.leaf) {
					return
				}
			}
		}
		tr = tr.with(uint64(s.len()), uint64(rank), uint64(s.len()), leaves)
	}
	checkTree := func() {
		t.Helper()
		leaves := make([][]byte, len(ids))
		for i, id := range ids {
			leaves[i] = []byte(id)
		}
		if root := tr.root(); root != digest.Digest(refTree(leaves)) {
			t.Fatalf("root over %d leaves differs from the reference", len(ids))
		}
		versions = append(versions, version{s, tr, slices.Clone(ids), tr.root()})
	}
	phases := []struct{ steps, space int }{{1000, 100_000}, {1200, 900}}
	for _, p := range phases {
		for i := range p.steps {
			step(fmt.Sprintf("%06d", rng.IntN(p.space)))
			if i%197 == 0 {
				checkTree()
			}
		}
		checkSorted(t, s, ids)
	}
	for len(ids) > 0 { // from the front, then from the back
		step(ids[0])
		if len(ids) > 0 {
			step(ids[len(ids)-1])
		}
		if len(ids)%101 == 0 {
			checkTree()
			checkSorted(t, s, ids)
		}
	}
	if _, ok := s.get("x"); ok || s.without("x").len() != 0 {
		t.Error("an empty list has something")
	}
	for i, v := range versions {
		if i%8 == 0 {
			checkSorted(t, v.s, v.ids)
		}
		if v.tr.root() != v.root {
			t.Fatal("an earlier tree has changed")
		}
	}
}

// Removals in the worst order leave no long list of tiny chunks.
func TestSortedJoinsChunks(t *testing.T) {
	var s sorted[*member]
	const n = 8_000
	for i := range n {
		s = s.with(member0(fmt.Sprintf("%06d", i)))
	}
	for i := range n {
		if i%128 != 0 {
			s = s.without(fmt.Sprintf("%06d", i))
		}
	}
	if len(s.chunks) > 2 {
		t.Errorf("%d values in %d chunks", s.len(), len(s.chunks))
	}
}
