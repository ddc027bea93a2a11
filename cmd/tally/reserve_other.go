//go:build !linux

package main

import (
	"net"
	"net/netip"
)

// reserve finds a free port of a loopback address for a child that will listen
// there. Somebody else could take it before the child does; the child then says
// so, and starting again helps.
func reserve(host netip.Addr) (addr string, release func(), err error) {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(host, 0).String())
	if err != nil {
		return "", nil, err
	}
	return ln.Addr().String(), func() {}, ln.Close()
}
