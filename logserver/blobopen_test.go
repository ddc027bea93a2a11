package logserver

import (
	"errors"
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
			s, err := OpenStore(StoreOptions{Dir: o.Dir, ReadOnly: true, fs: o.fs})
			if err == nil {
				report, err := s.Fsck(t.Context(), FsckOptions{})
				if err == nil {
					err = report.Err()
				}
				if !errors.Is(err, ErrCorrupt) {
					t.Errorf("%s, %s: Fsck says %v, want ErrCorrupt", path, what, err)
				}
				s.Close()
			} else if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, %s: opening says %v, want ErrCorrupt", path, what, err)
			}
			l, err := Open(o)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) {
					t.Errorf("%s, %s: opening the log says %v, want ErrCorrupt", path, what, err)
				}
				continue
			}
			report, err := l.Fsck(t.Context(), FsckOptions{})
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
