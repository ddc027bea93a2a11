//go:build unix

package dirlock

import (
	"errors"
	"os"
	"syscall"
)

// Lock takes the lock of a file, which it makes if need be, and does not wait for
// it: [ErrHeld] says that somebody has it. The lock lasts until the returned file
// is closed.
func Lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrHeld
		}
		return nil, &os.PathError{Op: "flock", Path: path, Err: err}
	}
	return f, nil
}
