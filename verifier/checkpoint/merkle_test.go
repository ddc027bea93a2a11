package checkpoint

import (
	"errors"
	"math"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// TestProofsExhaustively makes every proof of every tree up to 40 leaves with
// golang.org/x/mod, which is independent of what verifies them, and breaks each.
func TestProofsExhaustively(t *testing.T) {
	const largest = 40
	tree := newTestTree(t, largest)
	for size := int64(1); size <= largest; size++ {
		head := tree.head(t, size)
		for index := range size {
			proof, err := tlog.ProveRecord(size, index, tree)
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyInclusion(head, index, leafHash(index), proof); err != nil {
				t.Fatalf("leaf %d of %d: %v", index, size, err)
			}
			if err := VerifyInclusion(head, index, leafHash(index+1), proof); !errors.Is(err, ErrProof) {
				t.Fatalf("leaf %d of %d: another leaf: %v", index, size, err)
			}
			if err := VerifyInclusion(head, (index+1)%(size+1), leafHash(index), proof); !errors.Is(err, ErrProof) {
				t.Fatalf("leaf %d of %d: another index: %v", index, size, err)
			}
			for name, bad := range brokenProofs(proof) {
				if err := VerifyInclusion(head, index, leafHash(index), bad); !errors.Is(err, ErrProof) {
					t.Fatalf("leaf %d of %d: proof %s: %v", index, size, name, err)
				}
			}
		}
		for old := range size {
			var proof []tlog.Hash
			if old > 0 {
				var err error
				if proof, err = tlog.ProveTree(size, old, tree); err != nil {
					t.Fatal(err)
				}
			}
			older := tlog.Tree{Hash: EmptyRoot}
			if old > 0 {
				older = tree.head(t, old)
			}
			if err := VerifyConsistency(older, head, proof); err != nil {
				t.Fatalf("from %d to %d: %v", old, size, err)
			}
			if err := VerifyConsistency(tlog.Tree{N: old, Hash: tlog.Hash{1}}, head, proof); !errors.Is(err, ErrProof) {
				t.Fatalf("from %d to %d: another old root: %v", old, size, err)
			}
			if err := VerifyConsistency(older, tlog.Tree{N: size, Hash: tlog.Hash{1}}, proof); !errors.Is(err, ErrProof) && old > 0 {
				t.Fatalf("from %d to %d: another new root: %v", old, size, err)
			}
			for name, bad := range brokenProofs(proof) {
				if err := VerifyConsistency(older, head, bad); !errors.Is(err, ErrProof) {
					t.Fatalf("from %d to %d: proof %s: %v", old, size, name, err)
				}
			}
		}
	}
}

// brokenProofs are proofs that differ a little from a good one.
func brokenProofs(proof []tlog.Hash) map[string][]tlog.Hash {
	out := map[string][]tlog.Hash{
		"with a hash more":       append(slices.Clone(proof), tlog.Hash{1}),
		"with a hash more first": append([]tlog.Hash{{1}}, proof...),
	}
	if len(proof) > 0 {
		out["cut short"] = proof[1:]
		out["cut at the end"] = proof[:len(proof)-1]
		flipped := slices.Clone(proof)
		flipped[len(proof)/2][31] ^= 1
		out["with a flipped bit"] = flipped
	}
	return out
}

func TestProofBounds(t *testing.T) {
	root := tlog.Hash{1}
	hashes := make([]tlog.Hash, 100)
	for name, err := range map[string]error{
		"negative size":          VerifyInclusion(tlog.Tree{N: -1, Hash: root}, 0, root, nil),
		"negative index":         VerifyInclusion(tlog.Tree{N: 1, Hash: root}, -1, root, nil),
		"index is size":          VerifyInclusion(tlog.Tree{N: 1, Hash: root}, 1, root, nil),
		"empty tree":             VerifyInclusion(tlog.Tree{N: 0, Hash: EmptyRoot}, 0, root, nil),
		"long inclusion proof":   VerifyInclusion(tlog.Tree{N: math.MaxInt64, Hash: root}, 0, root, hashes),
		"largest tree":           VerifyInclusion(tlog.Tree{N: math.MaxInt64, Hash: root}, math.MaxInt64-1, root, hashes[:63]),
		"long consistency proof": VerifyConsistency(tlog.Tree{N: 1, Hash: root}, tlog.Tree{N: math.MaxInt64, Hash: root}, hashes),
		"largest trees":          VerifyConsistency(tlog.Tree{N: 3, Hash: root}, tlog.Tree{N: math.MaxInt64, Hash: root}, hashes[:64]),
		"smaller tree":           VerifyConsistency(tlog.Tree{N: 2, Hash: root}, tlog.Tree{N: 1, Hash: root}, nil),
		"negative trees":         VerifyConsistency(tlog.Tree{N: -2, Hash: root}, tlog.Tree{N: -1, Hash: root}, nil),
		"old root of size 0":     VerifyConsistency(tlog.Tree{N: 0, Hash: root}, tlog.Tree{N: 1, Hash: root}, nil),
		"new root of size 0":     VerifyConsistency(tlog.Tree{N: 0, Hash: EmptyRoot}, tlog.Tree{N: 0, Hash: root}, nil),
		"two roots of one size":  VerifyConsistency(tlog.Tree{N: 7, Hash: tlog.Hash{2}}, tlog.Tree{N: 7, Hash: root}, nil),
	} {
		if !errors.Is(err, ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := VerifyConsistency(tlog.Tree{N: 7, Hash: root}, tlog.Tree{N: 7, Hash: root}, nil); err != nil {
		t.Errorf("the same tree: %v", err)
	}
}
