package node

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// The table has a row for every code, so none is lasting or passing by accident.
func TestEveryCodeIsInTheTable(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "refusal.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Refused") {
			return true
		}
		codes++
		text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := refusals[RefusalCode(text)]; !ok || h.tries < 0 {
			t.Errorf("%s: %+v", spec.Names[0].Name, h)
		}
		return true
	})
	if codes == 0 || codes != len(refusals) {
		t.Errorf("%d codes, %d rows", codes, len(refusals))
	}
}

// What may pass is tried again, what lasts is not; each class ends as it should.
func TestHandling(t *testing.T) {
	t.Parallel()
	const most = time.Minute
	for _, tc := range []struct {
		err   error
		tries int // in all, while less than most has passed; 0: as many as ever
		after bool
		level slog.Level
	}{
		{RefusedMalformed, 1, false, slog.LevelWarn},
		{RefusedLogKey, 1, false, slog.LevelWarn},
		{RefusedRecord, 1, false, slog.LevelWarn},
		{RefusedNotAssigned, 1, false, slog.LevelWarn},
		{RefusedNotMember, 1, false, slog.LevelWarn},
		{RefusedAdmission, 1, false, slog.LevelWarn},
		{RefusedFork, 1, false, slog.LevelError},
		{RefusedConsistency, 1, false, slog.LevelError},
		{RefusedStale, 0, false, slog.LevelWarn},
		{RefusedEpoch, 0, false, slog.LevelWarn},
		{RefusedMissing, 3, false, slog.LevelInfo},
		{ErrUnavailable, 0, false, slog.LevelWarn},
		{errFault, 2, false, slog.LevelError},
		{errFaultSoon, 5, false, slog.LevelError},
		{fmt.Errorf("%w: %w", errOutdated, refuse(RefusedEpoch, "for a test")), 1, false, slog.LevelInfo},
		{ErrStopped, 1, false, slog.LevelWarn},
		{errUndelivered, 0, true, slog.LevelWarn},
		{ErrStore, 1, false, slog.LevelError},
	} {
		err := fmt.Errorf("wrapped: %w", tc.err)
		if code, ok := tc.err.(RefusalCode); ok {
			err = fmt.Errorf("wrapped: %w", refuse(code, "for a test"))
		}
		h := handlingOf(err)
		if h.level != tc.level {
			t.Errorf("%v: level %v, want %v", tc.err, h.level, tc.level)
		}
		tries := 1
		for tries < 2*maxTries && h.again(tries, 0, most) {
			tries++
		}
		want := tc.tries
		switch {
		case tc.after:
			want = 2 * maxTries
		case want == 0:
			want = maxTries
		}
		if tries != want {
			t.Errorf("%v: %d tries, want %d", tc.err, tries, want)
		}
		if tc.tries == 0 && h.again(1, most, most) != tc.after {
			t.Errorf("%v: tried again after the time: %v", tc.err, !tc.after)
		}
	}
}

// Each thing that may pass does pass while the assignment is open, and then it is
// attested.
func TestPassingFailuresPass(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		// begin breaks something and returns what mends it.
		begin func(w *world, c *Config, id digest.Digest) (mend func())
	}{
		{"log is away", func(w *world, c *Config, id digest.Digest) func() {
			w.AddNode("node-9") // so that changes must be fetched
			w.logs.set(func(membership.LogName, string) ([]byte, error) { return nil, errors.New("down") })
			return func() { w.logs.set(nil) }
		}},
		{"membership is not fresh", func(w *world, c *Config, id digest.Digest) func() {
			c.Now = func() time.Time { return w.now().Add(time.Duration(w.skew.Load())) }
			w.skew.Store(int64(time.Hour))
			return func() { w.skew.Store(0) }
		}},
		{"payload is missing", func(w *world, c *Config, id digest.Digest) func() {
			input := w.Execution(id).Submission.Input
			w.plane.replace(input, nil)
			return func() { w.plane.put([]byte("hello")) }
		}},
		{"runner fails", func(w *world, c *Config, id digest.Digest) func() {
			broken := &switched{Runner: w.runner}
			broken.off.Store(true)
			c.Runner = broken
			return func() { broken.off.Store(false) }
		}},
		{"attestation is not taken", func(w *world, c *Config, id digest.Digest) func() {
			busy := connect.NewError(connect.CodeUnavailable, errors.New("busy"))
			w.plane.refuseNext(busy, busy)
			return func() {}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testcluster.Options{})
			id := w.submit("hello")
			config := w.config("")
			config.ID, _ = w.assigned(id)
			config.AttestationKey = testcluster.Key(config.ID + "/attestation")
			config.Timing.Retry = time.Hour
			mend := tc.begin(w, &config, id)
			n := w.open(config)
			mended := false
			n.retrying = func() { // after the first failure
				if !mended {
					mended = true
					mend()
				}
			}
			n.do(t.Context(), w.assignment(id))
			if s := n.Stats(); s.Attested != 1 || s.Retries == 0 || len(s.Refused) != 0 || s.Abandoned != 0 {
				t.Errorf("stats %+v\n%s", s, w.log)
			}
		})
	}
}

