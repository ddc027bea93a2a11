package logserver

import (
	"errors"
	"runtime"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// storeFS is the file system that Pebble writes to.
//
// It ends the process where the write-ahead log or the sync of a directory
// fails: the outcome of a commit is unknown from there on. Left to itself Pebble
// would end it a little later, by a panic that nobody can recover from.
//
// It does so too where a blob file fails. Nothing would be lost by trying again
// later, as with tables, but Pebble 2.1.7 dereferences nil when it cannot finish
// a blob file, on a goroutine of its own.
//
// It syncs the directory when a manifest has been created. Pebble syncs it only
// together with the marker that names the manifest, so that on a file system
// that keeps unsynced directory entries in no order a power cut could leave the
// marker without its manifest.
type storeFS struct {
	vfs.FS
	faults *faults
	space  *space
}

// Unwrap implements vfs.FS.
func (s storeFS) Unwrap() vfs.FS { return s.FS }

// Create implements vfs.FS.
func (s storeFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, category)
	if err == nil && strings.HasPrefix(s.PathBase(name), manifestPrefix) {
		if err := syncDir(s.FS, s.PathDir(name)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err == nil && strings.HasSuffix(name, blobSuffix) {
		return blobFile{tableFile{f}, s}, nil
	}
	if err == nil && strings.HasSuffix(name, ".sst") {
		return tableFile{f}, nil
	}
	return s.file(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (s storeFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.ReuseForWrite(oldname, newname, category)
	return s.file(newname, f, err)
}

func (s storeFS) file(name string, f vfs.File, err error) (vfs.File, error) {
	if !strings.HasSuffix(name, ".log") {
		return f, err
	}
	if err != nil {
		return f, s.check(err)
	}
	return newWALFile(f, s)
}

// check passes nil on and does not return from anything else.
func (s storeFS) check(err error) error {
	if err != nil {
		s.faults.end(err)
	}
	return nil
}

// OpenDir implements vfs.FS.
func (s storeFS) OpenDir(name string) (vfs.File, error) {
	d, err := s.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return storeDir{d, s}, nil
}

// storeDir is a directory whose entries become durable.
type storeDir struct {
	vfs.File
	fs storeFS
}

// Sync implements vfs.File.
func (d storeDir) Sync() error { return d.fs.check(d.File.Sync()) }

// tableFile is a file that a flush or a compaction writes. Those work for tens of
// milliseconds at a time, in which whoever waits for a processor would wait until
// the runtime takes it away from them: so they offer it with every block.
type tableFile struct{ vfs.File }

// Write implements vfs.File.
func (f tableFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	runtime.Gosched()
	return n, err
}

// blobFile is a blob file that is being written.
type blobFile struct {
	tableFile
	fs storeFS
}

// Write implements vfs.File.
func (f blobFile) Write(p []byte) (int, error) {
	n, err := f.tableFile.Write(p)
	return n, f.fs.check(err)
}

// Preallocate implements vfs.File.
func (f blobFile) Preallocate(offset, length int64) error {
	return f.fs.check(f.File.Preallocate(offset, length))
}

// Sync implements vfs.File.
func (f blobFile) Sync() error { return f.fs.check(f.File.Sync()) }

// SyncData implements vfs.File.
func (f blobFile) SyncData() error { return f.fs.check(f.File.SyncData()) }

// SyncTo implements vfs.File.
func (f blobFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.fs.check(err)
}

// Close implements vfs.File.
func (f blobFile) Close() error { return f.fs.check(f.File.Close()) }
