package node

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// A node that was stopped after it had attested sends the same bytes again,
// though the control plane now names another request checkpoint, with which an
// honest run would attest differently.
func TestAttestsOnceAcrossRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	n := w.open(config)
	w.plane.refuseNext(connect.NewError(connect.CodePermissionDenied, errors.New("[not_member] go away")))
	n.do(t.Context(), w.assignment(id))
	first := (<-w.plane.received).GetEnvelope()
	if s := n.Stats(); s.Attested != 1 || s.Rejected != 1 {
		t.Errorf("stats %+v", s)
	}
	n.Close()

	w.submit("more")
	a := w.assignment(id)
	w.retarget(a, id, w.Execution(id).RequestIndex)
	w.runner.err = errors.New("must not run again")
	n = w.open(config)
	n.do(t.Context(), a)
	if again := (<-w.plane.received).GetEnvelope(); !bytes.Equal(first, again) {
		t.Errorf("second attestation differs:\n%s\n%s", first, again)
	}
	if s := n.Stats(); s.Resent != 1 || s.Attested != 0 {
		t.Errorf("stats %+v", s)
	}
	w.take(first)
}

// However many goroutines attest, one envelope is kept and all send that one.
func TestAttestsOnceConcurrently(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	n := w.node(name)
	a := w.assignment(id)
	b := w.assignment(id)
	w.retarget(b, id, w.Execution(id).RequestIndex)
	var wg sync.WaitGroup
	for range 4 {
		for _, a := range []*pb.Assignment{a, b} {
			wg.Go(func() { n.do(t.Context(), a) })
		}
	}
	wg.Wait()
	first := (<-w.plane.received).GetEnvelope()
	for range 7 {
		if again := (<-w.plane.received).GetEnvelope(); !bytes.Equal(first, again) {
			t.Fatal("two different attestations left the node")
		}
	}
}

// Nothing leaves before it is durable: each write in turn fails, and none of the
// bytes of an attestation are seen outside while it is not on disk.
func TestFailedWritesStopTheNode(t *testing.T) {
	t.Parallel()
	for fail := 1; ; fail++ {
		w := newWorld(t, testcluster.Options{})
		id := w.submit("hello")
		w.AddNode("node-9") // so that changes and epochs are written too
		name, _ := w.assigned(id)
		config := w.config(name)
		n := w.open(config)
		calls := 0
		n.store.sync = func(f *os.File) error {
			if calls++; calls == fail {
				return errors.New("disk on fire")
			}
			return f.Sync()
		}
		n.do(t.Context(), w.assignment(id))
		if calls < fail {
			if s := n.Stats(); s.Attested != 1 {
				t.Fatalf("without a failure: %+v\n%s", s, w.log)
			}
			if fail < 8 {
				t.Errorf("%d syncs only", calls)
			}
			break
		}
		if s := n.Stats(); s.Attested != 0 || s.Abandoned != 1 || len(w.plane.received) != 0 {
			t.Errorf("write %d failed: %+v, %d sent", fail, s, len(w.plane.received))
		}
		// It stays so until the directory is opened again, where all is well.
		n.do(t.Context(), w.assignment(id))
		if err := n.Run(t.Context()); !errors.Is(err, ErrStore) {
			t.Errorf("write %d failed: Run returned %v", fail, err)
		}
		if s := n.Stats(); s.Attested != 0 || s.Connections != 0 || len(w.plane.received) != 0 {
			t.Errorf("after failed write %d: %+v", fail, s)
		}
		n.Close()
		n = w.open(config)
		n.do(t.Context(), w.assignment(id))
		if s := n.Stats(); s.Attested+s.Resent != 1 {
			t.Errorf("after a restart: %+v\n%s", s, w.log)
		}
		w.take((<-w.plane.received).GetEnvelope())
	}
}

// What the runner says is held against the contract; what it cannot do is tried
// again, then left to others.
func TestRunnerFailures(t *testing.T) {
	t.Parallel()
	big := testcluster.OK("HELLO")
	big.PeakPages = 1025
	wrong := testcluster.OK("hullo")
	for name, tc := range map[string]struct {
		change func(u *upper)
		guard  time.Duration
		tries  uint64
	}{
		"engine fault":                       {func(u *upper) { u.err = errors.New("engine fault") }, time.Hour, soonTries},
		"engine fault late":                  {func(u *upper) { u.err = errors.New("engine fault") }, 1, 2},
		"outcome above the contract's limit": {func(u *upper) { u.outcome = &big }, time.Hour, 2},
		"digest that is not the output's":    {func(u *upper) { u.outcome = &wrong }, time.Hour, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, testcluster.Options{})
			id := w.submit("hello")
			in, _ := w.assigned(id)
			tc.change(w.runner)
			config := w.config(in)
			config.RunTimeout = tc.guard
			n := w.open(config)
			n.do(t.Context(), w.assignment(id))
			if s := n.Stats(); s.Abandoned != 1 || s.Attested != 0 {
				t.Errorf("stats %+v", s)
			}
			if tries := n.Stats().Retries + 1; tries != tc.tries {
				t.Errorf("tried %d times, want %d", tries, tc.tries)
			}
		})
	}
}

