//go:build !unix

package dirlock

import (
	"errors"
	"os"
)

// Lock fails with [errors.ErrUnsupported]: this system has no such locks.
func Lock(path string) (*os.File, error) {
	return nil, &os.PathError{Op: "flock", Path: path, Err: errors.ErrUnsupported}
}
