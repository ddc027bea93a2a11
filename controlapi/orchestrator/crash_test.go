package orchestrator_test

import (
	"bytes"
	"testing"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// A change stops at each of its steps, is not acknowledged, and is whole or not
// there at all after the restart. Handing it in again completes it. The fake
// log fails the test if a witness could see an epoch that has no record.
func TestChangeInterrupted(t *testing.T) {
	tests := []struct {
		name    string
		members fault // what the membership log's append meets
		audit   fault // what the epoch record's append meets
		there   bool  // after the restart
	}{
		{"before the membership log", lostBefore, noFault, false},
		{"after the membership log", lostAfter, noFault, true},
		{"before the epoch record", noFault, lostBefore, true},
		{"after the epoch record", noFault, lostAfter, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 3)
			change := w.propose(membership.SetNodeQuorum{Quorum: 2})
			if tt.members != noFault {
				w.members.faults(first(tt.members))
			}
			if tt.audit != noFault {
				w.audit.faults(onKind(record.KindEpoch, tt.audit))
			}
			_, _, _, err := w.ApplyChange(ctx(t), actor("admin"), change)
			wantCode(t, "interrupted change", err, orchestrator.CodeUnavailable)
			_, err = w.ClusterRoot()
			wantCode(t, "read after an unknown outcome", err, orchestrator.CodeUnavailable)

			w.restart()
			if got := w.Nodes().GetEpoch(); got != 1 && !tt.there || got != 2 && tt.there {
				t.Errorf("after the restart the epoch is %d", got)
			}
			_, epoch, dup, err := w.ApplyChange(ctx(t), actor("admin"), change)
			if err != nil || epoch != 2 || dup != tt.there {
				t.Errorf("again: epoch %d, duplicate %v, %v", epoch, dup, err)
			}
			if root := must[*pb.GetClusterRootResponse](t)(w.ClusterRoot()); root.GetNodeQuorum() != 2 {
				t.Errorf("quorum %d", root.GetNodeQuorum())
			}
			// Published to witnesses at last.
			if _, err := w.TlogProof(ctx(t), pb.LogName_LOG_NAME_MEMBERSHIP, 1); err != nil {
				t.Error(err)
			}
			w.checkLog()
		})
	}
}

// The first start stops between the two logs.
func TestGenesisInterrupted(t *testing.T) {
	for name, set := range map[string]func(w *world){
		"before the membership log": func(w *world) { w.members.faults(first(lostBefore)) },
		"after the membership log":  func(w *world) { w.members.faults(first(lostAfter)) },
		"before the epoch record":   func(w *world) { w.audit.faults(first(lostBefore)) },
		"after the epoch record":    func(w *world) { w.audit.faults(first(lostAfter)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := prepare(t, 1)
			set(w)
			if err := w.open(); err == nil {
				t.Fatal("opened although an append failed")
			}
			w.Orchestrator = nil
			w.restart()
			if root := must[*pb.GetClusterRootResponse](t)(w.ClusterRoot()); root.GetEpoch() != 1 || root.GetAuditSize() != 1 {
				t.Errorf("epoch %d, audit size %d", root.GetEpoch(), root.GetAuditSize())
			}
			w.checkLog()
		})
	}
}

// An operation whose commit was reported as failed is found again, or made
// again, after the restart: the tenant only repeats it.
func TestOperationInterrupted(t *testing.T) {
	for _, f := range []fault{lostBefore, lostAfter} {
		w := newWorld(t, 3)
		hash := w.register(newContract())
		envelope := w.newSubmission(hash, "x", 1)
		w.audit.faults(onKind(record.KindRequest, f))
		id, _, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x"))
		wantCode(t, "interrupted submission", err, orchestrator.CodeUnavailable)
		w.restart()
		again, a, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x"))
		if err != nil || again != id || a.Duplicate != (f == lostAfter) {
			t.Errorf("again: id %v for %v, duplicate %v, %v", again, id, a.Duplicate, err)
		}
		w.checkReceipt(a)
		w.complete(id)
		w.checkLog()
	}
}

