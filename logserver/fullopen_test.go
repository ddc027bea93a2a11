package logserver

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestBallastOfRunningLog: whoever starts a log a second time does not take the
// ballast of the one that runs.
func TestBallastOfRunningLog(t *testing.T) {
	disk := newDiskFS(16 << 20)
	opts := diskOptions(t, disk)
	opts.ReadWhenFull = true
	tl := newTestLog(t, opts)
	tl.addN(10)
	tl.mustPublish(10)
	eventually(t, "the ballast is made", func() bool { return disk.has(ballastName) })
	disk.fill(0)
	if l, err := Open(opts); !errors.Is(err, ErrLocked) {
		if err == nil {
			l.Close(context.Background())
		}
		t.Errorf("opening a log that runs: %v, want ErrLocked", err)
	}
	if !disk.has(ballastName) {
		t.Error("its ballast is gone")
	}
	disk.leave()
}

// TestReadsOnFullDiskAreDurable: what a process that was killed left unsynced in the
// write-ahead log is durable before a log on a full disk shows it.
func TestReadsOnFullDiskAreDurable(t *testing.T) {
	disk := newDiskFS(16 << 20)
	opts := diskOptions(t, disk)
	opts.ReadWhenFull = true
	tl := newTestLog(t, opts)
	tl.addN(50)
	tl.mustPublish(50)
	killed := disk.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	tl.close()
	if err := killed.Remove("log/" + ballastName); err != nil && disk.has(ballastName) {
		t.Fatal(err)
	}
	unsync(t, killed, "log")

	full := newDiskFS(16 << 20)
	full.FS = killed
	full.hold(0)
	tl.opts.fs = full
	tl.open()
	if tl.Reopen() == nil || tl.Size() != 50 {
		t.Fatalf("opened to be written %v, with size %d", tl.Reopen() == nil, tl.Size())
	}
	powerCut := newDiskFS(16 << 20)
	powerCut.FS = killed.CrashClone(vfs.CrashCloneCfg{})
	tl.close()
	tl.opts.fs = powerCut
	tl.open()
	tl.check()
}

// unsync replaces the write-ahead logs of a store by such as a power cut leaves
// nothing of.
func unsync(t *testing.T, fs *vfs.MemFS, dir string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		data, err := readFileLimit(fs, dir+"/"+name, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		f, err := fs.Create(dir+"/"+name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(f.Sync(), syncDir(fs, dir))
		if _, writeErr := f.Write(data); err != nil || writeErr != nil {
			t.Fatal(err, writeErr)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoStoreOnFullDisk: a full disk without a store, such as one that is not
// mounted, is not a store that rotted.
func TestNoStoreOnFullDisk(t *testing.T) {
	disk := newDiskFS(16 << 20)
	disk.hold(0)
	opts := diskOptions(t, disk)
	opts.ReadWhenFull = true
	if err := Create(opts); !errors.Is(err, ErrDiskFull) || errors.Is(err, ErrCorrupt) {
		t.Errorf("create: %v, want ErrDiskFull", err)
	}
	if _, err := Open(opts); !errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
		t.Errorf("open: %v, want ErrNotFound", err)
	}
}
