//go:build !linux

package logserver

import "github.com/cockroachdb/pebble/v2/vfs"

// usageOf asks the file system of a directory. It does not count inodes.
func usageOf(dir string) (diskUsage, error) {
	u, err := vfs.Default.GetDiskUsage(dir)
	return diskUsage{free: u.AvailBytes, total: u.TotalBytes}, err
}
