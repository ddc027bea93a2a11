package logserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// Source is a holder of a log's newest head, which a store catches up from. The
// more it holds the more comes back: entries alone, or, from a store, openings,
// deduplication keys, registers and published checkpoints too.
type Source struct {
	// Fetch reads a tlog-tiles log: a replica, a mirror, an export. Everything
	// that it returns is verified.
	Fetch tiles.Fetch
	// Policy, if not nil, has to accept the checkpoint of Fetch.
	Policy *checkpoint.Policy
	// Workers bounds the parallel downloads; 0 means tiles.DefaultWorkers.
	Workers int

	// Store, in place of the others, is a store of the same log that is not
	// running. Its openings and keys are trusted as one's own; its entries are
	// verified against its last signed head, and those beyond it are taken over
	// too. It hands over the right to sign: afterwards it is suspended, so that
	// there are never two stores that sign.
	Store *Store
}

// CatchUpReport says what a catch-up did.
type CatchUpReport struct {
	Origin string `json:"origin"`
	// From is the tree size at which the first catch-up of a restored store
	// began, To that of the source's head, which is now the last signed one.
	From int64 `json:"from_size"`
	To   int64 `json:"to_size"`
	// Size is the size of the tree, To or more.
	Size int64 `json:"size"`
	// LostOpenings says that the entries from From up to, not including, To are
	// there without their openings, if they had any, and LostKeys that they are
	// without their deduplication keys and the registers may be old: appended once
	// more such an entry gets another index.
	LostOpenings bool `json:"lost_openings"`
	LostKeys     bool `json:"lost_keys"`
}

// catchUpBatch is how many entries a catch-up commits at a time.
const catchUpBatch = 16 * TileWidth

