package logserver

import (
	"sync"
	"time"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// clocks compares this machine's clock with those of the witnesses, which say
// with every cosignature what time it is. Nobody is known to be right. So this
// clock is believed as long as it is between the slowest and the fastest of
// theirs, or close to that: when it alone is wrong, cosignatures that have just
// been made look neither old nor of the future to the log. How far the others
// have got since is measured by uptime, which nobody sets.
//
// Nothing that is signed or served depends on it: it says when a refresh has
// brought what readers will find fresh, and how old the quorum is. Its methods
// are safe for concurrent use.
type clocks struct {
	mu sync.Mutex
	// theirs is what the clocks of the witnesses showed when uptime was zero, by
	// policy name, as they last said; here is what this clock showed then, when
	// one of them last said so.
	theirs map[string]time.Time
	here   time.Time
}

// maxTime bounds the times of cosignatures, in POSIX seconds, that are taken for
// those of a clock: the year 2242.
const maxTime = 1 << 33

// observe takes note of the time of a cosignature that a witness has just made,
// where this clock shows here at that uptime. What was heard before this clock
// was set is forgotten: it was compared with another one.
func (c *clocks) observe(witness string, timestamp int64, here time.Time, up time.Duration) {
	if timestamp <= 0 || timestamp > maxTime {
		return
	}
	zero := here.Round(0).Add(-up)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.theirs == nil || zero.Sub(c.here).Abs() > checkpoint.FutureTolerance {
		c.theirs = make(map[string]time.Time)
	}
	c.here = zero
	c.theirs[witness] = time.Unix(timestamp, 0).Add(-up)
}

// now is the time by which the log judges cosignatures, where this clock shows
// here at that uptime.
func (c *clocks) now(here time.Time, up time.Duration) time.Time {
	here = here.Round(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	var slowest, fastest time.Time
	for _, t := range c.theirs {
		if slowest.IsZero() || t.Before(slowest) {
			slowest = t
		}
		if fastest.IsZero() || t.After(fastest) {
			fastest = t
		}
	}
	switch {
	case slowest.IsZero():
		return here
	case here.Sub(fastest.Add(up)) > checkpoint.FutureTolerance:
		return fastest.Add(up)
	case slowest.Add(up).Sub(here) > checkpoint.FutureTolerance:
		return slowest.Add(up)
	}
	return here
}
