package logserver

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// notes are the two checkpoints that a log remembers.
type notes struct {
	signed    SignedNote // the newest that the log key signed
	published SignedNote // the newest that was published; Note is nil if none was
}

// recover loads the log from its store and checks what appending and signing
// will build on: the identity, the unfinished tiles and bundle against the
// head, and the signed head against the tree. A clean stop and a crash leave
// the same kind of store, so this is how every log starts.
func (l *Log) recover() (*sequencer, *notes, error) {
	if err := l.checkIdentity(); err != nil {
		return nil, nil, err
	}
	if err := l.checkSuspension(); err != nil {
		return nil, nil, err
	}

	// The tree of the head, from the hashes of its unfinished tiles.
	raw, err := l.store.get(metaHead)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the head: %w", lost(err))
	}
	size, root, err := decodeHead(raw)
	if err != nil {
		return nil, nil, err
	}
	e, err := l.store.loadEdge(size)
	if err != nil {
		return nil, nil, fmt.Errorf("loading the edge of tree size %d: %w", size, err)
	}
	if got := e.root(); got != root {
		return nil, nil, corrupt("the edge of tree size %d has root %v, the head says %v", size, got, root)
	}
	l.view.Store(e.view(root))
	l.integrated.raise(size)
	l.applied.Store(size)
	s := l.snapshot()

	// What the edge rests on: entries behind its leaf hashes, full tiles
	// behind its upper levels, and nothing beyond the head.
	if err := s.checkUnfinishedBundle(); err != nil {
		return nil, nil, err
	}
	if err := s.checkLastTiles(); err != nil {
		return nil, nil, err
	}
	if err := s.checkLastBundle(); err != nil {
		return nil, nil, err
	}
	if err := l.store.checkNothingBeyond(size); err != nil {
		return nil, nil, err
	}

	if err := l.loadImport(s); err != nil {
		return nil, nil, err
	}

	// The heads that others may hold must be in this tree.
	if err := l.signedFile.checkIn(s); err != nil {
		return nil, nil, err
	}
	n, err := l.loadNotes(s)
	if err != nil {
		return nil, nil, err
	}
	last := Head{Size: size, Root: root}
	l.head.Store(&last)
	return newSequencer(l, e, last), n, nil
}

// checkIdentity makes sure that the store holds this log, and that every key
// which signs for it is at hand.
func (l *Log) checkIdentity() error {
	id, err := l.store.identity()
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %q holds no log, create one first", ErrNotFound, l.opts.Dir)
	}
	if err != nil {
		return err
	}
	if id.origin != l.opts.Origin {
		return fmt.Errorf("%w: its origin is %q, opened was %q", ErrIdentity, id.origin, l.opts.Origin)
	}
	keys, receipt, err := l.given.fit(id)
	if err != nil {
		return err
	}
	l.keys.Store(keys)
	if receipt != nil {
		l.receipt = &receiptSigner{current: receipt}
	}
	return nil
}

// loadEdge reads the unfinished tiles and bundle of a tree.
func (r reader) loadEdge(size int64) (*edge, error) {
	e := &edge{size: size}
	for level := range e.tiles {
		hashes := size >> (level * tileHeight)
		t := &e.tiles[level]
		t.number, t.width = hashes/TileWidth, int(hashes%TileWidth)
		if err := r.loadTile(level, t); err != nil {
			return nil, err
		}
	}
	if err := r.loadBundle(&e.bundle, size); err != nil {
		return nil, err
	}
	e.roots = e.fold()
	return e, nil
}

// loadTile reads the runs of an unfinished tile whose number and width are set.
func (r reader) loadTile(level int, t *unfinished) error {
	t.buf = make([]byte, 0, TileWidth*HashSize)
	err := r.scan(tileKey(level, t.first()), tileKey(level, t.first()+TileWidth), func(key, run []byte) error {
		have := len(t.buf) / HashSize
		if keyIndex(key) != t.first()+int64(have) || len(run)%HashSize != 0 || len(t.buf)+len(run) > t.width*HashSize {
			return corrupt("run of %d bytes at hash %d of tile level %d does not follow %d hashes", len(run), keyIndex(key), level, have)
		}
		t.starts = append(t.starts, uint8(have))
		t.buf = append(t.buf, run...)
		return nil
	})
	if err != nil {
		return err
	}
	if len(t.buf) != t.width*HashSize {
		return corrupt("unfinished tile %d/%d has %d bytes for %d hashes", level, t.number, len(t.buf), t.width)
	}
	t.nodes = expand(t.buf)
	t.stored, t.storedBytes = t.width, len(t.buf)
	return nil
}

