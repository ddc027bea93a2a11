package node

import (
	"context"
	"testing"

	"github.com/tallystick/tallystick/internal/testcluster"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// A full queue holds its producer back until something leaves; one assignment is
// taken however large it is.
func TestQueueHoldsBack(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context())
	end()
	q := newQueue()
	if !q.enter(ended, maxQueuedBytes+1) {
		t.Error("a large one was not taken")
	}
	if q.enter(ended, 1) {
		t.Error("taken beyond the bytes")
	}
	entered := make(chan bool)
	go func() { entered <- q.enter(t.Context(), 1) }()
	q.leave(maxQueuedBytes + 1)
	if !<-entered || q.len() != 1 || q.bytes != 1 {
		t.Errorf("%d entered with %d bytes, want 1", q.len(), q.bytes)
	}
	for range maxQueued - 1 {
		if !q.enter(ended, 0) {
			t.Fatal("not taken below the bound")
		}
	}
	if q.enter(ended, 0) {
		t.Error("taken beyond the bound")
	}
}

// The tenant is read from what nobody has verified, and garbage has none.
func TestClaimedTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	a := w.assignment(w.submit("hello"))
	if got := claimedTenant(a); got != testcluster.Tenant {
		t.Errorf("got %q, want %q", got, testcluster.Tenant)
	}
	for name, opening := range map[string][]byte{
		"none": nil, "no record": make([]byte, 40), "another record": a.GetContract().GetOpening(),
	} {
		if got := claimedTenant(&pb.Assignment{Request: &pb.ProvenRecord{Opening: opening}}); got != "" {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if claimedTenant(&pb.Assignment{}) != "" {
		t.Error("an assignment without a request has a tenant")
	}
}
