package logserver

import (
	"bytes"
	"fmt"
)

// checkExtends makes sure, from nothing but the stored bytes, that the tree of
// the given size extends the signed one, and returns its root hash. Every entry
// in between is hashed again, and every tile that they complete or begin is
// built again and compared: whatever is wrong on the disk is found before it is
// signed.
func (r reader) checkExtends(signed SignedNote, size int64) (Hash, error) {
	raw, err := r.get(metaHead)
	if err != nil {
		return Hash{}, fmt.Errorf("reading the head: %w", lost(err))
	}
	stored, storedRoot, err := decodeHead(raw)
	if err != nil {
		return Hash{}, err
	}
	if size < signed.Size || size > stored {
		return Hash{}, corrupt("the head is of tree size %d, not %d", stored, size)
	}
	e, err := r.loadEdge(stored)
	if err != nil {
		return Hash{}, err
	}
	if got := e.root(); got != storedRoot {
		return Hash{}, corrupt("the edge of tree size %d has root %v, the head says %v", stored, got, storedRoot)
	}
	return snapshot{view: e.view(storedRoot), store: r}.replay(signed, size)
}

// replay rebuilds the tree from the signed size to the given one.
func (s snapshot) replay(signed SignedNote, size int64) (Hash, error) {
	e, err := s.edgeAt(signed.Size)
	if err != nil {
		return Hash{}, err
	}
	if got := e.root(); got != signed.Root {
		return Hash{}, corrupt("the stored tree of size %d has root %v, the signed head says %v", signed.Size, got, signed.Root)
	}
	for data, err := range s.entries(signed.Size, size) {
		if err != nil {
			return Hash{}, err
		}
		leaf := LeafHash(data)
		if err := e.append(data, &leaf, tileComparer{s}); err != nil {
			return Hash{}, err
		}
	}
	for level := range e.tiles {
		if t := &e.tiles[level]; t.width > 0 {
			if err := s.compareTile(level, t.number, t.buf); err != nil {
				return Hash{}, err
			}
		}
	}
	root, err := s.rootAt(size)
	if err != nil {
		return Hash{}, err
	}
	if got := e.root(); got != root {
		return Hash{}, corrupt("the entries of tree size %d have root %v, the tiles have %v", size, got, root)
	}
	return root, nil
}

// edgeAt returns the edge of an earlier tree size, as if nothing of its
// unfinished tiles had been stored.
func (s snapshot) edgeAt(size int64) (*edge, error) {
	e := &edge{size: size}
	for level := range e.tiles {
		hashes := size >> (level * tileHeight)
		t := &e.tiles[level]
		t.number, t.width = hashes/TileWidth, int(hashes%TileWidth)
		if t.width == 0 {
			continue
		}
		b, err := s.tile(level, t.number, t.width)
		if err != nil {
			return nil, err
		}
		t.buf = append(make([]byte, 0, TileWidth*HashSize), b...)
	}
	e.bundle.number, e.bundle.width = size/TileWidth, int(size%TileWidth)
	var err error
	e.roots, err = s.perfectRoots(size)
	return e, err
}

// tileComparer is a runWriter that finds every tile stored already.
type tileComparer struct{ s snapshot }

func (c tileComparer) put(r resource, first int64, run []byte, _ []int64) error {
	if r.entries {
		return nil // the entries were read from there
	}
	return c.s.compareTile(r.level, first/TileWidth, run)
}

func (s snapshot) compareTile(level int, number int64, want []byte) error {
	got, err := s.tile(level, number, len(want)/HashSize)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return corrupt("tile %d/%d is not what its entries hash to", level, number)
	}
	return nil
}
