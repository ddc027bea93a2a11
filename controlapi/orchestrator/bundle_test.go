package orchestrator_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/verifier"
)

// trust is what a stranger needs to verify this world's bundles.
func (w *world) trust() verifier.Trust {
	return verifier.Trust{AuditPolicy: w.audit.policy, MembershipPolicy: w.members.policy, Genesis: w.genesis}
}

// checkNoResult waits for the proof that an execution ended without a result, and
// verifies it.
func (w *world) checkNoResult(id digest.Digest) {
	w.t.Helper()
	w.await(id, proofReady)
	bundle := must[[]byte](w.t)(w.Bundle(ctx(w.t), id, "acme", false))
	if _, err := verifier.VerifyBundle(bundle, w.trust(), verifier.Options{Execution: id.String()}); !errors.Is(err, verifier.CodeNoResult) {
		w.t.Errorf("proof of an end without a result: %v", err)
	}
}

// childOf submits an execution that reads the outputs of others.
func (w *world) childOf(contractHash digest.Digest, input string, nonce byte, parents ...digest.Digest) digest.Digest {
	w.t.Helper()
	return w.submit(contractHash, input, nonce, func(s *contract.Submission) { s.Parents = parents })
}

// A bundle with ancestors proves a whole pipeline, and is the same whenever it is
// made and by whichever process.
func TestBundleWithAncestors(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	first := w.submit(hash, "a ", 1)
	w.complete(first)
	left, right := w.childOf(hash, "b ", 2, first), w.childOf(hash, "c ", 3, first)
	w.complete(right)
	w.complete(left)
	last := w.childOf(hash, "d", 4, left, right)
	_, err := w.Bundle(ctx(t), last, "acme", true)
	wantCode(t, "bundle of what is open", err, orchestrator.CodeProofNotReady)
	w.complete(last)

	file := must[[]byte](t)(w.Bundle(ctx(t), last, "acme", true))
	report, err := verifier.VerifyBundle(file, w.trust(), verifier.Options{Execution: last.String()})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Ancestors) != 3 || report.Execution.Outcome.OutputDigest != digestOf("A B A C D") {
		t.Errorf("%d ancestors, outcome %+v", len(report.Ancestors), report.Execution.Outcome)
	}
	plain := must[[]byte](t)(w.Bundle(ctx(t), last, "acme", false))
	if _, err := verifier.VerifyBundle(plain, w.trust(), verifier.Options{}); err != nil || bytes.Equal(plain, file) {
		t.Errorf("without ancestors: %v", err)
	}
	w.restart()
	if again := must[[]byte](t)(w.Bundle(ctx(t), last, "acme", true)); !bytes.Equal(again, file) {
		t.Error("another process makes another bundle")
	}
	_, err = w.Bundle(ctx(t), last, "rival", true)
	wantCode(t, "another tenant's", err, orchestrator.CodeExecutionUnknown)
	w.checkLog()
}

// What lineage is made of: a parent must be complete, with outcome "ok", and of
// the same tenant, at the request. So nothing can be its own ancestor, and
// another tenant's execution is as good as unknown.
func TestParentRefusals(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	cancelled := w.submit(hash, "x", 1)
	w.cancel(cancelled)
	ok := w.submit(hash, "y", 2)
	w.complete(ok)
	rivals := w.register(newContract(func(c *contract.Contract) { c.Tenant = "rival" }))
	foreign := w.newSubmission(rivals, "z", 3, func(s *contract.Submission) { s.Tenant, s.Parents = "rival", []digest.Digest{ok} })
	_, _, err := w.Submit(ctx(t), actor("rival"), "rival", foreign, []byte("z"))
	wantCode(t, "another tenant's parent", err, orchestrator.CodeParent)
	known := strings.ReplaceAll(err.Error(), ok.String(), digestOf("none").String())
	foreign = w.newSubmission(rivals, "z", 3, func(s *contract.Submission) { s.Tenant, s.Parents = "rival", []digest.Digest{digestOf("none")} })
	_, _, err = w.Submit(ctx(t), actor("rival"), "rival", foreign, []byte("z"))
	wantCode(t, "a parent that does not exist", err, orchestrator.CodeParent)
	if known != err.Error() {
		t.Errorf("the answers tell them apart: %q and %q", known, err)
	}
	_, _, err = w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "z", 4, func(s *contract.Submission) { s.Parents = []digest.Digest{cancelled} }), []byte("z"))
	wantCode(t, "a cancelled parent", err, orchestrator.CodeParent)
	if s := must[*pb.ExecutionStatus](t)(w.Status(ok, "acme")); s.GetState() != pb.ExecutionState_EXECUTION_STATE_COMPLETE {
		t.Errorf("state %v", s.GetState())
	}
	w.checkLog()
}
