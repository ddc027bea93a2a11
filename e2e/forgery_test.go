//go:build e2e

package e2e

import (
	"context"
	"crypto"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// refused wants a refusal with this code, and no fault of the server.
func refused(t *testing.T, what, code string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "["+code+"] ") {
		t.Errorf("%s: have %v, want the code %s", what, err, code)
	}
}

// signed makes an envelope of any payload.
func signed(t *testing.T, payloadType string, payload []byte, keys ...crypto.Signer) []byte {
	t.Helper()
	var signers []dsse.Signer
	for _, key := range keys {
		signer, err := dsse.NewSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, signer)
	}
	e, err := dsse.Sign(payloadType, payload, signers...)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

func (a *agent) attest(envelope []byte) error {
	_, err := a.Provenance.RecordExecutionProvenance(context.Background(), connect.NewRequest(&pb.RecordExecutionProvenanceRequest{Envelope: envelope}))
	return err
}

func (a *agent) blob(d string) error {
	_, err := a.Control.GetBlob(context.Background(), connect.NewRequest(&pb.GetBlobRequest{Digest: d}))
	return err
}

// TestHostileNode: a node with all its keys cannot attest what it was not
// assigned, nor as another node, nor take back what it said.
func TestHostileNode(t *testing.T) {
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	// Two of three nodes, so that one is never assigned.
	hash := a.register("canonjson", func(v *contract.Contract) { v.Nodes, v.MaxAssigned = 2, 2 })
	input := []byte(`{"secret":1}`)
	envelope, id := a.submission(hash, input, 1)
	if _, err := a.submit(envelope, input); err != nil {
		t.Fatal(err)
	}
	status := a.complete(id.String())
	outsider := ""
	for _, node := range []string{"node-1", "node-2", "node-3"} {
		if !slices.Contains(status.AssignedNodes, node) {
			outsider = node
		}
	}
	insider := status.AssignedNodes[0]
	statement := a.attestation(id.String(), insider)
	as := func(who string, change func(*provenance.Statement)) []byte {
		s := *statement
		s.Node = who
		if change != nil {
			change(&s)
		}
		payload, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return payload
	}
	evil, good := c.agent(outsider), c.agent(insider)

	forge := func(who string, key crypto.Signer, change func(*provenance.Statement)) []byte {
		return signed(t, provenance.AttestationType, as(who, func(s *provenance.Statement) {
			s.Outcome.OutputDigest = digest.Of([]byte("a lie"))
			if change != nil {
				change(s)
			}
		}), key)
	}
	refused(t, "garbage", "envelope_malformed", evil.attest([]byte("garbage")))
	refused(t, "not assigned", "execution_unknown", evil.attest(forge(outsider, c.key(outsider, "attestation"), nil)))
	refused(t, "as another node", "wrong_node", evil.attest(forge(insider, c.key(outsider, "attestation"), nil)))
	refused(t, "with the token key", "attestation_refused", good.attest(forge(insider, c.key(insider, "token"), nil)))
	refused(t, "with another's key", "attestation_refused", good.attest(forge(insider, c.key(outsider, "attestation"), nil)))
	for what, change := range map[string]func(*provenance.Statement){
		"of another cluster":    func(s *provenance.Statement) { s.Cluster = "other" },
		"of another tenant":     func(s *provenance.Statement) { s.Tenant = "other" },
		"of another module":     func(s *provenance.Statement) { s.Module = digest.Of([]byte("none")) },
		"of another schedule":   func(s *provenance.Statement) { s.ScheduleHash = digest.Of([]byte("none")) },
		"of another epoch":      func(s *provenance.Statement) { s.Epoch++ },
		"of another attempt":    func(s *provenance.Statement) { s.Attempt++ },
		"of another checkpoint": func(s *provenance.Statement) { s.RequestCheckpoint.Size = 1 },
	} {
		refused(t, what, "attestation_refused", good.attest(forge(insider, c.key(insider, "attestation"), change)))
	}
	refused(t, "of no execution", "execution_unknown", good.attest(forge(insider, c.key(insider, "attestation"),
		func(s *provenance.Statement) { s.Execution = digest.Of([]byte("none")) })))
	refused(t, "by a tenant", "permission_denied", a.attest(signed(t, provenance.AttestationType, as(insider, nil), c.key(insider, "attestation"))))
	_, err := evil.submit(envelope, input)
	refused(t, "a node's submission", "permission_denied", err)

	// A second and different word of the same node is evidence against it, and
	// changes nothing about an execution that has ended.
	if err := good.attest(forge(insider, c.key(insider, "attestation"), nil)); err != nil {
		t.Errorf("a contradiction is not kept as evidence: %v", err)
	}
	for _, d := range []string{status.InputDigest, status.Outcome.OutputDigest, hash.String()} {
		refused(t, "payload "+d, "blob_unknown", evil.blob(d))
	}
	after := a.complete(id.String())
	if after.ExecutionProof != status.ExecutionProof || after.Outcome.ResultDigest != status.Outcome.ResultDigest {
		t.Errorf("the execution changed:\n%v\n%v", status, after)
	}
	a.proof(id.String())
	c.healthy()
}

