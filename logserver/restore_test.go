package logserver

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// crashPoints keeps what would be left of a disk if everything ended with one of
// its operations: by a power cut, or, after a write, whose bytes that would lose,
// by a kill. Of the writes it takes a third, or there would be many alike.
type crashPoints struct {
	disk *vfs.MemFS
	mu   sync.Mutex
	off  bool
	all  []crashPoint
}

type crashPoint struct {
	op   fsOp
	disk *vfs.MemFS
}

// on returns a file system whose operations are the points.
func (p *crashPoints) on() vfs.FS { return &opFS{FS: p.disk, after: p.after} }

func (p *crashPoints) after(op fsOp) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := 0
	if op.kind == "write" {
		kept = 100
	}
	if !p.off && (op.kind != "write" || op.number%3 == 0) {
		left := p.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rand.New(rand.NewPCG(1, 1))})
		p.all = append(p.all, crashPoint{op, left})
	}
}

// turn says whether operations are points from now on.
func (p *crashPoints) turn(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = !on
}

// TestRestoreInterrupted ends a restore after each operation on the disk, by a
// kill and by a power cut: the same call makes a marked store of the backup, and
// once more changes nothing.
func TestRestoreInterrupted(t *testing.T) {
	t.Parallel()
	disk := vfs.NewCrashableMem()
	opts := testOptions(disk)
	tl := newTestLog(t, opts)
	tl.addN(30)
	tl.mustPublish(30)
	m, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"})
	if err != nil {
		t.Fatal(err)
	}
	tl.close()

	points := &crashPoints{disk: disk}
	// The slash at the end is what a shell completes.
	o := RestoreOptions{From: "backup", Dir: "restored/", fs: points.on()}
	if r, err := Restore(t.Context(), o); err != nil || r.Before {
		t.Fatalf("%+v, %v", r, err)
	}
	before := 0
	for i, point := range points.all {
		o.fs = point.disk
		r, err := Restore(t.Context(), o)
		if err != nil {
			t.Fatalf("after %v: %v", point.op, err)
		}
		if r.Before {
			before++
		}
		if i%4 == 0 {
			if r, err := Restore(t.Context(), o); err != nil || !r.Before || r.Size != m.Size {
				t.Errorf("after %v, once more: %+v, %v", point.op, r, err)
			}
		}
		if _, err := o.fs.Stat("restored" + restoreStaging); err == nil {
			t.Errorf("after %v: the copy under another name is still there", point.op)
		}
		s, err := OpenStore(StoreOptions{Dir: "restored", fs: o.fs})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Suspended(); !errors.Is(err, ErrRestored) {
			t.Errorf("after %v: suspended is %v", point.op, err)
		}
		if st, err := s.Status(); err != nil || st.Integrated != 30 {
			t.Errorf("after %v: %+v, %v", point.op, st, err)
		}
		s.Close()
	}
	if len(points.all) < 20 || before == 0 {
		t.Errorf("%d points, after %d of which the store was there", len(points.all), before)
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

// restorable returns a disk with a backup of 10 entries.
func restorable(t *testing.T) *vfs.MemFS {
	t.Helper()
	disk := vfs.NewCrashableMem()
	tl := newTestLog(t, testOptions(disk))
	tl.addN(10)
	if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); err != nil {
		t.Fatal(err)
	}
	return disk
}

// TestRestoredBeforeIsDurable: a restore that reports that one before it was
// complete has made it so, whatever that one came to.
func TestRestoredBeforeIsDurable(t *testing.T) {
	disk := restorable(t)
	cut := &opFS{FS: disk, before: func(op fsOp) fsFault {
		if _, err := disk.Stat("restored"); err == nil && op.kind == "sync" && op.path == "./" {
			return fsFault{err: errors.New("ended")}
		}
		return fsFault{}
	}}
	o := RestoreOptions{From: "backup", Dir: "restored", fs: cut}
	if _, err := Restore(t.Context(), o); err == nil {
		t.Fatal("the last sync failed, and nobody says so")
	}
	o.fs = disk
	if r, err := Restore(t.Context(), o); err != nil || !r.Before {
		t.Fatalf("%+v, %v", r, err)
	}
	s, err := OpenStore(StoreOptions{Dir: "restored", fs: disk.CrashClone(vfs.CrashCloneCfg{})})
	if err != nil {
		t.Fatalf("after a power cut: %v", err)
	}
	s.Close()
}

// TestRestoresAtOnce: a restore leaves what another one is copying.
func TestRestoresAtOnce(t *testing.T) {
	disk := restorable(t)
	o := RestoreOptions{From: "backup", Dir: "restored", fs: disk}
	second := error(nil)
	o.Progress = func(done, size int64) {
		if done == size {
			again := o
			again.Progress = nil
			_, second = Restore(t.Context(), again)
		}
	}
	if r, err := Restore(t.Context(), o); err != nil || r.Before {
		t.Errorf("%+v, %v", r, err)
	}
	if !errors.Is(second, ErrLocked) {
		t.Errorf("the second: %v, want ErrLocked", second)
	}
	if r, err := Restore(t.Context(), RestoreOptions{From: "backup", Dir: "restored", fs: disk}); err != nil || !r.Before {
		t.Errorf("after both: %+v, %v", r, err)
	}
	if _, err := disk.Stat("restored" + restoreLock); err == nil {
		t.Error("the lock is still there")
	}
}

// TestRestoreTakesNothing: what has the name of the store, or is put there while the
// backup is copied, stays.
func TestRestoreTakesNothing(t *testing.T) {
	disk := restorable(t)
	write := func(name string) {
		if err := writeFileSync(disk, name, []byte("precious")); err != nil {
			t.Error(err)
		}
	}
	write("file")
	filled := func(done, size int64) {
		if done == size {
			write("dir/mine")
		}
	}
	if err := disk.MkdirAll("dir", 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, kept := range map[string]string{"file": "file", "dir": "dir/mine"} {
		if _, err := Restore(t.Context(), RestoreOptions{From: "backup", Dir: dir, fs: disk, Progress: filled}); err == nil || dir == "dir" && !errors.Is(err, ErrExists) {
			t.Errorf("restoring to %q: %v", dir, err)
		}
		if data, err := readFileLimit(disk, kept, 100); err != nil || string(data) != "precious" {
			t.Errorf("%q is %q, %v", kept, data, err)
		}
		if _, err := disk.Stat(dir + restoreStaging); err == nil {
			t.Errorf("what was copied for %q is still there", dir)
		}
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
