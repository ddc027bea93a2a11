package checkpoint

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// MaxInclusionHashes bounds an inclusion proof: a tree of up to 2^63-1 leaves
	// is at most 63 levels high.
	MaxInclusionHashes = 63
	// MaxConsistencyHashes bounds a consistency proof: one hash more than levels.
	// The witness protocol carries 63 at most, which no real tree reaches.
	MaxConsistencyHashes = 64
)

// VerifyInclusion checks that leaf is the leaf hash at index in tree, by an
// inclusion proof according to RFC 6962, section 2.1.1. A failure is ErrProof.
func VerifyInclusion(tree tlog.Tree, index int64, leaf tlog.Hash, hashes []tlog.Hash) error {
	if tree.N < 0 || index < 0 || index >= tree.N || len(hashes) > MaxInclusionHashes {
		return fmt.Errorf("%w: index %d with %d hashes in a tree of size %d", ErrProof, index, len(hashes), tree.N)
	}
	// Below inner, where the ways to this leaf and to the last one part, the
	// bits of the index say on which side the sibling is; above it, it is on the
	// left, one for each bit of the index that is set.
	inner := bits.Len64(uint64(index) ^ uint64(tree.N-1))
	if want := inner + bits.OnesCount64(uint64(index)>>inner); len(hashes) != want {
		return fmt.Errorf("%w: inclusion of leaf %d in the tree of size %d takes %d hashes, not %d", ErrProof, index, tree.N, want, len(hashes))
	}
	root := leaf
	for i := range hashes {
		if i >= inner || index>>i&1 == 1 {
			root = hashChildren(&hashes[i], &root)
		} else {
			root = hashChildren(&root, &hashes[i])
		}
	}
	if root != tree.Hash {
		return fmt.Errorf("%w: leaf %d is not in the tree of size %d with root hash %v, but in one with %v", ErrProof, index, tree.N, tree.Hash, root)
	}
	return nil
}

// VerifyConsistency checks that newer extends older, by a consistency proof
// according to RFC 6962, section 2.1.2. Trees of equal size must have equal root
// hashes, and every tree extends the empty one; both take an empty proof. A
// failure is ErrProof.
func VerifyConsistency(older, newer tlog.Tree, hashes []tlog.Hash) error {
	if older.N < 0 || newer.N < older.N || len(hashes) > MaxConsistencyHashes {
		return fmt.Errorf("%w: %d hashes from size %d to size %d", ErrProof, len(hashes), older.N, newer.N)
	}
	if older.N == 0 && older.Hash != EmptyRoot {
		return fmt.Errorf("%w: root hash %v at size 0", ErrProof, older.Hash)
	}
	if newer.N == 0 && newer.Hash != EmptyRoot {
		return fmt.Errorf("%w: root hash %v at size 0", ErrProof, newer.Hash)
	}
	if older.N == 0 || older.N == newer.N {
		if len(hashes) != 0 {
			return fmt.Errorf("%w: %d hashes from size %d to size %d, which take none", ErrProof, len(hashes), older.N, newer.N)
		}
		if older.N == newer.N && older.Hash != newer.Hash {
			return fmt.Errorf("%w: two root hashes at size %d, %v and %v", ErrProof, newer.N, older.Hash, newer.Hash)
		}
		return nil
	}
	return verifyGrowth(older, newer, hashes)
}

// verifyGrowth is VerifyConsistency for 0 < older.N < newer.N.
func verifyGrowth(older, newer tlog.Tree, hashes []tlog.Hash) error {
	olderRoot, newerRoot, err := growthRoots(older, newer.N, hashes)
	if err != nil {
		return err
	}
	if olderRoot != older.Hash || newerRoot != newer.Hash {
		return fmt.Errorf("%w: size %d with root hash %v is not consistent with size %d and %v", ErrProof, newer.N, newer.Hash, older.N, older.Hash)
	}
	return nil
}

// growthRoots returns the two root hashes that a consistency proof makes, for
// 0 < older.N < size. Both follow from the root of the last perfect subtree of
// the older tree, which is the first hash of the proof unless it is that whole
// tree. The rest is the inclusion path of that subtree in the newer tree: of its
// hashes, those on the left belong to the older tree too.
//
// If newerRoot is that of a tree, olderRoot is that of its first older.N leaves,
// whatever older.Hash is, except that for a perfect older tree older.Hash goes
// into both.
func growthRoots(older tlog.Tree, size int64, hashes []tlog.Hash) (olderRoot, newerRoot tlog.Hash, err error) {
	last := uint64(older.N - 1)
	height := bits.TrailingZeros64(uint64(older.N))
	inner := bits.Len64(last^uint64(size-1)) - height
	want := inner + bits.OnesCount64(last>>(inner+height))
	whole := older.N == 1<<height
	if !whole {
		want++
	}
	if len(hashes) != want {
		return olderRoot, newerRoot, fmt.Errorf("%w: consistency of size %d with size %d takes %d hashes, not %d", ErrProof, size, older.N, want, len(hashes))
	}
	root := older.Hash
	if !whole {
		root, hashes = hashes[0], hashes[1:]
	}
	olderRoot, newerRoot = root, root
	for i := range hashes {
		if i >= inner || last>>(height+i)&1 == 1 {
			olderRoot = hashChildren(&hashes[i], &olderRoot)
			newerRoot = hashChildren(&hashes[i], &newerRoot)
		} else {
			newerRoot = hashChildren(&newerRoot, &hashes[i])
		}
	}
	return olderRoot, newerRoot, nil
}

// nodePrefix separates interior nodes from leaves, RFC 6962, section 2.1.
const nodePrefix = 1

// hashChildren returns SHA-256(0x01 ‖ left ‖ right). It does not allocate.
func hashChildren(left, right *tlog.Hash) tlog.Hash {
	var b [1 + 2*tlog.HashSize]byte
	b[0] = nodePrefix
	copy(b[1:], left[:])
	copy(b[1+tlog.HashSize:], right[:])
	return sha256.Sum256(b[:])
}
