package logserver

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// opFS numbers every operation that changes the file system beneath it, and
// lets a test look at the disk after each, or make it fail.
type opFS struct {
	vfs.FS
	// before, if set, decides what happens to an operation; after, if set, sees
	// the disk when it has been done. Both are set before the first operation.
	before func(op fsOp) fsFault
	after  func(op fsOp)

	count atomic.Int64
	// dead is set when the process is thought to have ended: whoever would
	// change the disk after that is stopped for good.
	dead atomic.Bool
	// mu is held for reading by operations in progress, so that kill can wait
	// for them.
	mu sync.RWMutex
}

// fsOp is one operation.
type fsOp struct {
	number int64
	kind   string // create, write, sync, rename, …
	path   string
}

func (o fsOp) String() string { return fmt.Sprintf("operation %d, %s %s", o.number, o.kind, o.path) }

// fsFault is what happens to an operation: nothing unusual if err is nil.
type fsFault struct {
	err  error // that is reported
	done int   // percent of it that is done all the same: 0, 100, or less of a write
}

// do runs one operation. Of those that can be done in part, part does so.
func (f *opFS) do(kind, path string, part func(percent int) error) error {
	f.mu.RLock()
	if f.dead.Load() {
		f.mu.RUnlock()
		select {} // the process that this goroutine was of has ended
	}
	op := fsOp{number: f.count.Add(1), kind: kind, path: path}
	fault := fsFault{done: 100}
	if f.before != nil {
		if v := f.before(op); v.err != nil {
			fault = v
		}
	}
	var err error
	if fault.done > 0 {
		err = part(fault.done)
	}
	f.mu.RUnlock()
	if fault.err != nil {
		err = fault.err
	}
	if f.after != nil {
		f.after(op)
	}
	return err
}

// kill stops every later operation for good, and waits for those in progress.
func (f *opFS) kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead.Store(true)
}

func (f *opFS) whole(kind, path string, do func() error) error {
	return f.do(kind, path, func(int) error { return do() })
}

func (f *opFS) Create(name string, c vfs.DiskWriteCategory) (file vfs.File, err error) {
	err = f.whole("create", name, func() (err error) { file, err = f.FS.Create(name, c); return err })
	return f.wrap(name, file, err)
}

func (f *opFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (file vfs.File, err error) {
	err = f.whole("open", name, func() (err error) { file, err = f.FS.OpenReadWrite(name, c, opts...); return err })
	return f.wrap(name, file, err)
}

func (f *opFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (file vfs.File, err error) {
	err = f.whole("reuse", newname, func() (err error) { file, err = f.FS.ReuseForWrite(oldname, newname, c); return err })
	return f.wrap(newname, file, err)
}

func (f *opFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	return f.wrap(name+"/", file, err)
}

func (f *opFS) wrap(name string, file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		if file != nil { // reported as failed, but done
			file.Close()
		}
		return nil, err
	}
	return &opFile{File: file, fs: f, path: name}, nil
}

func (f *opFS) Link(oldname, newname string) error {
	return f.whole("link", newname, func() error { return f.FS.Link(oldname, newname) })
}

func (f *opFS) Remove(name string) error {
	return f.whole("remove", name, func() error { return f.FS.Remove(name) })
}

func (f *opFS) RemoveAll(name string) error {
	return f.whole("remove", name, func() error { return f.FS.RemoveAll(name) })
}

func (f *opFS) Rename(oldname, newname string) error {
	return f.whole("rename", newname, func() error { return f.FS.Rename(oldname, newname) })
}

func (f *opFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.whole("mkdir", dir, func() error { return f.FS.MkdirAll(dir, perm) })
}

func (f *opFS) Unwrap() vfs.FS { return f.FS }

// opFile is a file or directory of an opFS that may be changed.
type opFile struct {
	vfs.File
	fs   *opFS
	path string
}

func (f *opFile) Write(p []byte) (n int, err error) {
	err = f.fs.do("write", f.path, func(percent int) (err error) {
		n, err = f.File.Write(p[:len(p)*percent/100])
		return err
	})
	if err != nil && n == len(p) {
		n = 0
	}
	return n, err
}

func (f *opFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.do("write", f.path, func(percent int) (err error) {
		n, err = f.File.WriteAt(p[:len(p)*percent/100], off)
		return err
	})
	return n, err
}

func (f *opFile) Sync() error     { return f.fs.whole("sync", f.path, f.File.Sync) }
func (f *opFile) SyncData() error { return f.fs.whole("sync", f.path, f.File.SyncData) }

func (f *opFile) SyncTo(length int64) (full bool, err error) {
	err = f.fs.whole("sync", f.path, func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}
