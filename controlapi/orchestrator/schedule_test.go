package orchestrator_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// impatient makes attempts end as soon as they have begun.
func impatient(t testing.TB, nodes int) *world {
	t.Helper()
	w := prepare(t, nodes)
	w.config = func(c *orchestrator.Config) { c.AttemptDeadline = time.Millisecond }
	w.mustOpen()
	return w
}

// Nobody answers: attempt after attempt, then the end.
func TestExpires(t *testing.T) {
	w := impatient(t, 5)
	id := w.submit(w.register(newContract()), "x", 1)
	s := w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
	if s.GetAttempt() != 2 || len(s.GetAssignedNodes()) != 5 {
		t.Errorf("expired in attempt %d with %d nodes", s.GetAttempt(), len(s.GetAssignedNodes()))
	}
	w.checkNoResult(id)
	w.checkLog()
}

// A deadline that runs when the process dies begins again after the restart.
func TestDeadlineAfterRestart(t *testing.T) {
	w := newWorld(t, 4)
	id := w.submit(w.register(newContract(func(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned = 3, 2, 4 })), "x", 1)
	w.config = func(c *orchestrator.Config) { c.AttemptDeadline = time.Millisecond }
	w.restart()
	w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_EXPIRED)
	w.checkLog()
}

// The nodes of attempt 0 stay away; one of attempt 1 gets the reschedule record
// with its proof, and completes the execution with a late one of attempt 0.
func TestReschedules(t *testing.T) {
	w := newWorld(t, 2)
	hash := w.register(newContract(func(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned = 1, 1, 2 }))
	w.config = func(c *orchestrator.Config) { c.AttemptDeadline = 50 * time.Millisecond }
	w.restart()
	id := w.submit(hash, "x", 1)
	s := w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetAttempt() == 1 })
	w.config = nil
	w.restart() // patient again
	n := w.worker(s.GetAssignedNodes()[1])
	a := n.next()
	if a.GetAttempt() != 1 || len(a.GetReschedules()) != 1 {
		t.Errorf("assignment of attempt %d with %d reschedule records", a.GetAttempt(), len(a.GetReschedules()))
	}
	n.work()
	w.await(id, proofReady)
	b := must[*pb.ProofBundle](t)(provenance.ParseBundle(must[[]byte](t)(w.Bundle(ctx(t), id, "acme", false))))
	var kinds []record.Kind
	for _, r := range b.GetRecords() {
		kinds = append(kinds, record.KindOf(openingRecord(t, r.GetOpening())))
	}
	if want := []record.Kind{record.KindEpoch, record.KindContract, record.KindRequest, record.KindReschedule, record.KindAttestation, record.KindProvenance}; !slices.Equal(kinds, want) {
		t.Errorf("the bundle holds %v, want %v", kinds, want)
	}
	w.checkLog()
}

// When all that were asked have answered and do not agree, the next attempt
// begins without waiting for the deadline, which is an hour here.
func TestDisagreementReschedules(t *testing.T) {
	w := newWorld(t, 5)
	id := w.submit(w.register(newContract()), "x", 1)
	s := w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() })
	for _, node := range s.GetAssignedNodes() {
		n := w.worker(node)
		n.run = func(*pb.Assignment, []byte) string { return node }
		n.work()
	}
	s = w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetAttempt() == 1 })
	// A fourth opinion makes two more agreeing ones too few.
	n := w.worker(s.GetAssignedNodes()[3])
	n.run = func(*pb.Assignment, []byte) string { return "fourth" }
	if state := n.work(); state != pb.ExecutionState_EXECUTION_STATE_DIVERGED {
		t.Errorf("after four results: %v", state)
	}
	reports := must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetReports()
	recorded := int64(reports[len(reports)-1].GetIndex()) + 2
	if _, err := w.audit.WaitPublished(ctx(t), recorded); err != nil {
		t.Fatal("the divergence was never recorded")
	}
	if ex, _ := w.checkLog().Execution(id); ex.Derived.GetDivergence() == nil || !ex.Recorded {
		t.Errorf("derived %v", ex.Derived)
	}
	w.checkNoResult(id)
}

