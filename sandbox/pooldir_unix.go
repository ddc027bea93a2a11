//go:build unix

package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// newPoolPrefix begins the name of a pool's directory that is not locked yet.
const newPoolPrefix = "." + poolPrefix

// A poolDir is the directory of a pool: it has one for each worker, and native
// code. Its pool holds a lock on it, which the system releases when the process
// ends in any way; without one nobody needs it any more.
type poolDir struct {
	path string
	lock *os.File // the directory itself
}

// makePoolDir makes a directory with mode 0700 in parent, and removes those that
// this user's processes left there when they were killed.
func makePoolDir(parent string) (poolDir, error) {
	removeAbandoned(parent)
	made, err := os.MkdirTemp(parent, newPoolPrefix)
	if err != nil {
		return poolDir{}, err
	}
	lock, err := openDir(made)
	if err != nil {
		return poolDir{}, errors.Join(err, os.Remove(made))
	}
	// Where there are no locks nobody can take it for abandoned either.
	_ = lockDir(lock)
	// It gets the name under which others look for it when it is locked.
	d := poolDir{filepath.Join(filepath.Dir(made), strings.TrimPrefix(filepath.Base(made), ".")), lock}
	if err := os.Rename(made, d.path); err != nil {
		d.path = made
		return poolDir{}, errors.Join(err, d.remove())
	}
	return d, nil
}

// remove removes the directory with everything in it.
func (d poolDir) remove() error {
	return errors.Join(os.RemoveAll(d.path), d.lock.Close())
}

// openDir opens a directory that is not a link.
func openDir(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
}

// lockDir locks a directory, until the file is closed or the process ends.
func lockDir(dir *os.File) error {
	return syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// removeAbandoned removes directories of pools that nobody has locked. What
// cannot be looked at or removed is left to who can.
func removeAbandoned(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, entry := range entries {
		path := filepath.Join(parent, entry.Name())
		if !strings.HasPrefix(entry.Name(), poolPrefix) || !ownDir(path) {
			continue
		}
		lock, err := openDir(path)
		if err != nil {
			continue
		}
		if lockDir(lock) == nil { // its pool has ended
			_ = os.RemoveAll(path)
		}
		lock.Close()
	}
}

// ownDir reports whether path is a directory of this user's: others may make
// what they like in a directory for temporary files.
func ownDir(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(stat.Uid) == int64(os.Geteuid())
}