// Once acknowledged, an execution survives a crash at any later record, goes on
// after the restart, and its proof is the same file before and after another.
func TestExecutionInterrupted(t *testing.T) {
	for _, at := range []record.Kind{record.KindAttestation, record.KindProvenance} {
		for _, f := range []fault{lostBefore, lostAfter} {
			w := newWorld(t, 3)
			id := w.submit(w.register(newContract()), "x", 1)
			nodes := must[*pb.ExecutionStatus](t)(w.Status(id, "acme")).GetAssignedNodes()
			w.worker(nodes[0]).work()
			second := w.worker(nodes[1])
			envelope := second.envelope(second.statement(second.next()))
			w.audit.faults(onKind(at, f))
			_, a, _, err := w.Attest(ctx(t), actor(nodes[1]), nodes[1], envelope)
			if at == record.KindAttestation {
				wantCode(t, "interrupted attestation", err, orchestrator.CodeUnavailable)
			} else if err != nil && orchestrator.CodeOf(err) != orchestrator.CodeUnavailable {
				t.Errorf("attestation before an interrupted provenance record: %v", err)
			}
			w.restart()
			_, again, state, err := w.Attest(ctx(t), actor(nodes[1]), nodes[1], envelope)
			if err != nil || state != pb.ExecutionState_EXECUTION_STATE_COMPLETE {
				t.Errorf("attesting again: %v, %v", state, err)
			}
			if a.Opening != nil && (a.Index != again.Index || !again.Duplicate) {
				t.Errorf("acknowledged at index %d, found at %d", a.Index, again.Index)
			}
			w.await(id, proofReady)
			bundle := must[[]byte](t)(w.Bundle(ctx(t), id, "acme", false))
			w.restart()
			if !bytes.Equal(bundle, must[[]byte](t)(w.Bundle(ctx(t), id, "acme", false))) {
				t.Error("the bundle changed with a restart")
			}
			w.checkLog()
		}
	}
}

