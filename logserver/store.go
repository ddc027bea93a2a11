package logserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// Sizes of Pebble's memory, in bytes, chosen so that a log stays below 250 MiB
// under write load.
const (
	// memTableSize bounds what a flush writes in one go, and so how long it keeps
	// a processor and the disk from those who wait for an answer.
	memTableSize = 8 << 20
	// memTables is how many there may be: one is written to, the others wait for
	// their flush.
	memTables = 4
	// blockCacheSize includes the memtables: Pebble takes them out of its cache.
	blockCacheSize = 32<<20 + memTables*memTableSize
)

// store is the Pebble database of one log. Its bytes are trusted for
// durability and atomicity only: what is signed is checked against them first.
type store struct {
	reader
	db     *pebble.DB
	lock   *pebble.Lock
	cache  *pebble.Cache
	faults *faults
	// roomToFlush reports whether the disk has room for a flush; nil if that is
	// not known. Set before the store is used.
	roomToFlush func() bool
	// copying is held by the one backup that may be under way.
	copying sync.Mutex
}

// reader reads the database, or one consistent snapshot of it.
type reader struct {
	from   pebble.Reader
	faults *faults
}

// failed is storeError for what could not be read. Pebble reports most rotten
// files by itself, but not the blocks of blob files.
func (r reader) failed(err error) error {
	err = storeError(err)
	if errors.Is(err, ErrCorrupt) {
		r.faults.corrupted(err)
	}
	return err
}

// pin calls read with a consistent snapshot of what is stored now.
func (s *store) pin(read func(reader) error) error {
	snap := s.db.NewSnapshot()
	return errors.Join(read(reader{snap, s.faults}), snap.Close())
}

// separateBundles keeps full tiles and large runs of entries in blob files of
// their own, where compactions leave them: they are written once to the
// write-ahead log and once to stay. What replaces them later, such as the runs
// that a bundle was put together from, is garbage until a blob file has a fifth
// of it.
func separateBundles() pebble.ValueSeparationPolicy {
	return pebble.ValueSeparationPolicy{
		Enabled:     true,
		MinimumSize: TileWidth * HashSize,
		// Entries and tiles are appended in order, so that tables refer to many
		// blob files without any being read more than once in a scan.
		MaxBlobReferenceDepth: 100,
		RewriteMinimumAge:     5 * time.Minute,
		TargetGarbageRatio:    0.2,
	}
}

