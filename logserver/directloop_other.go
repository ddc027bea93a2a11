//go:build !linux

package logserver

// directLoops is for Linux: elsewhere each connection keeps its goroutine.
type directLoops struct{}

func (*directLoops) adopt(*directConn) bool { return false }

func (*directLoops) stop() {}
