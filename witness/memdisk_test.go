package witness

import (
	"bytes"
	"errors"
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
)

// memDisk is a disk that keeps apart what a reader sees and what survives a
// power cut: a new or renamed file has its name for good only after SyncDir. It
// can be told how each operation goes.
type memDisk struct {
	mu      sync.Mutex
	visible map[string][]byte
	durable map[string][]byte
	next    func(op, name string) fault // nil: all works
}

func newMemDisk() *memDisk {
	return &memDisk{visible: map[string][]byte{}, durable: map[string][]byte{}}
}

// do runs an operation, or not, as next has it.
func (d *memDisk) do(op, name string, run func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	how := works
	if d.next != nil {
		how = d.next(op, name)
	}
	if how == notDone {
		return errDisk
	}
	err := run()
	if how == doneAnyway {
		return errDisk
	}
	return err
}

func (d *memDisk) ReadFile(name string, limit int64) (data []byte, err error) {
	err = d.do("read", name, func() error {
		content, ok := d.visible[name]
		if !ok {
			return fs.ErrNotExist
		}
		if int64(len(content)) > limit {
			return errors.New("too long")
		}
		data = bytes.Clone(content)
		return nil
	})
	return data, err
}

func (d *memDisk) WriteSynced(name string, data []byte) error {
	return d.do("write", name, func() error {
		d.visible[name] = bytes.Clone(data)
		if _, named := d.durable[name]; named {
			d.durable[name] = bytes.Clone(data)
		}
		return nil
	})
}

func (d *memDisk) Rename(from, to string) error {
	return d.do("rename", to, func() error {
		data, ok := d.visible[from]
		if !ok {
			return fs.ErrNotExist
		}
		delete(d.visible, from)
		d.visible[to] = data
		return nil
	})
}

func (d *memDisk) SyncDir(dir string) error {
	return d.do("sync", dir, func() error {
		maps.DeleteFunc(d.durable, func(name string, _ []byte) bool { return filepath.Dir(name) == dir })
		for name, data := range d.visible {
			if filepath.Dir(name) == dir {
				d.durable[name] = data
			}
		}
		return nil
	})
}

// powerCut leaves what is durable. With kept, everything that was visible
// happens to have reached the disk too.
func (d *memDisk) powerCut(kept bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = nil
	if kept {
		d.durable = maps.Clone(d.visible)
	}
	d.visible = maps.Clone(d.durable)
}
