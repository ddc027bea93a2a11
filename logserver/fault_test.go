package logserver

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ends runs what has to end the process of a store with these faults, and
// returns the error that ended it.
func ends(t *testing.T, f *faults, work func()) error {
	t.Helper()
	var told error
	f.fatal = func(err error) {
		told = err
		runtime.Goexit()
	}
	f.running.Store(true)
	done := make(chan struct{})
	returned := false
	go func() {
		defer close(done)
		work()
		returned = true
	}()
	<-done
	if returned {
		t.Error("it returned, and the process went on")
	}
	if !f.broken.Load() {
		t.Error("the store may still be used")
	}
	return told
}

// brokenFile is a file of a disk that does nothing any more.
type brokenFile struct{ vfs.File }

func (brokenFile) Write([]byte) (int, error)      { return 0, syscall.EIO }
func (brokenFile) Preallocate(int64, int64) error { return syscall.EIO }
func (brokenFile) Sync() error                    { return syscall.EIO }
func (brokenFile) SyncData() error                { return syscall.EIO }
func (brokenFile) SyncTo(int64) (bool, error)     { return false, syscall.EIO }
func (brokenFile) Close() error                   { return syscall.EIO }
func (brokenFile) Stat() (vfs.FileInfo, error)    { return nil, syscall.EIO }

// brokenDisk hands out such files and directories.
type brokenDisk struct{ vfs.FS }

func (d brokenDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return brokenFile{f}, err
}

func (d brokenDisk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	return brokenFile{f}, err
}

// TestWritesThatEndTheProcess: whatever fails on a file that Pebble cannot do
// without ends the process, and on a table it is an error for Pebble, which
// writes another one.
func TestWritesThatEndTheProcess(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	fs := storeFS{mem, newFaults(discard, nil, nil), new(space)}
	operations := map[string]func(vfs.File) error{
		"write":       func(f vfs.File) error { _, err := f.Write([]byte("x")); return err },
		"preallocate": func(f vfs.File) error { return f.Preallocate(0, 4096) },
		"sync":        func(f vfs.File) error { return f.Sync() },
		"sync data":   func(f vfs.File) error { return f.SyncData() },
		"sync to":     func(f vfs.File) error { _, err := f.SyncTo(1); return err },
		"close":       func(f vfs.File) error { return f.Close() },
	}
	if fs.Unwrap() != vfs.FS(mem) {
		t.Error("Unwrap is not the file system beneath")
	}
	for name, do := range operations {
		for _, file := range []string{"1.log", "1.blob", "1.sst"} {
			good, err := fs.Create(file, vfs.WriteCategoryUnspecified)
			if err != nil {
				t.Fatal(err)
			}
			if err := do(good); err != nil {
				t.Errorf("%s of %s: %v", name, file, err)
			}
			var bad vfs.File
			switch f := good.(type) {
			case *walFile:
				bad = &walFile{File: brokenFile{f.File}, fs: fs}
			case blobFile:
				bad = blobFile{tableFile{brokenFile{f.File}}, fs}
			case tableFile:
				if err := do(tableFile{brokenFile(f)}); !errors.Is(err, syscall.EIO) {
					t.Errorf("%s of %s on a broken disk: %v", name, file, err)
				}
				continue
			default:
				t.Fatalf("%s is a %T", file, good)
			}
			if file == "1.log" && name == "preallocate" {
				if err := do(bad); !errors.Is(err, syscall.EIO) { // there is just no room ahead
					t.Errorf("%s of %s on a broken disk: %v", name, file, err)
				}
				continue
			}
			if err := ends(t, fs.faults, func() { do(bad) }); !errors.Is(err, syscall.EIO) {
				t.Errorf("%s of %s on a broken disk ended with: %v", name, file, err)
			}
		}
	}

	fs.FS = brokenDisk{mem}
	if err := ends(t, fs.faults, func() { fs.Create("2.log", vfs.WriteCategoryUnspecified) }); !errors.Is(err, syscall.EIO) {
		t.Errorf("making a write-ahead log on a broken disk ended with: %v", err)
	}
	if _, err := fs.Create("MANIFEST-000001", vfs.WriteCategoryUnspecified); !errors.Is(err, syscall.EIO) {
		t.Errorf("making a manifest on a broken disk: %v", err)
	}
	d, err := fs.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := ends(t, fs.faults, func() { d.Sync() }); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync of a directory on a broken disk ended with: %v", err)
	}
	if _, err := fs.OpenDir("none"); err == nil {
		t.Error("a directory that is not there was opened")
	}
}

