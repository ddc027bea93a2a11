package orchestrator

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
)

// An outage follows whether something that nodes need fails for the control plane's
// own sake. A failure among successes is none: a busy log refuses some appends of
// many, and who meets that tries again.
type outage struct {
	mu      sync.Mutex
	failing bool
	since   time.Time // of the first failure after the last success, while failing
	last    time.Time // of the last failure
	ended   time.Time // of the last outage that is over
}

// lasting is after how long without a success failures are an outage, for nodes that
// are given deadline to answer.
func lasting(deadline time.Duration) time.Duration { return deadline / 4 }

func (g *outage) failed(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.failing {
		g.failing, g.since = true, now
	}
	g.last = now
}

func (g *outage) worked(now time.Time, deadline time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failing && now.Sub(g.since) >= lasting(deadline) {
		g.ended = now
	}
	g.failing = false
}

// hinders reports whether nodes could not answer at some time within the last two
// deadlines: what they did not do then says nothing of them. Two, so that a deadline
// follows in which they can. Failures that nobody has met for so long count no more:
// nobody knows whether they last.
func (g *outage) hinders(now time.Time, deadline time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failing && now.Sub(g.since) >= lasting(deadline) && now.Sub(g.last) < 2*deadline {
		return true
	}
	return !g.ended.IsZero() && now.Sub(g.ended) < 2*deadline
}

// watchedBlobs notes of each call whether the payload store can. Reads and writes
// are told apart, since a full disk is read all the same.
type watchedBlobs struct {
	Blobs
	reads, writes outage
	now           func() time.Time
	deadline      time.Duration
}

func (b *watchedBlobs) Put(ctx context.Context, owner string, data []byte) (digest.Digest, error) {
	d, err := b.Blobs.Put(ctx, owner, data)
	b.note(ctx, &b.writes, err)
	return d, err
}

func (b *watchedBlobs) Get(ctx context.Context, owner string, d digest.Digest) ([]byte, error) {
	data, err := b.Blobs.Get(ctx, owner, d)
	b.note(ctx, &b.reads, err)
	return data, err
}

func (b *watchedBlobs) Size(ctx context.Context, owner string, d digest.Digest) (int64, error) {
	size, err := b.Blobs.Size(ctx, owner, d)
	b.note(ctx, &b.reads, err)
	return size, err
}

func (b *watchedBlobs) note(ctx context.Context, of *outage, err error) {
	switch {
	case err == nil, errors.Is(err, ErrNoBlob):
		of.worked(b.now(), b.deadline)
	case errors.Is(err, ErrBlobTooLarge), ctx.Err() != nil:
	case errors.Is(err, ErrBlobDamaged): // will never be there again, unlike the others
	default:
		of.failed(b.now())
	}
}

func (b *watchedBlobs) hinder(now time.Time) bool {
	return b.reads.hinders(now, b.deadline) || b.writes.hinders(now, b.deadline)
}
