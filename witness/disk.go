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
	// ReadFile returns the content of a file of at most limit bytes. An absent
	// file is fs.ErrNotExist.
	ReadFile(name string, limit int64) ([]byte, error)
	// WriteSynced creates or replaces a file. When it returns without error the
	// bytes survive a power cut; whether its name does is up to SyncDir.
	WriteSynced(name string, data []byte) error
	// Rename gives a file a new name, replacing what had it.
	Rename(from, to string) error
	// SyncDir makes the names in a directory survive a power cut.
	SyncDir(dir string) error
}

// osDisk is the file system of the operating system.
type osDisk struct{}

func (osDisk) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
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

func (osDisk) WriteSynced(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
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

// replaceFile puts data in the place of a file so that a reader at any time, and
// after any crash, finds the old content or the new. When it returns without
// error the new content is durable. Until the rename a failure leaves the old
// content for certain; from then on the error is errUnknownOutcome.
func replaceFile(d disk, dir, name string, data []byte) error {
	path := filepath.Join(dir, name)
	tmp := path + ".tmp" // one writer per name, so a leftover is simply replaced
	if err := d.WriteSynced(tmp, data); err != nil {
		return err
	}
	if err := d.Rename(tmp, path); err != nil {
		return fmt.Errorf("%w: %w", errUnknownOutcome, err)
	}
	if err := d.SyncDir(dir); err != nil {
		return fmt.Errorf("%w: %w", errUnknownOutcome, err)
	}
	return nil
}

// absent reports whether err says that a file is not there.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
