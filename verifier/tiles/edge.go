package tiles

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// width is the number of hashes of a full tile, and of entries of a full
	// entry bundle.
	width = 256
	// maxLevel is the highest level of tiles that a tree of 2^63-1 entries has.
	maxLevel = 7
)

// edge is the right edge of a tree: for each level of tiles the hashes of the
// tile that is not full yet. It is all that is needed to extend the tree.
type edge struct {
	// levels[l] has fewer than width hashes, each the root hash of width^l
	// entries.
	levels [maxLevel + 1][]tlog.Hash
}

// size returns the number of entries of the tree.
func (e *edge) size() (n int64) {
	for level := maxLevel; level >= 0; level-- {
		n = n*width + int64(len(e.levels[level]))
	}
	return n
}

// clone returns a copy that grows by itself.
func (e *edge) clone() *edge {
	c := new(edge)
	for level, hashes := range e.levels {
		c.levels[level] = append([]tlog.Hash(nil), hashes...)
	}
	return c
}

// add appends an entry by its leaf hash. full is called with each tile that is
// full now, from level 0 upwards, before its root goes one level up.
func (e *edge) add(leaf tlog.Hash, full func(level int, hashes []tlog.Hash) error) error {
	for level := range e.levels {
		e.levels[level] = append(e.levels[level], leaf)
		if len(e.levels[level]) < width {
			return nil
		}
		if err := full(level, e.levels[level]); err != nil {
			return err
		}
		leaf = perfect(e.levels[level])
		e.levels[level] = nil
	}
	return fmt.Errorf("%w: more than 2^63-1 entries", ErrMalformed)
}

// root returns the RFC 6962 root hash of the tree.
func (e *edge) root() tlog.Hash {
	// Perfect subtrees from left to right: those of the highest level are the
	// largest, and within a level they shrink.
	var subtrees []tlog.Hash
	for level := maxLevel; level >= 0; level-- {
		rest := e.levels[level]
		for size := width / 2; size > 0; size /= 2 {
			if len(rest) >= size {
				subtrees = append(subtrees, perfect(rest[:size]))
				rest = rest[size:]
			}
		}
	}
	if len(subtrees) == 0 {
		root, _ := tlog.TreeHash(0, nil)
		return root
	}
	h := subtrees[len(subtrees)-1]
	for i := len(subtrees) - 2; i >= 0; i-- {
		h = tlog.NodeHash(subtrees[i], h)
	}
	return h
}

// perfect returns the root hash over a power of two of hashes.
func perfect(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(perfect(hashes[:half]), perfect(hashes[half:]))
}
