package logserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// restored returns the options of a store that was restored from a backup.
func restored(t *testing.T, opts Options, from string) Options {
	t.Helper()
	o := opts
	o.Dir = "restored"
	if _, err := Restore(t.Context(), RestoreOptions{From: from, Dir: o.Dir, fs: opts.fs}); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestBackupAndRestore(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	tl.addN(700)
	e := tl.nextEntry()
	e.Dedup, e.Sets = []byte("key"), []Register{{"r", 7}}
	tl.add(e)
	tl.mustPublish(701)
	before := tl.model
	m, err := tl.Backup(t.Context(), BackupOptions{Dir: "backups/one"})
	if err != nil {
		t.Fatal(err)
	}
	tl.addN(50) // the backup is of the moment
	if m.Size != 701 || m.Origin != opts.Origin || m.Root != before.root(t, 701).String() || len(m.Keys) != 2 || m.Signed == "" || m.Published == "" {
		t.Errorf("manifest: %+v", m)
	}
	if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backups/one"}); !errors.Is(err, ErrExists) {
		t.Errorf("backup to a directory in use: %v", err)
	}
	if _, err := opts.fs.Stat("log/" + backupStaging); err == nil {
		t.Error("the staging directory is still there")
	}
	tl.close()

	o := restored(t, opts, "backups/one")
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	CheckLog(t, l, &before)
	if _, _, err := l.Append(t.Context(), Entry{}); !errors.Is(err, ErrRestored) || !strings.Contains(err.Error(), "--catch-up-from") {
		t.Errorf("append to a restored log: %v", err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{opts.Dir: "no mark of a restore", "backups/one": "holds no store", "backups/one/store": "no mark"} {
		if _, err := Restore(t.Context(), RestoreOptions{From: "backups/one", Dir: dir, fs: opts.fs}); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), want) {
			t.Errorf("restoring over %q: %v, want %q", dir, err, want)
		}
	}

	// A stopped store gives the same backup.
	s, err := OpenStore(StoreOptions{Dir: opts.Dir, fs: opts.fs})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.Backup(t.Context(), BackupOptions{Dir: "backups/two"}); err != nil || m.Size != 751 {
		t.Errorf("backup of a stopped store: %+v, %v", m, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBackupWhileAppending(t *testing.T) {
	t.Parallel()
	opts := testOptions(nil)
	opts.Dir = filepath.Join(t.TempDir(), "store")
	tl := newTestLog(t, opts)
	tl.addN(100)
	done := make(chan struct{})
	appending, stop := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		for i := 0; appending.Err() == nil; i++ {
			if _, _, err := tl.Append(t.Context(), Entry{Data: []byte{byte(i)}}); err != nil {
				return
			}
		}
	}()
	dir := filepath.Join(t.TempDir(), "backup")
	m, err := tl.Backup(t.Context(), BackupOptions{Dir: dir, Files: map[string]string{"a.key": "/proc/version"}})
	stop()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "store", "MANIFEST-000001"))
	if err == nil && info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a file with openings is %v", info.Mode())
	}
	target := filepath.Join(t.TempDir(), "restored")
	if _, err := Restore(t.Context(), RestoreOptions{From: dir, Dir: target}); err != nil {
		t.Fatal(err)
	}
	o := StoreOptions{Dir: target}
	s, err := OpenStore(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if r, err := s.Fsck(t.Context(), FsckOptions{}); err != nil || r.Err() != nil || r.Size != m.Size || r.Size < 100 {
		t.Errorf("restored store: %+v, %v", r, err)
	}
	keys := t.TempDir()
	for range 2 {
		if _, err := RestoreFiles(t.Context(), dir, keys); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(keys, "a.key")); err != nil || len(b) == 0 {
		t.Errorf("restored file: %q, %v", b, err)
	}
}

