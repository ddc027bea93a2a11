package main

import (
	"testing"
	"time"
)

// A server that never came up is given up when the one before it, whose files it
// may be waiting for, must have ended; one that did, when it dies too often.
func TestBroken(t *testing.T) {
	for name, test := range map[string]struct {
		listened bool
		every    time.Duration
		want     int // deaths until it is given up, 0 for never
	}{
		"a lock is held":      {false, time.Second, 32},
		"slow to die":         {false, 12 * time.Second, 5},
		"slower still":        {false, 20 * time.Second, 0},
		"broken later":        {true, time.Second, 21},
		"killed now and then": {true, 5 * time.Second, 0},
	} {
		c := &child{listened: test.listened}
		var deaths []time.Time
		got := 0
		for i := range 100 {
			now := time.Unix(0, 0).Add(time.Duration(i) * test.every)
			deaths = append(deaths, now)
			for now.Sub(deaths[0]) > restartWindow {
				deaths = deaths[1:]
			}
			if c.broken(deaths) {
				got = i + 1
				break
			}
		}
		if got != test.want {
			t.Errorf("%s: given up after %d deaths, want %d", name, got, test.want)
		}
	}
}
