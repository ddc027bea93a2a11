package logserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/tlog"
)

// testKey returns a key that is the same in every run.
func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// testOptions are those of a log without witnesses on a file system in memory.
func testOptions(fs vfs.FS) Options {
	return Options{
		Dir:         "log",
		Origin:      "log.example/test",
		Key:         testKey(1),
		ReceiptKey:  testKey(2),
		MinInterval: 1, // rounds follow one another at once
		fs:          fs,
	}
}

// testLog is a log under test with the model that it is compared with.
type testLog struct {
	*Log
	t    testing.TB
	opts Options
	model
}

// model is what a log should hold, kept in the simplest way: the tree by
// x/mod/sumdb/tlog, which shares no code with ours.
type model struct {
	data      [][]byte
	openings  [][]byte
	hashes    []tlog.Hash // by stored hash index
	dedup     map[string]int64
	registers map[string]uint64
}

func newModel() model {
	return model{dedup: map[string]int64{}, registers: map[string]uint64{}}
}

func newTestLog(t testing.TB, opts Options) *testLog {
	t.Helper()
	if err := Create(opts); err != nil {
		t.Fatal(err)
	}
	tl := &testLog{t: t, opts: opts, model: newModel()}
	tl.open()
	t.Cleanup(func() {
		if tl.Log != nil {
			tl.Close(context.Background())
		}
	})
	return tl
}

func (tl *testLog) open() {
	tl.t.Helper()
	l, err := Open(tl.opts)
	if err != nil {
		tl.t.Fatal(err)
	}
	tl.Log = l
}

func (tl *testLog) close() {
	tl.t.Helper()
	if err := tl.Log.Close(context.Background()); err != nil {
		tl.t.Fatal(err)
	}
	tl.Log = nil
}

func (tl *testLog) reopen() {
	tl.t.Helper()
	tl.close()
	tl.open()
}

// sequence adds an entry to the model.
func (m *model) sequence(e Entry) {
	index := int64(len(m.data))
	m.data = append(m.data, bytes.Clone(e.Data))
	m.openings = append(m.openings, bytes.Clone(e.Opening))
	h, err := tlog.StoredHashes(index, e.Data, m)
	if err != nil {
		panic(err)
	}
	m.hashes = append(m.hashes, h...)
	if len(e.Dedup) > 0 {
		m.dedup[string(e.Dedup)] = index
	}
	for _, r := range e.Sets {
		m.registers[r.Key] = r.Value
	}
}

// apply does to the model what the log should do with one call, entry by entry,
// and returns the results that it should give.
func (m *model) apply(entries []Entry) []Result {
	results := make([]Result, len(entries))
	for i := range entries {
		results[i] = m.applyOne(entries[i])
	}
	return results
}

func (m *model) applyOne(e Entry) Result {
	if index, known := m.dedup[string(e.Dedup)]; known && len(e.Dedup) > 0 {
		return Result{Index: index, Duplicate: true}
	}
	for _, g := range e.Guards {
		if m.registers[g.Key] != g.Want {
			return Result{Index: -1, Err: ErrGuard}
		}
	}
	index := int64(len(m.data))
	m.sequence(e)
	return Result{Index: index}
}

// sameResults reports whether a log gave the results that the model does.
func sameResults(got, want []Result) bool {
	return slices.EqualFunc(got, want, func(a, b Result) bool {
		return a.Index == b.Index && a.Duplicate == b.Duplicate && (a.Err == nil) == (b.Err == nil) && errors.Is(a.Err, b.Err)
	})
}

// ReadHashes implements tlog.HashReader.
func (m *model) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = m.hashes[x]
	}
	return out, nil
}