// A child reads its parents' outputs, in order, before its own input.
func TestParents(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	first, second := w.submit(hash, "one ", 1), w.submit(hash, "two ", 2)
	for _, id := range []digest.Digest{first, second} {
		w.complete(id)
	}
	parents := func(s *contract.Submission) { s.Parents = []digest.Digest{second, first} }
	_, _, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, string(make([]byte, 1020)), 3, parents), make([]byte, 1020))
	wantCode(t, "input and parents' outputs over the limit", err, orchestrator.CodeTooLarge)
	child := w.submit(hash, "three", 4, parents)
	s := w.complete(child)
	if s.GetOutcome().GetOutputDigest() != digestOf("TWO ONE THREE").String() {
		data, err := w.GetBlob(ctx(t), "acme", must[digest.Digest](t)(digest.Parse(s.GetOutcome().GetOutputDigest())))
		t.Errorf("output %q, %v", data, err)
	}
	if want := []string{second.String(), first.String()}; !slices.Equal(s.GetParents(), want) {
		t.Errorf("parents %v", s.GetParents())
	}
	_, err = w.GetAssignedBlob(ctx(t), "node-1", digestOf("TWO "))
	wantCode(t, "a parent's output after the end", err, orchestrator.CodeBlobUnknown)
	w.checkLog()
}

// Nothing is assigned before a witnessed checkpoint covers the request.
func TestAssignmentWaitsForWitnesses(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	w.audit.automatic(false)
	id := w.submit(hash, "x", 1)
	if s := must[*pb.ExecutionStatus](t)(w.Status(id, "")); s.GetWitnessed() {
		t.Error("witnessed without a witness")
	}
	c, cancel := context.WithCancel(ctx(t))
	defer cancel()
	stream := must[<-chan *pb.Assignment](t)(w.Assignments(c, "node-1"))
	select {
	case a := <-stream:
		t.Errorf("assigned before the request was witnessed: %v", a.GetExecutionId())
	default:
	}
	_, err := w.GetAssignedBlob(ctx(t), "node-1", digestOf("x"))
	wantCode(t, "payload before the assignment", err, orchestrator.CodeBlobUnknown)
	w.audit.round()
	a := <-stream
	w.worker("node-1").statement(a)
	if !bytes.Equal(a.GetAuditCheckpoint(), a.GetRequestCheckpoint()) {
		t.Error("the request checkpoint serves, and another was sent")
	}
	if _, err := w.GetAssignedBlob(ctx(t), "node-1", digestOf("x")); err != nil {
		t.Error(err)
	}
	_, err = w.GetAssignedBlob(ctx(t), "stranger", digestOf("x"))
	wantCode(t, "payload of somebody else's assignment", err, orchestrator.CodeBlobUnknown)
}

// The checkpoints of an assignment are of the same epoch: with a change that
// only one of the logs has published, it waits.
func TestAssignmentIsOfOneEpoch(t *testing.T) {
	for _, late := range []string{"audit", "membership"} {
		t.Run(late, func(t *testing.T) {
			w := newWorld(t, 3)
			id := w.submit(w.register(newContract()), "x", 1)
			w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() })
			lagging := map[string]*fakeLog{"audit": w.audit, "membership": w.members}[late]
			lagging.automatic(false)
			w.change(membership.SetNodeQuorum{Quorum: 2})
			if late == "audit" {
				c, cancel := context.WithCancel(ctx(t))
				defer cancel()
				stream := must[<-chan *pb.Assignment](t)(w.Assignments(c, "node-1"))
				select {
				case <-stream:
					t.Error("assigned under an epoch whose record is not proven")
				case <-w.awaitPublished(w.members, 2):
				}
				lagging.automatic(true)
				w.worker("node-1").statement(<-stream)
				return
			}
			// The membership log lags: the request checkpoint is of its epoch.
			a := w.worker("node-1").next()
			w.worker("node-1").statement(a)
			if len(a.GetEpochs()) != 1 {
				t.Errorf("%d epoch records for a membership of size 1", len(a.GetEpochs()))
			}
			lagging.automatic(true)
			w.complete(id)
			w.checkLog()
		})
	}
}

