package orchestrator_test

import (
	"bytes"
	"testing"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// One execution from contract to proof.
func TestExecution(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	id := w.submit(hash, "hello", 1)
	s := w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() })
	if s.GetState() != pb.ExecutionState_EXECUTION_STATE_OPEN || len(s.GetAssignedNodes()) != 3 {
		t.Errorf("after submission: %v", s)
	}
	nodes := s.GetAssignedNodes()
	if got := w.worker(nodes[0]).work(); got != pb.ExecutionState_EXECUTION_STATE_OPEN {
		t.Errorf("after one attestation: %v", got)
	}
	if got := w.worker(nodes[1]).work(); got != pb.ExecutionState_EXECUTION_STATE_COMPLETE {
		t.Errorf("after two attestations: %v", got)
	}
	s = w.await(id, proofReady)
	file, err := w.Bundle(ctx(t), id, "acme", false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := provenance.ParseBundle(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.GetExecutionId(), id[:]) {
		t.Errorf("the bundle is of %x", b.GetExecutionId())
	}
	output, err := w.GetBlob(ctx(t), "acme", digestOf("HELLO"))
	if err != nil || string(output) != "HELLO" {
		t.Errorf("output: %q, %v", output, err)
	}
	if s.GetOutcome().GetKind() != "ok" || s.GetExecutionProof() == "" {
		t.Errorf("status: %v", s)
	}
	w.checkLog()
}
