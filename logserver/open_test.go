package logserver

import (
	"context"
	"errors"
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
	if _, err := Open(opts); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v", err)
	}
	tl.reopen()
}

// tamper changes one stored value of a closed log.
func tamper(t *testing.T, opts Options, key []byte, change func([]byte) []byte) {
	t.Helper()
	db, err := pebble.Open(opts.Dir, &pebble.Options{FS: opts.fs, Logger: pebbleLogger{discard}})
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

// base holds the closed log that corruptible copies.
var base *vfs.MemFS

// corruptible returns the file system of a closed log of the given size.
func corruptible(t *testing.T, size int) *vfs.MemFS {
	t.Helper()
	if base == nil {
		fs := vfs.NewCrashableMem()
		tl := newTestLog(t, testOptions(fs))
		tl.addN(size)
		tl.close()
		base = fs
	}
	return base.CrashClone(vfs.CrashCloneCfg{})
}
