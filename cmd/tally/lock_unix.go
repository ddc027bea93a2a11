//go:build unix

package main

import (
	"errors"
	"os"
	"syscall"
)

// errInUse says that another `tally dev` runs the cluster of the folder.
var errInUse = errors.New("another `tally dev` runs the cluster of this folder")

// lockFolder takes the lock of a cluster's folder, which the system releases with
// the process at the latest.
func lockFolder(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errInUse
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}
