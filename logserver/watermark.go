package logserver

import (
	"context"
	"sync"
)

// watermark is a number that only rises and that goroutines can wait for. Its
// zero value is at zero.
type watermark struct {
	mu    sync.Mutex
	value int64
	moved chan struct{} // closed by the next raise; nil while nobody waits
}

// raise lifts the mark to v and wakes everybody; a lower v changes nothing.
func (w *watermark) raise(v int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v <= w.value {
		return
	}
	w.value = v
	if w.moved != nil {
		close(w.moved)
		w.moved = nil
	}
}

// read returns the mark and a channel that is closed when it next rises.
func (w *watermark) read() (int64, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.moved == nil {
		w.moved = make(chan struct{})
	}
	return w.value, w.moved
}

// wait blocks until the mark is at least v, ctx ends, or stop is closed.
func (w *watermark) wait(ctx context.Context, v int64, stop <-chan struct{}) error {
	for {
		value, moved := w.read()
		if value >= v {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-stop:
			return ErrClosed
		}
	}
}
