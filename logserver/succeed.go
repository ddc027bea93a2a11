package logserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Succession says how a log ended and goes on.
type Succession struct {
	Origin    string `json:"origin"`     // of the old log
	NewOrigin string `json:"new_origin"` // of the new one
	// NewKeys and NewReceiptKeys are the verifier keys of the new log.
	NewKeys        []string `json:"new_keys"`
	NewReceiptKeys []string `json:"new_receipt_keys,omitempty"`
	// Checkpoint is the old log's last cosigned checkpoint, of tree size Size.
	Checkpoint string `json:"checkpoint"`
	Size       int64  `json:"size"`
	// Lost is how many entries from index Size on the old log held that no
	// cosigned checkpoint covers: their receipts cannot be honoured.
	Lost int64 `json:"lost"`
}

// Succeed ends the log of a store for ever and creates the log that goes on
// after it, whose entry 0 names the old log's last cosigned checkpoint
// (docs/formats/successor.md). Without witnesses that is the last one published.
// The old log serves reads as before, and never signs or appends again. Also a
// log that must catch up and has nobody to catch up from ends like this.
//
// The origin of the new log differs, and so do its keys. Interrupted, Succeed
// completes with the same arguments; a log that another one succeeds is
// ErrSucceeded.
func Succeed(old *Store, next Options) (*Succession, error) {
	given, err := newCandidates(next)
	if err != nil {
		return nil, err
	}
	id := given.identity(next.Origin)

	// 1. Say what the new log begins with, unless that is said already.
	entry, err := old.store.get(metaSuccessor)
	if errors.Is(err, ErrNotFound) {
		entry, err = old.successorEntry(id)
	}
	if err != nil {
		return nil, err
	}
	said, err := checkpoint.ParseSuccessor(entry)
	if err != nil {
		return nil, corrupt("the successor that the log names: %v", err)
	}
	if said.Origin != next.Origin || said.Keys[0] != id.log {
		return nil, &SucceededError{Origin: said.Origin}
	}

	// 2. End the old log. Crash before: nothing has happened. From here on it
	// never signs again, whether the new log comes to be or not.
	if err := old.store.db.Set(metaSuccessor, entry, pebble.Sync); err != nil {
		return nil, fmt.Errorf("ending the log: %w", err)
	}

	// 3. Create the new log with its first entry, in one commit.
	next.firstEntry = entry
	err = Create(next)
	if errors.Is(err, ErrExists) {
		err = checkFirstEntry(next, entry)
	}
	if err != nil {
		return nil, fmt.Errorf("creating the log %q: %w", next.Origin, err)
	}
	return old.succession(said)
}

// successorEntry is the first entry of the log with the identity next.
func (s *Store) successorEntry(next *identity) ([]byte, error) {
	signed, err := s.lastCosigned()
	if err != nil {
		return nil, err
	}
	keys, err := s.id.verifiers()
	if err != nil {
		return nil, err
	}
	e := checkpoint.Successor{Origin: next.origin, Keys: []string{next.log}, Checkpoint: signed.Note}
	if next.receipt != "" {
		e.ReceiptKeys = []string{next.receipt}
	}
	entry, err := e.Format()
	if !errors.Is(err, checkpoint.ErrTooLarge) {
		return entry, err
	}
	// Too many cosignatures for an entry: leave out what does not fit. What
	// surrounds the note has at most 4 KiB: two names and two keys.
	const room = checkpoint.MaxSuccessorSize - 4<<10
	if e.Checkpoint, err = checkpoint.TrimCosignatures(signed.Note, keys, room); err != nil {
		return nil, err
	}
	return e.Format()
}

