package logserver

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRestoreInterrupted ends a restore after each operation on the disk, by a
// kill and by a power cut: the same call makes a marked store of the backup, and
// once more changes nothing.
func TestRestoreInterrupted(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	opts := testOptions(disk)
	tl := newTestLog(t, opts)
	tl.addN(300)
	tl.mustPublish(300)
	m, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"})
	if err != nil {
		t.Fatal(err)
	}
	tl.close()

	var clones []*vfs.MemFS
	var last []fsOp
	ops := &opFS{FS: disk, after: func(op fsOp) {
		for _, kept := range []int{0, 100} {
			clones = append(clones, disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rand.New(rand.NewPCG(1, 1))}))
			last = append(last, op)
		}
	}}
	// The slash at the end is what a shell completes.
	o := RestoreOptions{From: "backup", Dir: "restored/", fs: ops}
	if r, err := Restore(t.Context(), o); err != nil || r.Before {
		t.Fatalf("%+v, %v", r, err)
	}
	before := 0
	for i, clone := range clones {
		o := RestoreOptions{From: "backup", Dir: "restored/", fs: clone}
		r, err := Restore(t.Context(), o)
		if err != nil {
			t.Fatalf("after %v: %v", last[i], err)
		}
		if r.Before {
			before++
		}
		if r, err := Restore(t.Context(), o); err != nil || !r.Before || r.Size != m.Size {
			t.Errorf("after %v, once more: %+v, %v", last[i], r, err)
		}
		if _, err := clone.Stat("restored" + restoreStaging); err == nil {
			t.Errorf("after %v: the copy under another name is still there", last[i])
		}
		s, err := OpenStore(StoreOptions{Dir: "restored", fs: clone})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Suspended(); !errors.Is(err, ErrRestored) {
			t.Errorf("after %v: suspended is %v", last[i], err)
		}
		if st, err := s.Status(); err != nil || st.Integrated != 300 {
			t.Errorf("after %v: %+v, %v", last[i], st, err)
		}
		s.Close()
	}
	if len(clones) < 40 || before == 0 {
		t.Errorf("%d points, after %d of which the store was there", len(clones), before)
	}
}

// TestRestoreLeavesNothing: a restore that fails takes what it has copied away.
func TestRestoreLeavesNothing(t *testing.T) {
	fs := newFailingDisk()
	tl := newTestLog(t, testOptions(fs))
	tl.addN(10)
	if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); err != nil {
		t.Fatal(err)
	}
	plan := func(op fsOp) fsFault {
		if op.kind == "write" && strings.Contains(op.path, restoreStaging) {
			return fsFault{err: errors.New("no room")}
		}
		return fsFault{}
	}
	fs.plan.Store(&plan)
	if _, err := Restore(t.Context(), RestoreOptions{From: "backup", Dir: "restored", fs: fs}); err == nil {
		t.Error("restored without a write")
	}
	if _, err := fs.Stat("restored" + restoreStaging); err == nil {
		t.Error("what was copied is still there")
	}
}

// TestInterruptedBackupIsNamed: a directory with what an interrupted backup left
// is refused, and the error says what it is and what to do.
func TestInterruptedBackupIsNamed(t *testing.T) {
	fs := vfs.NewMem()
	tl := newTestLog(t, testOptions(fs))
	tl.addN(10)
	if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	refused("holds a backup, name another directory")
	if err := fs.Remove("backup/" + backupManifest); err != nil {
		t.Fatal(err)
	}
	refused("a backup that was interrupted, which has no manifest.json, delete it")
	if err := fs.RemoveAll("backup"); err != nil {
		t.Fatal(err)
	}
	if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); err != nil {
		t.Error(err)
	}
}