// CatchUp brings a store to the head of the source, which becomes the last
// signed head of the log, and takes away what kept it from signing: the mark of
// a restore, or another place. The store must not be running.
//
// The source has to hold the last head that the log ever signed, or what was
// signed after its head is forgotten. CatchUp cannot know; what it does make sure
// of is that the source's head is signed by a key of the log, no older than the
// last signed head in the store, and of a tree that the stored tree leads to. A
// source that is behind or has another history is ErrSource, and nothing has
// changed then. The witnesses are asked as always when the log is opened.
//
// An interrupted CatchUp goes on where it was; until it is complete the store is
// suspended as before.
func CatchUp(ctx context.Context, store StoreOptions, from Source, progress func(done, size int64)) (report *CatchUpReport, err error) {
	s, err := OpenStore(store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c := &catchUp{own: s, from: from, progress: progress}
	if from.Store != nil {
		return c.run(ctx, from.Store)
	}
	return c.run(ctx, nil)
}

// catchUp is one run of CatchUp.
type catchUp struct {
	own      *Store
	from     Source
	progress func(done, size int64)

	source *tiles.Source
	head   SignedNote // of the source, with nothing but the log's signatures
	tree   snapshot   // of the source, if it is a store
	edge   *edge      // of the own tree
	place  string     // of the own store
	mark   []byte     // of an interrupted run, see begin; nil if this is none
	report CatchUpReport
}

// catchUpIDSize is the size of what tells a catch-up, with all the runs that it
// takes, from every other: no two draw the same by chance.
const catchUpIDSize = 16

func (c *catchUp) run(ctx context.Context, other *Store) (*CatchUpReport, error) {
	// 1. Look at both. Nothing is changed if they do not fit together.
	tree, err := c.openOwn()
	if err != nil {
		return nil, err
	}
	if err := c.openSource(ctx, other); err != nil {
		return nil, err
	}
	if err := c.compare(ctx, tree); err != nil {
		return nil, err
	}

	// 2. Remember where this began, so that what is lost is still known after an
	// interruption; from here on the tree grows.
	if err := c.begin(tree.size); err != nil {
		return nil, err
	}

	// 3. Copy the entries. Each commit is complete by itself and leads to the
	// source's head. Crash here: the store is as suspended as before.
	if err := c.copyEntries(ctx, other); err != nil {
		return nil, err
	}
	if err := c.copyRest(ctx, other); err != nil {
		return nil, err
	}

	// 4. Take the right to sign away from a store that holds it. Crash here:
	// neither store signs, and doing this again goes on with step 5.
	if err := c.takeOver(other); err != nil {
		return nil, err
	}

	// 5. Take over the head and the right to sign, in one commit.
	return &c.report, c.finish(other)
}

// openOwn reads the own tree and checks its last signed head against it.
func (c *catchUp) openOwn() (snapshot, error) {
	if err := c.own.Suspended(); err != nil && !errors.Is(err, ErrRestored) {
		return snapshot{}, err
	}
	r := c.own.store.reader
	switch raw, err := r.get(metaImport); {
	case err == nil:
		if mark, err := decodeImportMark(raw); err != nil || mark.note == nil {
			return snapshot{}, errors.Join(ErrImporting, err)
		}
	case !errors.Is(err, ErrNotFound):
		return snapshot{}, err
	}
	tree, err := r.snapshot()
	if err != nil {
		return snapshot{}, err
	}
	if c.edge, err = r.loadEdge(tree.size); err != nil {
		return snapshot{}, err
	}
	switch c.mark, err = r.get(metaCatchUp); {
	case err == nil && len(c.mark) != 8+catchUpIDSize:
		return snapshot{}, corrupt("mark of a catch-up of %d bytes", len(c.mark))
	case err != nil && !errors.Is(err, ErrNotFound):
		return snapshot{}, err
	}
	c.report.Origin = c.own.id.origin
	c.place, err = makePlace(c.own.opts.Dir, c.own.opts.fs)
	return tree, err
}

// signedHead reads the last signed head of a store and finds it in its tree.
func (s *Store) signedHead(tree snapshot) (SignedNote, error) {
	keys, err := s.id.verifiers()
	if err != nil {
		return SignedNote{}, err
	}
	raw, err := s.store.get(metaSigned)
	if err != nil {
		return SignedNote{}, fmt.Errorf("reading the signed head: %w", lost(err))
	}
	n, err := openNote(tree, raw, s.id.origin, keys)
	if err != nil {
		return SignedNote{}, fmt.Errorf("signed head: %w", err)
	}
	return n, nil
}

// openSource opens the source and verifies its head.
func (c *catchUp) openSource(ctx context.Context, other *Store) error {
	fetch, policy := c.from.Fetch, c.from.Policy
	id := c.own.id
	if other != nil {
		if other.id.origin != id.origin {
			return fmt.Errorf("%w: it is of %q, this log is %q", ErrSource, other.id.origin, id.origin)
		}
		// The keys of the other store are those of the own, or come after them.
		if !other.id.follows(id) {
			return fmt.Errorf("%w: its keys are not those of this log, or older ones", ErrSource)
		}
		id = other.id
		if err := c.mayHandOver(other); err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		var err error
		if c.tree, err = other.store.snapshot(); err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		signed, err := other.signedHead(c.tree)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		fetch, policy = fetchSnapshot(c.tree, signed.Note), nil
	}
	keys, err := id.verifiers()
	if err != nil {
		return err
	}
	if policy == nil {
		if policy, err = id.policy(); err != nil {
			return err
		}
	}
	if c.source, err = tiles.OpenSource(ctx, fetch, policy, c.from.Workers); err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	head, err := checkpoint.Open(c.source.Note(), id.origin, keys)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	// Without cosignatures: this will go to witnesses.
	signed, err := checkpoint.TrimCosignatures(c.source.Note(), keys, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	c.head = SignedNote{Size: head.Size, Root: head.Root, Note: signed}
	return nil
}

// compare makes sure that the source knows all that the log has signed, as far
// as its store knows, and has the same history.
func (c *catchUp) compare(ctx context.Context, tree snapshot) error {
	signed, err := c.own.signedHead(tree)
	if err != nil {
		return err
	}
	if c.head.Size < signed.Size {
		return fmt.Errorf("%w: it is behind, at tree size %d, and this log has signed %d; find a newer one, or end the log (logserver succeed)",
			ErrSource, c.head.Size, signed.Size)
	}
	if err := c.compareSignedFile(ctx, tree.size); err != nil {
		return err
	}
	common, rootAt := min(c.head.Size, tree.size), func(size int64) (Hash, error) { return c.source.RootAt(ctx, size) }
	if c.tree.view != nil {
		common, rootAt = min(c.tree.size, tree.size), c.tree.rootAt
	}
	own, err := tree.rootAt(common)
	if err != nil {
		return err
	}
	theirs, err := rootAt(common)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	if own != theirs {
		return fmt.Errorf("%w: it has another history, at tree size %d the root %v, here it is %v; both are evidence, keep them, and end the log (logserver succeed)",
			ErrSource, common, theirs, own)
	}
	return nil
}

// compareSignedFile is compare for the head that the signed file holds, which a
// store that has lost entries does not reach.
func (c *catchUp) compareSignedFile(ctx context.Context, size int64) error {
	f, err := readSignedFile(c.own.opts.fs, c.own.opts.Dir)
	if err != nil || f.last.Size <= size {
		return err
	}
	if c.head.Size < f.last.Size {
		return fmt.Errorf("%w: it is behind, at tree size %d, and this log has signed %d; find a newer one, or end the log (logserver succeed)",
			ErrSource, c.head.Size, f.last.Size)
	}
	root, err := c.source.RootAt(ctx, f.last.Size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSource, err)
	}
	if root != f.last.Root {
		return fmt.Errorf("%w: it has another history, at tree size %d the root %v, this log has signed %v; both are evidence, keep them, and end the log (logserver succeed)",
			ErrSource, f.last.Size, root, f.last.Root)
	}
	return nil
}

// begin marks the store, unless an interrupted run has: with the size at which
// the catch-up began, and with a random id that the source's mark will repeat.
func (c *catchUp) begin(size int64) error {
	if c.mark == nil {
		mark := make([]byte, 8+catchUpIDSize)
		binary.BigEndian.PutUint64(mark, uint64(size))
		rand.Read(mark[8:]) // never fails
		if err := c.own.store.db.Set(metaCatchUp, mark, pebble.Sync); err != nil {
			return committing(err)
		}
		c.mark = mark
	}
	c.report.From = int64(binary.BigEndian.Uint64(c.mark))
	return nil
}

// handOverMark is what the source's mark says once it may not sign any more. It
// names this catch-up, which ends with the deletion of the own mark, and the
// place of the store, which a copy made meanwhile does not have.
func (c *catchUp) handOverMark() []byte {
	return fmt.Appendf(nil, "a time before it handed over to another store (%s, catch-up %x)", c.place, c.mark[8:])
}

// mayHandOver makes sure that the other store has the right to sign, or has
// handed it over in an earlier run of this catch-up, which was interrupted. One
// that has handed it over for good never does again.
func (c *catchUp) mayHandOver(other *Store) error {
	switch mark, err := other.store.get(metaRestored); {
	case err == nil && c.mark != nil && bytes.Equal(mark, c.handOverMark()):
		return nil
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	}
	// A log that has ended stays ended: copyRest takes that over, too.
	if err := other.Suspended(); err != nil && !errors.Is(err, ErrSucceeded) {
		return err
	}
	return nil
}

// takeOver marks the other store.
func (c *catchUp) takeOver(other *Store) error {
	if other == nil {
		return nil
	}
	return other.store.db.Set(metaRestored, c.handOverMark(), pebble.Sync)
}

// finish makes the source's head the last signed one and lifts the suspension.
func (c *catchUp) finish(other *Store) error {
	s := c.own.store
	b := s.db.NewBatch()
	defer b.Close()
	values := map[string][]byte{string(metaSigned): c.head.Note}
	if other == nil {
		values[string(metaPublished)] = c.source.Note()
		accepted, err := c.accepted()
		if err != nil {
			return err
		}
		if key := indexKey(kindNote, c.head.Size); accepted {
			if _, err := s.get(key); errors.Is(err, ErrNotFound) {
				values[string(key)] = c.source.Note()
			} else if err != nil {
				return err
			}
		}
	} else {
		for _, key := range [][]byte{metaPublished, metaIdentity, metaSuccessor} {
			switch raw, err := other.store.get(key); {
			case err == nil:
				values[string(key)] = raw
			case !errors.Is(err, ErrNotFound):
				return err
			}
		}
	}
	if c.place != unknownPlace {
		values[string(metaPlace)] = []byte(c.place)
	}
	for key, value := range values {
		if err := b.Set([]byte(key), value, nil); err != nil {
			return err
		}
	}
	for _, key := range [][]byte{metaRestored, metaCatchUp} {
		if err := b.Delete(key, nil); err != nil {
			return err
		}
	}
	c.report.To, c.report.Size = c.head.Size, c.edge.size
	return s.commit(b)
}

// accepted reports whether the source's checkpoint counts as one that satisfied the
// policy of its time: the given one, or that of a log without witnesses. Such a log
// has kept the checkpoint that it published last, and nobody has cosigned that one
// or the source's.
func (c *catchUp) accepted() (bool, error) {
	if c.from.Policy != nil {
		return true, nil
	}
	if !bytes.Equal(c.source.Note(), c.head.Note) {
		return false, nil
	}
	kept, err := c.own.store.last(kindNote)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	published, err := c.own.store.get(metaPublished)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	keys, err := c.own.id.verifiers()
	if err != nil {
		return false, err
	}
	alone, err := checkpoint.TrimCosignatures(published, keys, 0)
	if err != nil {
		return false, corrupt("the published checkpoint: %v", err)
	}
	return bytes.Equal(published, kept) && bytes.Equal(published, alone), nil
}

// follows reports whether the keys are those of older, or what rotations that
// older does not know of made of them.
func (id *identity) follows(older *identity) bool {
	known := func(vkey, role string) bool {
		if vkey == "" {
			return true
		}
		for _, k := range id.vkeys() {
			if k.Vkey == vkey && k.Role == role {
				return true
			}
		}
		return false
	}
	for _, k := range older.vkeys() {
		if k.State != KeyNext && !known(k.Vkey, k.Role) {
			return false
		}
	}
	return true
}

// policy accepts what a key of the log has signed, without any witness.
func (id *identity) policy() (*checkpoint.Policy, error) {
	var text strings.Builder
	for _, k := range id.vkeys() {
		if k.Role == RoleLog {
			fmt.Fprintf(&text, "log %s\n", k.Vkey)
		}
	}
	text.WriteString("quorum none\n")
	return checkpoint.ParsePolicy([]byte(text.String()))
}

// fetchSnapshot serves a tree as a tlog-tiles log with the given checkpoint.
func fetchSnapshot(s snapshot, signed []byte) tiles.Fetch {
	return func(ctx context.Context, path string, _ int64) ([]byte, error) {
		if path == "checkpoint" {
			return signed, ctx.Err()
		}
		p, ok := parseTilePath(path)
		if !ok || !p.within(s.size) {
			return nil, tiles.ErrNotFound
		}
		if p.entries {
			return s.bundleBytes(p.number, p.width)
		}
		return s.tile(p.level, p.number, p.width)
	}
}
