package logserver

import (
	"context"
	"fmt"
	"testing"
)

// TestSmallGroupsWait: while a group is being synced, entries gather until they
// are many or it has been answered.
func TestSmallGroupsWait(t *testing.T) {
	g := newGatedLog(t, nil)
	g.queue.largeEntries = 3 // nothing has been appended yet
	g.gate.Lock()
	first := g.start(Entry{Data: []byte("first")})
	g.applies(1)
	done := make(chan error, 3)
	add := func(i int) {
		go func() {
			_, _, err := g.Append(context.Background(), Entry{Data: fmt.Append(nil, i)})
			done <- err
		}()
	}
	gathered := func(n int) func() bool {
		return func() bool { entries, _ := g.queue.fill(); return entries == n }
	}
	add(1)
	eventually(t, "an entry waits", gathered(1))
	add(2)
	eventually(t, "two entries wait", gathered(2))
	if g.joined() != 1 {
		t.Error("a small group overlaps")
	}
	add(3)
	g.applies(4)
	if n := g.joined(); n != 2 {
		t.Errorf("%d groups, want 2", n)
	}
	unanswered(t, first)
	g.gate.Unlock()
	if got := <-first; got.err != nil {
		t.Error(got.err)
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := g.Size(); n != 4 {
		t.Errorf("size %d, want 4", n)
	}
	g.close()
}
