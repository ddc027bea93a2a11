package logserver

import (
	"fmt"
	"math/bits"
)

// RootAt returns the root hash of the tree at a size up to Size.
func (l *Log) RootAt(size int64) (Hash, error) { return l.snapshot().rootAt(size) }

// InclusionProof returns the RFC 6962 section 2.1.1 audit path of the entry in
// the tree of the given size: 0 ≤ index < size ≤ Size. The head that an append
// is answered with is of such a size, at once and for ever.
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
	if size == 0 {
		return emptyRoot, nil
	}
	r := nodeReader{s: s, level: -1}
	return r.fold(uint64(size), maxHeight)
}

func (s snapshot) inclusionProof(index, size int64) ([]Hash, error) {
	if index < 0 || index >= size || size > s.size {
		return nil, fmt.Errorf("inclusion of index %d in tree size %d: %w", index, size, ErrNotFound)
	}
	r := nodeReader{s: s, level: -1}
	return r.path(nil, uint64(index), 0, uint64(size))
}

func (s snapshot) consistencyProof(old, size int64) ([]Hash, error) {
	if old < 0 || old > size || size > s.size {
		return nil, fmt.Errorf("consistency of tree sizes %d and %d: %w", old, size, ErrNotFound)
	}
	if old == 0 || old == size {
		return []Hash{}, nil
	}
	// The proof is the path of the last perfect subtree of the old tree, headed
	// by its root unless it is all of the old tree.
	r := nodeReader{s: s, level: -1}
	height := bits.TrailingZeros64(uint64(old))
	var proof []Hash
	if old != 1<<height {
		h, err := r.node(height, uint64(old-1)>>height)
		if err != nil {
			return nil, err
		}
		proof = append(make([]Hash, 0, proofRoom), h)
	}
	return r.path(proof, uint64(old-1), height, uint64(size))
}

const (
	// maxHeight is above every subtree of a tree of int64 size.
	maxHeight = 63
	// proofRoom is the number of hashes that proofs have room for: those of a
	// tree of 16 million entries.
	proofRoom = 24
)

// nodeReader reads the roots of perfect subtrees that exist in a view. It keeps
// the nodes of the tile that it looked at last: neighbours are often in one. One
// goroutine uses it.
type nodeReader struct {
	s      snapshot
	level  int // of the tile, -1 if there is none yet
	number int64
	nodes  []Hash
}

// path appends the siblings on the way from the subtree of the given height that
// has the leaf in it up to the root of the tree of the given size. The subtree
// exists in that tree, and is not all of it unless the height is zero.
func (r *nodeReader) path(proof []Hash, leaf uint64, height int, size uint64) ([]Hash, error) {
	if proof == nil {
		proof = make([]Hash, 0, proofRoom)
	}
	// Below inner, where the ways to this leaf and to the last one part, the
	// siblings are on both sides. Above it the tree ends with ours, so that
	// there are siblings on the left only.
	inner := bits.Len64(leaf ^ (size - 1))
	for ; height < inner; height++ {
		sibling := leaf>>height ^ 1
		var h Hash
		var err error
		if (sibling+1)<<height <= size {
			h, err = r.node(height, sibling)
		} else {
			h, err = r.fold(size, height)
		}
		if err != nil {
			return nil, err
		}
		proof = append(proof, h)
	}
	for rest := leaf >> height; rest != 0; height, rest = height+1, rest>>1 {
		if rest&1 == 0 {
			continue
		}
		h, err := r.node(height, rest-1)
		if err != nil {
			return nil, err
		}
		proof = append(proof, h)
	}
	return proof, nil
}

// fold returns the root of what follows the last complete subtree of the given
// height in the tree of the given size: of one perfect subtree for each bit of
// the size below that height, of which there is at least one.
func (r *nodeReader) fold(size uint64, height int) (Hash, error) {
	var root Hash
	first := true
	for rest := size & (1<<height - 1); rest != 0; rest &= rest - 1 {
		bit := bits.TrailingZeros64(rest)
		left, err := r.node(bit, size>>bit-1)
		switch {
		case err != nil:
			return Hash{}, err
		case first:
			root, first = left, false
		default:
			root = hashChildren(&left, &root)
		}
	}
	return root, nil
}

// node returns the root of the perfect subtree with the given height and index.
// It is a node of one tile.
func (r *nodeReader) node(height int, index uint64) (Hash, error) {
	level, within := height/tileHeight, height%tileHeight
	number := int64(index >> (tileHeight - within))
	if level != r.level || number != r.number {
		nodes, err := r.s.tileNodes(level, number)
		if err != nil {
			return Hash{}, err
		}
		r.level, r.number, r.nodes = level, number, nodes
	}
	return r.nodes[nodePlace(within, int(index&(1<<(tileHeight-within)-1)))], nil
}

// tileNodes returns the nodes of a tile: of all of its hashes that exist in the
// view. They must not be changed.
func (s snapshot) tileNodes(level int, number int64) ([]Hash, error) {
	if number == s.size>>(level*tileHeight)/TileWidth {
		return s.nodes[level], nil
	}
	if nodes := s.cache.get(level, number); nodes != nil {
		return nodes, nil
	}
	b, err := s.tile(level, number, TileWidth)
	if err != nil {
		return nil, err
	}
	nodes := expand(b)
	s.cache.put(level, number, nodes)
	return nodes, nil
}
