//go:build !linux

package direct

// loops are for Linux: elsewhere each connection keeps its goroutine.
type loops struct{}

func (*loops) adopt(*soloConn) bool { return false }

func (*loops) stop() {}
