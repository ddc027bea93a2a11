package witness

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"sync"
)

// errDisk is what a failing memDisk returns.
var errDisk = errors.New("disk failure")

// fault is how an operation of a memDisk goes.
type fault int

const (
	works      fault = iota
	notDone          // fails and was not done
	doneAnyway       // fails and was done all the same
	halfDone         // fails when half of what was to be written is there; else as notDone
)

func (f fault) String() string {
	return [...]string{"works", "not done", "done anyway", "half done"}[f]
}

// memDisk is a disk that keeps apart what a reader sees and what survives a
// power cut: bytes after Sync, a new or renamed file's name after SyncDir. It
// can be told how each operation goes. After a Sync that has failed, the bytes
// it was to make durable are not made durable by another one, though it says so,
// which is how operating systems behave.
type memDisk struct {
	mu      sync.Mutex
	visible map[string]*inode
	durable map[string]*inode
	next    func(op, name string) fault // nil: all works
}

// inode is a file's content.
type inode struct {
	data   []byte
	synced int  // bytes that survive a power cut
	lost   bool // a Sync has failed: synced grows no more
}

// afterCut is what a power cut leaves of bytes that were not synced, and of
// names that were not.
type afterCut int

const (
	cutLost  afterCut = iota // nothing
	cutKept                  // all
	cutTorn                  // names, and half of the bytes
	cutHoles                 // names, and zeros for the first half of the bytes
)

var afterCuts = []afterCut{cutLost, cutKept, cutTorn, cutHoles}

func newMemDisk() *memDisk {
	return &memDisk{visible: map[string]*inode{}, durable: map[string]*inode{}}
}

// do runs an operation, or not, as next has it.
func (d *memDisk) do(op, name string, run func(how fault) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	how := works
	if d.next != nil {
		how = d.next(op, name)
	}
	if how == notDone || how == halfDone && op != "write" {
		if op == "sync" {
			run(notDone)
		}
		return errDisk
	}
	if err := run(how); err != nil {
		return err
	}
	if how != works {
		return errDisk
	}
	return nil
}

func (d *memDisk) Open(name string) (r io.ReadCloser, err error) {
	err = d.do("open", name, func(fault) error {
		node, ok := d.visible[name]
		if !ok {
			return fs.ErrNotExist
		}
		r = io.NopCloser(bytes.NewReader(bytes.Clone(node.data)))
		return nil
	})
	return r, err
}

func (d *memDisk) Create(name string) (f file, err error) {
	err = d.do("create", name, func(fault) error {
		node := &inode{}
		d.visible[name] = node
		f = &memFile{disk: d, name: name, inode: node}
		return nil
	})
	return f, err
}

func (d *memDisk) Rename(from, to string) error {
	return d.do("rename", to, func(fault) error {
		node, ok := d.visible[from]
		if !ok {
			return fs.ErrNotExist
		}
		delete(d.visible, from)
		d.visible[to] = node
		return nil
	})
}

func (d *memDisk) SyncDir(dir string) error {
	return d.do("syncdir", dir, func(fault) error {
		maps.DeleteFunc(d.durable, func(name string, _ *inode) bool { return filepath.Dir(name) == dir })
		for name, node := range d.visible {
			if filepath.Dir(name) == dir {
				d.durable[name] = node
			}
		}
		return nil
	})
}

// content returns a file as a reader sees it.
func (d *memDisk) content(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if node := d.visible[name]; node != nil {
		return bytes.Clone(node.data)
	}
	return nil
}

// put gives a file another content, durably.
func (d *memDisk) put(name string, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	node := &inode{data: bytes.Clone(data), synced: len(data)}
	d.visible[name], d.durable[name] = node, node
}

// set says how operations go from now on.
func (d *memDisk) set(next func(op, name string) fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = next
}

// powerCut leaves what is durable, and of the rest what how says. The disk works
// afterwards.
func (d *memDisk) powerCut(how afterCut) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = nil
	names := d.durable
	if how != cutLost {
		names = d.visible
	}
	d.visible, d.durable = map[string]*inode{}, map[string]*inode{}
	for name, node := range names {
		data, rest := bytes.Clone(node.data[:node.synced]), bytes.Clone(node.data[node.synced:])
		switch how {
		case cutKept:
			data = append(data, rest...)
		case cutTorn:
			data = append(data, rest[:len(rest)/2]...)
		case cutHoles:
			clear(rest[:(len(rest)+1)/2])
			data = append(data, rest...)
		}
		left := &inode{data: data, synced: len(data)}
		d.visible[name], d.durable[name] = left, left
	}
}

// memFile is a file that is open for writing. Its inode is guarded by disk.mu.
type memFile struct {
	disk   *memDisk
	name   string
	inode  *inode
	closed bool
}

func (f *memFile) Write(p []byte) (n int, err error) {
	err = f.disk.do("write", f.name, func(how fault) error {
		if f.closed {
			return fs.ErrClosed
		}
		if n = len(p); how == halfDone {
			n /= 2
		}
		f.inode.data = append(f.inode.data, p[:n]...)
		return nil
	})
	return n, err
}

func (f *memFile) Sync() error {
	return f.disk.do("sync", f.name, func(how fault) error {
		if f.closed {
			return fs.ErrClosed
		}
		if how == notDone {
			f.inode.lost = true
		}
		if !f.inode.lost {
			f.inode.synced = len(f.inode.data)
		}
		return nil
	})
}

func (f *memFile) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}
