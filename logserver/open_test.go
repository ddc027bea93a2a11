package logserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestCreateAndOpen(t *testing.T) {
	fs := vfs.NewMem()
	opts := testOptions(fs)
	if _, err := Open(opts); !errors.Is(err, ErrNotFound) {
		t.Errorf("opening what was never created: %v", err)
	}
	if _, err := fs.Stat(opts.Dir); err == nil {
		t.Error("opening what was never created made something")
	}
	if err := Create(opts); err != nil {
		t.Fatal(err)
	}
	if err := Create(opts); !errors.Is(err, ErrExists) {
		t.Errorf("creating twice: %v", err)
	}
	for name, change := range map[string]func(*Options){
		"origin":     func(o *Options) { o.Origin = "log.example/other" },
		"key":        func(o *Options) { o.Key = testKey(9) },
		"receipt":    func(o *Options) { o.ReceiptKey = testKey(9) },
		"no receipt": func(o *Options) { o.ReceiptKey = nil },
	} {
		other := opts
		change(&other)
		if _, err := Open(other); !errors.Is(err, ErrIdentity) {
			t.Errorf("opening with another %s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Options){
		"no key":     func(o *Options) { o.Key = nil },
		"bad origin": func(o *Options) { o.Origin = "a b" },
	} {
		other := opts
		change(&other)
		if _, err := Open(other); err == nil {
			t.Errorf("opened with %s", name)
		}
	}
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Append(context.Background(), Entry{}); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
}

func TestSecondOpenRefused(t *testing.T) {
	opts := testOptions(nil)
	opts.Dir = t.TempDir()
	tl := newTestLog(t, opts)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(opts.Dir, link); err != nil {
		t.Fatal(err)
	}
	t.Chdir(opts.Dir)
	// However the directory is spelled, and then again: a refused one must not
	// have unlocked it.
	for range 2 {
		for _, dir := range []string{opts.Dir, opts.Dir + "/./", link, "."} {
			other := opts
			other.Dir = dir
			if _, err := Open(other); !errors.Is(err, ErrLocked) {
				t.Errorf("second open, as %q: %v", dir, err)
			}
			if err := Create(other); !errors.Is(err, ErrLocked) {
				t.Errorf("create, as %q: %v", dir, err)
			}
			if _, err := OpenStore(StoreOptions{Dir: dir}); !errors.Is(err, ErrLocked) {
				t.Errorf("opening the store, as %q: %v", dir, err)
			}
		}
	}
	tl.reopen()
}

// TestLockThatCannotBeTaken: a store whose lock file cannot be opened for writing, as
// on a read-only file system, is not said to be in use.
func TestLockThatCannotBeTaken(t *testing.T) {
	opts := testOptions(nil)
	opts.Dir = t.TempDir()
	tl := newTestLog(t, opts)
	tl.close()
	lock := filepath.Join(opts.Dir, "LOCK")
	if err := errors.Join(os.Remove(lock), os.Mkdir(lock, 0o700)); err != nil {
		t.Fatal(err)
	}
	var path *os.PathError
	if _, err := Open(opts); errors.Is(err, ErrLocked) || !errors.As(err, &path) || path.Path != lock {
		t.Errorf("opening the log: %v", err)
	}
	if _, err := OpenStore(StoreOptions{Dir: opts.Dir, ReadOnly: true}); errors.Is(err, ErrLocked) || !errors.As(err, &path) {
		t.Errorf("opening the store: %v", err)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	tl.open()
}

// TestOpenLeavesNoStore: opening where there is no log changes nothing, so that the
// log that was looked for can be restored to there.
func TestOpenLeavesNoStore(t *testing.T) {
	opts := testOptions(nil)
	opts.Dir = t.TempDir()
	for _, dir := range []string{opts.Dir, filepath.Join(opts.Dir, "not", "mounted")} {
		opts.Dir = dir
		if _, err := Open(opts); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v, want ErrNotFound", dir, err)
		}
		if left, err := os.ReadDir(dir); len(left) > 0 || err == nil && strings.HasSuffix(dir, "mounted") {
			t.Errorf("%q holds %v, %v", dir, left, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	opts.Dir = file
	if _, err := Open(opts); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("a file in the place of the directory: %v", err)
	}
}

// tamper changes one stored value of a closed log.
func tamper(t *testing.T, opts Options, key []byte, change func([]byte) []byte) {
	t.Helper()
	db, err := pebble.Open(opts.Dir, &pebble.Options{FS: opts.fs, Logger: &faults{logger: discard}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	v, closer, err := db.Get(key)
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		t.Fatal(err)
	}
	v = change(append([]byte(nil), v...))
	if closer != nil {
		closer.Close()
	}
	if v == nil {
		err = db.Delete(key, pebble.Sync)
	} else {
		err = db.Set(key, v, pebble.Sync)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 1
		return b
	}
}

func remove([]byte) []byte { return nil }

func TestCorruptionFoundAtOpen(t *testing.T) {
	t.Parallel()
	const size = 256*256 + 256 + 10 // levels 0 and 1 are partial, 2 has a hash
	for name, c := range map[string]struct {
		key    []byte
		change func([]byte) []byte
	}{
		"head size":             {metaHead, flip(7)},
		"head root":             {metaHead, flip(20)},
		"head cut":              {metaHead, func(b []byte) []byte { return b[:39] }},
		"head missing":          {metaHead, remove},
		"leaf hash":             {tileKey(0, size-10), flip(33)},
		"leaf hashes missing":   {tileKey(0, size-10), remove},
		"leaf hashes cut":       {tileKey(0, size-10), func(b []byte) []byte { return b[:len(b)-1] }},
		"level 1 hash":          {tileKey(1, 256), flip(0)},
		"last full tile":        {tileKey(0, size-10-256), flip(8000)},
		"last full tile gone":   {tileKey(0, size-10-256), remove},
		"last full level 1":     {tileKey(1, 0), flip(0)},
		"last full bundle":      {indexKey(kindEntry, size-10-256), flip(5)},
		"last full bundle gone": {indexKey(kindEntry, size-10-256), remove},
		"entry":                 {indexKey(kindEntry, size-10), flip(5)},
		"entry length":          {indexKey(kindEntry, size-10), flip(1)},
		"entries missing":       {indexKey(kindEntry, size-10), remove},
		"entry beyond the head": {indexKey(kindEntry, size+1), func([]byte) []byte { return []byte{0, 1, 1} }},
		"hash beyond the head":  {tileKey(0, size+256), func([]byte) []byte { return make([]byte, 32) }},
		"signed head":           {metaSigned, flip(25)},
		"signed head gone":      {metaSigned, remove},
	} {
		t.Run(name, func(t *testing.T) {
			opts := testOptions(corruptible(t, size))
			tamper(t, opts, c.key, c.change)
			if _, err := Open(opts); !errors.Is(err, ErrCorrupt) {
				t.Errorf("open: %v, want ErrCorrupt", err)
			}
		})
	}
	opts := testOptions(corruptible(t, size))
	tamper(t, opts, metaFormat, flip(3))
	if _, err := Open(opts); !errors.Is(err, ErrIdentity) {
		t.Errorf("opening another store format: %v", err)
	}
}

// base holds the closed log that corruptible copies, made under its lock.
var (
	base   *vfs.MemFS
	baseMu sync.Mutex
)

// corruptible returns the file system of a closed log of the given size.
func corruptible(t *testing.T, size int) *vfs.MemFS {
	t.Helper()
	baseMu.Lock()
	defer baseMu.Unlock()
	if base == nil {
		fs := vfs.NewCrashableMem()
		tl := newTestLog(t, testOptions(fs))
		tl.addN(size)
		tl.close()
		base = fs
	}
	return base.CrashClone(vfs.CrashCloneCfg{})
}

// TestCorruptionFoundBeforeSigning changes stored bytes under a running log:
// the next round notices and signs nothing.
func TestCorruptionFoundBeforeSigning(t *testing.T) {
	t.Parallel()
	const size = 700 // two full tiles and bundles, one unfinished
	for name, c := range map[string]struct {
		key    []byte
		change func([]byte) []byte
	}{
		"head":                {metaHead, flip(20)},
		"head size":           {metaHead, flip(7)},
		"entry in full":       {indexKey(kindEntry, 256), flip(1000)},
		"frame in full":       {indexKey(kindEntry, 256), flip(13)},
		"bundle gone":         {indexKey(kindEntry, 256), remove},
		"bundle cut":          {indexKey(kindEntry, 256), func(b []byte) []byte { return b[:len(b)-12] }},
		"leaf hash in full":   {tileKey(0, 256), flip(1000)},
		"tile gone":           {tileKey(0, 256), remove},
		"tile cut":            {tileKey(0, 256), func(b []byte) []byte { return b[:len(b)-32] }},
		"level 1 hash":        {tileKey(1, 0), flip(0)},
		"entry in unfinished": {indexKey(kindEntry, 512), flip(700)},
		"hash in unfinished":  {tileKey(0, 512), flip(700)},
		"before the last":     {tileKey(0, 0), flip(0)},
		"entry signed before": {indexKey(kindEntry, 0), flip(5)},
	} {
		t.Run(name, func(t *testing.T) {
			opts := testOptions(vfs.NewMem())
			opts.HoldWitness = true
			tl := newTestLog(t, opts)
			tl.addN(100)
			tl.AllowWitness(100)
			tl.mustPublish(100)
			tl.addN(size - 100)
			v, closer, err := tl.store.db.Get(c.key)
			if err != nil {
				t.Fatal(err)
			}
			v = c.change(append([]byte(nil), v...))
			closer.Close()
			if v == nil {
				err = tl.store.db.Delete(c.key, pebble.Sync)
			} else {
				err = tl.store.db.Set(c.key, v, pebble.Sync)
			}
			if err != nil {
				t.Fatal(err)
			}
			tl.AllowWitness(size)
			if err := tl.Wait(within(t), size); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("wait: %v, want ErrCorrupt", err)
			}
			if tl.Signed().Size != 100 {
				t.Error("signed on corrupt bytes")
			}
			if _, _, err := tl.Append(context.Background(), Entry{}); !errors.Is(err, ErrCorrupt) {
				t.Errorf("append: %v, want ErrCorrupt", err)
			}
			if tl.Health() == nil {
				t.Error("healthy")
			}
			if _, err := tl.EntryAt(5); err != nil { // reads go on
				t.Error(err)
			}
		})
	}
}
