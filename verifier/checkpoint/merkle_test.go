package checkpoint

import (
	"crypto/sha256"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
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

// TestProofsAgainstMerkle compares verdicts with transparency-dev/merkle: on
// every pair of sizes and every index up to 40 with proofs of every length of
// random hashes, which both refuse, and on the roots that these proofs lead to,
// which both accept; and on random large trees.
func TestProofsAgainstMerkle(t *testing.T) {
	for size := int64(0); size <= 40; size++ {
		for index := range size + 2 {
			for n := range 9 {
				compareVerdicts(t, size, index, randomHashes(n))
			}
		}
	}
	for range 200 {
		size := rand.Int64N(1<<(1+rand.IntN(62))) + 1
		index := rand.Int64N(size)
		hashes := randomHashes(rand.IntN(MaxConsistencyHashes + 1))
		compareVerdicts(t, size, index, hashes)
		// The right numbers of hashes, which a random one seldom is.
		for n := range MaxConsistencyHashes {
			if _, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, uint64(index), uint64(size), make([]byte, 32), hashSlices(make([]tlog.Hash, n))); err == nil {
				compareVerdicts(t, size, index, randomHashes(n))
				compareVerdicts(t, size, index, randomHashes(n+1))
			}
		}
	}
}

func compareVerdicts(t *testing.T, size, index int64, hashes []tlog.Hash) {
	t.Helper()
	h := rfc6962.DefaultHasher
	leaf := randomHashes(1)[0]
	for _, root := range []tlog.Hash{rootOfInclusion(leaf, index, size, hashes), randomHashes(1)[0]} {
		want := errors.New("negative")
		if index < size && len(hashes) <= MaxInclusionHashes {
			want = proof.VerifyInclusion(h, uint64(index), uint64(size), leaf[:], hashSlices(hashes), root[:])
		}
		got := VerifyInclusion(tlog.Tree{N: size, Hash: root}, index, leaf, hashes)
		if (got == nil) != (want == nil) {
			t.Fatalf("inclusion of %d in %d with %d hashes: %v, merkle says %v", index, size, len(hashes), got, want)
		}
	}
	older, newer := rootsOfConsistency(index, size, hashes)
	for _, roots := range [][2]tlog.Hash{{older, newer}, {older, leaf}, {leaf, newer}, {older, older}} {
		if index == 0 {
			roots[0] = EmptyRoot // merkle does not look at it
		}
		if size == 0 {
			roots[1] = EmptyRoot
		}
		want := proof.VerifyConsistency(h, uint64(index), uint64(size), hashSlices(hashes), roots[0][:], roots[1][:])
		got := VerifyConsistency(tlog.Tree{N: index, Hash: roots[0]}, tlog.Tree{N: size, Hash: roots[1]}, hashes)
		if (got == nil) != (want == nil) {
			t.Fatalf("consistency of %d and %d with %d hashes: %v, merkle says %v", index, size, len(hashes), got, want)
		}
	}
}

// rootOfInclusion is the root that merkle derives from a proof, or any.
func rootOfInclusion(leaf tlog.Hash, index, size int64, hashes []tlog.Hash) tlog.Hash {
	root, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, uint64(index), uint64(size), leaf[:], hashSlices(hashes))
	if err != nil {
		return leaf
	}
	return tlog.Hash(root)
}

// rootsOfConsistency are roots that a proof of that many hashes leads to, by the
// algorithm of RFC 9162 section 2.1.4.2, word for word. They are any if the proof
// does not fit.
func rootsOfConsistency(first, second int64, path []tlog.Hash) (fr, sr tlog.Hash) {
	if first <= 0 || first >= second {
		return
	}
	if first&(first-1) == 0 {
		path = append([]tlog.Hash{randomHashes(1)[0]}, path...)
	}
	if len(path) == 0 {
		return
	}
	fn, sn := first-1, second-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	fr, sr = path[0], path[0]
	for _, c := range path[1:] {
		if sn == 0 {
			return
		}
		if fn&1 == 1 || fn == sn {
			fr, sr = naiveChildren(c, fr), naiveChildren(c, sr)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			sr = naiveChildren(sr, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	return fr, sr
}

func naiveChildren(left, right tlog.Hash) tlog.Hash {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

func randomHashes(n int) []tlog.Hash {
	out := make([]tlog.Hash, n)
	for i := range out {
		for j := range out[i] {
			out[i][j] = byte(rand.Uint32())
		}
	}
	return out
}

func hashSlices(hashes []tlog.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

func TestVerifyingDoesNotAllocate(t *testing.T) {
	tree, index, leaf, hashes := largeProof()
	if n := testing.AllocsPerRun(100, func() {
		if err := VerifyInclusion(tree, index, leaf, hashes); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// largeProof is one in a tree of ten million entries.
func largeProof() (tree tlog.Tree, index int64, leaf tlog.Hash, hashes []tlog.Hash) {
	const size = 10_000_000
	index, hashes = 7_654_321, randomHashes(24)
	return tlog.Tree{N: size, Hash: rootOfInclusion(leaf, index, size, hashes)}, index, leaf, hashes
}

// BenchmarkVerifyInclusion measures one core, beside transparency-dev/merkle.
func BenchmarkVerifyInclusion(b *testing.B) {
	tree, index, leaf, hashes := largeProof()
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := VerifyInclusion(tree, index, leaf, hashes); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("merkle", func(b *testing.B) {
		slices := hashSlices(hashes)
		b.ReportAllocs()
		for b.Loop() {
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(index), uint64(tree.N), leaf[:], slices, tree.Hash[:]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
