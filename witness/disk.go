package witness

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// disk is what a witness needs of a file system. Tests put failures and power
// cuts behind it.
type disk interface {
	// Open opens a file for reading. An absent file is fs.ErrNotExist.
	Open(name string) (io.ReadCloser, error)
	// Create opens an empty file for writing, in the place of one that is there.
	Create(name string) (file, error)
	// Rename gives a file a new name, replacing what had it.
	Rename(from, to string) error
	// SyncDir makes the names in a directory survive a power cut.
	SyncDir(dir string) error
}

// file is an open file that grows.
type file interface {
	io.Writer
	// Sync makes what was written survive a power cut, under the file's name if
	// that does. After an error nobody knows what is there.
	Sync() error
	io.Closer
}

// osDisk is the file system of the operating system.
type osDisk struct{}

func (osDisk) Open(name string) (io.ReadCloser, error) { return os.Open(name) }

func (osDisk) Create(name string) (file, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }

func (osDisk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// errUnknownOutcome marks a failed write that may have happened all the same,
// now or after a power cut.
var errUnknownOutcome = errors.New("outcome unknown")

// replace puts what write writes in the place of a file so that a reader at any
// time, and after any crash, finds the old content or the new. It returns the
// file, open at its end. When it returns without error the new content is
// durable. Until the rename a failure leaves the old content for certain; from
// then on the error is errUnknownOutcome.
func replace(d disk, dir, name string, write func(io.Writer) error) (file, error) {
	path := filepath.Join(dir, name)
	tmp := path + ".tmp" // one writer per name, so a leftover is simply replaced
	f, err := d.Create(tmp)
	if err != nil {
		return nil, err
	}
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err == nil {
		if err = errors.Join(d.Rename(tmp, path), d.SyncDir(dir)); err != nil {
			err = fmt.Errorf("%w: %w", errUnknownOutcome, err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// replaceFile is replace for content that is in memory.
func replaceFile(d disk, dir, name string, data []byte) error {
	f, err := replace(d, dir, name, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	return f.Close()
}

// readFile returns the content of a file of at most limit bytes.
func readFile(d disk, name string, limit int64) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%q has more than %d bytes", name, limit)
	}
	return data, err
}

// absent reports whether err says that a file is not there.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
