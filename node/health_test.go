package node

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// A node says that it is well once it has a stream, and what it has seen and does,
// when something changes and in between.
func TestReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	w.plane.reported = make(chan *pb.NodeStatus, 1024)
	w.runner.running, w.runner.release = make(chan struct{}), make(chan struct{})
	config := w.config(name)
	config.Capacity = 2
	config.Timing.Report = time.Millisecond
	n := w.open(config)
	if s := n.Status(); s.Healthy() || !slices.Equal(s.Codes(), []Problem{ProblemDisconnected}) || len(s.Seen) != 0 {
		t.Errorf("before it runs: %+v", s)
	}
	r := w.run(n)
	<-w.plane.connected
	w.plane.streams <- []*pb.Assignment{w.assignment(id)}
	<-w.runner.running
	for {
		if m := <-w.plane.reported; m.GetRunning() == 1 {
			if len(m.GetProblems()) != 0 || len(m.GetWorking()) != 1 || m.GetWorking()[0] != id.String() || len(m.GetCheckpoints()) != 2 ||
				m.GetCheckpoints()[0].GetOrigin() != w.Audit.Origin || m.GetCheckpoints()[0].GetSize() != uint64(w.Audit.Size()) {
				t.Errorf("reported %v", m)
			}
			break
		}
	}
	if s := n.Status(); !s.Healthy() || s.Capacity != 2 || s.Running != 1 {
		t.Errorf("while it runs: %+v", s)
	}
	r.stop()
	<-n.stopping.Done()
	for m := range w.plane.reported {
		if m.GetDraining() {
			break
		}
	}
	if s := n.Status(); s.Healthy() || !s.Draining || len(s.Problems) != 0 {
		t.Errorf("while it drains: %+v", s)
	}
	close(w.runner.release)
	<-r.done
}

// A fork is a problem until somebody has moved the evidence away, a runner that
// fails is one until it does not, and a removed node says that it is none.
func TestProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	n := w.open(config)
	has := func(p Problem, want bool) {
		t.Helper()
		s := n.Status()
		if _, got := s.Problems[p]; got != want {
			t.Errorf("%s: %v, want %v: %v", p, got, want, s.Problems)
		}
	}
	has(ProblemFork, false)
	evidence := filepath.Join(config.Dir, "evidence", "x.json")
	if err := os.WriteFile(evidence, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	has(ProblemFork, true)
	n.Close()
	n = w.open(config)
	has(ProblemFork, true)
	os.Remove(evidence)
	has(ProblemFork, false)

	w.runner.err = errors.New("died")
	for _, id := range []digest.Digest{id, w.submit("other")} { // some tries each
		has(ProblemRunner, false)
		n.do(t.Context(), w.assignment(id))
	}
	has(ProblemRunner, true)
	w.runner.err = nil
	n.do(t.Context(), w.assignment(id))
	has(ProblemRunner, false)

	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(n))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metrics := make(map[string]int)
	for _, f := range families {
		metrics[f.GetName()] = len(f.GetMetric())
	}
	if metrics["tallystick_node_refused_total"] != len(refusals) || metrics["tallystick_node_problem"] != len(Problems) ||
		metrics["tallystick_node_seen_size"] != 2 || metrics["tallystick_node_healthy"] != 1 {
		t.Errorf("metrics %v", metrics)
	}

	n.store.sync = failSync
	n.do(t.Context(), w.assignment(w.submit("more")))
	has(ProblemDirectory, true)
	os.RemoveAll(filepath.Join(config.Dir, "contradictions"))
	has(ProblemContradiction, true) // it cannot know
}

// Of one module one run goes first, others may run meanwhile, and who waited goes
// on in the order of coming.
func TestColdModules(t *testing.T) {
	t.Parallel()
	big, small := digest.Of([]byte("big")), digest.Of([]byte("small"))
	c := newColdModules(newTurns(2, 2), 2)
	done, ok := c.acquire(t.Context(), "acme", big)
	if !ok {
		t.Fatal("no turn")
	}
	order := make(chan int, 3)
	for i := range 3 {
		go func() {
			if done, ok := c.acquire(t.Context(), "acme", big); ok {
				order <- i
				done()
			}
		}()
		for { // until it waits
			c.mu.Lock()
			n := len(c.first[big])
			c.mu.Unlock()
			if n == i+1 {
				break
			}
			<-time.After(time.Millisecond)
		}
	}
	// A second cold module has to wait for its place, a warm one has not.
	c.warm[small] = true
	other, ok := c.acquire(t.Context(), "rival", small)
	if !ok {
		t.Fatal("a warm module waits for a cold one")
	}
	done()
	for i := range 3 {
		if got := <-order; got != i {
			t.Errorf("%d comes in place %d", got, i)
		}
	}
	other()
	for i := range maxWarm {
		c.end(digest.Of([]byte{byte(i), byte(i >> 8)}), true)
	}
	if len(c.warm) > maxWarm {
		t.Errorf("%d modules are remembered", len(c.warm))
	}
}
