package logserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// blobDisk returns the options of a closed log whose full bundles and tiles are
// in blob files, and the names of those.
func blobDisk(t *testing.T) (opts Options, disk *vfs.MemFS, blobs []string) {
	t.Helper()
	disk = vfs.NewCrashableMem()
	opts = testOptions(disk)
	opts.tune = smallTables
	tl := newTestLog(t, opts)
	for range 4 {
		tl.addN(TileWidth)
		tl.mustPublish(int64(len(tl.data)))
		if err := tl.store.db.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	tl.addN(3)
	tl.mustPublish(int64(len(tl.data)))
	tl.close()
	names, err := disk.List(opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".blob") {
			blobs = append(blobs, disk.PathJoin(opts.Dir, name))
		}
	}
	if len(blobs) == 0 {
		t.Fatal("there is no blob file: nothing is tested")
	}
	return opts, disk, blobs
}

// TestRottenBlobs: a blob file that is gone, cut short or wrong at its end is a
// finding of Fsck, and keeps the log from running or is an error of what reads
// it. It ends no process, whoever comes upon it.
func TestRottenBlobs(t *testing.T) {
	t.Parallel()
	opts, disk, blobs := blobDisk(t)
	for what, edit := range map[string]func([]byte) []byte{
		"removed":      nil,
		"emptied":      func([]byte) []byte { return nil },
		"cut short":    func(b []byte) []byte { return b[:len(b)/2] },
		"a wrong end":  func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"a wrong sum":  func(b []byte) []byte { b[len(b)-38] ^= 1; return b },
		"a wrong byte": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
	} {
		for _, path := range blobs {
			o := opts
			o.fs = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
			if edit != nil {
				change(t, o.fs, path, edit)
			} else if err := o.fs.Remove(path); err != nil {
				t.Fatal(err)
			}
			s, err := OpenStore(StoreOptions{Dir: o.Dir, ReadOnly: true, Partial: true, fs: o.fs})
			if err != nil {
				t.Errorf("%s, %s: opening what is left: %v", path, what, err)
				continue
			}
			report, err := s.Fsck(t.Context(), FsckOptions{})
			if err == nil {
				err = report.Err()
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, %s: Fsck says %v, want ErrCorrupt", path, what, err)
			}
			s.Close()
			l, err := Open(o)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) {
					t.Errorf("%s, %s: opening the log says %v, want ErrCorrupt", path, what, err)
				}
				continue
			}
			report, err = l.Fsck(t.Context(), FsckOptions{})
			if err != nil || !errors.Is(report.Err(), ErrCorrupt) {
				t.Errorf("%s, %s: Fsck of the running log says %v, %v", path, what, report.Err(), err)
			}
			if l.Health() == nil {
				t.Errorf("%s, %s: the log is healthy after it has read that", path, what)
			}
			l.Close(t.Context())
		}
	}
}

// TestMissingBlobsAreNamed: of a store without some or any of its blob files Fsck
// names the files, and the bundles and tiles that were in them, and nothing else.
// Files that a process left when it was killed stand for none of them.
func TestMissingBlobsAreNamed(t *testing.T) {
	t.Parallel()
	opts, disk, blobs := blobDisk(t)
	for i, missing := range [][]string{blobs[:1], blobs[1:], blobs, blobs[:1], blobs} {
		fs := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		for _, path := range missing {
			if err := fs.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if i >= 3 {
			for n := range missing {
				if err := writeFileSync(fs, fs.PathJoin(opts.Dir, fmt.Sprintf("%06d.blob", 900+n)), []byte("half a file")); err != nil {
					t.Fatal(err)
				}
			}
		}
		whole := StoreOptions{Dir: opts.Dir, ReadOnly: true, fs: fs}
		if s, err := OpenStore(whole); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "blob files are missing") {
			if err == nil {
				s.Close()
			}
			t.Errorf("opening a store without %q: %v", missing, err)
		}
		whole.Partial = true
		s, err := OpenStore(whole)
		if err != nil {
			t.Fatal(err)
		}
		report, err := s.Fsck(t.Context(), FsckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if report.Size != 4*TileWidth+3 || report.Count == 0 {
			t.Errorf("without %q: %+v", missing, report)
		}
		named := map[string]bool{}
		for _, f := range report.Findings {
			if strings.Contains(f.What, "/0009") {
				t.Errorf("a file that is not of the store is named: %v", f)
			}
			for _, path := range blobs {
				named[path] = named[path] || strings.Contains(f.What, path)
			}
			if !strings.HasPrefix(f.Resource, "tile/") && f.Index < 0 && !strings.Contains(f.What, ".blob") {
				t.Errorf("without %q: %v", missing, f)
			}
		}
		for _, path := range missing {
			if !named[path] {
				t.Errorf("%s is missing and not named in %v", path, report.Findings)
			}
			delete(named, path)
		}
		for path := range named {
			if named[path] {
				t.Errorf("%s is there and named", path)
			}
		}
	}
}
