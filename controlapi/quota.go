package controlapi

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Quotas bound what one principal may do; every principal has the same, except that
// a node has a multiple of the calls. They keep one tenant from starving the
// others, so they are always on.
type Quotas struct {
	Writes   Rate // calls per second that may change something; of a node, nodeCalls times as many
	Reads    Rate // calls per second that change nothing, and openings of streams; likewise
	Bytes    Rate // request and answer bytes per second; the burst is at least one largest message
	InFlight int  // calls at the same time, streams aside
	Streams  int  // streams at the same time

	// Refusals is how many refusals per second get a record of their own;
	// beyond it they wait for the principal's next batch and are counted there.
	Refusals Rate
}

// Rate is a token bucket.
type Rate struct {
	PerSecond float64
	Burst     int
}

// nodeCalls is how many times a tenant's calls a node has: it makes two or three
// for each execution (output, diagnostics, attestation), and works for several
// tenants. What it calls follows from what tenants may submit, so a bound like
// theirs would only delay answers.
const nodeCalls = 10

// DefaultQuotas suit a shared cluster: a busy tenant with a hundred workers
// stays below them, and a hundred such tenants do not exhaust one machine.
func DefaultQuotas() Quotas {
	return Quotas{
		Writes:   Rate{500, 1_000},
		Reads:    Rate{1_000, 2_000},
		Bytes:    Rate{64 << 20, 256 << 20},
		InFlight: 256,
		Streams:  64,
		Refusals: Rate{5, 50},
	}
}

// DevelopmentQuotas leave a single tenant the whole machine, as for a load
// test on a laptop.
func DevelopmentQuotas() Quotas {
	return Quotas{
		Writes:   Rate{20_000, 20_000},
		Reads:    Rate{20_000, 20_000},
		Bytes:    Rate{1 << 30, 1 << 30},
		InFlight: 2_048,
		Streams:  1_024,
		Refusals: Rate{50, 500},
	}
}

// NamedQuotas returns the quotas called "default" or "development".
func NamedQuotas(name string) (Quotas, error) {
	switch name {
	case "default":
		return DefaultQuotas(), nil
	case "development":
		return DevelopmentQuotas(), nil
	}
	return Quotas{}, fmt.Errorf("quotas %q: want \"default\" or \"development\"", name)
}

func (q *Quotas) ensureDefaults() {
	d := DefaultQuotas()
	for _, pair := range []struct{ have, want *Rate }{
		{&q.Writes, &d.Writes}, {&q.Reads, &d.Reads}, {&q.Bytes, &d.Bytes}, {&q.Refusals, &d.Refusals},
	} {
		if *pair.have == (Rate{}) {
			*pair.have = *pair.want
		}
	}
	if q.InFlight <= 0 {
		q.InFlight = d.InFlight
	}
	if q.Streams <= 0 {
		q.Streams = d.Streams
	}
}

// account is what one principal has used. It is safe for concurrent use.
type account struct {
	writes, reads, bytes, refusals *rate.Limiter

	inFlight atomic.Int64 // calls, streams aside
	streams  atomic.Int64
	parked   atomic.Int64 // refusals over quota that wait for a batch
	unlogged tally        // refusals over quota
}

// tallyInterval is how often the log tells of a principal's refusals over quota.
const tallyInterval = time.Second

// tally counts what the log tells of only in sums. It is safe for concurrent use.
type tally struct {
	mu   sync.Mutex
	n    int       // since told; guarded by mu
	told time.Time // guarded by mu
}

// add counts n more, and returns how many to tell of now, mostly none.
func (t *tally) add(n int, now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n += n
	if t.n == 0 || now.Sub(t.told) < tallyInterval {
		return 0
	}
	n, t.n, t.told = t.n, 0, now
	return n
}

// accounts holds one account for every principal that was ever authenticated:
// at most as many as the membership ever had.
type accounts struct {
	quotas Quotas
	byID   sync.Map // principal and kind → *account
}

// of returns the account of a principal of a kind.
func (a *accounts) of(principal, kind string) *account {
	key := [2]string{principal, kind} // one that was removed may come again as another
	if found, ok := a.byID.Load(key); ok {
		return found.(*account)
	}
	limiter := func(r Rate) *rate.Limiter { return rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst) }
	calls := func(r Rate) Rate {
		if kind == node {
			return Rate{r.PerSecond * nodeCalls, r.Burst * nodeCalls}
		}
		return r
	}
	found, _ := a.byID.LoadOrStore(key, &account{
		writes:   limiter(calls(a.quotas.Writes)),
		reads:    limiter(calls(a.quotas.Reads)),
		bytes:    limiter(a.quotas.Bytes),
		refusals: limiter(a.quotas.Refusals),
	})
	return found.(*account)
}

// enter charges one call, and must be followed by leave if it returns nil.
func (a *accounts) enter(acc *account, effect effect, now time.Time) error {
	calls := acc.writes
	if effect == reads || effect == streams || effect == heartbeats {
		calls = acc.reads
	}
	if !calls.AllowN(now, 1) {
		return retryAfter(CodeQuotaRate, wait(calls, 1, now), "too many calls: slow down, or ask the operator for a larger quota")
	}
	if acc.bytes.TokensAt(now) < 0 {
		return errBytes(acc, now)
	}
	if effect == streams {
		if acc.streams.Add(1) > int64(a.quotas.Streams) {
			acc.streams.Add(-1)
			return retryAfter(CodeQuotaStreams, time.Second, "%d streams are open: close one first", a.quotas.Streams)
		}
		return nil
	}
	if acc.inFlight.Add(1) > int64(a.quotas.InFlight) {
		acc.inFlight.Add(-1)
		return retryAfter(CodeQuotaInFlight, time.Second, "%d calls are under way: wait for one to end", a.quotas.InFlight)
	}
	return nil
}

func (acc *account) leave(effect effect) {
	if effect == streams {
		acc.streams.Add(-1)
	} else {
		acc.inFlight.Add(-1)
	}
}

// received charges n bytes of a request body.
func (acc *account) received(n int, now time.Time) error {
	if acc.bytes.AllowN(now, n) {
		return nil
	}
	return errBytes(acc, now)
}

// sent charges n bytes of an answer. The work is done, so it is never refused:
// the debt delays the next call.
func (acc *account) sent(n int, now time.Time) {
	for n > 0 {
		part := min(n, acc.bytes.Burst())
		acc.bytes.ReserveN(now, part)
		n -= part
	}
}

func errBytes(acc *account, now time.Time) error {
	return retryAfter(CodeQuotaBytes, wait(acc.bytes, 1, now), "too many bytes: wait, or ask the operator for a larger quota")
}

// wait is how long until the limiter has n tokens again.
func wait(l *rate.Limiter, n float64, now time.Time) time.Duration {
	missing := n - l.TokensAt(now)
	return max(time.Second, time.Duration(missing/float64(l.Limit())*float64(time.Second)))
}
