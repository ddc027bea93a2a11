package main

import (
	"errors"

	"github.com/tallystick/tallystick/internal/dirlock"
)

// errInUse says that another `tally dev` runs the cluster of the folder.
var errInUse = errors.New("another `tally dev` runs the cluster of this folder")

// lockFolder takes the lock of a cluster's folder, which the system releases with
// the process at the latest. Where there are no such locks it takes none: the
// servers' own keep two clusters of one folder apart.
func lockFolder(path string) (unlock func(), err error) {
	f, err := dirlock.Lock(path)
	switch {
	case errors.Is(err, dirlock.ErrHeld):
		return nil, errInUse
	case errors.Is(err, errors.ErrUnsupported):
		return func() {}, nil
	case err != nil:
		return nil, err
	}
	return func() { f.Close() }, nil
}