// openStore locks and opens the database in o.Dir, which exists.
func openStore(o *Options, faults *faults) (s *store, err error) {
	dir, fs := o.Dir, o.fs
	lock, err := pebble.LockDirectory(dir, fs)
	if path := (*os.PathError)(nil); errors.As(err, &path) { // read-only, or not ours to write
		return nil, fmt.Errorf("locking the store, which takes the right to write to it: %w", storeError(err))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: stop the process that uses %q first (%v)", ErrLocked, dir, err)
	}
	defer func() {
		if err != nil && !faults.broken.Load() {
			err = errors.Join(err, lock.Close())
		}
	}()
	if o.locked != nil {
		if err := o.locked(o); err != nil {
			return nil, err
		}
	}
	cache := pebble.NewCache(blockCacheSize)
	opts := &pebble.Options{
		FS:                          fs,
		Lock:                        lock,
		Cache:                       cache,
		Logger:                      faults,
		EventListener:               faults.listener(),
		FormatMajorVersion:          pebble.FormatValueSeparation,
		MemTableSize:                memTableSize,
		MemTableStopWritesThreshold: memTables,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000,
		MaxOpenFiles:                storeFiles(openFileLimit()),
	}
	// A flush makes one table and one blob file.
	for i := range opts.TargetFileSizes {
		opts.TargetFileSizes[i] = 16 << 20
	}
	opts.TargetFileSizes[0] = 2 * memTableSize
	opts.Experimental.ValueSeparationPolicy = separateBundles
	// Hashes, salts and signatures do not compress; a bloom filter answers
	// most lookups of deduplication keys that are not there.
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	if o.tune != nil {
		o.tune(opts)
	}
	var db *pebble.DB
	err = faults.during(func() (err error) {
		db, err = pebble.Open(dir, opts)
		return err
	})
	if err != nil {
		if !faults.broken.Load() {
			cache.Unref()
		}
		return nil, fmt.Errorf("opening the store: %w", openError(err))
	}
	if err := checkBlobs(db, fs, dir, opts.ReadOnly); err != nil {
		err = errors.Join(err, faults.during(db.Close))
		if !faults.broken.Load() {
			cache.Unref()
		}
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	return &store{reader: reader{db, faults}, db: db, lock: lock, cache: cache, faults: faults}, nil
}

// close releases the store. After a fault it does nothing: goroutines of Pebble
// may still write, so that the directory stays locked until the process ends.
func (s *store) close() error {
	if s.faults.broken.Load() {
		return nil
	}
	// Everything that anybody was told of is durable: a fault has no caller to
	// hide an outcome from and is the error of closing.
	s.faults.running.Store(false)
	err := s.faults.during(func() error {
		s.flush()
		return s.db.Close()
	})
	if s.faults.broken.Load() {
		return err
	}
	s.cache.Unref()
	return errors.Join(err, s.lock.Close())
}

// maxCloseFlush bounds how long closing waits for the memtables to be flushed.
// They take less than a second on any disk that a log is run on.
const maxCloseFlush = 10 * time.Second

// unflushed returns how many bytes only the write-ahead log holds: about as many
// as flushes will write into tables and blob files. After a fault, when locks of
// the store may be held for ever, it is nothing.
func (s *store) unflushed() uint64 {
	if s.faults.broken.Load() {
		return 0
	}
	return s.db.Metrics().WAL.Size
}

// flush moves what only the write-ahead log holds into tables. The end of a
// write-ahead log that rotted looks like a write that a power cut tore: what
// follows is dropped without a word, where a table is found to be corrupt. So a
// log that was stopped cleanly rests in tables, and opens without a replay. If
// there is no room, or the flush fails, closing goes on without: the write-ahead
// log has everything.
func (s *store) flush() {
	if s.roomToFlush != nil && !s.roomToFlush() {
		return
	}
	select {
	case <-s.faults.failing:
	default:
	}
	flushed, err := s.db.AsyncFlush()
	if err != nil {
		return // read only
	}
	timeout := time.NewTimer(maxCloseFlush)
	defer timeout.Stop()
	select {
	case <-flushed:
		return
	case <-s.faults.failing:
	case <-timeout.C:
	}
	s.faults.logger.Warn("the store was closed without a flush, its next start replays the write-ahead log")
}

// get returns a copy of the value, or ErrNotFound.
func (r reader) get(key []byte) ([]byte, error) {
	v, closer, err := r.from.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading the store: %w", r.failed(err))
	}
	v = append([]byte(nil), v...)
	return v, r.failed(closer.Close())
}

// read calls visit with the value, which is valid during the call only, or
// returns ErrNotFound.
func (r reader) read(key []byte, visit func(value []byte) error) error {
	v, closer, err := r.from.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("reading the store: %w", r.failed(err))
	}
	return errors.Join(visit(v), r.failed(closer.Close()))
}

// getUint returns the integer under key, or zero if there is none: neither an
// index plus one nor a register is ever stored as zero.
func (r reader) getUint(key []byte) (uint64, error) {
	v, closer, err := r.from.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the store: %w", r.failed(err))
	}
	if len(v) != 8 {
		return 0, errors.Join(corrupt("integer of %d bytes under key %q", len(v), key), closer.Close())
	}
	n := binary.BigEndian.Uint64(v)
	return n, r.failed(closer.Close())
}