// An attestation is handed in until the control plane has decided about it.
func TestDeliveryIsRetried(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("")
	name, _ := w.assigned(id)
	n := w.node(name)
	w.plane.refuseNext(
		connect.NewError(connect.CodeUnavailable, errors.New("starting")),
		connect.NewError(connect.CodeResourceExhausted, errors.New("busy")),
		connect.NewError(connect.CodeUnauthenticated, errors.New("clock")),
		connect.NewError(connect.CodeInternal, errors.New("oops")),
	)
	n.do(t.Context(), w.assignment(id))
	if len(w.plane.received) != 5 {
		t.Errorf("handed in %d times, want 2", len(w.plane.received))
	}
	// One that ends with its context is kept, not delivered.
	w2 := newWorld(t, testcluster.Options{})
	id2 := w2.submit("")
	ctx, cancel := context.WithCancel(t.Context())
	config := w2.config(name)
	config.ControlPlane = cancelling{config.ControlPlane, cancel}
	n2 := w2.open(config)
	in, _ := w2.assigned(id2)
	if in != name {
		t.Fatal("two equal worlds assign differently")
	}
	n2.do(ctx, w2.assignment(id2))
	if s := n2.Stats(); s.Attested != 1 || s.Abandoned != 1 {
		t.Errorf("stats %+v", s)
	}
}

// cancelling ends the context when an attestation is handed in, and fails.
type cancelling struct {
	ControlPlane
	cancel context.CancelFunc
}

func (c cancelling) RecordExecutionProvenance(context.Context, *connect.Request[pb.RecordExecutionProvenanceRequest]) (*connect.Response[pb.RecordExecutionProvenanceResponse], error) {
	c.cancel()
	return nil, connect.NewError(connect.CodeUnavailable, errors.New("gone"))
}

// What is stored must be this node's.
func TestForeignDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id, other := w.submit("hello"), w.submit("other")
	name, _ := w.assigned(id)
	config := w.config(name)
	n := w.open(config)
	n.do(t.Context(), w.assignment(id))
	envelope := (<-w.plane.received).GetEnvelope()
	path := filepath.Join(config.Dir, attestationName(other))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{envelope, []byte("x"), w.Envelope("application/vnd.in-toto+json", []byte("{}"), "k")} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.attempt(t.Context(), &trial{assignment: w.assignment(other), tries: 1}); !errors.Is(err, ErrStore) {
			t.Errorf("got %v, want ErrStore", err)
		}
	}
	if len(w.plane.received) != 0 {
		t.Error("a foreign attestation left the node")
	}
}

func TestModuleCacheKeepsTheLastFew(t *testing.T) {
	t.Parallel()
	var c moduleCache
	fetched := 0
	fetch := func(_ context.Context, d digest.Digest) ([]byte, error) {
		fetched++
		for i := range 10 {
			if b := []byte{byte(i)}; digest.Of(b) == d {
				return b, nil
			}
		}
		return []byte("lie"), nil
	}
	get := func(i int, want int) {
		t.Helper()
		data, err := c.get(t.Context(), digest.Of([]byte{byte(i)}), fetch)
		if err != nil || data[0] != byte(i) || fetched != want {
			t.Errorf("module %d: %q, %v after %d fetches, want %d", i, data, err, fetched, want)
		}
	}
	for i := range maxCachedModules {
		get(i, i+1)
	}
	get(0, 4) // cached, and now the last one used
	get(5, 5) // takes the place of 1
	get(0, 5)
	get(1, 6)
	for range 2 { // what does not have the digest is not kept
		if _, err := c.get(t.Context(), digest.Of([]byte("x")), fetch); err != nil {
			t.Fatal(err)
		}
	}
	if fetched != 8 {
		t.Errorf("%d fetches, want 8", fetched)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	for name, change := range map[string]func(c *Config){
		"id":             func(c *Config) { c.ID = "Node 1" },
		"no key":         func(c *Config) { c.AttestationKey = nil },
		"no policy":      func(c *Config) { c.Trust.AuditPolicy = nil },
		"no runner":      func(c *Config) { c.Runner = nil },
		"genesis":        func(c *Config) { c.Trust.Genesis = []byte("{}") },
		"limits":         func(c *Config) { c.Limits = contract.ClusterLimits{Gas: 1} },
		"file for a dir": func(c *Config) { c.Dir = filepath.Join(c.Dir, "x"); os.WriteFile(c.Dir, nil, 0o600) },
	} {
		config := w.config("node-1")
		change(&config)
		if n, err := Open(config); err == nil {
			n.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	config := w.config("node-1")
	w.open(config)
	if _, err := Open(config); !errors.Is(err, ErrLocked) || !errors.Is(err, ErrStore) {
		t.Errorf("second process: got %v, want ErrLocked", err)
	}
}

// The guard is for faults: what a contract's gas takes on a machine that others
// have their share of stays within it, and it ends before the control plane's
// patience.
func TestGuard(t *testing.T) {
	t.Parallel()
	metered, unmetered := contract.Versions{Rewriter: 1}, contract.Versions{}
	for _, tc := range []struct {
		given              time.Duration
		metered, otherwise time.Duration
	}{
		{0, 4 * time.Minute, time.Minute},
		{time.Second, time.Second, time.Second},
		{time.Hour, time.Hour, time.Hour},
	} {
		c := Config{RunTimeout: tc.given}
		if c.guard(metered) != tc.metered || c.guard(unmetered) != tc.otherwise {
			t.Errorf("given %v: %v, of rewriter 0 %v", tc.given, c.guard(metered), c.guard(unmetered))
		}
	}
}