// TestPanicsOfTheStore: where Pebble panics in a commit the outcome is unknown,
// and the process ends with what it said.
func TestPanicsOfTheStore(t *testing.T) {
	t.Parallel()
	for _, what := range []any{"lost the log", errors.New("lost the log")} {
		f := newFaults(discard, nil, nil)
		err := ends(t, f, func() {
			defer f.catchCommit()
			panic(what)
		})
		if err == nil || !strings.Contains(err.Error(), "lost the log") {
			t.Errorf("%T: ended with %v", what, err)
		}
	}
	f := newFaults(discard, nil, nil)
	if err := ends(t, f, func() { f.Fatalf("writing %q: %v", "1.log", syscall.ENOSPC) }); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("ended with %v", err)
	}
	func() { // nothing panicked
		defer f.catchCommit()
	}()
}

// TestBackgroundErrors: what fails behind everybody's back is told, and keeps the
// log unhealthy for a while; what is corrupt is told at once.
func TestBackgroundErrors(t *testing.T) {
	t.Parallel()
	var corrupted atomic.Pointer[error]
	f := newFaults(discard, nil, func(err error) { corrupted.Store(&err) })
	if err := f.health(); err != nil {
		t.Errorf("before: %v", err)
	}
	f.Errorf("flush of %d bytes", 7)
	for range 2 {
		f.backgroundError(syscall.EIO)
	}
	if err := f.health(); err == nil || !strings.Contains(err.Error(), "2 failures") {
		t.Errorf("after: %v", err)
	}
	f.lastBackground.Store(int64(uptime() - 2*staleBackground))
	if err := f.health(); err != nil {
		t.Errorf("long after: %v", err)
	}
	if corrupted.Load() != nil {
		t.Error("EIO was taken for corruption")
	}
	f.backgroundError(fmt.Errorf("block 3: %w", pebble.ErrCorruption))
	if p := corrupted.Load(); p == nil || !errors.Is(*p, ErrCorrupt) {
		t.Errorf("corruption was told as %v", p)
	}
}

// TestOpenErrors: what Pebble says when it does not open a store is the disk's,
// or a later version's, or the store is damaged.
func TestOpenErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err     error
		corrupt bool
	}{
		{syscall.EIO, false},
		{errors.New("format major version 99 is not supported"), false},
		{fmt.Errorf("reading: %w", pebble.ErrCorruption), true},
		{errors.New("file 7 is not there"), true},
		{io.ErrUnexpectedEOF, true},
	} {
		if err := openError(c.err); errors.Is(err, ErrCorrupt) != c.corrupt || !strings.Contains(err.Error(), c.err.Error()) {
			t.Errorf("%v became %v", c.err, err)
		}
	}
}

// TestFatalOfAStore: a store that is open without a log ends the process too.
func TestFatalOfAStore(t *testing.T) {
	t.Parallel()
	var told error
	for _, o := range []StoreOptions{{}, {Fatal: func(err error) { told = err }}} {
		func() {
			defer func() {
				if r := recover(); r != syscall.EIO {
					t.Errorf("panicked with %v", r)
				}
			}()
			o.fatal(syscall.EIO)
		}()
	}
	if told != syscall.EIO {
		t.Errorf("told %v", told)
	}
}
