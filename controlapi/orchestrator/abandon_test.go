package orchestrator_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// assigned waits until an execution is worked on and returns its nodes.
func (w *world) assigned(id digest.Digest) []string {
	w.t.Helper()
	return w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() }).GetAssignedNodes()
}

func (w *world) abandon(node string, id digest.Digest) {
	w.t.Helper()
	// Its assignment has begun when it can be had.
	w.worker(node).await(func(a *pb.Assignment) bool { return a.GetExecutionId() == id.String() })
	if err := w.Abandon(ctx(w.t), node, id, "stopped", recorded); err != nil {
		w.t.Fatalf("%s abandons: %v", node, err)
	}
}

// When all that were asked have abandoned, the next attempt begins without
// waiting for the deadline, which is an hour here; with the last one, it ends.
func TestAbandonedByAll(t *testing.T) {
	w := newWorld(t, 5)
	id := w.submit(w.register(newContract()), "x", 1)
	asked := 0
	for attempt := range uint64(3) {
		s := w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetAttempt() == attempt })
		for _, node := range s.GetAssignedNodes()[asked:] {
			w.abandon(node, id)
		}
		asked = len(s.GetAssignedNodes())
	}
	s := w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
	if asked != 5 || len(s.GetReports()) != 5 {
		t.Errorf("%d nodes asked, reports %v", asked, s.GetReports())
	}
	for i, r := range s.GetReports() {
		if r.GetNode() != s.GetAssignedNodes()[i] || r.GetAbandoned() != "stopped" || r.GetResultDigest() != "" {
			t.Errorf("report %d: %v", i, r)
		}
	}
	if err := w.Abandon(ctx(t), s.GetAssignedNodes()[0], id, "again", recorded); err != nil {
		t.Errorf("abandoning what is decided: %v", err)
	}
	w.checkLog()
}

// One that has attested and others that have abandoned are everybody, whoever
// is last; and who has abandoned may attest all the same.
func TestAbandonedAndAttested(t *testing.T) {
	w := newWorld(t, 5)
	id := w.submit(w.register(newContract()), "x", 1)
	nodes := w.assigned(id)
	w.abandon(nodes[0], id)
	w.await(id, func(s *pb.ExecutionStatus) bool {
		return len(s.GetReports()) == 1 && s.GetReports()[0].GetAbandoned() == "stopped"
	})
	n := w.worker(nodes[1])
	n.do(n.await(func(a *pb.Assignment) bool { return a.GetExecutionId() == id.String() }))
	if s := must[*pb.ExecutionStatus](t)(w.Status(id, "")); s.GetAttempt() != 0 {
		t.Fatalf("attempt %d although one has not answered", s.GetAttempt())
	}
	w.abandon(nodes[2], id)
	w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetAttempt() == 1 })
	late := w.worker(nodes[0])
	if state := late.do(late.await(func(a *pb.Assignment) bool { return a.GetExecutionId() == id.String() })); state != pb.ExecutionState_EXECUTION_STATE_COMPLETE {
		t.Errorf("after the late attestation: %v", state)
	}
	var abandoned, agree int
	for _, r := range w.await(id, proofReady).GetReports() {
		if r.GetAbandoned() != "" {
			abandoned++
		}
		if r.GetAgrees() {
			agree++
		}
	}
	if abandoned != 1 || agree != 2 {
		t.Errorf("%d abandoned, %d agree", abandoned, agree)
	}
	w.checkLog()
}

// Nobody learns about what it was not assigned, and the code is a word.
func TestAbandonRefusals(t *testing.T) {
	w := prepare(t, 5)
	var text strings.Builder
	w.config = func(c *orchestrator.Config) { c.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: &text}, nil)) }
	w.mustOpen()
	w.audit.automatic(false)
	hash := w.register(newContract())
	id := w.submit(hash, "x", 1)
	nodes := must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetAssignedNodes()
	other := ""
	for _, n := range []string{"node-1", "node-2", "node-3", "node-4", "node-5"} {
		if !contains(nodes, n) {
			other = n
		}
	}
	wantCode(t, "an attempt that has not begun", w.Abandon(ctx(t), nodes[0], id, "stopped", recorded), orchestrator.CodeExecutionUnknown)
	w.audit.automatic(true)
	w.abandon(nodes[0], id)
	if err := w.Abandon(ctx(t), nodes[0], id, "again", recorded); err != nil {
		t.Errorf("again: %v", err)
	}
	if r := must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetReports(); len(r) != 1 || r[0].GetAbandoned() != "stopped" {
		t.Errorf("reports %v", r)
	}
	n := w.worker(nodes[1])
	n.work()
	for _, tt := range []struct {
		name, node string
		id         digest.Digest
		code       string
		want       orchestrator.Code
	}{
		{"unknown execution", nodes[0], digestOf("nothing"), "stopped", orchestrator.CodeExecutionUnknown},
		{"not assigned", other, id, "stopped", orchestrator.CodeExecutionUnknown},
		{"a tenant", "acme", id, "stopped", orchestrator.CodeExecutionUnknown},
		{"has attested", nodes[1], id, "stopped", orchestrator.CodeExecutionUnknown},
		{"no code", nodes[2], id, "", orchestrator.CodeArgument},
		{"a sentence", nodes[2], id, "out of luck", orchestrator.CodeArgument},
		{"upper case", nodes[2], id, "Stopped", orchestrator.CodeArgument},
		{"a long code", nodes[2], id, strings.Repeat("a", 64), orchestrator.CodeArgument},
	} {
		wantCode(t, tt.name, w.Abandon(ctx(t), tt.node, tt.id, tt.code, recorded), tt.want)
	}
	w.cancel(id)
	if err := w.Abandon(ctx(t), nodes[1], id, strings.Repeat("a", 63), recorded); err != nil {
		t.Errorf("abandoning what is cancelled: %v", err)
	}
	wantCode(t, "not assigned, cancelled", w.Abandon(ctx(t), other, id, "stopped", recorded), orchestrator.CodeExecutionUnknown)
	w.checkLog()
	w.Close()
	wantCode(t, "after the end", w.Abandon(ctx(t), nodes[2], id, "stopped", recorded), orchestrator.CodeUnavailable)
	if got := strings.Count(text.String(), `level=INFO msg="assignment abandoned"`); got != 1 {
		t.Errorf("%d log lines of an abandonment:\n%s", got, text.String())
	}
}

