package logserver

import "golang.org/x/sys/unix"

// openFileLimit returns how many files the process may have open.
func openFileLimit() uint64 {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return unknownFileLimit
	}
	return r.Cur
}
