package logserver

import (
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
)

// RootAt returns the root hash of the tree at a size up to Size.
func (l *Log) RootAt(size int64) (Hash, error) { return l.snapshot().rootAt(size) }

// InclusionProof returns the RFC 6962 section 2.1.1 audit path of the entry in
// the tree of the given size: 0 ≤ index < size ≤ Size.
func (l *Log) InclusionProof(index, size int64) ([]Hash, error) {
	return l.snapshot().inclusionProof(index, size)
}

// ConsistencyProof returns the RFC 6962 section 2.1.2 proof between two tree
// sizes: 0 ≤ old ≤ size ≤ Size. It is empty if old is zero or equal to size.
func (l *Log) ConsistencyProof(old, size int64) ([]Hash, error) {
	return l.snapshot().consistencyProof(old, size)
}

func (s snapshot) rootAt(size int64) (Hash, error) {
	if size == s.size {
		return s.root, nil
	}
	if size < 0 || size > s.size {
		return Hash{}, fmt.Errorf("tree size %d: %w", size, ErrNotFound)
	}
	roots, err := s.perfectRoots(size)
	if err != nil {
		return Hash{}, err
	}
	return foldRoots(roots), nil
}

// perfectRoots returns the roots of the perfect subtrees that the tree of the
// given size consists of, largest first.
func (s snapshot) perfectRoots(size int64) ([]Hash, error) {
	ids := compact.RangeNodes(0, uint64(size), nil)
	return s.nodes(ids)
}

func (s snapshot) inclusionProof(index, size int64) ([]Hash, error) {
	if index < 0 || index >= size || size > s.size {
		return nil, fmt.Errorf("inclusion of index %d in tree size %d: %w", index, size, ErrNotFound)
	}
	n, err := proof.Inclusion(uint64(index), uint64(size))
	if err != nil {
		return nil, fmt.Errorf("planning the inclusion proof: %w", err)
	}
	return s.rehash(n)
}

func (s snapshot) consistencyProof(old, size int64) ([]Hash, error) {
	if old < 0 || old > size || size > s.size {
		return nil, fmt.Errorf("consistency of tree sizes %d and %d: %w", old, size, ErrNotFound)
	}
	n, err := proof.Consistency(uint64(old), uint64(size))
	if err != nil {
		return nil, fmt.Errorf("planning the consistency proof: %w", err)
	}
	return s.rehash(n)
}

// rehash fetches the planned nodes and folds the ephemeral one.
func (s snapshot) rehash(n proof.Nodes) ([]Hash, error) {
	hashes, err := s.nodes(n.IDs)
	if err != nil {
		return nil, err
	}
	raw := make([][]byte, len(hashes))
	for i := range hashes {
		raw[i] = hashes[i][:]
	}
	if raw, err = n.Rehash(raw, hashPair); err != nil {
		return nil, fmt.Errorf("folding the proof: %w", err)
	}
	out := make([]Hash, len(raw))
	for i, h := range raw {
		out[i] = Hash(h)
	}
	return out, nil
}

// nodes returns the hashes of perfect subtrees within the view's tree. Each
// lies in one tile, as a perfect subtree of that tile's hashes; neighbouring
// nodes are often of the same tile, which is then read once.
func (s snapshot) nodes(ids []compact.NodeID) ([]Hash, error) {
	out := make([]Hash, len(ids))
	var tile []byte
	tileLevel, tileNumber := -1, int64(-1)
	for i, id := range ids {
		level := int(id.Level) / tileHeight
		height := int(id.Level) % tileHeight
		first := int64(id.Index) << height // hash index within the level
		number := first / TileWidth
		end := int(first%TileWidth) + 1<<height
		if level != tileLevel || number != tileNumber || len(tile) < end*HashSize {
			// The whole of what exists, so that the next node finds it too.
			width := int(min(s.size>>(level*tileHeight)-number*TileWidth, TileWidth))
			var err error
			if tile, err = s.tile(level, number, max(width, end)); err != nil {
				return nil, err
			}
			tileLevel, tileNumber = level, number
		}
		out[i] = foldPerfect(tile[int(first%TileWidth)*HashSize : end*HashSize])
	}
	return out, nil
}