// Every operation is refused once the outcome of a write is unknown.
func TestPoisoned(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	id := w.submit(hash, "x", 1)
	w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() })
	node := must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetAssignedNodes()[0]
	worker := w.worker(node)
	attestation := worker.envelope(worker.statement(worker.next()))

	w.audit.faults(first(lostBefore))
	err := w.RecordOperation(ctx(t), actor("acme"), &pb.OperationRecord{Tenant: "acme", Code: "ok"})
	wantCode(t, "the write that failed", err, orchestrator.CodeUnavailable)
	if w.Err() == nil {
		t.Error("no error is kept")
	}
	c, acme := ctx(t), actor("acme")
	var none digest.Digest
	for what, call := range map[string]func() error{
		"RegisterContract": func() error { _, _, err := w.RegisterContract(c, acme, "acme", nil, nil); return err },
		"RetireContract":   func() error { _, _, err := w.RetireContract(c, acme, "acme", nil); return err },
		"Submit":           func() error { _, _, err := w.Submit(c, acme, "acme", nil, nil); return err },
		"Cancel":           func() error { _, _, err := w.Cancel(c, acme, "acme", nil); return err },
		"Attest":           func() error { _, _, _, err := w.Attest(c, actor(node), node, attestation); return err },
		"ApplyChange":      func() error { _, _, _, err := w.ApplyChange(c, actor("admin"), nil); return err },
		"RecordOperation":  func() error { return w.RecordOperation(c, acme, &pb.OperationRecord{Code: "ok"}) },
		"RecordBatches":    func() error { return w.RecordBatches(c, nil, nil) },
		"Status":           func() error { _, err := w.Status(id, "acme"); return err },
		"Watch":            func() error { _, err := w.Watch(c, id, "acme"); return err },
		"ListExecutions":   func() error { _, _, err := w.ListExecutions(orchestrator.Filter{}, orchestrator.Page{}); return err },
		"Contract":         func() error { _, _, err := w.Contract(hash, "acme"); return err },
		"ListContracts":    func() error { _, _, err := w.ListContracts("", orchestrator.Page{}); return err },
		"ClusterRoot":      func() error { _, err := w.ClusterRoot(); return err },
		"Bundle":           func() error { _, err := w.Bundle(c, id, "acme", false); return err },
		"Provenance":       func() error { _, err := w.Provenance(c, id, "acme"); return err },
		"Chain":            func() error { _, err := w.Chain(c, id, "acme"); return err },
		"Records":          func() error { _, _, err := w.Records(c, "", 0, 10); return err },
		"Checkpoint":       func() error { _, err := w.Checkpoint(pb.LogName_LOG_NAME_AUDIT); return err },
		"InclusionProof":   func() error { _, err := w.InclusionProof(c, pb.LogName_LOG_NAME_AUDIT, 0, 0); return err },
		"ConsistencyProof": func() error { _, err := w.ConsistencyProof(pb.LogName_LOG_NAME_AUDIT, 0, 0); return err },
		"TlogProof":        func() error { _, err := w.TlogProof(c, pb.LogName_LOG_NAME_AUDIT, 0); return err },
		"MembershipHash":   func() error { _, err := w.MembershipHash(0); return err },
		"VerifyMembership": func() error { _, err := w.VerifyMembership(c, "acme", 0); return err },
		"Changes":          func() error { _, _, err := w.Changes(c, 0, 0); return err },
		"Assignments":      func() error { _, err := w.Assignments(c, node); return err },
		"PutBlob":          func() error { _, err := w.PutBlob(c, "acme", nil); return err },
		"GetBlob":          func() error { _, err := w.GetBlob(c, "acme", none); return err },
		"GetAssignedBlob":  func() error { _, err := w.GetAssignedBlob(c, node, digestOf("x")); return err },
		"GetExecutionBlob": func() error { _, err := w.GetExecutionBlob(c, id, digestOf("x")); return err },
		"EraseBlob":        func() error { _, err := w.EraseBlob(c, acme, "acme", none, ""); return err },
	} {
		wantCode(t, what, call(), orchestrator.CodeUnavailable)
	}
}

// A busy log refuses, keeps working, and a change that got half way is finished
// by itself.
func TestPushback(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	w.audit.faults(onKind(record.KindRequest, pushback))
	envelope := w.newSubmission(hash, "x", 1)
	_, _, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x"))
	wantCode(t, "submission to a busy log", err, orchestrator.CodeBusy)
	if _, a, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x")); err != nil || a.Duplicate {
		t.Errorf("again: duplicate %v, %v", a.Duplicate, err)
	}

	w.audit.faults(onKind(record.KindEpoch, pushback))
	change := w.propose(membership.SetNodeQuorum{Quorum: 2})
	_, _, _, err = w.ApplyChange(ctx(t), actor("admin"), change)
	wantCode(t, "change with a busy audit log", err, orchestrator.CodeBusy)
	if _, err := w.TlogProof(ctx(t), pb.LogName_LOG_NAME_MEMBERSHIP, 1); err != nil {
		t.Errorf("the change never reached the witnesses: %v", err)
	}
	_, epoch, dup, err := w.ApplyChange(ctx(t), actor("admin"), change)
	if err != nil || epoch != 2 || !dup {
		t.Errorf("again: epoch %d, duplicate %v, %v", epoch, dup, err)
	}
	w.members.faults(first(pushback))
	_, _, _, err = w.ApplyChange(ctx(t), actor("admin"), w.propose(membership.SetNodeQuorum{Quorum: 1}))
	wantCode(t, "change with a busy membership log", err, orchestrator.CodeBusy)
	w.checkLog()
}

// A provenance record that meets a busy log is appended later.
func TestDeriverRetries(t *testing.T) {
	w := newWorld(t, 3)
	id := w.submit(w.register(newContract()), "x", 1)
	w.audit.faults(onKind(record.KindProvenance, pushback))
	w.complete(id)
	w.checkLog()
}