// lastCosigned returns the newest published checkpoint that satisfied the policy
// of its time, which is any for a log that was without witnesses so far, or that of
// the empty tree, which init signed.
func (s *Store) lastCosigned() (SignedNote, error) {
	tree, err := s.store.snapshot()
	if err != nil {
		return SignedNote{}, err
	}
	keys, err := s.id.verifiers()
	if err != nil {
		return SignedNote{}, err
	}
	raw, err := s.store.last(kindNote)
	if errors.Is(err, ErrNotFound) {
		signed, err := s.signedHead(tree)
		if err == nil && signed.Size > 0 {
			err = fmt.Errorf("%w: the log has never published a checkpoint that its witness policy accepts; there is nothing that a successor could name", ErrNotFound)
		}
		return signed, err
	}
	if err != nil {
		return SignedNote{}, err
	}
	kept, err := openNote(tree, raw, s.id.origin, keys)
	if err != nil {
		return SignedNote{}, err
	}
	// The same checkpoint may have gathered more cosignatures since.
	raw, err = s.store.get(metaPublished)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return SignedNote{}, err
	}
	published, err := openNote(tree, raw, s.id.origin, keys)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return SignedNote{}, err
	}
	if err != nil {
		return kept, nil
	}
	if published.Size == kept.Size {
		return published, nil
	}
	return kept, nil
}

// last returns the value of the last key of a kind, or ErrNotFound.
func (r reader) last(kind byte) (v []byte, err error) {
	it, err := r.from.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
	if err != nil {
		return nil, fmt.Errorf("reading the store: %w", r.failed(err))
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.Last() {
		if err := it.Error(); err != nil {
			return nil, r.failed(err)
		}
		return nil, ErrNotFound
	}
	value, err := it.ValueAndErr()
	return bytes.Clone(value), r.failed(err)
}

// checkFirstEntry makes sure that an existing log begins with the entry.
func checkFirstEntry(o Options, entry []byte) (err error) {
	s, err := OpenStore(StoreOptions{Dir: o.Dir, Logger: o.Logger, fs: o.fs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	tree, err := s.store.snapshot()
	if err != nil {
		return err
	}
	if first, err := tree.entry(0); err != nil || !bytes.Equal(first, entry) {
		return fmt.Errorf("%w: %q, which does not succeed this one", ErrExists, o.Dir)
	}
	return nil
}

// succession describes what has been done.
func (s *Store) succession(next *checkpoint.Successor) (*Succession, error) {
	keys, err := s.id.verifiers()
	if err != nil {
		return nil, err
	}
	c, err := next.Predecessor(s.id.origin, keys)
	if err != nil {
		return nil, corrupt("the checkpoint that the successor names: %v", err)
	}
	tree, err := s.store.snapshot()
	if err != nil {
		return nil, err
	}
	return &Succession{Origin: s.id.origin, NewOrigin: next.Origin, NewKeys: next.Keys, NewReceiptKeys: next.ReceiptKeys,
		Checkpoint: string(next.Checkpoint), Size: c.Size, Lost: tree.size - c.Size}, nil
}

// LeafHashes iterates over the leaf hashes from index start to the end of the
// stored tree. It ends after the first error.
func (s *Store) LeafHashes(start int64) iter.Seq2[Hash, error] {
	return func(yield func(Hash, error) bool) {
		tree, err := s.store.snapshot()
		if err != nil {
			yield(Hash{}, err)
			return
		}
		for data, err := range tree.entries(start, tree.size) {
			if err != nil {
				yield(Hash{}, err)
				return
			}
			if !yield(LeafHash(data), nil) {
				return
			}
		}
	}
}

// appendFirst adds the first entry of a new log to the commit that creates it,
// and returns the head.
func appendFirst(b *pebble.Batch, entry []byte) ([]byte, error) {
	e, leaf := new(edge), LeafHash(entry)
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(entry))), entry...)
	if err := e.append(frame, &leaf, batchWriter{b}); err != nil {
		return nil, err
	}
	if err := e.flush(batchWriter{b}); err != nil {
		return nil, err
	}
	return encodeHead(e.size, e.root()), nil
}
