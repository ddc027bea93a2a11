package node

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// held returns which of the turns asked for are held now.
func held(asked []*turn) []string {
	var names []string
	for i, t := range asked {
		select {
		case <-t.granted:
			names = append(names, t.tenant+strconv.Itoa(i))
		default:
		}
	}
	return names
}

// Tenants are served in turn, whatever one of them brings, and each in order.
func TestTurnsGoRound(t *testing.T) {
	t.Parallel()
	s := newTurns(1, 1)
	var asked []*turn
	for _, tenant := range strings.Fields("a a a a b a b c") {
		asked = append(asked, s.ask(tenant, false))
	}
	want := strings.Fields("a0 b4 c7 a1 b6 a2 a3 a5")
	var got []string
	for range want {
		for _, name := range held(asked) {
			if !slices.Contains(got, name) {
				got = append(got, name)
			}
		}
		s.release(got[len(got)-1][:1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("served %q, want %q", got, want)
	}
	if s.total != 0 || len(s.held)+len(s.lines)+len(s.order) != 0 {
		t.Errorf("left over: %+v", s)
	}
}

// One that comes late is next; two that always come late do not keep a third
// from its turn; and the memory of turns is bounded.
func TestTurnsOfLateComers(t *testing.T) {
	t.Parallel()
	s := newTurns(1, 1)
	patient := []*turn{s.ask("a", false), s.ask("a", false)}
	late := s.ask("b", false)
	s.release("a")
	if !s.wait(t.Context(), late) {
		t.Fatal("the late one is not next")
	}
	for i, tenant := range []string{"c", "b", "c"} { // each asks before the other is done
		s.ask(tenant, false)
		s.release([]string{"b", "c", "a"}[i])
		if got := len(held(patient)); got != min(i, 1)+1 {
			t.Errorf("after %d late turns the patient one had %d", i+1, got)
		}
	}
	s = newTurns(1, 1)
	for i := range 2 * maxRemembered {
		s.acquire(t.Context(), strconv.Itoa(i))
		s.release(strconv.Itoa(i))
	}
	if len(s.last) > maxRemembered {
		t.Errorf("%d tenants remembered", len(s.last))
	}
}

// A tenant's share is bounded while turns are free, and what goes on with work
// that was begun comes before what was not.
func TestTurnsKeepAShare(t *testing.T) {
	t.Parallel()
	s := newTurns(3, 2)
	asked := []*turn{s.ask("a", false), s.ask("a", false), s.ask("a", false), s.ask("a", true), s.ask("b", false)}
	if got := held(asked); !slices.Equal(got, []string{"a0", "a1", "b4"}) {
		t.Errorf("held %q", got)
	}
	s.release("b")
	if got := held(asked); len(got) != 3 {
		t.Errorf("%q held beyond the share", got)
	}
	s.release("a")
	if got := held(asked); !slices.Contains(got, "a3") || slices.Contains(got, "a2") {
		t.Errorf("held %q, want the one in front", got)
	}
}

// Whoever leaves is passed over, and nobody's turn is lost.
func TestTurnsAreLeft(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context())
	end()
	s := newTurns(1, 1)
	if s.acquire(ended, "a") || s.total != 0 {
		t.Error("a turn was held after the end")
	}
	first := s.ask("a", false)
	if s.acquire(ended, "a") {
		t.Error("a turn was held twice")
	}
	last := s.ask("b", false)
	if !s.wait(t.Context(), first) {
		t.Error("the first is not held")
	}
	s.release("a")
	if !s.wait(t.Context(), last) || s.total != 1 {
		t.Errorf("the last is not held: %+v", s)
	}
}

// Under contention neither bound is passed, and everyone is served.
func TestTurnsAreBounded(t *testing.T) {
	t.Parallel()
	const most, each = 4, 3
	s := newTurns(most, each)
	ended, end := context.WithCancel(t.Context())
	defer end()
	var all atomic.Int32
	var of [3]atomic.Int32
	var workers sync.WaitGroup
	for i := range 300 {
		tenant, leaves := rand.N(3), i%5 == 0
		workers.Go(func() {
			ctx := t.Context()
			if leaves {
				ctx = ended
			}
			if !s.acquire(ctx, strconv.Itoa(tenant)) {
				return
			}
			if a, b := all.Add(1), of[tenant].Add(1); a > most || b > each {
				t.Errorf("%d held, %d by one tenant", a, b)
			}
			if leaves {
				end()
			}
			all.Add(-1)
			of[tenant].Add(-1)
			s.release(strconv.Itoa(tenant))
		})
	}
	workers.Wait()
	s.ask("", false) // sweeps up what has left
	if s.total != 1 || len(s.lines) != 0 || len(s.order) != 0 {
		t.Errorf("left over: %+v", s)
	}
}
