package node

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// When as many wait as may, an outage makes no assignment be given up: it keeps
// its slot, so that nothing new is begun, until it can go on.
func TestOutageWithABacklog(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(w *world, c *Config) (mend func()){
		"log is away": func(w *world, _ *Config) func() {
			w.AddNode("node-9")
			w.logs.set(func(membership.LogName, string) ([]byte, error) { return nil, errors.New("down") })
			return func() { w.logs.set(nil) }
		},
		"membership is not fresh": func(w *world, c *Config) func() {
			c.Now = func() time.Time { return w.now().Add(time.Duration(w.skew.Load())) }
			w.skew.Store(int64(time.Hour))
			return func() { w.skew.Store(0) }
		},
		"payloads are not taken": func(w *world, _ *Config) func() {
			w.plane.failPuts = 3
			return func() {}
		},
		"attestation is not taken": func(w *world, _ *Config) func() {
			busy := connect.NewError(connect.CodeUnavailable, errors.New("busy"))
			w.plane.refuseNext(busy, busy)
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testcluster.Options{})
			id := w.submit("hello")
			in, _ := w.assigned(id)
			config := w.config(in)
			config.Timing.Retry = time.Hour
			mend := begin(w, &config)
			n := w.open(config)
			n.waiting = maxWaiting
			n.retrying = func() {
				if n.slots.total != 1 {
					t.Errorf("%d slots are held", n.slots.total)
				}
				mend()
			}
			n.do(t.Context(), w.assignment(id))
			if s := n.Stats(); s.Attested != 1 || s.Retries == 0 || s.Abandoned != 0 || len(s.Refused) != 0 || s.Waiting != maxWaiting || len(n.notices) != 0 {
				t.Errorf("stats %+v\n%s", s, w.log)
			}
		})
	}
	t.Run("for ever", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, testcluster.Options{})
		id := w.submit("hello")
		in, _ := w.assigned(id)
		w.AddNode("node-9")
		w.logs.set(func(membership.LogName, string) ([]byte, error) { return nil, errors.New("down") })
		n := w.node(in)
		n.waiting = maxWaiting
		n.do(t.Context(), w.assignment(id))
		if s := n.Stats(); s.Abandoned != 1 || s.Attested != 0 || s.Waiting != maxWaiting {
			t.Errorf("stats %+v", s)
		}
		if x := <-n.notices; x.code != abandonedUnavailable {
			t.Errorf("told %+v", x)
		}
	})
}

// counted counts runs.
type counted struct {
	Runner
	runs atomic.Int64
}

func (c *counted) Run(ctx context.Context, run Run) (*Result, error) {
	c.runs.Add(1)
	return c.Runner.Run(ctx, run)
}

// Payloads that are not taken at first are handed in later without another run,
// unless too much is kept for that already.
func TestPayloadsWaitInMemory(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		retained int
		runs     int64
	}{{0, 1}, {maxRetained, 4}} {
		w := newWorld(t, testcluster.Options{})
		id := w.submit("hello")
		name, _ := w.assigned(id)
		config := w.config(name)
		runner := &counted{Runner: w.runner}
		config.Runner = runner
		n := w.open(config)
		n.retained = tc.retained
		w.plane.failPuts = 3
		n.do(t.Context(), w.assignment(id))
		w.take((<-w.plane.received).GetEnvelope())
		if _, ok := w.plane.blob(testcluster.OK("HELLO").OutputDigest.String()); !ok {
			t.Error("the output was not handed in")
		}
		if s := n.Stats(); s.Attested != 1 || s.Retries != 3 || runner.runs.Load() != tc.runs || n.retained != tc.retained {
			t.Errorf("with %d bytes kept before: %d runs, want %d; %d kept after; %+v", tc.retained, runner.runs.Load(), tc.runs, n.retained, s)
		}
	}
}

// A result in memory is held against what was signed, as that of another run is.
func TestResultInMemoryIsCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	a := w.assignment(id)
	w.stopBeforePut(config, a)
	n := w.open(config)
	other := testcluster.OK("HELLO")
	other.PeakPages++
	err := n.attempt(t.Context(), &trial{assignment: a, tries: 2, result: &Result{Outcome: other, Output: []byte("HELLO")}})
	if !errors.Is(err, errContradiction) || len(w.plane.received) != 0 {
		t.Errorf("got %v, %d handed in", err, len(w.plane.received))
	}
}

