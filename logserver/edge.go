package logserver

import "math/bits"

// Geometry of c2sp.org/tlog-tiles.
const (
	// TileWidth is the number of hashes in a full tile and of entries in a
	// full entry bundle.
	TileWidth  = 1 << tileHeight
	tileHeight = 8
	// maxLevels is the number of tile levels that a tree of int64 size has.
	maxLevels = 8
)

// unfinished is a tile or entry bundle with fewer than TileWidth items: the
// bytes so far, and what is known of how they are stored.
//
// buf, ends and nodes only ever grow, and are replaced by new ones when the
// resource is complete and a view has them, so a view may keep reading what it
// saw.
type unfinished struct {
	number int64    // of the tile within its level, or of the bundle
	width  int      // items so far, 0 to TileWidth-1
	buf    []byte   // their bytes
	ends   []uint32 // bundles only: where in buf each item ends
	nodes  []Hash   // tiles only: see appendNodes
	shown  bool     // a view has buf, ends and nodes
	// starts are the places within the resource at which a stored run begins;
	// stored and storedBytes are how far the runs reach.
	starts      []uint8
	stored      int
	storedBytes int
}

// first returns the index of the resource's first item.
func (u *unfinished) first() int64 { return u.number * TileWidth }

// next starts the following resource, with fresh buffers as large as the old
// ones proved to be if somebody may read those.
func (u *unfinished) next() {
	buf, ends, nodes := u.buf[:0], u.ends[:0], u.nodes[:0]
	if u.shown {
		buf, ends, nodes = make([]byte, 0, len(u.buf)), make([]uint32, 0, cap(u.ends)), make([]Hash, 0, cap(u.nodes))
	}
	*u = unfinished{number: u.number + 1, buf: buf, ends: ends, nodes: nodes, starts: u.starts[:0]}
}

// edge is the right-hand side of the tree: everything that appending needs and
// that is not yet part of a full tile or bundle. The sequencer owns it.
type edge struct {
	size int64
	// roots are the perfect subtrees that the tree consists of, largest first
	// (RFC 6962 section 2.1: one for each bit set in size).
	roots  []Hash
	tiles  [maxLevels]unfinished
	bundle unfinished
}

// runWriter receives what the edge has to store.
type runWriter interface {
	// put stores a run that begins at the given item of the resource; the runs
	// at replaces, also items of the resource, are part of it and go away.
	put(r resource, first int64, run []byte, replaces []int64) error
}

// resource says which kind of run: the entries, or the hashes of a tile level.
type resource struct {
	entries bool
	level   int
}

// A bundle that is complete is written once more, in one piece, unless that
// costs more than it saves: with large entries a single write of each matters
// more than one read of the bundle, and so it does for the few bundles in a busy
// log that two or three commit groups have parts of. Tiles are always rewritten.
const (
	rollupLimit = 128 << 10 // the most stored bytes that are written again
	rollupRuns  = 4         // the fewest stored runs that are put together
)

// append adds one entry, framed as in a bundle, whose leaf hash the caller
// computed, and stores every tile and bundle that it completes. After an error
// the edge must not be used.
func (e *edge) append(frame []byte, leaf *Hash, w runWriter) error {
	b := &e.bundle
	b.buf = append(b.buf, frame...)
	b.ends = append(b.ends, uint32(len(b.buf)))
	b.width++
	if b.width == TileWidth {
		if err := b.finish(resource{entries: true}, w); err != nil {
			return err
		}
	}
	// Merge equal-sized subtrees, as a binary counter carries. A subtree of
	// TileWidth^k leaves completes a tile of level k-1 and is a hash of level k.
	h := *leaf
	t := &e.tiles[0]
	t.addHash(&h)
	for height := 0; e.size>>height&1 == 1; height++ {
		last := len(e.roots) - 1
		h = hashChildren(&e.roots[last], &h)
		e.roots = e.roots[:last]
		if level := (height + 1) / tileHeight; (height+1)%tileHeight != 0 {
			t.nodes = append(t.nodes, h)
		} else {
			if err := t.finish(resource{level: level - 1}, w); err != nil {
				return err
			}
			t = &e.tiles[level]
			t.addHash(&h)
		}
	}
	e.roots = append(e.roots, h)
	e.size++
	return nil
}

func (u *unfinished) addHash(h *Hash) {
	if u.buf == nil {
		u.buf, u.nodes = make([]byte, 0, TileWidth*HashSize), make([]Hash, 0, tileNodes)
	}
	u.buf = append(u.buf, h[:]...)
	u.nodes = append(u.nodes, *h)
	u.width++
}

// flush stores what the commit group added to unfinished resources.
func (e *edge) flush(w runWriter) error {
	if err := e.bundle.flush(resource{entries: true}, w); err != nil {
		return err
	}
	for level := range e.tiles {
		if err := e.tiles[level].flush(resource{level: level}, w); err != nil {
			return err
		}
	}
	return nil
}

// finish stores the completed resource and starts the next: as one run that
// replaces the earlier ones, or, where that is not worth it, by adding the last
// run.
func (u *unfinished) finish(r resource, w runWriter) error {
	if r.entries && (len(u.starts) < rollupRuns || u.storedBytes > rollupLimit) {
		if err := u.flush(r, w); err != nil {
			return err
		}
	} else {
		var replaces []int64
		for _, s := range u.starts {
			if s != 0 {
				replaces = append(replaces, u.first()+int64(s))
			}
		}
		if err := w.put(r, u.first(), u.buf, replaces); err != nil {
			return err
		}
	}
	u.next()
	return nil
}

func (u *unfinished) flush(r resource, w runWriter) error {
	if u.width == u.stored {
		return nil
	}
	if err := w.put(r, u.first()+int64(u.stored), u.buf[u.storedBytes:], nil); err != nil {
		return err
	}
	u.starts = append(u.starts, uint8(u.stored))
	u.stored, u.storedBytes = u.width, len(u.buf)
	return nil
}

// fold returns the roots of the perfect subtrees that the tree consists of, from
// the hashes of its unfinished tiles. Each bit set in the size is one, and its
// hashes are at the end of one unfinished tile: those of lower bits follow it.
func (e *edge) fold() []Hash {
	var roots []Hash
	for bit := bits.Len64(uint64(e.size)) - 1; bit >= 0; bit-- {
		if e.size>>bit&1 == 0 {
			continue
		}
		t := &e.tiles[bit/tileHeight]
		height := bit % tileHeight
		first := t.width >> (height + 1) << (height + 1)
		roots = append(roots, foldPerfect(t.buf[first*HashSize:(first+1<<height)*HashSize]))
	}
	return roots
}

// root returns the root hash of the tree.
func (e *edge) root() Hash {
	return foldRoots(e.roots)
}

// foldRoots returns the root hash of the tree that consists of the perfect
// subtrees with these roots, largest first.
func foldRoots(roots []Hash) Hash {
	if len(roots) == 0 {
		return emptyRoot
	}
	h := roots[len(roots)-1]
	for i := len(roots) - 2; i >= 0; i-- {
		h = hashChildren(&roots[i], &h)
	}
	return h
}

// view returns an immutable picture of the edge for readers.
func (e *edge) view(root Hash) *view {
	v := &view{size: e.size, root: root, bundle: e.bundle.buf, ends: e.bundle.ends}
	e.bundle.shown = true
	for level := range e.tiles {
		v.tiles[level], v.nodes[level] = e.tiles[level].buf, e.tiles[level].nodes
		e.tiles[level].shown = true
	}
	return v
}
