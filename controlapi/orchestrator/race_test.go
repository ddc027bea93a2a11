package orchestrator_test

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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

// race runs f once, just ahead of the first append of a record of the kind.
func (w *world) race(kind record.Kind, f func()) {
	var begun atomic.Bool // f may append records of the kind itself
	w.audit.before(func(entries []orchestrator.LogEntry) {
		if kindOf(entries[0]) == kind && begun.CompareAndSwap(false, true) {
			f()
		}
	})
}

// A submission that races a membership change is pinned again and runs.
func TestSubmissionRacesChange(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	w.race(record.KindRequest, func() { w.change(membership.SetNodeQuorum{Quorum: 2}) })
	id := w.submit(hash, "x", 1)
	if s := w.complete(id); s.GetEpoch() != 2 {
		t.Errorf("pinned epoch %d", s.GetEpoch())
	}
	w.checkLog()
}

// What a faster caller did is seen before the log is asked again.
func TestRaces(t *testing.T) {
	t.Run("change that takes the signer's key away", func(t *testing.T) {
		w := newWorld(t, 3)
		hash := w.register(newContract())
		w.race(record.KindRequest, func() { w.change(membership.RemovePrincipal{ID: "acme"}) })
		_, _, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "x", 1), []byte("x"))
		wantCode(t, "submission of a tenant that is gone", err, orchestrator.CodeSignature)
		w.checkLog()
	})
	t.Run("retirement of the contract", func(t *testing.T) {
		w := newWorld(t, 3)
		hash := w.register(newContract())
		w.race(record.KindRequest, func() { w.retire(hash) })
		_, _, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "x", 1), []byte("x"))
		wantCode(t, "submission to a contract just retired", err, orchestrator.CodeContractRetired)
		w.checkLog()
	})
	t.Run("the same submission", func(t *testing.T) {
		w := newWorld(t, 3)
		envelope := w.newSubmission(w.register(newContract()), "x", 1)
		w.race(record.KindRequest, func() {
			if _, a, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x")); err != nil || a.Duplicate {
				t.Errorf("the faster one: duplicate %v, %v", a.Duplicate, err)
			}
		})
		_, a, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x"))
		if err != nil || !a.Duplicate {
			t.Errorf("the slower one: duplicate %v, %v", a.Duplicate, err)
		}
		w.checkReceipt(a)
		w.checkLog()
	})
	t.Run("the same contract", func(t *testing.T) {
		w := newWorld(t, 3)
		var faster digest.Digest
		w.race(record.KindContract, func() { faster = w.register(newContract()) })
		envelope, _, err := contract.Sign(newContract(), testKey("acme"))
		if err != nil {
			t.Fatal(err)
		}
		hash, a, err := w.RegisterContract(ctx(t), actor("acme"), "acme", envelope, testModule)
		if err != nil || hash != faster || !a.Duplicate {
			t.Errorf("the slower one: %v, duplicate %v, %v", hash, a.Duplicate, err)
		}
		w.checkLog()
	})
	t.Run("the same attestation", func(t *testing.T) {
		w := newWorld(t, 3)
		w.submit(w.register(newContract()), "x", 1)
		n := w.worker("node-1")
		envelope := n.envelope(n.statement(n.next()))
		w.race(record.KindAttestation, func() {
			if _, _, _, err := w.Attest(ctx(t), actor("node-1"), "node-1", envelope); err != nil {
				t.Error(err)
			}
		})
		_, a, _, err := w.Attest(ctx(t), actor("node-1"), "node-1", envelope)
		if err != nil || !a.Duplicate {
			t.Errorf("the slower one: duplicate %v, %v", a.Duplicate, err)
		}
		w.checkLog()
	})
	t.Run("cancellation before an attestation", func(t *testing.T) {
		w := newWorld(t, 3)
		id := w.submit(w.register(newContract()), "x", 1)
		n := w.worker("node-1")
		envelope := n.envelope(n.statement(n.next()))
		w.race(record.KindAttestation, func() { w.cancel(id) })
		_, a, state, err := w.Attest(ctx(t), actor("node-1"), "node-1", envelope)
		if err != nil || a.Duplicate || state != pb.ExecutionState_EXECUTION_STATE_CANCELLED {
			t.Errorf("attestation as evidence: %v, duplicate %v, %v", state, a.Duplicate, err)
		}
		w.checkLog()
	})
	for name, test := range map[string]struct {
		slower func(s *provenance.Statement) // what it says otherwise than the faster one
		want   orchestrator.Code
		twice  bool // the slower one is answered with the record of the faster
	}{
		"the same evidence":             {slower: func(*provenance.Statement) {}, twice: true},
		"the same evidence, reworded":   {slower: func(s *provenance.Statement) { s.SoftwareVersion = "v9.9.9" }, want: orchestrator.CodeAttestation},
		"evidence of another outcome":   {slower: func(s *provenance.Statement) { s.Outcome.PeakPages++ }},
		"evidence that is void already": {slower: func(s *provenance.Statement) { s.Outcome.PeakPages += 2 }, want: orchestrator.CodeAttestation},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			id := w.submit(w.register(newContract()), "x", 1)
			n := w.worker("node-1")
			s := n.statement(n.next())
			faster := [][]byte{n.envelope(s)}
			if name == "evidence that is void already" {
				other := *s
				other.Outcome.PeakPages++
				faster = append(faster, n.envelope(&other))
			}
			test.slower(s)
			slower := n.envelope(s)
			w.cancel(id)
			var last orchestrator.Appended
			w.race(record.KindAttestation, func() {
				for _, envelope := range faster {
					_, a, _, err := w.Attest(ctx(t), actor("node-1"), "node-1", envelope)
					if err != nil || a.Duplicate {
						t.Errorf("a faster one: duplicate %v, %v", a.Duplicate, err)
					}
					last = a
				}
			})
			_, a, _, err := w.Attest(ctx(t), actor("node-1"), "node-1", slower)
			wantCode(t, "the slower one", err, test.want)
			if err == nil && (a.Duplicate != test.twice || (a.Index == last.Index) != test.twice) {
				t.Errorf("the slower one: index %d after %d, duplicate %v", a.Index, last.Index, a.Duplicate)
			}
			w.checkLog()
		})
	}
	t.Run("attestation before a cancellation", func(t *testing.T) {
		w := newWorld(t, 3)
		id := w.submit(w.register(newContract()), "x", 1)
		w.race(record.KindCancellation, func() { w.complete(id) })
		_, _, err := w.Cancel(ctx(t), actor("acme"), "acme", w.cancellation(id))
		wantCode(t, "cancelling what has just completed", err, orchestrator.CodeExecutionClosed)
		w.checkLog()
	})
	t.Run("attestation before a reschedule", func(t *testing.T) {
		w := prepare(t, 5)
		w.config = func(c *orchestrator.Config) { c.AttemptDeadline = time.Millisecond }
		w.mustOpen()
		hash := w.register(newContract(func(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned = 1, 1, 2 }))
		released := make(chan struct{})
		var once sync.Once
		w.audit.before(func(entries []orchestrator.LogEntry) {
			if slices.ContainsFunc(entries, func(e orchestrator.LogEntry) bool { return kindOf(e) == record.KindReschedule }) {
				once.Do(func() { <-released })
			}
		})
		id := w.submit(hash, "x", 1)
		node := must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetAssignedNodes()[0]
		w.worker(node).work()
		close(released)
		if s := w.await(id, proofReady); s.GetAttempt() != 0 {
			t.Errorf("rescheduled after it was complete: %v", s)
		}
		w.checkLog()
	})
	t.Run("storm", func(t *testing.T) {
		w := newWorld(t, 3)
		hash := w.register(newContract())
		quorum := uint64(1)
		w.audit.before(func(entries []orchestrator.LogEntry) {
			if kindOf(entries[0]) == record.KindRequest {
				quorum = 3 - quorum
				w.change(membership.SetNodeQuorum{Quorum: quorum})
			}
		})
		_, _, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "x", 1), []byte("x"))
		wantCode(t, "submission in a storm of changes", err, orchestrator.CodeBusy)
		w.checkLog()
	})
}

