package node

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"connectrpc.com/connect"
)

// maxWaiting bounds the assignments that wait for another try, each with a
// goroutine. One more keeps its slot while it waits, or is given up: see
// waitForAnother.
const maxWaiting = 1024

// A handling says what follows a failed try.
type handling struct {
	// tries bounds how often the assignment is tried: 1 is once, 0 until
	// Timing.Retry has passed or maxTries were made, and unbounded is for as long
	// as the node runs.
	tries int
	// level is how the end is logged, which operators watch.
	level slog.Level
}

const unbounded = -1

// maxTries bounds the tries within Timing.Retry, so that short pauses and a long
// time do not make a loop. Those of the defaults add up to some 25.
const maxTries = 100

// lasting failures would meet the same assignment again.
var lasting = handling{1, slog.LevelWarn}

// refusals is the one list of codes, and what follows each.
var refusals = map[RefusalCode]handling{
	RefusedMalformed:   lasting,
	RefusedMembership:  lasting,
	RefusedChanges:     lasting,
	RefusedAudit:       lasting,
	RefusedRequest:     lasting,
	RefusedLogKey:      lasting,
	RefusedFork:        {1, slog.LevelError},
	RefusedConsistency: {1, slog.LevelError},
	RefusedInclusion:   lasting,
	RefusedRecord:      lasting,
	RefusedExecution:   lasting,
	RefusedAttempt:     lasting,
	RefusedNotAssigned: lasting,
	RefusedNotMember:   lasting,
	RefusedSettled:     lasting,
	RefusedStalePin:    lasting,
	RefusedUnsupported: lasting,
	RefusedCapacity:    lasting,
	RefusedParent:      lasting,
	RefusedModule:      lasting,
	RefusedInput:       lasting,
	RefusedAdmission:   lasting,

	// The log publishes a fresh checkpoint, which is asked for at each try.
	RefusedStale: {0, slog.LevelWarn},
	// Another assignment, or a later checkpoint, proves the epoch's record.
	RefusedEpoch: {0, slog.LevelWarn},
	// Mostly the execution was decided before this node came to it: the control
	// plane shows a node the payloads of open executions only.
	RefusedMissing: {3, slog.LevelInfo},
}

// handlingOf says what follows an error of attempt.
func handlingOf(err error) handling {
	var refusal *RefusalError
	switch {
	case errors.Is(err, ErrStore):
		return handling{1, slog.LevelError}
	case errors.Is(err, errContradiction):
		return handling{1, slog.LevelError}
	case errors.Is(err, errOutdated):
		return handling{1, slog.LevelInfo}
	case errors.As(err, &refusal):
		return refusals[refusal.Code]
	case errors.Is(err, errUndelivered): // what is signed is handed in, however long it takes
		return handling{unbounded, slog.LevelWarn}
	case errors.Is(err, ErrStopped): // it would be stopped again
		return lasting
	case errors.Is(err, errFaultSoon): // mostly a worker that was killed, under whatever it ran
		return handling{soonTries, slog.LevelError}
	case errors.Is(err, errFault): // mostly one worker's; each try may cost all of the guard's time
		return handling{2, slog.LevelError}
	}
	return handling{0, slog.LevelWarn} // ErrUnavailable
}

// A fault is soon when it came within the soon-th part of the guard's time. Then
// there are soonTries, which together cost less than the two of other faults may.
const (
	soon      = 4
	soonTries = 5
)

// mayPass reports whether what err is about may pass by itself while others wait
// for the same.
func mayPass(err error) bool {
	return errors.Is(err, ErrUnavailable) || passing(err)
}

// passing reports whether err is a refusal of what the logs or other assignments
// may show later.
func passing(err error) bool {
	return errors.Is(err, RefusedStale) || errors.Is(err, RefusedEpoch)
}

// again reports whether a further try is due after so many, the first of which
// began so long ago.
func (h handling) again(tries int, since, most time.Duration) bool {
	switch h.tries {
	case unbounded:
		return true
	case 0:
		return since < most && tries < maxTries
	}
	return tries < h.tries
}

// backoff doubles its pauses up to a bound, each shortened at random by up to a
// half so that nodes do not return together.
type backoff struct {
	next, max time.Duration
}

func (n *Node) newBackoff() *backoff {
	return &backoff{next: n.config.Timing.BackoffMin, max: n.config.Timing.BackoffMax}
}

// wait pauses, for at least as long as the other side asked for, up to the bound;
// false when ctx ended first.
func (b *backoff) wait(ctx context.Context, asked time.Duration) bool {
	pause := b.next/2 + rand.N(b.next/2+1)
	pause = max(pause, min(asked, b.max))
	b.next = min(2*b.next, b.max)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retryAfter is how long the control plane asks to wait before another try, 0 if
// it does not say. It may ask for any time: the caller bounds it.
func retryAfter(err error) time.Duration {
	var answer *connect.Error
	if !errors.As(err, &answer) {
		return 0
	}
	seconds, err := strconv.ParseUint(answer.Meta().Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
