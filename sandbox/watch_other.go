//go:build !linux

package sandbox

// watch has nothing to look at.
func (c *child) watch(int64) {}

// watchable reports whether a worker can be watched from here.
func watchable(int) bool { return false }