func (w *world) cancellation(id digest.Digest) []byte {
	w.t.Helper()
	envelope, _, err := contract.Sign(&contract.Cancellation{Cluster: cluster, Execution: id, ProtocolVersion: "1.0", Tenant: "acme"}, testKey("acme"))
	if err != nil {
		w.t.Fatal(err)
	}
	return envelope
}

func (w *world) cancel(id digest.Digest) {
	w.t.Helper()
	got, a, err := w.Cancel(ctx(w.t), actor("acme"), "acme", w.cancellation(id))
	if err != nil || got != id || a.Duplicate {
		w.t.Errorf("cancelling: %v, duplicate %v, %v", got, a.Duplicate, err)
	}
}

func (w *world) retirement(hash digest.Digest) []byte {
	w.t.Helper()
	envelope, _, err := contract.Sign(&contract.Retirement{Cluster: cluster, Contract: hash, ProtocolVersion: "1.0", Tenant: "acme"}, testKey("acme"))
	if err != nil {
		w.t.Fatal(err)
	}
	return envelope
}

func (w *world) retire(hash digest.Digest) {
	w.t.Helper()
	got, a, err := w.RetireContract(ctx(w.t), actor("acme"), "acme", w.retirement(hash))
	if err != nil || got != hash || a.Duplicate {
		w.t.Errorf("retiring: %v, duplicate %v, %v", got, a.Duplicate, err)
	}
}

