package tiles

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Consistency returns the RFC 6962 consistency proof from the tree that the log
// had when it had size entries, 0 ≤ size ≤ that of the checkpoint, to the
// checkpoint's. With [Source.RootAt] it proves to a third party what the log's
// past was.
func (s *Source) Consistency(ctx context.Context, size int64) ([]tlog.Hash, error) {
	c := s.Checkpoint()
	switch {
	case size < 0 || size > c.Size:
		return nil, fmt.Errorf("%w: size %d, the checkpoint has %d", ErrRollback, size, c.Size)
	case size == 0 || size == c.Size:
		return nil, nil // everything extends the empty tree, and every tree itself
	}
	return tlog.ProveTree(c.Size, size, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			var err error
			if hashes[i], err = s.node(ctx, index); err != nil {
				return nil, err
			}
		}
		return hashes, nil
	}))
}

// node returns the verified hash of an interior node by its index in the order
// in which x/mod's tlog stores hashes.
func (s *Source) node(ctx context.Context, stored int64) (tlog.Hash, error) {
	height, n := tlog.SplitStoredHashIndex(stored)
	level, below := height/8, height%8
	leaves, err := s.hashes(ctx, level, n<<below, 1<<below) // of this node, within its tile
	if err != nil {
		return tlog.Hash{}, err
	}
	return perfect(leaves), nil
}
