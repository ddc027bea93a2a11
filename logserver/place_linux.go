package logserver

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// placeOf names the inode of a file so that no copy has the same name: by its
// number and its time of birth or, where the file system keeps none, the file
// system's id. The number alone would not do, since it is used again for the
// file that replaces a deleted one; and the id is left out where it is not
// needed, since on some file systems it changes with the names of devices.
//
// The time of birth ticks every few milliseconds, so that a file which replaces
// another at once may share it. The inode's handle tells them apart.
func placeOf(path string) (string, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err != nil {
		return "", &os.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		return fmt.Sprintf("inode %d born %d.%09d%s", st.Ino, st.Btime.Sec, st.Btime.Nsec, handleOf(path)), nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return "", &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return fmt.Sprintf("inode %d fs %x:%x%s", st.Ino, fs.Fsid.Val[0], fs.Fsid.Val[1], handleOf(path)), nil
}

// Types of file handles that say nothing but which inode it is: the number and
// generation on ext4, XFS and others, and on btrfs the subvolume too, so that a
// snapshot is told from its origin. An NFS server finds files by them after
// years, so they outlast restarts and upgrades.
const (
	handleInode = 0x01
	handleXFS   = 0x81
	handleBtrfs = 0x4d
)

// handleOf returns the part of the place that is the inode's handle, or nothing
// where the file system has none of these, or who confines the process does not
// let it know.
func handleOf(path string) string {
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return ""
	}
	switch h.Type() {
	case handleInode, handleXFS, handleBtrfs:
		return fmt.Sprintf("%s%x:%x", handleMark, h.Type(), h.Bytes())
	}
	return ""
}