// An epoch that one assignment does not prove is proven by another.
func TestEpochIsProvenByAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id, other := w.submit("hello"), w.submit("other")
	name, _ := w.assigned(id)
	lacking := w.assignment(id)
	w.AddNode("node-9")
	lacking.MembershipCheckpoint = w.Membership.Signed(w.Membership.Size())
	config := w.config(name)
	config.Timing.Retry = time.Hour
	n := w.open(config)
	n.retrying = func() { verify(t, n, w.assignment(other), nil) }
	n.do(t.Context(), lacking)
	if s := n.Stats(); s.Attested != 1 || s.Retries != 1 {
		t.Errorf("stats %+v\n%s", s, w.log)
	}
}

// An execution that was decided meanwhile has no payloads for a node: normal for
// the last of those assigned, and nothing that an operator need see.
func TestDecidedExecutionIsQuiet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	w.plane.replace(w.Execution(id).Submission.Input, nil)
	n := w.node(name)
	n.do(t.Context(), w.assignment(id))
	if s := n.Stats(); s.Refused[RefusedMissing] != 1 || s.Retries != 2 {
		t.Errorf("stats %+v", s)
	}
	if log := w.log.String(); strings.Contains(log, "put it first") || !strings.Contains(log, "decided meanwhile") {
		t.Errorf("it advises what does not help:\n%s", log)
	}
	if log := w.log.String(); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") || strings.Count(log, "\n") > 2 {
		t.Errorf("it is not quiet:\n%s", log)
	}
}

// A fork is refused once, and the log says where the evidence is.
func TestForkStaysRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	config.Timing.Retry = time.Hour
	n := w.open(config)
	verify(t, n, w.assignment(id), nil)
	c := w.Audit.Checkpoint(w.Audit.Size())
	c.Root[0] ^= 1
	a := w.assignment(id)
	a.AuditCheckpoint = w.Audit.Sign(c, 3)
	for range 2 { // nor is it taken when it is assigned again
		n.do(t.Context(), a)
	}
	if s := n.Stats(); s.Refused[RefusedFork] != 2 || s.Retries != 0 {
		t.Errorf("stats %+v", s)
	}
	if log := w.log.String(); !strings.Contains(log, filepath.Join(config.Dir, "evidence")) || !strings.Contains(log, "level=ERROR") {
		t.Errorf("the evidence is not visible:\n%s", log)
	}
}

// A fork is told as such though the node has tiles of the first history.
func TestForkDespiteCachedTiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	fork := newWorld(t, testcluster.Options{})
	fork.submit("forked")
	id := w.submit("hello")
	name, _ := w.assigned(id)
	n := w.node(name)
	verify(t, n, w.assignment(id), nil)
	for _, world := range []*world{w, fork} {
		for range 300 {
			world.Append(&pb.Record{Body: &pb.Record_Operation{Operation: &pb.OperationRecord{Code: "ok"}}})
		}
	}
	verify(t, n, w.assignment(id), nil) // caches the first tile
	forked := fork.submit("more")
	w.logs.trees[membership.LogAudit] = fork.Audit
	verify(t, n, fork.assignment(forked), RefusedFork)
}

// One that waits for another try keeps no other from its turn, and a node that
// is stopped does not wait for it.
func TestWaitingBlocksNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	stuck, id := w.submit("stuck"), w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	config.Capacity = 1
	config.Timing.BackoffMin, config.Timing.BackoffMax, config.Timing.Retry = time.Hour, time.Hour, time.Hour
	a := w.assignment(stuck)
	w.logs.set(func(membership.LogName, string) ([]byte, error) { return nil, errors.New("down") })
	n := w.open(config)
	n.slots = newTurns(1, 1)
	waits := make(chan struct{}, 1)
	n.retrying = func() { waits <- struct{}{} }
	w.plane.replace(w.Execution(stuck).Submission.Input, nil)
	r := w.run(n)
	<-w.plane.connected
	w.plane.streams <- []*pb.Assignment{a}
	<-waits
	w.plane.streams <- []*pb.Assignment{w.assignment(id), a} // again, while it waits
	<-w.plane.received
	if s := n.Stats(); s.Waiting != 1 || s.Attested != 1 || s.Assignments != 2 {
		t.Errorf("stats %+v", s)
	}
	r.stop()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	if s := n.Stats(); s.Waiting != 0 || s.Running != 0 || s.Refused[RefusedMissing] != 1 {
		t.Errorf("after the stop: %+v", s)
	}
}

func TestTooManyWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	n := w.node(name)
	w.plane.replace(w.Execution(id).Submission.Input, nil)
	n.waiting = maxWaiting
	n.do(t.Context(), w.assignment(id))
	if s := n.Stats(); s.Refused[RefusedMissing] != 1 || s.Retries != 0 || s.Waiting != maxWaiting {
		t.Errorf("stats %+v", s)
	}
}

