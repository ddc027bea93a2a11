package logserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
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
	r := rebuilder{s: s}
	if err := r.begin(signed.Size); err != nil {
		return Hash{}, err
	}
	if got := foldRoots(r.tree.fold()); got != signed.Root {
		return Hash{}, corrupt("the stored tree of size %d has root %v, the signed head says %v", signed.Size, got, signed.Root)
	}
	if err := r.readTo(size); err != nil {
		return Hash{}, err
	}
	root, err := s.rootAt(size)
	if err != nil {
		return Hash{}, err
	}
	if got := foldRoots(r.tree.fold()); got != root {
		return Hash{}, corrupt("the entries of tree size %d have root %v, the tiles have %v", size, got, root)
	}
	return root, nil
}

// rebuilder builds the tiles of a tree from its stored entries and compares
// each with the stored one. One goroutine uses it once.
type rebuilder struct {
	s    snapshot
	tree edge   // its tiles and size only
	run  []byte // a copy of the run that is being hashed
}

// begin starts at a size, from the stored tiles.
func (r *rebuilder) begin(size int64) error {
	r.tree.size = size
	for level := range r.tree.tiles {
		hashes := size >> (level * tileHeight)
		t := &r.tree.tiles[level]
		t.number, t.width = hashes/TileWidth, int(hashes%TileWidth)
		t.buf = make([]byte, 0, TileWidth*HashSize)
		if t.width == 0 {
			continue
		}
		b, err := r.s.tile(level, t.number, t.width)
		if err != nil {
			return err
		}
		t.buf = append(t.buf, b...)
	}
	return nil
}

// readTo hashes the entries up to a size in one pass over the stored runs, and
// compares the tiles that are unfinished at that size. Those of the first bundle
// that the tree has already are compared with their leaf hashes.
func (r *rebuilder) readTo(size int64) error {
	// The runs of the first bundle may begin ahead of the first entry.
	next := r.tree.size / TileWidth * TileWidth
	err := r.s.store.scan(indexKey(kindEntry, next), indexKey(kindEntry, size), func(key, run []byte) error {
		if keyIndex(key) != next {
			return corrupt("run of entries at index %d follows %d", keyIndex(key), next)
		}
		r.run = append(r.run[:0], run...)
		var err error
		next, err = r.hashRun(next, size)
		return err
	})
	if err != nil {
		return err
	}
	if r.tree.size != size {
		return corrupt("entries end at index %d, the tree size is %d", r.tree.size, size)
	}
	for level := range r.tree.tiles {
		if t := &r.tree.tiles[level]; t.width > 0 {
			if err := r.s.compareTile(level, t.number, t.buf); err != nil {
				return err
			}
		}
	}
	return nil
}

// hashRun adds the entries of the copied run, which begins at index first, and
// returns the index behind it. Entries that the tree has already are compared,
// and those at size and beyond are skipped.
func (r *rebuilder) hashRun(first, size int64) (next int64, err error) {
	b := r.run
	next = first
	for pos := 0; pos < len(b); next++ {
		if len(b)-pos < 2 {
			return next, corrupt("entry frame of index %d cut short", next)
		}
		end := pos + 2 + int(binary.BigEndian.Uint16(b[pos:]))
		if end > len(b) {
			return next, corrupt("entry frame of index %d is longer than its run", next)
		}
		if next < size {
			// The run is ours, and the length has been read: the byte ahead of
			// the entry becomes the prefix, so that it is hashed in one piece
			// where it is.
			b[pos+1] = leafPrefix
			if err := r.addLeaf(next, sha256.Sum256(b[pos+1:end])); err != nil {
				return next, err
			}
		}
		pos = end
	}
	return next, nil
}

// addLeaf adds the leaf hash of the next entry, or compares that of one that the
// tree has. Such entries are of the unfinished bundle and come before any that is
// added, so that the tile still has all of their hashes.
func (r *rebuilder) addLeaf(index int64, leaf Hash) error {
	if index < r.tree.size {
		at := int(index%TileWidth) * HashSize
		if leaf != Hash(r.tree.tiles[0].buf[at:]) {
			return corrupt("entry %d does not have its leaf hash", index)
		}
		return nil
	}
	r.tree.size++
	return r.add(0, leaf)
}

// add appends a hash to a level. A tile that it completes is compared, and its
// root is a hash of the next level.
func (r *rebuilder) add(level int, h Hash) error {
	t := &r.tree.tiles[level]
	t.buf = append(t.buf, h[:]...)
	if t.width++; t.width < TileWidth {
		return nil
	}
	if err := r.s.compareTile(level, t.number, t.buf); err != nil {
		return err
	}
	h = foldPerfect(t.buf)
	t.number, t.width, t.buf = t.number+1, 0, t.buf[:0]
	return r.add(level+1, h)
}

// compareTile compares the first hashes of a stored tile.
func (s snapshot) compareTile(level int, number int64, want []byte) error {
	compare := func(got []byte) error {
		if len(got) < len(want) || !bytes.Equal(got[:len(want)], want) {
			return corrupt("tile %d/%d is not what its entries hash to", level, number)
		}
		return nil
	}
	if number == s.size>>(level*tileHeight)/TileWidth {
		return compare(s.tiles[level])
	}
	err := s.store.read(tileKey(level, number*TileWidth), func(got []byte) error {
		if len(got) != TileWidth*HashSize {
			return corrupt("tile %d/%d has %d bytes", level, number, len(got))
		}
		return compare(got)
	})
	if err != nil {
		return fmt.Errorf("reading tile %d/%d: %w", level, number, lost(err))
	}
	return nil
}
