package main

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/logserver"
)

// origin names every log here.
const origin = "bench.example/log"

// Engines that entries are appended to, in process.
const (
	engineLog     = "log"
	engineTessera = "tessera"
	enginePebble  = "pebble"
)

// engine is a store for entries: what an append has returned for is durable.
type engine interface {
	// caller returns a function that appends n entries (0: one, by the call
	// for single entries) with the numbers from first on. It is for one
	// goroutine.
	caller(n int) func(first uint64) error
	// size is the number of entries; a store that does not know says -1.
	size() (int64, error)
	close(ctx context.Context) error
}

func openEngine(ctx context.Context, j job) (engine, error) {
	switch j.Engine {
	case engineLog:
		return openLog(ctx, j)
	case engineTessera:
		return openTessera(ctx, j)
	case enginePebble:
		return openPebble(j)
	}
	return nil, fmt.Errorf("unknown engine %q", j.Engine)
}

// filler is what entries consist of beside their number: it does not compress.
// Its first bytes differ between processes, so that entries are unique also in
// a log that several have written to.
type filler struct {
	shape shape
	bytes []byte
	nonce uint64
}

func newFiller(s shape) filler {
	f := filler{shape: s, bytes: make([]byte, 1<<17), nonce: rand.Uint64()}
	source := rand.NewChaCha8([32]byte{1})
	source.Read(f.bytes)
	binary.BigEndian.PutUint64(f.bytes, f.nonce)
	return f
}

// data returns a buffer of n bytes, to be numbered.
func (f filler) data(n int) []byte { return slices.Clone(f.bytes[:n]) }

// numbered makes the entry unique.
func numbered(data []byte, number uint64) { binary.BigEndian.PutUint64(data[8:], number) }

// key fills a deduplication key: distinct numbers give distinct keys, evenly
// distributed like hashes.
func (f filler) key(key []byte, number uint64) {
	x := f.nonce ^ number*0x9e3779b97f4a7c15
	for i := 0; i < len(key); i += 8 {
		// The finaliser of SplitMix64, which is a permutation.
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.BigEndian.PutUint64(key[i:], z^z>>31)
	}
}

// logEngine is our log, opened through its public interface.
type logEngine struct {
	log  *logserver.Log
	fill filler
}

// logOptions are those of a log that the logserver binary has created.
func logOptions(dir string) (o logserver.Options, err error) {
	o = logserver.Options{Dir: filepath.Join(dir, "store"), Origin: origin}
	if o.Key, err = keyfile.LoadEd25519(filepath.Join(dir, "log.key"), nil); err != nil {
		return o, err
	}
	o.ReceiptKey, err = keyfile.LoadEd25519(filepath.Join(dir, "receipt.key"), nil)
	return o, err
}

func openLog(ctx context.Context, j job) (*logEngine, error) {
	options, err := logOptions(j.Dir)
	if err != nil {
		return nil, err
	}
	log, err := logserver.Open(options)
	if err != nil {
		return nil, err
	}
	if err := log.Ready(ctx); err != nil {
		return nil, errors.Join(err, log.Close(ctx))
	}
	return &logEngine{log: log, fill: newFiller(j.Shape)}, nil
}

func (e *logEngine) caller(n int) func(uint64) error {
	entries := make([]logserver.Entry, max(n, 1))
	for i := range entries {
		entries[i] = logserver.Entry{Data: e.fill.data(e.fill.shape.Entry)}
		if e.fill.shape.Opening > 0 {
			entries[i].Opening = e.fill.data(e.fill.shape.Opening)
		}
		if e.fill.shape.Dedup {
			entries[i].Dedup = make([]byte, 32)
		}
	}
	ctx := context.Background()
	return func(first uint64) error {
		for i := range entries {
			number := first + uint64(i)
			numbered(entries[i].Data, number)
			if entries[i].Opening != nil {
				numbered(entries[i].Opening, number)
			}
			if entries[i].Dedup != nil {
				e.fill.key(entries[i].Dedup, number)
			}
		}
		if n == 0 {
			result, _, err := e.log.Append(ctx, entries[0])
			if err == nil && result.Duplicate {
				err = errors.New("entry is a duplicate")
			}
			return err
		}
		results, _, err := e.log.AppendBatch(ctx, entries)
		for _, r := range results {
			if r.Err != nil || r.Duplicate {
				return fmt.Errorf("entry was refused or a duplicate: %v", r.Err)
			}
		}
		return err
	}
}

func (e *logEngine) size() (int64, error) { return e.log.Size(), nil }

func (e *logEngine) scanning() bool { return e.log.Status().ScanningKeys }

func (e *logEngine) close(ctx context.Context) error { return e.log.Close(ctx) }

// Tessera's best settings: larger batches and more writers gained nothing.
const (
	tesseraBatch    = 1024
	tesseraMaxAge   = 100 * time.Millisecond
	tesseraInterval = time.Second // as its conformance server
)

