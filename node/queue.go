package node

import (
	"context"
	"sync"

	"github.com/tallystick/tallystick/record"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Bounds of the assignments that wait for their first turn, kept as they came.
// They are wide, since the stream brings the assignments of all tenants in one
// line: beyond them it is held back, whoever the rest belongs to.
const (
	maxQueued      = 16384
	maxQueuedBytes = 64 << 20 // an assignment is a few KiB, unless it brings its parents' bundles
)

// queue counts the assignments between the stream and their first turn. One
// goroutine enters.
type queue struct {
	space chan struct{} // holds a token after something left

	mu    sync.Mutex
	count int // guarded by mu
	bytes int // guarded by mu
}

func newQueue() *queue { return &queue{space: make(chan struct{}, 1)} }

// enter counts an assignment of so many bytes in, once there is space; false when
// ctx ended first. There is always space for one, however large.
func (q *queue) enter(ctx context.Context, size int) bool {
	for !q.tryEnter(size) {
		select {
		case <-q.space:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (q *queue) tryEnter(size int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count > 0 && (q.count >= maxQueued || q.bytes+size > maxQueuedBytes) {
		return false
	}
	q.count++
	q.bytes += size
	return true
}

// leave counts out what was entered with the same size.
func (q *queue) leave(size int) {
	q.mu.Lock()
	q.count--
	q.bytes -= size
	q.mu.Unlock()
	select {
	case q.space <- struct{}{}:
	default:
	}
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
}

// claimedTenant reads the tenant from the request record of an assignment that
// nobody has verified: good for taking turns, and for nothing else. A control
// plane that lies about it makes the node serve its tenants in another order,
// which is the control plane's anyway. What cannot be read shares the turns of
// the tenant without a name.
func claimedTenant(a *pb.Assignment) string {
	opening, err := record.ParseOpening(a.GetRequest().GetOpening())
	if err != nil {
		return ""
	}
	r, err := record.Parse(opening.Record())
	if err != nil {
		return ""
	}
	return r.GetRequest().GetTenant()
}
