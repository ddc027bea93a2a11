package logserver

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// staleRounds is after how many round times without a witnessed checkpoint,
// while one is due, a log is unhealthy. The pause between rounds comes on top.
const staleRounds = 2

// staleCommit is after how long without the end of a commit that is under way a
// log is unhealthy: a disk that takes so long for one has failed.
const staleCommit = 10 * time.Second

// Health returns nil if the log accepts entries and publishes what it has
// sequenced, and otherwise every reason why not.
func (l *Log) Health() error { return errors.Join(l.unhealthy()...) }

// unhealthy returns every reason why the log is not healthy.
func (l *Log) unhealthy() []error {
	var reasons []error
	if err := l.failed(); err != nil {
		reasons = append(reasons, err)
	}
	if err := l.space.health(); err != nil {
		reasons = append(reasons, err)
	}
	if err := l.store.faults.health(); err != nil {
		reasons = append(reasons, err)
	}
	if stuck := l.sequencer.stuck(); stuck > staleCommit {
		reasons = append(reasons, fmt.Errorf("the store has not ended a commit for %v: look at the disk", stuck.Round(time.Second)))
	}
	if err := l.publisher.appendable(); err != nil {
		reasons = append(reasons, err)
	}
	if err := l.copyHealth(); err != nil {
		reasons = append(reasons, err)
	}
	if behind := l.behind(); behind > staleRounds*l.opts.WitnessTimeout+l.opts.MinInterval {
		// The sizes tell an operator where it is stuck: at the key, or at the
		// witnesses.
		published, signed, size := l.Published().Size, l.Signed().Size, l.Size()
		reason := fmt.Errorf("no witnessed checkpoint for %v: size %d is sequenced, %d signed, %d published",
			behind.Round(time.Second), size, signed, published)
		if witnessed := l.Witnessed().Size; witnessed < published {
			reason = fmt.Errorf("%w, of which %d witnessed: the log fails open", reason, witnessed)
		}
		for _, w := range l.publisher.witnesses {
			if fork := w.fork.Load(); fork != nil {
				reason = fmt.Errorf("%w; witness %q: %w", reason, w.url, *fork)
			}
		}
		reasons = append(reasons, reason)
	}
	if err := l.stale(); err != nil {
		reasons = append(reasons, err)
	}
	return reasons
}

// stale says why readers refuse the newest witnessed checkpoint if they ask for a
// fresh one.
func (l *Log) stale() error {
	age, ok := l.cosignedAge()
	if !ok {
		return nil
	}
	limit := l.opts.freshFor() + l.opts.WitnessTimeout
	if age > limit {
		return fmt.Errorf("the cosignatures of the published checkpoint are %v old: who asks for a fresh one refuses it", age.Round(time.Second))
	}
	if _, err := l.publisher.policy.Load().VerifyFresh(l.Witnessed().Note, l.publisher.now(), limit); err != nil {
		return errors.New("cosignatures of the published checkpoint are of the future: who asks for a fresh one refuses it; look at the clocks of the witnesses")
	}
	return nil
}

// cosignedAge is how old the cosignatures are that make up the quorum of the
// newest witnessed checkpoint, by the witnesses' clocks and, unless it differs
// from all of them, this one; false if the log asks for none, or has none.
func (l *Log) cosignedAge() (time.Duration, bool) {
	policy, witnessed := l.publisher.policy.Load(), l.Witnessed()
	if policy == nil || witnessed.Note == nil || l.suspended != nil {
		return 0, false
	}
	v, err := policy.Verify(witnessed.Note)
	if err != nil {
		return 0, false // never: it satisfied the same policy
	}
	asOf, ok := policy.AsOf(v)
	return max(0, l.publisher.now().Sub(asOf)), ok
}

// behind is for how long a witnessed checkpoint has been due: as the publisher
// says, or as can be seen from outside if the publisher is stuck.
func (l *Log) behind() time.Duration {
	now := uptime()
	published := l.Published()
	late := l.late.observe(published, l.publisher.target() > published.Size, now)
	return max(late, l.publisher.behind(now))
}

// behind is for how long the publisher has been trying.
func (p *publisher) behind(now time.Duration) time.Duration {
	since := p.behindSince.Load()
	if since == 0 {
		return 0
	}
	return now - time.Duration(since)
}

// lateness notices that publication does not get on, without the publisher's
// help: for as long as it is looked at, the published size stays the same while
// a larger tree is due.
type lateness struct {
	mu    sync.Mutex
	size  int64         // the published size when it was last looked at
	since time.Duration // uptime when it was first seen to be due; 0 if it is not
}

// observe looks at what is published and returns for how long more has been due.
func (l *lateness) observe(published SignedNote, due bool, now time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !due {
		l.since = 0
		return 0
	}
	if l.since == 0 || published.Size != l.size {
		l.size, l.since = published.Size, now
	}
	return now - l.since
}

// started is where uptime counts from. It carries a monotonic reading: a clock
// that is set back or forward makes no log look fresh or stale.
var started = time.Now().Add(-time.Nanosecond)

// uptime is the time since the process started; it is never zero.
func uptime() time.Duration { return time.Since(started) }

func (h *handler) health(w http.ResponseWriter) error {
	if err := h.log.Health(); err != nil {
		// Not wrapped: the reasons are told here, whatever they are.
		return fmt.Errorf("%w: %v", errUnhealthy, err)
	}
	serve(w, contentText, cacheNone, []byte("ok\n"))
	return nil
}
