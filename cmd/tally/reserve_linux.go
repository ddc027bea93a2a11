package main

import (
	"fmt"
	"net/netip"
	"syscall"
)

// reserve takes a free port of a loopback address for a child that will listen
// there, and returns the address with it. Until release is called nobody else is
// given that port: the socket is bound but does not listen, so one that names
// the port, as the child does, may bind it too, and the system does not choose it
// for those that ask for any.
func reserve(host netip.Addr) (addr string, release func(), err error) {
	family, sockaddr := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Addr: host.As16()})
	if host.Is4() {
		family, sockaddr = syscall.AF_INET, &syscall.SockaddrInet4{Addr: host.As4()}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("reserving a port: %w", err)
	}
	release = func() { syscall.Close(fd) }
	defer func() {
		if err != nil {
			release()
		}
	}()
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return "", nil, fmt.Errorf("reserving a port: %w", err)
	}
	if err := syscall.Bind(fd, sockaddr); err != nil {
		return "", nil, fmt.Errorf("reserving a port at %v: %w", host, err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		return "", nil, fmt.Errorf("reserving a port: %w", err)
	}
	port := 0
	switch a := bound.(type) {
	case *syscall.SockaddrInet4:
		port = a.Port
	case *syscall.SockaddrInet6:
		port = a.Port
	}
	return netip.AddrPortFrom(host, uint16(port)).String(), release, nil
}
