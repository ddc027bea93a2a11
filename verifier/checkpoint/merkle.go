package checkpoint

import (
	"fmt"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
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
	err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(index), uint64(tree.N), leaf[:], hashSlices(hashes), tree.Hash[:])
	if err != nil {
		return fmt.Errorf("%w: leaf %d is not in the tree of size %d: %w", ErrProof, index, tree.N, err)
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
	err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(older.N), uint64(newer.N), hashSlices(hashes), older.Hash[:], newer.Hash[:])
	if err != nil {
		return fmt.Errorf("%w: size %d is not consistent with size %d: %w", ErrProof, newer.N, older.N, err)
	}
	return nil
}

// hashSlices gives the hashes the form that the merkle package takes.
func hashSlices(hashes []tlog.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}
