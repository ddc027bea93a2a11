package export

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncFileSystem makes everything written to a path's file system durable.
func syncFileSystem(path string) (done bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	return true, errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
