//go:build !linux

package main

import "syscall"

// childAttr makes a child its own process group, so that Ctrl-C reaches only
// tally, which then stops its children in order.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
