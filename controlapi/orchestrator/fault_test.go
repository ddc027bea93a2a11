package orchestrator_test

import (
	"context"
	"errors"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// A log that cannot be read for a while answers unavailable, never wrongly, and
// serves again afterwards: nothing was written whose outcome is unknown.
func TestUnreadableLogs(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	id := w.submit(hash, "x", 1)
	w.complete(id)
	envelope := w.newSubmission(hash, "x", 1)
	calls := map[string]func() error{
		"Bundle":           func() error { return second(w.Bundle(ctx(t), id, "acme", false)) },
		"Provenance":       func() error { return second(w.Provenance(ctx(t), id, "acme")) },
		"Chain":            func() error { return second(w.Chain(ctx(t), id, "acme")) },
		"Records":          func() error { _, _, err := w.Records(ctx(t), "", 0, 10); return err },
		"Contract":         func() error { _, _, err := w.Contract(hash, "acme"); return err },
		"Checkpoint":       func() error { return second(w.Checkpoint(pb.LogName_LOG_NAME_AUDIT)) },
		"InclusionProof":   func() error { return second(w.InclusionProof(ctx(t), pb.LogName_LOG_NAME_MEMBERSHIP, 0, 1)) },
		"ConsistencyProof": func() error { return second(w.ConsistencyProof(pb.LogName_LOG_NAME_AUDIT, 1, 0)) },
		"TlogProof":        func() error { return second(w.TlogProof(ctx(t), pb.LogName_LOG_NAME_AUDIT, 1)) },
		"VerifyMembership": func() error { return second(w.VerifyMembership(ctx(t), "acme", 1)) },
		"ClusterRoot":      func() error { return second(w.ClusterRoot()) },
		"Submit again": func() error {
			_, _, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x"))
			return err
		},
		"ApplyChange": func() error {
			_, _, _, err := w.ApplyChange(ctx(t), actor("admin"), signedBy(t, must[[]byte](t)(w.state.Propose(membership.SetNodeQuorum{Quorum: 2})), "admin"))
			return err
		},
	}
	broken := errors.New("disk on fire")
	w.audit.unreadable(broken)
	w.members.unreadable(broken)
	for what, call := range calls {
		wantCode(t, what, call(), orchestrator.CodeUnavailable)
	}
	w.audit.unreadable(nil)
	w.members.unreadable(nil)
	for what, call := range calls {
		if err := call(); err != nil {
			t.Errorf("%s afterwards: %v", what, err)
		}
	}
	w.checkLog()
}

// An entry that the applier cannot read stops everything: what comes after it
// cannot be known.
func TestUnreadableEntry(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	w.audit.before(func([]orchestrator.LogEntry) { w.audit.unreadable(errors.New("disk on fire")) })
	_, _, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "x", 1), []byte("x"))
	wantCode(t, "an append that is never seen", err, orchestrator.CodeUnavailable)
	if w.Err() == nil {
		t.Error("it goes on with a view that is behind for good")
	}
	w.audit.unreadable(nil)
	w.restart()
	if _, a, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "x", 1), []byte("x")); err != nil || !a.Duplicate {
		t.Errorf("after the restart: duplicate %v, %v", a.Duplicate, err)
	}
}

// Whoever gives up waiting gets the error of the context, and the operation is
// found again.
func TestCallerGivesUp(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	envelope := w.newSubmission(hash, "x", 1)
	gone, cancel := context.WithCancel(ctx(t))
	w.audit.before(func([]orchestrator.LogEntry) { cancel() })
	_, _, err := w.Submit(gone, actor("acme"), "acme", envelope, []byte("x"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.audit.before(nil)
	if w.Err() != nil {
		t.Fatalf("a caller that left stopped everything: %v", w.Err())
	}
	if _, _, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x")); err != nil {
		t.Error(err)
	}
	w.audit.automatic(false)
	last := w.audit.Size() - 1
	w.submit(hash, "y", 2)
	_, err = w.TlogProof(gone, pb.LogName_LOG_NAME_AUDIT, last+1)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for witnesses: %v", err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- second(w.TlogProof(ctx(t), pb.LogName_LOG_NAME_AUDIT, last+1)) }()
	w.Close()
	wantCode(t, "waiting while it closes", <-waiting, orchestrator.CodeUnavailable)
}

// A checkpoint that a log published without its witnesses is not built on.
func TestFailOpen(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	w.audit.failOpen(true)
	id := w.submit(hash, "x", 1)
	if _, err := w.audit.WaitPublished(ctx(t), w.audit.Size()); err != nil {
		t.Fatal(err)
	}
	if s := must[*pb.ExecutionStatus](t)(w.Status(id, "")); s.GetWitnessed() {
		t.Error("witnessed without a witness")
	}
	w.audit.failOpen(false)
	w.submit(hash, "y", 2)
	w.complete(id)
	w.checkLog()
}

// What the record format cannot hold is refused before it is appended.
func TestUnrecordable(t *testing.T) {
	w := newWorld(t, 1)
	size := w.audit.Size()
	err := w.RecordOperation(ctx(t), orchestrator.Actor{Principal: "Not An Id"}, &pb.OperationRecord{Code: "ok"})
	wantCode(t, "a malformed actor", err, orchestrator.CodeArgument)
	var items []*pb.OperationItem
	for range 5000 {
		items = append(items, &pb.OperationItem{Principal: "acme", Method: "tallystick.v1.Control/QueryExecutionStatus", Code: "ok", Count: 1})
	}
	err = w.RecordBatches(ctx(t), []*pb.OperationBatchRecord{{Items: items}}, nil)
	wantCode(t, "a batch over the limit", err, orchestrator.CodeTooLarge)
	if w.audit.Size() != size {
		t.Error("something was appended")
	}
}

// An outcome other than ok is shown with what belongs to it.
func TestExitCode(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	id := w.submit(hash, "x", 1)
	s := w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() })
	for _, node := range s.GetAssignedNodes()[:2] {
		n := w.worker(node)
		n.run = func(*pb.Assignment, []byte) string { return "" }
		n.only = func(s *provenance.Statement) { s.Outcome.Kind, s.Outcome.ExitCode = contract.OutcomeExit, 3 }
		n.work()
	}
	s = w.await(id, proofReady)
	if s.GetOutcome().GetKind() != "exit" || s.GetOutcome().GetExitCode() != 3 {
		t.Errorf("outcome %v", s.GetOutcome())
	}
	// An empty output is there although no node has put it.
	if data, err := w.GetBlob(ctx(t), "acme", digestOf("")); err != nil || len(data) != 0 {
		t.Errorf("empty output: %q, %v", data, err)
	}
	_, _, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "y", 2, child(id)), []byte("y"))
	wantCode(t, "a parent that did not end ok", err, orchestrator.CodeParent)
}