// The control plane is given the time that it asks for, within bounds.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	n := w.node("node-1")
	for text, want := range map[string]time.Duration{
		"7": 7 * time.Second, "": 0, "soon": 0, "-1": 0, "99999999999": 0, "2147483647": 2147483647 * time.Second,
	} {
		busy := connect.NewError(connect.CodeResourceExhausted, errors.New("[quota_rate] too many calls"))
		busy.Meta().Set("Retry-After", text)
		w.plane.refuseNext(busy)
		_, err := n.sendOnce(t.Context(), nil)
		<-w.plane.received
		if got := retryAfter(errors.Join(errUndelivered, err)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got := retryAfter(ErrUnavailable); got != 0 {
		t.Errorf("asked by nobody: %v", got)
	}
	synctest.Test(t, func(t *testing.T) {
		b := &backoff{next: time.Second, max: 30 * time.Second}
		for _, tc := range []struct{ asked, least, most time.Duration }{
			{7 * time.Second, 7 * time.Second, 7 * time.Second},
			{time.Hour, 30 * time.Second, 30 * time.Second},
			{0, 2 * time.Second, 4 * time.Second},
		} {
			began := time.Now()
			if !b.wait(t.Context(), tc.asked) {
				t.Fatal("the context ended")
			}
			if waited := time.Since(began); waited < tc.least || waited > tc.most {
				t.Errorf("asked for %v: waited %v, want %v to %v", tc.asked, waited, tc.least, tc.most)
			}
		}
	})
}

// A backlog that outlives its membership checkpoints, and a change: what cannot be
// proven any more is asked for anew on another stream, and nothing is given up.
func TestBacklogOutlivesAChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	var ids []digest.Digest
	for i := range 20 {
		ids = append(ids, w.submit(strconv.Itoa(i)))
	}
	name, _ := w.assigned(ids[0])
	assign := func() (list []*pb.Assignment) {
		for _, id := range ids {
			if attempt, ok := w.Execution(id).Schedule.FirstAttempt(name); ok && attempt == 0 {
				list = append(list, w.assignment(id))
			}
		}
		return list
	}
	stale := assign()
	for range 30 { // a minute each
		w.Change(membership.SetNodeQuorum{Quorum: w.History.Current().NodeQuorum()%3 + 1})
	}
	w.logs.checkpoint = w.Membership.Signed(w.Membership.Size())
	fresh := assign()
	w.plane.connected = make(chan *pb.NodeInfo, 1000)
	w.plane.received = make(chan *pb.RecordExecutionProvenanceRequest, 1000)
	given := w.plane.givenBack()
	var streams atomic.Int64
	w.plane.opening = func() []*pb.Assignment {
		if streams.Add(1) == 1 {
			return stale
		}
		return fresh
	}
	config := w.config(name)
	config.Timing.BackoffMax = 20 * time.Millisecond // between streams
	r := w.start(config)
	// A later stream brings once more what is attested by then, which is sent again.
	for seen := make(map[string]bool); len(seen) < len(fresh); {
		select {
		case req := <-w.plane.received:
			if envelope := req.GetEnvelope(); !seen[string(envelope)] {
				seen[string(envelope)] = true
				w.take(envelope)
			}
		case x := <-given:
			t.Fatalf("given up: %v", x)
		case <-time.After(30 * time.Second):
			t.Fatalf("%+v\n%s", r.Stats(), w.log)
		}
	}
	r.stop()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	s := r.Stats()
	if s.Refused[RefusedEpoch] == 0 || s.Attested != uint64(len(fresh)) || s.Abandoned != 0 || len(given) != 0 {
		t.Errorf("stats %+v, %d given up", s, len(given))
	}
	if s.Connections < 2 || s.Connections > uint64(len(fresh))+1 {
		t.Errorf("%d streams", s.Connections)
	}
	if strings.Contains(w.log.String(), "stream ended") {
		t.Errorf("a stream that the node ended itself is a problem:\n%s", w.log)
	}
}

// However often it is asked for, a stream is opened anew once in BackoffMax.
func TestRenewalIsRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int64
		n := &Node{config: Config{Timing: Timing{BackoffMax: 30 * time.Second}}}
		n.endStream = func(err error) {
			if !errors.Is(err, errRenewed) {
				t.Errorf("ended with %v", err)
			}
			ended.Add(1)
		}
		n.renew()
		synctest.Wait()
		if ended.Load() != 1 {
			t.Fatalf("ended %d times at first", ended.Load())
		}
		for range 100 {
			n.renew()
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if ended.Load() != 4 {
			t.Errorf("ended %d times in 100 s, want 4", ended.Load())
		}
		n.mu.Lock()
		n.endStream = nil
		n.mu.Unlock()
		n.renew()
		time.Sleep(time.Minute) // without a stream
		synctest.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.renewal != nil {
			t.Error("a renewal stays")
		}
	})
}
