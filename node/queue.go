package node

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Bounds of the assignments that wait for their turn. Beyond either the stream
// is held back, so that the rest waits with the control plane.
const (
	maxQueued      = 256
	maxQueuedBytes = 64 << 20 // an assignment is a few KiB, unless it brings its parents' bundles
)

// queue holds assignments between the stream and the workers, first come first
// served. One goroutine puts and one takes.
type queue struct {
	space, ready chan struct{} // hold a token after a change that the other side may wait for

	mu    sync.Mutex
	items []*pb.Assignment // guarded by mu; the first is the oldest
	bytes int              // guarded by mu; the sum of their sizes
}

func newQueue() *queue {
	return &queue{space: make(chan struct{}, 1), ready: make(chan struct{}, 1)}
}

// put appends a, once there is space; false when ctx ended first. There is always
// space for one, however large.
func (q *queue) put(ctx context.Context, a *pb.Assignment) bool {
	size := proto.Size(a)
	for !q.tryPut(a, size) {
		select {
		case <-q.space:
		case <-ctx.Done():
			return false
		}
	}
	signal(q.ready)
	return true
}

func (q *queue) tryPut(a *pb.Assignment, size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) > 0 && (len(q.items) >= maxQueued || q.bytes+size > maxQueuedBytes) {
		return false
	}
	q.items = append(q.items, a)
	q.bytes += size
	return true
}

// take removes the oldest, once there is one; nil when ctx ended first.
func (q *queue) take(ctx context.Context) *pb.Assignment {
	for ctx.Err() == nil {
		if a := q.tryTake(); a != nil {
			signal(q.space)
			return a
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
		}
	}
	return nil
}

func (q *queue) tryTake() *pb.Assignment {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil
	}
	a := q.items[0]
	q.items[0] = nil
	q.items = q.items[1:]
	q.bytes -= proto.Size(a)
	return a
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// signal leaves a token unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