func (m *model) root(t testing.TB, size int64) Hash {
	t.Helper()
	h, err := tlog.TreeHash(size, m)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// add appends entries one by one and to the model.
func (tl *testLog) add(entries ...Entry) {
	tl.t.Helper()
	for _, e := range entries {
		r, h, err := tl.Append(context.Background(), e)
		if err != nil {
			tl.t.Fatal(err)
		}
		if want := int64(len(tl.data)); r.Index != want || r.Duplicate {
			tl.t.Fatalf("result %+v, want fresh index %d", r, want)
		}
		tl.sequence(e)
		if h.Size != int64(len(tl.data)) || h.Root != tl.root(tl.t, h.Size) {
			tl.t.Fatalf("receipt head %d %v does not match the model", h.Size, h.Root)
		}
	}
}

// addN appends n entries in batches, with some openings.
func (tl *testLog) addN(n int) {
	tl.t.Helper()
	for n > 0 {
		var batch []Entry
		for range min(n, 1000) {
			batch = append(batch, tl.nextEntry())
			tl.sequence(batch[len(batch)-1])
		}
		if _, _, err := tl.AppendBatch(context.Background(), batch); err != nil {
			tl.t.Fatal(err)
		}
		n -= len(batch)
	}
}

func (tl *testLog) nextEntry() Entry {
	i := len(tl.data)
	e := Entry{Data: binary.BigEndian.AppendUint32([]byte("entry "), uint32(i))}
	if i%3 == 0 {
		e.Opening = binary.BigEndian.AppendUint32([]byte("opening "), uint32(i))
	}
	return e
}

// check compares everything that the log can say with the model.
func (tl *testLog) check() {
	tl.t.Helper()
	CheckLog(tl.t, tl.Log, &tl.model)
}

// CheckLog is the whole-log oracle: every entry, opening, bundle, tile and root
// of the log, and every deduplication key and register, is what the model says.
func CheckLog(t testing.TB, l *Log, m *model) {
	t.Helper()
	size := int64(len(m.data))
	if l.Size() != size {
		t.Fatalf("size is %d, want %d", l.Size(), size)
	}
	checkEntries(t, l, m)
	checkTiles(t, l, m)
	for _, s := range []int64{0, 1, size / 2, size - 1, size, rand.Int64N(size + 1)} {
		if s < 0 || s > size {
			continue
		}
		want := emptyRoot
		if s > 0 {
			want = m.root(t, s)
		}
		if got, err := l.RootAt(s); err != nil || got != want {
			t.Fatalf("root at size %d is %v, %v; want %v", s, got, err, want)
		}
		checkProofs(t, l, m, s)
	}
	for key, want := range m.dedup {
		if got, err := dedupIndex(l, key); err != nil || got != want {
			t.Fatalf("deduplication key %q is at %d, %v; want %d", key, got, err, want)
		}
	}
	for key, want := range m.registers {
		if got, err := l.Register(key); err != nil || got != want {
			t.Fatalf("register %q is %d, %v; want %d", key, got, err, want)
		}
	}
}

// dedupIndex returns the index that the store has for a deduplication key, or -1.
func dedupIndex(l *Log, key string) (int64, error) {
	n, err := l.store.getUint(dedupKey([]byte(key)))
	return int64(n) - 1, err
}

func dedupKey(dedup []byte) []byte { return append([]byte{kindDedup}, dedup...) }

func checkEntries(t testing.TB, l *Log, m *model) {
	t.Helper()
	size := int64(len(m.data))
	i := 0
	for got, err := range l.Entries(0, size) {
		if err != nil || !bytes.Equal(got, m.data[i]) {
			t.Fatalf("entry %d is %.20q, %v; want %.20q", i, got, err, m.data[i])
		}
		i++
	}
	if i != len(m.data) {
		t.Fatalf("%d entries, want %d", i, size)
	}
	i = 0
	for got, err := range l.Openings(0, size) {
		if err != nil || !bytes.Equal(got, m.openings[i]) || (got == nil) != (len(m.openings[i]) == 0) {
			t.Fatalf("opening %d is %q, %v; want %q", i, got, err, m.openings[i])
		}
		i++
	}
	if i != len(m.data) {
		t.Fatalf("%d openings, want %d", i, size)
	}
	for number := int64(0); number*TileWidth < size; number++ {
		first, width := number*TileWidth, int(min(size-number*TileWidth, TileWidth))
		var want []byte
		for w := 1; w <= width; w++ {
			d := m.data[first+int64(w)-1]
			want = append(binary.BigEndian.AppendUint16(want, uint16(len(d))), d...)
			if w != 1 && w != width && w%37 != 0 {
				continue
			}
			got, err := l.Bundle(number, w)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("entry bundle %d.p/%d differs: %v", number, w, err)
			}
		}
	}
}

func checkTiles(t testing.TB, l *Log, m *model) {
	t.Helper()
	size := int64(len(m.data))
	for level := 0; size>>(8*level) > 0; level++ {
		for number := int64(0); number*TileWidth < size>>(8*level); number++ {
			width := int(min(size>>(8*level)-number*TileWidth, TileWidth))
			for _, w := range []int{1, width/2 + 1, width} {
				want, err := tlog.ReadTileData(tlog.Tile{H: 8, L: level, N: number, W: w}, m)
				if err != nil {
					t.Fatal(err)
				}
				got, err := l.Tile(level, number, w)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("tile %d/%d.p/%d differs: %v", level, number, w, err)
				}
			}
		}
	}
}

func checkProofs(t testing.TB, l *Log, m *model, size int64) {
	t.Helper()
	if size == 0 {
		return
	}
	root := m.root(t, size)
	for _, i := range []int64{0, size / 3, size - 1, rand.Int64N(size)} {
		p, err := l.InclusionProof(i, size)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(p, size, root, i, tlog.RecordHash(m.data[i])); err != nil {
			t.Fatalf("inclusion of %d in %d: %v", i, size, err)
		}
		old := i + 1
		c, err := l.ConsistencyProof(old, size)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckTree(c, size, root, old, m.root(t, old)); err != nil {
			t.Fatalf("consistency of %d and %d: %v", old, size, err)
		}
	}
}
