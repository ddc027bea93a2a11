package main

import (
	"net"
	"net/netip"
	"testing"
)

// TestReserve: the one who was told the port can listen there while it is
// reserved, and nobody who asks for any port gets it.
func TestReserve(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		addr, release, err := reserve(netip.MustParseAddr(host))
		if err != nil {
			if host == "::1" {
				t.Skipf("no IPv6 here: %v", err)
			}
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatalf("listening at the reserved %s: %v", addr, err)
		}
		if got := ln.Addr().String(); got != addr {
			t.Errorf("listens at %s", got)
		}
		release()
		ln.Close()
	}
}

func TestFixedAddress(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:8420", "localhost:1", "[::1]:2", "nonsense"} {
		if addr, release, err := fixedAddress(listen); addr != listen || err != nil {
			t.Errorf("%s: %q, %v", listen, addr, err)
		} else {
			release()
		}
	}
	for _, listen := range []string{"127.0.0.1:0", "localhost:0"} {
		addr, release, err := fixedAddress(listen)
		if err != nil {
			t.Fatal(err)
		}
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "0" {
			t.Errorf("%s: %q", listen, addr)
		}
		release()
	}
}
