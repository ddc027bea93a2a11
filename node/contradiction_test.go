package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// stopBeforePut leaves a directory as a process does that was killed between
// keeping its attestation and handing in the payloads.
func (w *world) stopBeforePut(config Config, a *pb.Assignment) {
	w.t.Helper()
	w.plane.mu.Lock()
	w.plane.failPuts = 1
	w.plane.mu.Unlock()
	n := w.open(config)
	if err := n.attempt(w.t.Context(), &trial{assignment: a, tries: 1}); !errors.Is(err, errUndelivered) {
		w.t.Fatalf("got %v, want errUndelivered", err)
	}
	if s := n.Stats(); s.Attested != 1 || s.Kept != 1 || len(w.plane.received) != 0 {
		w.t.Fatalf("stats %+v, %d handed in", s, len(w.plane.received))
	}
	n.Close()
}

// An attestation whose payloads may never have been handed in is run again after
// a restart, and the kept bytes are handed in once that has found the same.
func TestRunsAgainBeforeHandingIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	a := w.assignment(id)
	w.stopBeforePut(config, a)
	kept, err := os.ReadFile(filepath.Join(config.Dir, attestationName(id)))
	if err != nil {
		t.Fatal(err)
	}
	kept, _ = splitAttestation(kept)
	n := w.open(config)
	n.do(t.Context(), a)
	if got := (<-w.plane.received).GetEnvelope(); !bytes.Equal(got, kept) {
		t.Error("another attestation than the kept one left the node")
	}
	if _, ok := w.plane.blob(testcluster.OK("HELLO").OutputDigest.String()); !ok {
		t.Error("the output was not handed in")
	}
	if s := n.Status(); s.Resent != 1 || s.Problems[ProblemContradiction] != "" {
		t.Errorf("status %+v", s)
	}
	// Now that they are, it is not run a third time.
	n.Close()
	w.runner.err = errors.New("must not run")
	n = w.open(config)
	n.do(t.Context(), a)
	if got := (<-w.plane.received).GetEnvelope(); !bytes.Equal(got, kept) {
		t.Error("another attestation than the kept one left the node")
	}
}

// A second run that finds another result is a fault of this machine: neither
// result is handed in, now or after a restart, and the node says so until
// somebody has moved the file away.
func TestContradictionIsNeverHandedIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	a := w.assignment(id)
	w.stopBeforePut(config, a)

	another := testcluster.OK("HELLO")
	another.PeakPages++
	w.runner.outcome = &another
	n := w.open(config)
	n.do(t.Context(), a)
	w.runner.outcome = nil
	for range 2 {
		s := n.Status()
		if len(w.plane.received) != 0 || s.Problems[ProblemContradiction] == "" || s.Healthy() {
			t.Errorf("status %+v, %d handed in", s, len(w.plane.received))
		}
		if x := <-n.notices; x.code != abandonedContrary {
			t.Errorf("told %+v", x)
		}
		n.Close()
		n = w.open(config) // which is as wary, though its runs would agree
		n.do(t.Context(), a)
	}
	file := filepath.Join(config.Dir, contradictionName(id))
	if err := os.Rename(file, filepath.Join(t.TempDir(), "x")); err != nil {
		t.Fatal(err)
	}
	if s := n.Status(); s.Problems[ProblemContradiction] != "" {
		t.Errorf("problems %v after the file was moved away", s.Problems)
	}
}

// What was signed is handed in though it cannot be run again; a contradiction that
// cannot be kept stops the node.
func TestRunningAgainFails(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		begin func(w *world, n *Node, a *pb.Assignment)
		sent  int
	}{
		"refused":      {func(_ *world, _ *Node, a *pb.Assignment) { a.Attempt++ }, 1},
		"faulty":       {func(w *world, _ *Node, _ *pb.Assignment) { w.runner.err = errors.New("died") }, 1},
		"stopped":      {func(w *world, _ *Node, _ *pb.Assignment) { w.runner.err = ErrStopped }, 1},
		"put at last":  {func(w *world, _ *Node, _ *pb.Assignment) { w.plane.failPuts = 3 }, 1},
		"full disk":    {func(w *world, n *Node, _ *pb.Assignment) { w.contrary(); n.store.sync = failSync }, 0},
		"broken store": {func(_ *world, n *Node, _ *pb.Assignment) { n.store.broken = ErrStore }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, testcluster.Options{})
			id := w.submit("hello")
			name, _ := w.assigned(id)
			config := w.config(name)
			a := w.assignment(id)
			w.stopBeforePut(config, a)
			n := w.open(config)
			tc.begin(w, n, a)
			n.do(t.Context(), a)
			if len(w.plane.received) != tc.sent {
				t.Errorf("%d handed in, want %d\n%s", len(w.plane.received), tc.sent, w.log)
			}
		})
	}
}

// What refuses another run for a while is waited for: an attestation that left
// without its payloads could complete an execution whose output nobody has.
func TestRunningAgainWaits(t *testing.T) {
	t.Parallel()
	for name, retry := range map[string]time.Duration{"mended": time.Hour, "for ever": 10 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testcluster.Options{})
			id := w.submit("hello")
			name, _ := w.assigned(id)
			config := w.config(name)
			config.Timing.Retry = retry
			config.Now = func() time.Time { return w.now().Add(time.Duration(w.skew.Load())) }
			a := w.assignment(id)
			w.stopBeforePut(config, a)
			w.skew.Store(int64(time.Hour))
			n := w.open(config)
			n.retrying = func() {
				if len(w.plane.received) != 0 {
					t.Error("handed in while another run may still be possible")
				}
				if retry == time.Hour {
					w.skew.Store(0)
				}
			}
			n.do(t.Context(), a)
			if s := n.Stats(); len(w.plane.received) != 1 || s.Retries == 0 || len(s.Refused) != 0 || len(n.notices) != 0 {
				t.Errorf("%d handed in, stats %+v\n%s", len(w.plane.received), s, w.log)
			}
			if _, ok := w.plane.blob(testcluster.OK("HELLO").OutputDigest.String()); ok != (retry == time.Hour) {
				t.Errorf("the output was handed in: %v", ok)
			}
		})
	}
}

// An assignment that went stale before the other run is asked for anew.
func TestRunningAgainIsOutdated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	a := w.assignment(id)
	w.stopBeforePut(config, a)
	for range 30 { // a minute each
		w.Change(membership.SetNodeQuorum{Quorum: w.History.Current().NodeQuorum()%3 + 1})
	}
	w.logs.checkpoint = w.Membership.Signed(w.Membership.Size())
	n := w.open(config)
	if err := n.attempt(t.Context(), &trial{assignment: a, tries: 1}); !errors.Is(err, errOutdated) || len(w.plane.received) != 0 {
		t.Errorf("got %v, %d handed in", err, len(w.plane.received))
	}
	n.do(t.Context(), w.assignment(id))
	if _, ok := w.plane.blob(testcluster.OK("HELLO").OutputDigest.String()); !ok || len(w.plane.received) != 1 {
		t.Errorf("the output was handed in: %v; %d handed in", ok, len(w.plane.received))
	}
}

// contrary makes further runs find another result.
func (w *world) contrary() {
	another := testcluster.OK("HELLO")
	another.PeakPages++
	w.runner.outcome = &another
}
