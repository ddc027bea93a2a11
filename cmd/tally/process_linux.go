package main

import "syscall"

// childAttr makes a child its own process group, so that Ctrl-C reaches only
// tally, which then stops its children in order; and makes the kernel end it
// when tally is killed, so that nothing is left behind.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