// TestBackupUnderLoad makes backups while many append, one entry and many at a
// time, with deduplication keys: each is of one moment, with everything that was
// acknowledged before it began, and sound. Restored it serves reads and nothing
// else, until it has caught up with the log, and goes on then.
func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	opts := testOptions(vfs.NewMem())
	opts.tune = smallTables // flushes and compactions happen meanwhile
	tl := newTestLog(t, opts)
	tl.addN(100)
	loading, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var acknowledged atomic.Int64
	for w := range 8 {
		writers.Go(func() {
			for i := 0; loading.Err() == nil; i++ {
				batch := make([]Entry, 1+w*i%40)
				for j := range batch {
					batch[j] = Entry{Data: fmt.Appendf(nil, "%d %d %d", w, i, j), Dedup: fmt.Appendf(nil, "%d.%d.%d", w, i, j), Opening: make([]byte, 100)}
				}
				results, _, err := tl.AppendBatch(t.Context(), batch)
				if err != nil {
					t.Error(err)
					return
				}
				for last := results[len(results)-1].Index + 1; ; {
					if was := acknowledged.Load(); was >= last || acknowledged.CompareAndSwap(was, last) {
						break
					}
				}
			}
		})
	}
	type taken struct {
		*BackupManifest
		dir   string
		least int64 // acknowledged before it began
	}
	var all []taken
	for i := range 4 {
		before := acknowledged.Load()
		eventually(t, "more is appended", func() bool { return acknowledged.Load() > before+500 })
		b := taken{dir: fmt.Sprintf("backup%d", i), least: acknowledged.Load()}
		var err error
		if b.BackupManifest, err = tl.Backup(t.Context(), BackupOptions{Dir: b.dir}); err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	stop()
	writers.Wait()
	eventually(t, "all of it is published", func() bool { return tl.Published().Size == tl.Size() })
	for i, b := range all {
		root, err := tl.snapshot().rootAt(b.Size)
		if err != nil || root.String() != b.Root || b.Size < b.least || i > 0 && b.Size <= all[i-1].Size {
			t.Errorf("backup %d of size %d and root %s, the log has root %v there, and had acknowledged %d: %v", i, b.Size, b.Root, root, b.least, err)
		}
		o := opts
		o.Dir = "restored-" + b.dir
		if _, err := Restore(t.Context(), RestoreOptions{From: b.dir, Dir: o.Dir, fs: opts.fs}); err != nil {
			t.Fatal(err)
		}
		l, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if r := fsckOf(t, l); r.Err() != nil || r.Size != b.Size || r.DedupKeys != b.Size-100 {
			t.Errorf("backup %d: %v, %+v", i, r.Err(), r)
		}
		if _, _, err := l.Append(t.Context(), Entry{}); !errors.Is(err, ErrRestored) || !errors.Is(l.Health(), ErrRestored) {
			t.Errorf("backup %d: append: %v, health: %v", i, err, l.Health())
		}
		if signed := l.Signed(); signed.Size > b.Size || string(signed.Note) != b.Signed {
			t.Errorf("backup %d has signed %d of %d", i, signed.Size, b.Size)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	size := tl.Size()
	tl.close()
	o := opts
	o.Dir = "restored-" + all[0].dir
	if r, err := catchUpFromStore(t, o, tl.opts); err != nil || r.Size != size || r.LostKeys || r.LostOpenings {
		t.Fatalf("catching up: %+v, %v", r, err)
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(context.Background())
	if r, _, err := l.Append(t.Context(), Entry{Data: []byte("its own")}); err != nil || r.Index != size {
		t.Errorf("append after catching up: %+v, %v", r, err)
	}
}

// TestDamagedBackup: nothing is restored from a backup that is not whole.
func TestDamagedBackup(t *testing.T) {
	t.Parallel()
	opts := testOptions(nil)
	base := t.TempDir()
	opts.Dir = filepath.Join(base, "store")
	tl := newTestLog(t, opts)
	tl.addN(300)
	good := filepath.Join(base, "backup")
	m, err := tl.Backup(t.Context(), BackupOptions{Dir: good})
	if err != nil {
		t.Fatal(err)
	}
	tl.close()
	edit := func(name string, change func([]byte) []byte) func(dir string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), change(b), 0o600)
		}
	}
	file := m.Files[len(m.Files)/2].Name
	swap := func(old, new string) func(dir string) error {
		return edit(backupManifest, func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(new), 1) })
	}
	for name, c := range map[string]struct {
		damage func(dir string) error
		want   error
	}{
		"no manifest":      {func(dir string) error { return os.Remove(filepath.Join(dir, backupManifest)) }, ErrNotFound},
		"file gone":        {func(dir string) error { return os.Remove(filepath.Join(dir, file)) }, os.ErrNotExist},
		"file changed":     {edit(file, flip(0)), ErrCorrupt},
		"file longer":      {edit(file, func(b []byte) []byte { return append(b, 0) }), ErrCorrupt},
		"manifest cut":     {edit(backupManifest, func(b []byte) []byte { return b[:len(b)-2] }), ErrCorrupt},
		"another size":     {swap(`"size": 300`, `"size": 299`), ErrCorrupt},
		"another origin":   {swap(opts.Origin, "x.example/y"), ErrCorrupt},
		"another format":   {swap("backup 1", "backup 2"), ErrCorrupt},
		"unknown member":   {swap(`"origin"`, `"x": 1, "origin"`), ErrCorrupt},
		"name that climbs": {swap(file, "store/../../x"), ErrCorrupt},
		"name elsewhere":   {swap(file, "etc/x"), ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			dir, to := t.TempDir(), filepath.Join(t.TempDir(), "restored")
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Restore(t.Context(), RestoreOptions{From: dir, Dir: to}); !errors.Is(err, c.want) {
				t.Errorf("restore: %v, want %v", err, c.want)
			}
			if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is a store: %v", err)
			}
		})
	}
}

