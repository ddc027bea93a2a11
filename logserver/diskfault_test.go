package logserver

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// failingDisk is a disk on which single operations fail.
type failingDisk struct {
	opFS
	plan atomic.Pointer[func(fsOp) fsFault]
}

func newFailingDisk() *failingDisk {
	d := &failingDisk{opFS: opFS{FS: vfs.NewMem()}}
	d.before = func(op fsOp) fsFault {
		if plan := d.plan.Load(); plan != nil {
			return (*plan)(op)
		}
		return fsFault{}
	}
	return d
}

// each does the same again and again, and one operation fails: the first that
// concerns says yes to, then the second, and so on, until none is left. Every
// failure must be reported. Those operations are of one goroutine.
func (d *failingDisk) each(t *testing.T, name string, concerns func(fsOp) bool, do func() error) {
	t.Helper()
	for n := 1; ; n++ {
		seen := 0
		plan := func(op fsOp) fsFault {
			if !concerns(op) {
				return fsFault{}
			}
			if seen++; seen != n {
				return fsFault{}
			}
			return fsFault{err: syscall.EIO}
		}
		d.plan.Store(&plan)
		err := do()
		d.plan.Store(nil)
		if seen < n {
			if err != nil || n < 4 {
				t.Errorf("%s without a failure: %v after %d operations", name, err, seen)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s, operation %d failed: %v", name, n, err)
			return
		}
	}
}

// TestBackupOnFailingDisk: a backup whose disk fails anywhere is none, the log
// that it is of goes on, and the next backup is whole.
func TestBackupOnFailingDisk(t *testing.T) {
	t.Parallel()
	fs := newFailingDisk()
	tl := newTestLog(t, testOptions(fs))
	tl.addN(300)
	tl.mustPublish(300)
	if err := writeFileSync(fs, "log.key", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	target := func(op fsOp) bool { return strings.HasPrefix(op.path, "backups") }
	fs.each(t, "backup", target, func() error {
		if err := fs.FS.RemoveAll("backups/one"); err != nil {
			t.Fatal(err)
		}
		_, err := tl.Backup(t.Context(), BackupOptions{Dir: "backups/one", Files: map[string]string{"log.key": "log.key"}})
		return err
	})
	tl.add(tl.nextEntry())
	tl.check()

	// What a restore does before it looks into the copy.
	var copied atomic.Int32
	before := func(op fsOp) bool {
		if !strings.HasPrefix(op.path, "restored") {
			return false
		}
		switch op.kind {
		case "rename":
			return op.path == "restored"
		case "mkdir", "remove":
			return !strings.Contains(op.path, "/")
		case "create":
			copied.Add(1)
		}
		return copied.Load() == 1
	}
	fs.each(t, "restore", before, func() error {
		copied.Store(0)
		_, err := Restore(t.Context(), RestoreOptions{From: "backups/one", Dir: "restored", fs: fs})
		return err
	})
	opts := tl.opts
	tl.close()
	opts.Dir = "restored"
	s, err := OpenStore(storeOf(opts))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if st, err := s.Status(); err != nil || st.Integrated != 300 {
		t.Errorf("restored: %+v, %v", st, err)
	}
}