// A failed directory ends the node, also while its stream is open and idle.
func TestFailedDirectoryEndsRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	n := w.open(w.config(name))
	verify(t, n, w.assignment(id), nil)
	n.store.sync = failSync
	r := w.run(n)
	<-w.plane.connected
	w.plane.streams <- []*pb.Assignment{w.assignment(id)}
	if err := <-r.done; !errors.Is(err, ErrStore) {
		t.Errorf("Run returned %v, want ErrStore", err)
	}
}

// Accepted checkpoints are taken again without a look at the log, as long as they
// are fresh.
func TestAcceptedCheckpointsAreRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	w.AddNode("node-9")
	name, _ := w.assigned(id)
	config := w.config(name)
	now := w.now()
	config.Now = func() time.Time { return now }
	n := w.open(config)
	a := w.assignment(id)
	verify(t, n, a, nil)
	requests := w.logs.requests
	verify(t, n, a, nil)
	if w.logs.requests != requests {
		t.Errorf("%d more requests", w.logs.requests-requests)
	}
	now = now.Add(DefaultMaxAge + time.Minute)
	verify(t, n, a, RefusedStale)
	now = now.Add(-DefaultMaxAge - time.Hour)
	verify(t, n, a, RefusedStale)
	l := n.view.logs[membership.LogAudit]
	for i := range 2 * maxAccepted {
		l.remember([]byte(strconv.Itoa(i)), accepted{})
	}
	if len(l.accepted) > maxAccepted {
		t.Errorf("%d remembered, at most %d", len(l.accepted), maxAccepted)
	}
}

// Modules run Capacity at a time, in the order in which they were assigned, and
// meanwhile others are prepared.
func TestRunsInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	var ids []digest.Digest
	for i := range 5 {
		ids = append(ids, w.submit(strconv.Itoa(i)))
	}
	name, _ := w.assigned(ids[0])
	config := w.config(name)
	config.Capacity = 1
	runner := &ordered{upper: w.runner, inputs: make(chan string), release: make(chan struct{})}
	config.Runner = runner
	n := w.open(config)
	n.slots = newTurns(1, 1) // so that preparing is in order too
	r := w.run(n)
	<-w.plane.connected
	var list []*pb.Assignment
	for _, id := range ids {
		list = append(list, w.assignment(id))
	}
	w.plane.streams <- list
	for i := range ids {
		if got := <-runner.inputs; got != strconv.Itoa(i) {
			t.Errorf("run %d is of %q", i, got)
		}
		if s := n.Stats(); s.Running != 1 {
			t.Errorf("stats %+v", s)
		}
		runner.release <- struct{}{}
		<-w.plane.received
	}
	r.stop()
	<-r.done
}

// A tenant whose modules do not end delays another's by a run, not by all that
// it has brought before.
func TestTenantsTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	con := w.Contract()
	con.Tenant = testcluster.Other
	hostile := w.Register(con)
	var list []*pb.Assignment
	for range 40 { // more than there are slots
		sub := w.Submission(hostile, []byte("loop"))
		sub.Tenant = testcluster.Other
		w.Append(w.RequestRecord(sub))
		list = append(list, w.assignment(sub.ExecutionID()))
	}
	w.plane.put([]byte("loop"))
	id := w.submit("honest")
	config := w.config("")
	config.ID, _ = w.assigned(id)
	config.AttestationKey = testcluster.Key(config.ID + "/attestation")
	config.Capacity = 1
	runner := &ordered{upper: w.runner, inputs: make(chan string), release: make(chan struct{})}
	config.Runner = runner
	n := w.open(config)
	n.cold.warm[digest.Of(testcluster.Module)] = true // so that all wait in one line
	r := w.run(n)
	<-w.plane.connected
	w.plane.streams <- list
	if got := <-runner.inputs; got != "loop" {
		t.Fatalf("the first run is of %q", got)
	}
	w.plane.streams <- []*pb.Assignment{w.assignment(id)}
	for { // until it is prepared, while the other's hold their share of the slots
		n.runs.mu.Lock()
		waits := len(n.runs.lines[testcluster.Tenant]) == 1 && len(n.runs.lines[testcluster.Other]) > 0
		n.runs.mu.Unlock()
		if waits {
			break
		}
		select {
		case err := <-r.done:
			t.Fatalf("Run returned %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if s := n.Stats(); s.Queued == 0 || s.Running != 1 {
		t.Errorf("stats %+v", s)
	}
	runner.release <- struct{}{}
	if got := <-runner.inputs; got != "honest" {
		t.Errorf("the next run is of %q", got)
	}
	r.stop()
	<-r.stopping.Done()
	close(runner.release)
	<-r.done
}

// ordered is a runner that tells what it runs.
type ordered struct {
	*upper
	inputs  chan string
	release chan struct{}
}

func (o *ordered) Run(ctx context.Context, run Run) (*Result, error) {
	o.inputs <- string(run.Input)
	<-o.release
	return o.upper.Run(ctx, run)
}
