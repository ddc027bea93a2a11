package node

import (
	"context"
	"strconv"
	"testing"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// First come first served, whoever is faster, and never more than the bound.
func TestQueueIsInOrderAndBounded(t *testing.T) {
	t.Parallel()
	q := newQueue()
	const total = 4 * maxQueued
	go func() {
		for i := range total {
			q.put(t.Context(), &pb.Assignment{ExecutionId: strconv.Itoa(i)})
		}
	}()
	for i := range total {
		if n := q.len(); n > maxQueued {
			t.Fatalf("%d queued", n)
		}
		if a := q.take(t.Context()); a.GetExecutionId() != strconv.Itoa(i) {
			t.Fatalf("got %q, want %d", a.GetExecutionId(), i)
		}
	}
	if q.len() != 0 || q.bytes != 0 {
		t.Errorf("%d left with %d bytes", q.len(), q.bytes)
	}
}

// A full queue holds its producer back until something is taken; one assignment
// is taken however large it is.
func TestQueueHoldsBack(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context())
	end()
	q := newQueue()
	large := &pb.Assignment{ParentBundles: [][]byte{make([]byte, maxQueuedBytes+1)}}
	if !q.put(ended, large) {
		t.Error("a large one was not taken")
	}
	if q.put(ended, &pb.Assignment{}) {
		t.Error("taken beyond the bytes")
	}
	if q.take(t.Context()) != large {
		t.Error("another one came back")
	}
	for range maxQueued {
		if !q.put(ended, &pb.Assignment{}) {
			t.Fatal("not taken below the bound")
		}
	}
	if q.put(ended, &pb.Assignment{}) {
		t.Error("taken beyond the bound")
	}
	if q.take(ended) != nil || newQueue().take(ended) != nil {
		t.Error("something was taken after the end")
	}
}
