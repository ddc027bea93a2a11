package orchestrator

import (
	"context"
	"sync"

	"github.com/tallystick/tallystick/internal/digest"
)

// broadcast is an event that any number of goroutines can wait for.
type broadcast struct {
	mu   sync.Mutex
	next chan struct{} // closed by the next ring
}

func newBroadcast() *broadcast { return &broadcast{next: make(chan struct{})} }

// wait returns a channel that is closed when the event next happens. Take it
// before looking at what the event is about.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next
}

func (b *broadcast) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.next)
	b.next = make(chan struct{})
}

// progress is a number that only rises and that goroutines can wait for.
type progress struct {
	moved *broadcast
	mu    sync.Mutex
	value int64
}

func newProgress() *progress { return &progress{moved: newBroadcast()} }

func (p *progress) get() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.value
}

// raise lifts the value to v and wakes those who wait; a lower v does nothing.
func (p *progress) raise(v int64) {
	p.mu.Lock()
	rises := v > p.value
	p.value = max(p.value, v)
	p.mu.Unlock()
	if rises {
		p.moved.ring()
	}
}

// waitFor blocks until the value is at least v, or ctx ends, or stop is closed,
// and reports whether the value is reached.
func (p *progress) waitFor(ctx context.Context, v int64, stop <-chan struct{}) bool {
	for {
		moved := p.moved.wait()
		if p.get() >= v {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		case <-stop:
			return false
		}
	}
}

// watchers wakes those who watch an execution.
type watchers struct {
	mu   sync.Mutex
	next map[digest.Digest]chan struct{} // an entry for each watched execution
}

func newWatchers() *watchers { return &watchers{next: make(map[digest.Digest]chan struct{})} }

// wait returns a channel that is closed when the execution next changes. Take
// it before looking at the execution.
func (w *watchers) wait(id digest.Digest) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.next[id]
	if !ok {
		c = make(chan struct{})
		w.next[id] = c
	}
	return c
}

func (w *watchers) wake(id digest.Digest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.next[id]; ok {
		close(c)
		delete(w.next, id)
	}
}