// tesseraEngine is Tessera's POSIX storage, which integrates before it answers.
type tesseraEngine struct {
	appender *tessera.Appender
	reader   tessera.LogReader
	shutdown func(context.Context) error
	fill     filler
}

func openTessera(ctx context.Context, j job) (*tesseraEngine, error) {
	path, err := tesseraKey(j.Dir)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	signer, err := note.NewSigner(string(text))
	if err != nil {
		return nil, err
	}
	driver, err := posix.New(ctx, posix.Config{Path: j.Dir})
	if err != nil {
		return nil, err
	}
	e := &tesseraEngine{fill: newFiller(j.Shape)}
	e.appender, e.shutdown, e.reader, err = tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(tesseraInterval).
		WithBatching(tesseraBatch, tesseraMaxAge))
	return e, err
}

// tesseraKey makes a log's key beside its directory, once.
func tesseraKey(dir string) (path string, err error) {
	path = dir + ".key"
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	skey, _, err := note.GenerateKey(rand.NewChaCha8([32]byte{2}), origin)
	if err != nil {
		return "", err
	}
	return path, errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(path, []byte(skey), 0o600))
}

func (e *tesseraEngine) caller(n int) func(uint64) error {
	futures := make([]tessera.IndexFuture, max(n, 1))
	ctx := context.Background()
	size := e.fill.shape.stored()
	return func(first uint64) error {
		for i := range futures {
			// An entry keeps its bytes, so they cannot be used again.
			data := e.fill.data(size)
			numbered(data, first+uint64(i))
			futures[i] = e.appender.Add(ctx, tessera.NewEntry(data))
		}
		for _, f := range futures {
			if _, err := f(); err != nil {
				return err
			}
		}
		return nil
	}
}

func (e *tesseraEngine) size() (int64, error) {
	n, err := e.reader.IntegratedSize(context.Background())
	return int64(n), err
}

func (e *tesseraEngine) close(ctx context.Context) error { return e.shutdown(ctx) }

// pebbleEngine is Pebble alone: a Set for each entry, under ascending keys.
type pebbleEngine struct {
	db   *pebble.DB
	fill filler
}

// openPebble opens a store with the options that a store of ours has: the ones
// that it wrote down itself.
func openPebble(j job) (*pebbleEngine, error) {
	files, err := filepath.Glob(filepath.Join(j.Options, "OPTIONS-*"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no options of a store in %q: %w", j.Options, err)
	}
	text, err := os.ReadFile(slices.Max(files))
	if err != nil {
		return nil, err
	}
	options := &pebble.Options{Logger: silent{}}
	err = options.Parse(string(text), &pebble.ParseHooks{
		NewFilterPolicy: func(name string) (pebble.FilterPolicy, error) {
			if strings.HasPrefix(name, "rocksdb.BuiltinBloomFilter") {
				return bloom.FilterPolicy(10), nil
			}
			return pebble.NoFilterPolicy, nil
		},
		SkipUnknown: func(string, string) bool { return true },
	})
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", files[0], err)
	}
	db, err := pebble.Open(j.Dir, options)
	if err != nil {
		return nil, err
	}
	return &pebbleEngine{db: db, fill: newFiller(j.Shape)}, nil
}

func (e *pebbleEngine) caller(n int) func(uint64) error {
	data := e.fill.data(e.fill.shape.stored())
	key := make([]byte, 9)
	key[0] = 'e'
	dedup := make([]byte, 33)
	dedup[0] = 'd'
	return func(first uint64) error {
		batch := e.db.NewBatch()
		defer batch.Close()
		for i := range uint64(max(n, 1)) {
			numbered(data, first+i)
			binary.BigEndian.PutUint64(key[1:], first+i)
			if err := batch.Set(key, data, nil); err != nil {
				return err
			}
			if e.fill.shape.Dedup {
				e.fill.key(dedup[1:], first+i)
				if err := batch.Set(dedup, key[1:], nil); err != nil {
					return err
				}
			}
		}
		return batch.Commit(pebble.Sync)
	}
}

func (e *pebbleEngine) size() (int64, error) { return -1, nil }

func (e *pebbleEngine) close(context.Context) error { return e.db.Close() }

// silent drops Pebble's messages, except the ones that end the process.
type silent struct{}

func (silent) Infof(string, ...any)              {}
func (silent) Errorf(string, ...any)             {}
func (silent) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// receiptKey returns the public key under which a log signs receipt heads.
func receiptKey(dir string) (ed25519.PublicKey, error) {
	key, err := keyfile.LoadEd25519(filepath.Join(dir, "receipt.key"), nil)
	if err != nil {
		return nil, err
	}
	return key.Public().(ed25519.PublicKey), nil
}
