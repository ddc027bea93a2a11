package controlapi

import (
	"context"
	"sync"
	"time"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
)

const (
	// firstClaim is what a body of unknown length takes from the budget, in
	// bytes; most gRPC requests fit. One that does not claims its method's
	// maximum before its next byte is read.
	firstClaim = 16 << 10
	// patience is how long a request waits for its share of the budget: some
	// times what the largest one takes.
	patience = 5 * time.Second
)

// budget bounds the bytes of request bodies that are in memory at the same
// time, over all principals. Claims are granted in order of arrival. No
// principal holds more than half, so that one with many large requests leaves
// room for the others, whose claims pass those of its own that wait for that.
// It is safe for concurrent use.
type budget struct {
	total    int64         // bytes
	patience time.Duration // how long a claim waits

	mu      sync.Mutex
	held    int64            // bytes granted; guarded by mu
	peak    int64            // the most that was ever held; guarded by mu
	holders map[string]int64 // bytes granted by principal, none of them 0; guarded by mu
	waiting []*claim         // in order of arrival; guarded by mu
}

// claim is one request for bytes of the budget.
type claim struct {
	principal string
	n         int64         // bytes, at most half of the budget
	granted   chan struct{} // closed under the budget's mu
}

func newBudget(total int64) *budget {
	return &budget{total: total, patience: patience, holders: make(map[string]int64)}
}

// acquire waits for n bytes, of which release gives back as many. It gives up
// when the context ends or the claim's patience does.
func (b *budget) acquire(ctx context.Context, principal string, n int64) error {
	c := &claim{principal, n, make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, c)
	b.grant()
	b.mu.Unlock()
	select {
	case <-c.granted: // mostly at once, and then without a timer
		return nil
	default:
	}
	timeout := time.NewTimer(b.patience)
	defer timeout.Stop()
	select {
	case <-c.granted:
		return nil
	case <-timeout.C:
		return b.giveUp(c, nil)
	case <-ctx.Done():
		return b.giveUp(c, ctx.Err())
	}
}

// giveUp takes back a claim, unless it has been granted just now. It returns
// cause, or else which bound is reached.
func (b *budget) giveUp(c *claim, cause error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, waiting := range b.waiting {
		if waiting != c {
			continue
		}
		b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
		b.grant() // others may have waited behind it
		switch {
		case cause != nil:
			return cause
		case b.holders[c.principal]+c.n > b.total/2:
			return retryAfter(CodeQuotaBodies, time.Second, "the principal's requests under way hold %d bytes: send fewer large ones at the same time",
				b.holders[c.principal])
		}
		return retryAfter(orchestrator.CodeBusy, time.Second, "the requests under way leave no memory for this one: try again")
	}
	return nil
}

func (b *budget) release(principal string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= n
	if b.holders[principal] -= n; b.holders[principal] == 0 {
		delete(b.holders, principal)
	}
	b.grant()
}

// grant gives the claims that wait what there is; the caller holds mu.
func (b *budget) grant() {
	if len(b.waiting) == 0 {
		return
	}
	var capped map[string]bool // principals with a claim that waits for their own half
	full := false
	later := b.waiting[:0]
	for _, c := range b.waiting {
		switch {
		case full || capped[c.principal]:
		case b.holders[c.principal]+c.n > b.total/2:
			if capped == nil {
				capped = make(map[string]bool)
			}
			capped[c.principal] = true
		case b.held+c.n > b.total:
			full = true // nothing smaller passes it, or it might wait for ever
		default:
			b.held += c.n
			b.peak = max(b.peak, b.held)
			b.holders[c.principal] += c.n
			close(c.granted)
			continue
		}
		later = append(later, c)
	}
	clear(b.waiting[len(later):])
	b.waiting = later
}

// lease is what one request holds of the budget. It belongs to the goroutine of
// its HTTP request.
type lease struct {
	budget    *budget
	principal string
	held      int64 // bytes
}

// grow waits until the lease holds n bytes.
func (l *lease) grow(ctx context.Context, n int64) error {
	if n <= l.held {
		return nil
	}
	if err := l.budget.acquire(ctx, l.principal, n-l.held); err != nil {
		return err
	}
	l.held = n
	return nil
}

// release gives everything back.
func (l *lease) release() {
	if l.held > 0 {
		l.budget.release(l.principal, l.held)
		l.held = 0
	}
}