// Tenants submit, nodes attest, an admin changes the membership, auditors read,
// all at the same time. Everything acknowledged completes, and the log holds no
// void record.
func TestEverythingAtOnce(t *testing.T) {
	const submitters, each = 4, 6
	w := newWorld(t, 4)
	hash := w.register(newContract(func(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned = 2, 2, 3 }))

	nodes := make(chan struct{}) // closed when the nodes shall stop
	var working sync.WaitGroup
	for i := range 4 {
		n := w.worker(fmt.Sprintf("node-%d", i+1))
		working.Go(func() {
			stream, err := w.Assignments(ctx(t), n.id)
			if err != nil {
				t.Error(err)
				return
			}
			for {
				select {
				case a := <-stream:
					if _, _, _, err := w.Attest(ctx(t), actor(n.id), n.id, n.envelope(n.statement(a))); err != nil {
						t.Errorf("%s: %v", n.id, err)
					}
				case <-nodes:
					return
				}
			}
		})
	}
	var acting sync.WaitGroup
	ids := make(chan digest.Digest, submitters*each)
	for s := range submitters {
		acting.Go(func() {
			for i := range each {
				ids <- w.submit(hash, fmt.Sprint(s, i), byte(s*each+i+1))
			}
		})
	}
	acting.Go(func() {
		for quorum := uint64(2); quorum <= 4; quorum++ {
			w.change(membership.SetNodeQuorum{Quorum: quorum})
		}
	})
	acting.Go(func() {
		for range each {
			if _, _, err := w.Records(ctx(t), "acme", 0, 100); err != nil {
				t.Error(err)
			}
			if _, _, err := w.ListExecutions(orchestrator.Filter{Tenant: "acme"}, orchestrator.Page{}); err != nil {
				t.Error(err)
			}
			w.Nodes()
		}
	})
	acting.Wait()
	close(ids)
	for id := range ids {
		w.await(id, proofReady)
	}
	close(nodes)
	working.Wait()
	w.checkLog()

	// Whoever reads the log, and whenever, sees the same.
	before := must[[]*pb.ProvenRecord](t)(first3(w.Records(ctx(t), "", 0, 1000)))
	w.restart()
	after := must[[]*pb.ProvenRecord](t)(first3(w.Records(ctx(t), "", 0, 1000)))
	for i := range before {
		if !bytes.Equal(before[i].GetOpening(), after[i].GetOpening()) {
			t.Errorf("record %d changed", i)
		}
	}
}

func first3[A, B any](a A, _ B, err error) (A, error) { return a, err }
