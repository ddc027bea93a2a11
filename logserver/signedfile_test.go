package logserver

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// signedHeadOf reads the signed file of a log under test.
func signedHeadOf(t *testing.T, o Options) Head {
	t.Helper()
	f, err := readSignedFile(o.fs, o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return f.last
}

// TestSignedFile: whatever happens to one of its slots, the file holds the other
// head; and what it does not hold it does not invent.
func TestSignedFile(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("d", 0o700); err != nil {
		t.Fatal(err)
	}
	path := fs.PathJoin("d", signedName)
	read := func() *signedFile {
		t.Helper()
		f, err := readSignedFile(fs, "d")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	head := func(size int64) Head { return Head{Size: size, Root: LeafHash([]byte{byte(size)})} }
	if f := read(); f.last != (Head{}) {
		t.Fatalf("without a file: %+v", f.last)
	}
	for _, size := range []int64{3, 7, 7, 5, 8, 9} {
		if err := read().raise(head(size)); err != nil {
			t.Fatal(err)
		}
	}
	if f := read(); f.last != head(9) {
		t.Fatalf("last is %+v", f.last)
	}
	if info, err := fs.Stat(path); err != nil || info.Size() != signedSlots*signedSlotSize {
		t.Fatalf("%v, %v", info, err)
	}

	whole, err := readFileLimit(fs, path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	// One slot holds 9, the other 8.
	newest := slices.IndexFunc([]int{0, signedSlotSize}, func(at int) bool {
		h, ok := decodeSignedSlot(whole[at:])
		return ok && h == head(9)
	}) * signedSlotSize
	for at := range signedSlotUsed {
		change(t, fs, path, func([]byte) []byte { return flip(newest + at)(bytes.Clone(whole)) })
		if f := read(); f.last != head(8) {
			t.Fatalf("byte %d of the newest slot is wrong: %+v", at, f.last)
		}
	}
	for name, b := range map[string][]byte{
		"both slots wrong": flip(5)(flip(signedSlotSize + 5)(bytes.Clone(whole))),
		"zeroes":           make([]byte, len(whole)),
		"empty":            nil,
	} {
		change(t, fs, path, func([]byte) []byte { return b })
		if _, err := readSignedFile(fs, "d"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	change(t, fs, path, func([]byte) []byte { return make([]byte, 3*signedSlotSize) })
	if _, err := readSignedFile(fs, "d"); err == nil {
		t.Error("a longer file is accepted")
	}
}

// TestLostTailIsFound is promise 1 and 2 against a disk that loses what it had
// made durable, without any witness: a store that does not reach the last head
// that the log key signed serves what it has, neither appends nor signs, and
// comes back from a holder of that head.
func TestLostTailIsFound(t *testing.T) {
	fs := vfs.NewCrashableMem()
	opts := testOptions(fs)
	tl := newTestLog(t, opts)
	tl.addN(300)
	tl.mustPublish(300)
	old := fs.CrashClone(vfs.CrashCloneCfg{}) // Pebble's files as they were
	holder := newTestLog(t, testOptions(vfs.NewMem()))
	for _, data := range tl.data {
		holder.add(Entry{Data: data})
	}
	holder.mustPublish(300)
	tl.addN(100)
	tl.mustPublish(400)
	if h := signedHeadOf(t, opts); h.Size != 400 {
		t.Fatalf("the signed file says %+v", h)
	}
	newest, err := readFileLimit(fs, "log/"+signedName, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	change(t, old, "log/"+signedName, func([]byte) []byte { return newest })

	o := opts
	o.fs = old
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Append(t.Context(), Entry{}); !errors.Is(err, ErrRestored) || !strings.Contains(err.Error(), "signed a tree of size 400, in the store are 300") {
		t.Errorf("append: %v", err)
	}
	if l.Published().Size != 300 || l.Health() == nil {
		t.Errorf("published %d, health %v", l.Published().Size, l.Health())
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(storeOf(o))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Suspended(); !errors.Is(err, ErrRestored) {
		t.Errorf("the store is suspended: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	if _, err := CatchUp(t.Context(), storeOf(o), Source{Fetch: fetchLog(holder.Log)}, nil); !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), "this log has signed 400") {
		t.Errorf("from a holder that is behind: %v", err)
	}
	if _, err := CatchUp(t.Context(), storeOf(o), Source{Fetch: fetchLog(tl.Log)}, nil); err != nil {
		t.Fatal(err)
	}
	after := &testLog{t: t, opts: o, model: tl.model}
	for i := 300; i < 400; i++ {
		after.openings[i] = nil
	}
	after.open()
	after.check()
	after.add(after.nextEntry())
	after.mustPublish(401)
	after.close()
}

// TestSignedFileContradicted: a store whose tree is long enough but another one
// is not opened, and a source of another history is not caught up from.
func TestSignedFileContradicted(t *testing.T) {
	fs := vfs.NewMem()
	opts := testOptions(fs)
	tl := newTestLog(t, opts)
	tl.addN(10)
	tl.mustPublish(10)
	tl.close()
	write := func(h Head) {
		t.Helper()
		f := &signedFile{fs: fs, path: fs.PathJoin(opts.Dir, signedName)}
		if err := f.raise(h); err != nil {
			t.Fatal(err)
		}
	}
	write(Head{Size: 10, Root: Hash{1}})
	if _, err := Open(opts); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "the log has signed") {
		t.Errorf("open: %v, want ErrCorrupt", err)
	}
	write(Head{Size: 11, Root: Hash{1}})
	source := newTestLog(t, testOptions(vfs.NewMem()))
	for _, data := range tl.data {
		source.add(Entry{Data: data})
	}
	source.addN(5)
	source.mustPublish(15)
	if _, err := CatchUp(t.Context(), storeOf(opts), Source{Fetch: fetchLog(source.Log)}, nil); !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), "this log has signed") {
		t.Errorf("catching up from another history: %v", err)
	}
}

// TestCleanStopNeedsNoWAL: what a log that was stopped holds is in tables, where
// rot is noticed: it opens without its write-ahead logs.
func TestCleanStopNeedsNoWAL(t *testing.T) {
	fs := vfs.NewCrashableMem()
	tl := newTestLog(t, testOptions(fs))
	e := tl.nextEntry()
	e.Dedup, e.Sets = []byte("key"), []Register{{"r", 7}}
	tl.add(e)
	tl.addN(700)
	tl.close()
	names, err := fs.List("log")
	if err != nil {
		t.Fatal(err)
	}
	emptied := 0
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			change(t, fs, "log/"+name, func([]byte) []byte { return nil })
			emptied++
		}
	}
	if emptied == 0 {
		t.Fatalf("no write-ahead log in %v", names)
	}
	tl.open()
	if tl.Signed().Size != 701 {
		t.Errorf("signed size %d", tl.Signed().Size)
	}
	tl.check()
}

// TestFaultWhileClosing lets the flush of a close fail. In a table it changes
// nothing; in a blob file, which Pebble does not survive, it is the error of
// Close. Either way everything is there afterwards.
func TestFaultWhileClosing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		suffix  string
		wantErr bool
	}{{".sst", false}, {".blob", true}, {"MANIFEST-", true}} {
		t.Run(c.suffix, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			var closing, failed atomic.Bool
			disk := &opFS{FS: mem, before: func(op fsOp) fsFault {
				if closing.Load() && op.kind == "write" && strings.Contains(op.path, c.suffix) {
					failed.Store(true)
					return fsFault{err: io.ErrShortWrite}
				}
				return fsFault{}
			}}
			opts := testOptions(disk)
			opts.Fatal = func(err error) { t.Errorf("the process would have ended: %v", err); select {} }
			tl := newTestLog(t, opts)
			tl.addN(700)
			tl.mustPublish(700)
			closing.Store(true)
			err := tl.Log.Close(t.Context())
			tl.Log = nil
			if (err != nil) != c.wantErr || !failed.Load() {
				t.Errorf("close: %v; the fault was met: %v", err, failed.Load())
			}
			tl.opts.fs = mem.CrashClone(vfs.CrashCloneCfg{})
			tl.open()
			tl.check()
			tl.close()
		})
	}
}