// TestBackupCrash cuts the power during a backup, and during a restore: the log
// loses nothing, an incomplete backup says so, and a store that has its name is
// marked.
func TestBackupCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	opts := testOptions(fs)
	tl := newTestLog(t, opts)
	tl.addN(300)
	clones := 0
	check := func(int64, int64) {
		clones++
		clone := opts
		clone.fs = fs.CrashClone(vfs.CrashCloneCfg{})
		if _, err := readManifest(clone.fs, "backup"); !errors.Is(err, ErrNotFound) {
			t.Errorf("an incomplete backup: %v", err)
		}
		l, err := Open(clone)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close(context.Background())
		CheckLog(t, l, &tl.model)
		if _, err := clone.fs.Stat(opts.Dir + "/" + backupStaging); err == nil {
			t.Error("opening the log left the staging directory")
		}
	}
	if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup", Progress: check}); err != nil {
		t.Fatal(err)
	}
	durable := fs.CrashClone(vfs.CrashCloneCfg{})
	if _, err := readManifest(durable, "backup"); err != nil {
		t.Errorf("a complete backup after a power cut: %v", err)
	}
	restore := RestoreOptions{From: "backup", Dir: "restored", fs: fs, Progress: func(int64, int64) {
		clones++
		clone := fs.CrashClone(vfs.CrashCloneCfg{})
		if _, err := clone.Stat("restored"); err == nil {
			t.Error("a store that is not complete has its name")
		}
		if _, err := Restore(t.Context(), RestoreOptions{From: "backup", Dir: "restored", fs: clone}); err != nil {
			t.Errorf("restoring once more: %v", err)
		}
	}}
	if _, err := Restore(t.Context(), restore); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(StoreOptions{Dir: "restored", fs: fs.CrashClone(vfs.CrashCloneCfg{})})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Suspended(); !errors.Is(err, ErrRestored) || !strings.Contains(err.Error(), "backup of 2") {
		t.Errorf("restored store: %v", err)
	}
	if clones < 5 {
		t.Errorf("only %d crash points", clones)
	}
}

// FuzzManifest: what parses marshals to the same bytes and names nothing outside.
func FuzzManifest(f *testing.F) {
	f.Add([]byte("{\n \"format\": \"tallystick log backup 1\"}\n"))
	good, err := (&BackupManifest{Format: backupFormat, Origin: "a", Files: []BackupFile{{"store/a", 1, "00"}}}).marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		if again, err := m.marshal(); err != nil || !bytes.Equal(again, text) {
			t.Fatalf("%q marshals to %q, %v", text, again, err)
		}
		for _, file := range m.Files {
			if !filepath.IsLocal(file.Name) || strings.Count(file.Name, "/") != 1 {
				t.Fatalf("name %q", file.Name)
			}
		}
	})
}
