package main

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

// endedBy returns how a process ended that ran a command of the shell.
func endedBy(t *testing.T, command string) *os.ProcessState {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", command)
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState
}

// A server that never came up is given up when the one before it, whose files it
// may be waiting for, must have ended; one that did, when it dies too often. That
// somebody kills it is no reason.
func TestBroken(t *testing.T) {
	fails, panics := endedBy(t, "exit 1"), endedBy(t, "kill -ABRT $$")
	isKilled, stops := endedBy(t, "kill -KILL $$"), endedBy(t, "kill -TERM $$")
	for name, test := range map[string]struct {
		listened bool
		ends     []*os.ProcessState // in turns
		every    time.Duration
		want     int // deaths until it is given up, 0 for never
	}{
		"a lock is held":         {false, []*os.ProcessState{fails}, time.Second, 32},
		"slow to die":            {false, []*os.ProcessState{fails}, 12 * time.Second, 5},
		"slower still":           {false, []*os.ProcessState{fails}, 20 * time.Second, 0},
		"killed before it is up": {false, []*os.ProcessState{isKilled}, time.Second, 32},
		"broken later":           {true, []*os.ProcessState{fails}, time.Second, 21},
		"panics":                 {true, []*os.ProcessState{panics}, time.Second, 21},
		"stopped all the time":   {true, []*os.ProcessState{stops}, time.Second, 21},
		"fails now and then":     {true, []*os.ProcessState{fails}, 5 * time.Second, 0},
		"killed all the time":    {true, []*os.ProcessState{isKilled}, 100 * time.Millisecond, 0},
		"killed and broken":      {true, []*os.ProcessState{isKilled, fails}, time.Second, 42},
	} {
		c := &child{listened: test.listened}
		var own deaths
		got := 0
		for i := range 1000 {
			var broken bool
			own, broken = c.ended(own, test.ends[i%len(test.ends)], time.Unix(0, 0).Add(time.Duration(i)*test.every))
			if broken {
				got = i + 1
				break
			}
		}
		if got != test.want {
			t.Errorf("%s: given up after %d deaths, want %d", name, got, test.want)
		}
	}
}