// awaitPublished closes the channel when the log has published a size.
func (w *world) awaitPublished(l *fakeLog, size int64) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := l.WaitPublished(ctx(w.t), size); err != nil {
			w.t.Error(err)
		}
	}()
	return done
}

// A membership change after the pin travels with the assignment and the bundle.
func TestEpochsAfterThePin(t *testing.T) {
	w := newWorld(t, 3)
	id := w.submit(w.register(newContract()), "x", 1)
	w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() })
	w.change(membership.SetNodeQuorum{Quorum: 2})
	nodes := must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetAssignedNodes()
	w.worker(nodes[0]).work()
	w.change(membership.SetNodeQuorum{Quorum: 1})
	w.worker(nodes[1]).work()
	w.await(id, proofReady)
	b := must[*pb.ProofBundle](t)(provenance.ParseBundle(must[[]byte](t)(w.Bundle(ctx(t), id, "acme", false))))
	if len(b.GetMembershipChanges()) != 3 || verified(t, w.members.policy, b.GetMembershipCheckpoint()).Size != 3 {
		t.Errorf("%d changes in the bundle", len(b.GetMembershipChanges()))
	}
	w.checkLog()
}

// A node has one stream, and only while it is a node.
func TestStreams(t *testing.T) {
	w := newWorld(t, 3)
	old := must[<-chan *pb.Assignment](t)(w.Assignments(ctx(t), "node-1"))
	current := must[<-chan *pb.Assignment](t)(w.Assignments(ctx(t), "node-1"))
	if _, ok := <-old; ok {
		t.Error("the first stream goes on beside the second")
	}
	w.submit(w.register(newContract()), "x", 1)
	if a, ok := <-current; !ok || a == nil {
		t.Error("the second stream got nothing")
	}
	_, err := w.Assignments(ctx(t), "acme")
	wantCode(t, "a tenant's stream", err, orchestrator.CodeNotMember)
	w.Close()
	if _, ok := <-current; ok {
		t.Error("the stream outlives the orchestrator")
	}
	_, err = w.Assignments(ctx(t), "node-1")
	wantCode(t, "a stream after the end", err, orchestrator.CodeUnavailable)
	_, err = w.Watch(ctx(t), digestOf("x"), "")
	wantCode(t, "watching after the end", err, orchestrator.CodeUnavailable)
}

// A node that connects gets its backlog in the order of the requests.
func TestBacklogInOrder(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	var ids []string
	for i := range 20 {
		ids = append(ids, w.submit(hash, "x", byte(i+1)).String())
	}
	w.await(must[digest.Digest](t)(digest.Parse(ids[19])), func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() })
	stream := must[<-chan *pb.Assignment](t)(w.Assignments(ctx(t), "node-1"))
	for i, id := range ids {
		if a := <-stream; a.GetExecutionId() != id {
			t.Fatalf("assignment %d is out of order", i)
		}
	}
}

// What has been done or decided is not assigned again.
func TestAssignmentsSkipWhatIsDone(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	done, cancelled, open := w.submit(hash, "1", 1), w.submit(hash, "2", 2), w.submit(hash, "3", 3)
	w.await(open, func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() })
	w.cancel(cancelled)
	n := w.worker("node-1")
	n.do(n.await(func(a *pb.Assignment) bool { return a.GetExecutionId() == done.String() }))
	c, cancel := context.WithCancel(ctx(t))
	defer cancel()
	stream := must[<-chan *pb.Assignment](t)(w.Assignments(c, "node-1"))
	fourth := w.submit(hash, "4", 4)
	seen := map[string]bool{}
	for !seen[fourth.String()] {
		seen[(<-stream).GetExecutionId()] = true
	}
	if seen[done.String()] || seen[cancelled.String()] {
		t.Errorf("assigned again: %v", seen)
	}
	w.checkLog()
}

// child makes a submission name a parent.
func child(parent digest.Digest) func(*contract.Submission) {
	return func(s *contract.Submission) { s.Parents = []digest.Digest{parent} }
}
