package node

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"
)

// maxWaiting bounds the assignments that wait for another try, each with a
// goroutine. One more is given up: the control plane assigns it again when the
// stream is next opened.
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
	case errors.As(err, &refusal):
		return refusals[refusal.Code]
	case errors.Is(err, errUndelivered): // what is signed is handed in, however long it takes
		return handling{unbounded, slog.LevelWarn}
	case errors.Is(err, ErrStopped): // it would be stopped again
		return lasting
	case errors.Is(err, errFault): // mostly one worker's; each try may cost all of the guard's time
		return handling{2, slog.LevelError}
	}
	return handling{0, slog.LevelWarn} // ErrUnavailable
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

// wait pauses; false when ctx ended first.
func (b *backoff) wait(ctx context.Context) bool {
	pause := b.next/2 + rand.N(b.next/2+1)
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