// attestation returns what a node stated about an execution.
func (a *agent) attestation(id, node string) *provenance.Statement {
	a.c.t.Helper()
	res, err := a.Provenance.VerifyProvenanceChain(context.Background(), connect.NewRequest(&pb.VerifyProvenanceChainRequest{ExecutionId: id}))
	if err != nil {
		a.c.t.Fatal(err)
	}
	for _, link := range res.Msg.Links {
		opened, err := record.ParseOpening(link.Record.Opening)
		if err != nil {
			a.c.t.Fatal(err)
		}
		r, err := record.Parse(opened.Record())
		if err != nil {
			a.c.t.Fatal(err)
		}
		if r.GetAttestation().GetNode() != node {
			continue
		}
		e, err := dsse.Parse(r.GetAttestation().GetEnvelope())
		if err != nil {
			a.c.t.Fatal(err)
		}
		s, err := provenance.ParseStatement(e.Payload)
		if err != nil {
			a.c.t.Fatal(err)
		}
		return s
	}
	a.c.t.Fatalf("%s attested nothing about %s", node, id)
	return nil
}

// TestForgedSubmissions: nobody but the tenant, with the right key, makes work
// or ends it.
func TestForgedSubmissions(t *testing.T) {
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	other := c.addPrincipal(membership.KindTenant, "other", membership.UseContract, membership.UseSubmission, membership.UseToken)
	hash := a.register("canonjson", nil)
	input := []byte(`[1]`)
	good, id := a.submission(hash, input, 1)
	e, err := dsse.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	try := func(who *agent, what, code string, envelope []byte) {
		t.Helper()
		_, err := who.submit(envelope, input)
		refused(t, what, code, err)
	}
	try(a, "signed by the contract key", "signature_invalid", signed(t, contract.SubmissionType, e.Payload, c.key("tenant", "contract")))
	try(a, "signed by the token key", "signature_invalid", signed(t, contract.SubmissionType, e.Payload, c.key("tenant", "token")))
	try(a, "signed by another tenant", "signature_invalid", signed(t, contract.SubmissionType, e.Payload, c.key("other", "submission")))
	try(a, "signed twice", "signature_invalid", signed(t, contract.SubmissionType, e.Payload, c.key("tenant", "submission"), c.key("other", "submission")))
	try(a, "of another type", "envelope_malformed", signed(t, contract.ContractType, e.Payload, c.key("tenant", "submission")))
	again, _ := a.submission(hash, input, 2)
	altered, err := dsse.Parse(again)
	if err != nil {
		t.Fatal(err)
	}
	altered.Signatures = e.Signatures
	if again, err = altered.Marshal(); err != nil {
		t.Fatal(err)
	}
	try(a, "altered", "signature_invalid", again)
	try(other, "handed in by another tenant", "wrong_tenant", good)
	try(a, "garbage", "envelope_malformed", []byte("garbage"))

	if _, err := a.submit(good, input); err != nil {
		t.Fatal(err)
	}
	cancel := &contract.Cancellation{Cluster: "dev", Execution: id, ProtocolVersion: contract.ProtocolVersion, Tenant: "tenant"}
	stolen, _, err := contract.Sign(cancel, c.key("other", "submission"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Control.CancelExecution(context.Background(), connect.NewRequest(&pb.CancelExecutionRequest{Envelope: stolen}))
	refused(t, "cancelled with another's key", "signature_invalid", err)
	cancel.Tenant = "other"
	foreign, _, err := contract.Sign(cancel, c.key("other", "submission"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Control.CancelExecution(context.Background(), connect.NewRequest(&pb.CancelExecutionRequest{Envelope: foreign}))
	refused(t, "cancelled by another tenant", "execution_unknown", err)
	retire, _, err := contract.Sign(&contract.Retirement{Cluster: "dev", Contract: hash, ProtocolVersion: contract.ProtocolVersion, Tenant: "other"}, c.key("other", "contract"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Control.RetireContract(context.Background(), connect.NewRequest(&pb.RetireContractRequest{Envelope: retire}))
	refused(t, "retired by another tenant", "contract_unknown", err)
	a.complete(id.String())
	c.healthy()
}
