package logserver

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// placeOf names the inode of a file so that no copy has the same name: by its
// number and its time of birth or, where the file system keeps none, the file
// system's id. The id alone would not do, since numbers are used again for the
// files that replace deleted ones; and it is left out where it is not needed,
// since on some file systems it changes with the names of devices.
func placeOf(path string) (string, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err != nil {
		return "", &os.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		return fmt.Sprintf("inode %d born %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return "", &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return fmt.Sprintf("inode %d fs %x:%x", st.Ino, fs.Fsid.Val[0], fs.Fsid.Val[1]), nil
}
