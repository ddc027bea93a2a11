package logserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"
)

// StoreOptions say which store to open, and how.
type StoreOptions struct {
	// Dir holds the store.
	Dir string
	// ReadOnly leaves every file as it is; Backup is then not possible.
	ReadOnly bool
	// Partial, together with ReadOnly, opens the store also if files with entries
	// and tiles are missing: what was in them is an error of reading it. For
	// Fsck, which then names it.
	Partial bool
	// Logger receives what Pebble has to say; nil discards it.
	Logger *slog.Logger
	// Fatal is called when the outcome of a write is unknown: it must end the
	// process. Nil panics with the error.
	Fatal func(error)

	fs vfs.FS
}

// Store is the store of a log that is not running, opened without the log's
// private keys to be checked, copied or read. As long as it is open no other
// process can open it. Its methods are safe for concurrent use, except Close.
type Store struct {
	opts  StoreOptions
	store *store
	id    *identity
}

// OpenStore opens a store. ErrNotFound means that there is no log in the
// directory, ErrLocked that a process has it open.
func OpenStore(o StoreOptions) (s *Store, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
	if err := checkStore(o.Dir, o.fs); err != nil {
		return nil, err
	}
	dir, err := realDir(o.Dir, o.fs)
	if err != nil {
		return nil, err
	}
	faults := newFaults(o.Logger, o.fatal, func(err error) {
		o.Logger.Error("store is damaged", "dir", o.Dir, "err", err)
	})
	fs := storeFS{o.fs, faults, new(space)}
	options := &Options{Dir: dir, Logger: o.Logger, fs: fs}
	if o.ReadOnly {
		options.tune = func(p *pebble.Options) { p.ReadOnly = true }
	}
	opened, err := openStore(options, faults)
	if lacks := (*missingBlobs)(nil); o.ReadOnly && o.Partial && errors.As(err, &lacks) {
		options.fs = partialFS{fs, lacks.names}
		// A store that could not be let go of says nothing new: the first error does.
		if again, againErr := openStore(options, faults); !errors.Is(againErr, ErrLocked) {
			opened, err = again, againErr
		}
	}
	if err != nil {
		return nil, err
	}
	id, err := opened.identity()
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w: %q holds no log, an init was interrupted", ErrNotFound, o.Dir)
	}
	if err != nil {
		return nil, errors.Join(err, opened.close())
	}
	faults.running.Store(true)
	return &Store{opts: o, store: opened, id: id}, nil
}

// checkStore is ErrNotFound if there is no store in a directory. Pebble would make
// one, which would stand in the way of restoring the log that is missed.
func checkStore(dir string, disk vfs.FS) error {
	there, err := pebble.Peek(dir, disk)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for a store in %q: %w", dir, storeError(err))
	}
	if err != nil || !there.Exists {
		return fmt.Errorf("%w: %q holds no store of a log: is its volume mounted? A new log is made by init", ErrNotFound, dir)
	}
	return nil
}

// realDir is what locks and opens a store by, however the directory is spelled:
// Pebble tells the stores of one process apart by their names, and the lock of a
// file that is opened twice is lost when either is closed.
func realDir(dir string, disk vfs.FS) (string, error) {
	if disk != vfs.Default {
		return dir, nil
	}
	full, err := filepath.Abs(dir)
	if err == nil {
		full, err = filepath.EvalSymlinks(full)
	}
	if err != nil {
		return "", fmt.Errorf("resolving the store directory: %w", err)
	}
	return full, nil
}

func (o *StoreOptions) fatal(err error) {
	if o.Fatal != nil {
		o.Fatal(err)
	}
	panic(err)
}

// Close releases the store.
func (s *Store) Close() error { return s.store.close() }

// Origin returns the log's origin.
func (s *Store) Origin() string { return s.id.origin }

// Keys lists the keys of the log: those that sign, then the retired ones.
func (s *Store) Keys() []KeyInfo { return s.id.vkeys() }

// Suspended returns why the log neither appends nor signs when it is opened
// where it is now, ErrRestored or ErrSucceeded, or nil.
func (s *Store) Suspended() error {
	place, err := readPlace(s.opts.Dir, s.opts.fs)
	if err != nil {
		return err
	}
	signed, err := readSignedFile(s.opts.fs, s.opts.Dir)
	if err != nil {
		return err
	}
	return s.store.suspended(place, signed)
}

// Status describes the log as it would be if it were opened here, as far as its
// store tells: what a policy or the disk has to say is left out.
func (s *Store) Status() (Status, error) {
	tree, err := s.store.snapshot()
	if err != nil {
		return Status{}, err
	}
	signed, err := s.signedHead(tree)
	if err != nil {
		return Status{}, err
	}
	st := Status{Origin: s.id.origin, Vkey: s.id.log, ReceiptVkey: s.id.receipt, Keys: s.Keys(), Integrated: tree.size, Signed: signed.Size}
	switch raw, err := s.store.get(metaPublished); {
	case err == nil:
		published, err := openNote(tree, raw, s.id.origin, mustVerify(s.id))
		if err != nil {
			return Status{}, fmt.Errorf("published checkpoint: %w", err)
		}
		st.Published = published.Size
	case !errors.Is(err, ErrNotFound):
		return Status{}, err
	}
	if err := s.Suspended(); err != nil {
		st.NotReady = err.Error()
		st.Reasons = []string{err.Error()}
		if next := new(SucceededError); errors.As(err, &next) {
			st.Successor = next.Origin
		}
	}
	return st, nil
}

// mustVerify returns the keys of an identity whose keys were parsed before.
func mustVerify(id *identity) []note.Verifier {
	keys, err := id.verifiers()
	if err != nil {
		panic(err)
	}
	return keys
}

// Fsck is Log.Fsck for a log that is not running.
func (s *Store) Fsck(ctx context.Context, o FsckOptions) (*FsckReport, error) {
	o.signed, o.signedErr = readSignedFile(s.opts.fs, s.opts.Dir)
	return s.store.fsck(ctx, o)
}

// snapshot returns the tree that the stored head names.
func (r reader) snapshot() (snapshot, error) {
	raw, err := r.get(metaHead)
	if err != nil {
		return snapshot{}, fmt.Errorf("reading the head: %w", lost(err))
	}
	size, root, err := decodeHead(raw)
	if err != nil {
		return snapshot{}, err
	}
	e, err := r.loadEdge(size)
	if err != nil {
		return snapshot{}, fmt.Errorf("loading the edge of tree size %d: %w", size, err)
	}
	if got := e.root(); got != root {
		return snapshot{}, corrupt("the edge of tree size %d has root %v, the head says %v", size, got, root)
	}
	return snapshot{view: e.view(root), store: r}, nil
}