// loadBundle reads the runs of the unfinished bundle of a tree.
func (r reader) loadBundle(b *unfinished, size int64) (err error) {
	b.number, b.width = size/TileWidth, int(size%TileWidth)
	if b.buf, b.ends, err = readRuns(r, b.number); err != nil {
		return err
	}
	if len(b.ends) != b.width {
		return corrupt("unfinished entry bundle %d has %d entries, not %d", b.number, len(b.ends), b.width)
	}
	b.stored, b.storedBytes = b.width, len(b.buf)
	return r.scan(indexKey(kindEntry, b.first()), indexKey(kindEntry, b.first()+TileWidth), func(key, _ []byte) error {
		b.starts = append(b.starts, uint8(keyIndex(key)-b.first()))
		return nil
	})
}

// checkUnfinishedBundle hashes the entries of the unfinished bundle again.
func (s snapshot) checkUnfinishedBundle() error {
	first := s.size / TileWidth * TileWidth
	pos := uint32(0)
	for i, end := range s.ends {
		if LeafHash(s.bundle[pos+2:end]) != Hash(s.tiles[0][i*HashSize:]) {
			return corrupt("entry %d does not have its leaf hash", first+int64(i))
		}
		pos = end
	}
	return nil
}

// checkLastTiles folds the last full tile of each level again and compares it
// with its hash in the level above.
func (s snapshot) checkLastTiles() error {
	for level := range maxLevels - 1 {
		full := s.size >> ((level + 1) * tileHeight)
		if full == 0 {
			return nil
		}
		t, err := s.tile(level, full-1, TileWidth)
		if err != nil {
			return err
		}
		parent, err := s.tile(level+1, (full-1)/TileWidth, int((full-1)%TileWidth)+1)
		if err != nil {
			return err
		}
		if foldPerfect(t) != Hash(parent[len(parent)-HashSize:]) {
			return corrupt("tile %d/%d does not have its hash in the level above", level, full-1)
		}
	}
	return nil
}

// checkLastBundle hashes the entries of the last full bundle again.
func (s snapshot) checkLastBundle() error {
	number := s.size/TileWidth - 1
	if number < 0 {
		return nil
	}
	leaves, err := s.tile(0, number, TileWidth)
	if err != nil {
		return err
	}
	bundle, ends, err := readRuns(s.store, number)
	if err != nil {
		return err
	}
	if len(ends) != TileWidth {
		return corrupt("entry bundle %d has %d entries", number, len(ends))
	}
	pos := uint32(0)
	for i, end := range ends {
		if LeafHash(bundle[pos+2:end]) != Hash(leaves[i*HashSize:]) {
			return corrupt("entry %d does not have its leaf hash", number*TileWidth+int64(i))
		}
		pos = end
	}
	return nil
}

// checkNothingBeyond makes sure that no entry or leaf hash is stored at or
// after the tree size: commits are atomic, so there can be none.
func (r reader) checkNothingBeyond(size int64) error {
	found := func(key, _ []byte) error {
		return corrupt("index %d is stored beyond tree size %d", keyIndex(key), size)
	}
	if err := r.scan(indexKey(kindEntry, size), []byte{kindEntry + 1}, found); err != nil {
		return err
	}
	return r.scan(tileKey(0, size), []byte{kindTile, 1}, found)
}

// loadNotes reads the signed and the published checkpoint and finds their
// roots in the tree.
func (l *Log) loadNotes(s snapshot) (*notes, error) {
	var n notes
	signed, err := l.store.get(metaSigned)
	if err != nil {
		return nil, fmt.Errorf("reading the signed head: %w", lost(err))
	}
	if n.signed, err = l.checkNote(s, signed); err != nil {
		return nil, fmt.Errorf("signed head: %w", err)
	}
	published, err := l.store.get(metaPublished)
	if errors.Is(err, ErrNotFound) {
		return &n, nil
	}
	if err != nil {
		return nil, err
	}
	if n.published, err = l.checkNote(s, published); err != nil {
		return nil, fmt.Errorf("published checkpoint: %w", err)
	}
	if n.published.Size > n.signed.Size {
		return nil, corrupt("the published tree size %d is beyond the signed %d", n.published.Size, n.signed.Size)
	}
	return &n, nil
}

// checkNote opens a stored note and compares it with the tree.
func (l *Log) checkNote(s snapshot, raw []byte) (SignedNote, error) {
	return openNote(s, raw, l.opts.Origin, l.keys.Load().opens)
}

// openNote opens a stored note and compares it with the tree.
func openNote(s snapshot, raw []byte, origin string, keys []note.Verifier) (SignedNote, error) {
	c, err := checkpoint.Open(raw, origin, keys)
	if err != nil {
		return SignedNote{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if c.Size > s.size {
		return SignedNote{}, corrupt("tree size %d is beyond the stored tree of %d", c.Size, s.size)
	}
	root, err := s.rootAt(c.Size)
	if err != nil {
		return SignedNote{}, err
	}
	if root != c.Root {
		return SignedNote{}, corrupt("the stored tree of size %d has root %v, the note says %v", c.Size, root, c.Root)
	}
	return SignedNote{Size: c.Size, Root: c.Root, Note: raw}, nil
}