// readEach calls visit with the value of each of n keys that is there. The keys
// come in ascending order; a value is valid during the call only.
func (r reader) readEach(n int, key func(i int) []byte, visit func(i int, value []byte) error) (err error) {
	if n == 0 {
		return nil
	}
	it, err := r.from.NewIter(nil)
	if err != nil {
		return fmt.Errorf("reading the store: %w", r.failed(err))
	}
	defer func() { err = errors.Join(err, r.failed(it.Close())) }()
	for i := range n {
		if !it.SeekPrefixGE(key(i)) { // the prefix is the whole key
			if err := it.Error(); err != nil {
				return fmt.Errorf("reading the store: %w", r.failed(err))
			}
			continue
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("reading the store: %w", r.failed(err))
		}
		if err := visit(i, v); err != nil {
			return err
		}
	}
	return nil
}

// scan calls visit for every key in [from, to), in order. The slices are valid
// during the call only.
func (r reader) scan(from, to []byte, visit func(key, value []byte) error) (err error) {
	it, err := r.from.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return fmt.Errorf("reading the store: %w", r.failed(err))
	}
	defer func() { err = errors.Join(err, r.failed(it.Close())) }()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr() // Value would give nothing for what cannot be read
		if err != nil {
			return fmt.Errorf("reading the store: %w", r.failed(err))
		}
		if err := visit(it.Key(), v); err != nil {
			return err
		}
	}
	return r.failed(it.Error())
}

// commit applies the batch with one sync. After an error its outcome is
// unknown; Pebble ends the process on most of them.
func (s *store) commit(b *pebble.Batch) error {
	defer s.faults.catchCommit()
	return committing(s.db.Apply(b, pebble.Sync))
}

// newCommit returns an empty batch with room for what a commit group of these
// entries writes. It is closed by sync, or by whoever does not apply it.
func (s *store) newCommit(b *batch) *pebble.Batch {
	// Entries and hashes, the unfinished bundle and tile that are written once
	// more when they are complete, openings and keys, and what frames them.
	size := len(b.frames) + len(b.private) + len(b.entries)*(HashSize+2) + TileWidth*HashSize + rollupLimit
	return s.db.NewBatchWithSize(size, pebble.WithMaxRetainedSizeBytes(keptBytes))
}

// apply makes the batch visible to everybody who reads the store and queues its
// sync; sync waits for that. After an error the outcome is unknown.
func (s *store) apply(b *pebble.Batch) error {
	defer s.faults.catchCommit()
	return committing(s.db.ApplyNoSyncWait(b, pebble.Sync))
}

// sync waits until an applied batch is durable, and closes it. An error ends the
// process, as it does inside Pebble where that waits itself.
func (s *store) sync(b *pebble.Batch) error {
	if err := b.SyncWait(); err != nil {
		s.faults.Fatalf("commit of unknown outcome: %v", err)
		return committing(err)
	}
	return committing(b.Close())
}

func committing(err error) error {
	if err != nil {
		return fmt.Errorf("committing to the store: %w", err)
	}
	return nil
}

// noSync commits with whatever is synced next.
var noSync = pebble.NoSync

// batchWriter is the runWriter of a commit group.
type batchWriter struct{ b *pebble.Batch }

func (w batchWriter) put(r resource, first int64, run []byte, replaces []int64) error {
	for _, index := range replaces {
		if err := w.b.Delete(r.key(index), nil); err != nil {
			return err
		}
	}
	return w.b.Set(r.key(first), run, nil)
}

func (r resource) key(item int64) []byte {
	if r.entries {
		return indexKey(kindEntry, item)
	}
	return tileKey(r.level, item)
}

func setUint(b *pebble.Batch, key []byte, v uint64) error {
	if v == 0 {
		return b.Delete(key, nil)
	}
	return b.Set(key, binary.BigEndian.AppendUint64(nil, v), nil)
}

// encodeHead and decodeHead are the value under metaHead.
func encodeHead(size int64, root Hash) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(size)), root[:]...)
}

func decodeHead(v []byte) (int64, Hash, error) {
	if len(v) != 8+HashSize {
		return 0, Hash{}, corrupt("head of %d bytes", len(v))
	}
	size := int64(binary.BigEndian.Uint64(v))
	if size < 0 {
		return 0, Hash{}, corrupt("negative tree size in the head")
	}
	return size, Hash(v[8:]), nil
}
