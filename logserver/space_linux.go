package logserver

import (
	"os"

	"golang.org/x/sys/unix"
)

// usageOf asks the file system of a directory, with one system call.
func usageOf(dir string) (diskUsage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return diskUsage{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	block := uint64(st.Bsize)
	return diskUsage{free: st.Bavail * block, total: st.Blocks * block, inodes: st.Ffree, allInodes: st.Files}, nil
}