type lockedWriter struct {
	mu sync.Mutex
	w  *strings.Builder
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// A node that holds a stream and has just abandoned something else is coming to
// what it has not passed: the attempt goes on past its deadline, and not for ever
// if it gets no nearer, however alive it is.
func TestAbandonmentIsASignOfLife(t *testing.T) {
	w := prepare(t, 1)
	w.config = func(c *orchestrator.Config) { c.AttemptDeadline, c.Now = time.Millisecond, still }
	w.mustOpen()
	one := func(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned = 1, 1, 1 }
	hash := w.register(newContract(one))
	stream := must[<-chan *pb.Assignment](t)(w.Assignments(ctx(t), "node-1")) // its clock stands still
	first := w.submit(hash, "1", 1)
	if a := <-stream; a.GetExecutionId() != first.String() {
		t.Fatalf("assigned %s", a.GetExecutionId())
	}
	if err := w.Abandon(ctx(t), "node-1", first, "stopped", recorded); err != nil {
		t.Fatal(err)
	}
	w.awaitState(first, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
	second := w.submit(hash, "2", 2)
	w.awaitState(second, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
	w.checkLog()
}

// One that has just connected is waited for once, and not for ever.
func TestSilentNodeIsWaitedForOnce(t *testing.T) {
	w := prepare(t, 1)
	w.config = func(c *orchestrator.Config) { c.AttemptDeadline, c.Now = time.Millisecond, still }
	w.mustOpen()
	hash := w.register(newContract(func(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned = 1, 1, 1 }))
	must[<-chan *pb.Assignment](t)(w.Assignments(ctx(t), "node-1"))
	w.awaitState(w.submit(hash, "1", 1), pb.ExecutionState_EXECUTION_STATE_EXPIRED)
	w.checkLog()
}

// A node that says that it is on something is waited for some deadlines longer,
// and not for ever; its word about what it was not assigned counts for nothing.
func TestWorkingNodeIsWaitedFor(t *testing.T) {
	w := prepare(t, 1)
	w.config = func(c *orchestrator.Config) { c.AttemptDeadline, c.Now = time.Millisecond, still }
	w.mustOpen()
	hash := w.register(newContract(func(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned = 1, 1, 1 }))
	stream := must[<-chan *pb.Assignment](t)(w.Assignments(ctx(t), "node-1"))
	id := w.submit(hash, "1", 1)
	<-stream
	w.Working("node-1", []digest.Digest{id, {}})
	w.Working("stranger", []digest.Digest{id})
	w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_EXPIRED) // its word holds a few deadlines
	w.checkLog()
}

// A node that is being stopped gives back what it has not begun: others are asked
// at once, nothing expires for it while it may be back, and it is told again.
func TestDrainingNode(t *testing.T) {
	w := newWorld(t, 2)
	id := w.submit(w.register(newContract(func(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned, c.Step = 1, 1, 2, 1 })), "x", 1)
	first := w.assigned(id)[0]
	w.worker(first).await(func(a *pb.Assignment) bool { return a.GetExecutionId() == id.String() })
	if err := w.Abandon(ctx(t), first, id, orchestrator.CodeDraining, recorded); err != nil {
		t.Fatal(err)
	}
	s := w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetAttempt() == 1 })
	second := s.GetAssignedNodes()[1]
	w.worker(second).await(func(a *pb.Assignment) bool { return a.GetExecutionId() == id.String() })
	if err := w.Abandon(ctx(t), second, id, orchestrator.CodeDraining, recorded); err != nil {
		t.Fatal(err)
	}
	// Both are away, and neither for good.
	again := must[<-chan *pb.Assignment](t)(w.Assignments(ctx(t), first))
	if a := <-again; a.GetExecutionId() != id.String() {
		t.Errorf("the node that is back is told %v", a)
	}
	s = must[*pb.ExecutionStatus](t)(w.Status(id, ""))
	if s.GetState() != pb.ExecutionState_EXECUTION_STATE_OPEN || len(s.GetReports()) != 1 || s.GetReports()[0].GetNode() != second {
		t.Errorf("the execution is %v", s)
	}
	w.checkLog()
}

// still is a clock that stands still.
func still() time.Time { return time.Unix(1_800_000_000, 0) }
