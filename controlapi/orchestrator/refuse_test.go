package orchestrator_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// signAs signs any statement with anybody's key.
func signAs[T any, P interface{ *T }](t testing.TB, sign func(P) ([]byte, digest.Digest, error), v P) []byte {
	t.Helper()
	envelope, _, err := sign(v)
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

func signContract(key string) func(*contract.Contract) ([]byte, digest.Digest, error) {
	return func(c *contract.Contract) ([]byte, digest.Digest, error) { return contract.Sign(c, testKey(key)) }
}

func signSubmission(key string) func(*contract.Submission) ([]byte, digest.Digest, error) {
	return func(s *contract.Submission) ([]byte, digest.Digest, error) { return contract.Sign(s, testKey(key)) }
}

func TestContractRefusals(t *testing.T) {
	w := prepare(t, 3)
	w.admit = func(_, module []byte) error {
		switch string(module) {
		case "ungranted":
			return fmt.Errorf("%w: import \"fd_write\" needs capability \"stdio\"", orchestrator.ErrNotAdmitted)
		case "crash":
			return errors.New("the worker died")
		}
		return nil
	}
	w.mustOpen()
	good := signAs(t, signContract("acme"), newContract())
	module := func(m string) func(*contract.Contract) {
		return func(c *contract.Contract) { c.Module = digest.Of([]byte(m)) }
	}
	tests := []struct {
		name     string
		envelope []byte
		module   []byte
		want     orchestrator.Code
	}{
		{"no envelope", []byte("{}"), testModule, orchestrator.CodeEnvelope},
		{"another payload type", w.newSubmission(digestOf("c"), "x", 1), testModule, orchestrator.CodeEnvelope},
		{"another tenant's", signAs(t, signContract("rival"), newContract(func(c *contract.Contract) { c.Tenant = "rival" })), testModule, orchestrator.CodeForeign},
		{"another cluster's", signAs(t, signContract("acme"), newContract(func(c *contract.Contract) { c.Cluster = "other" })), testModule, orchestrator.CodeForeign},
		{"signed by another tenant", signAs(t, signContract("rival"), newContract()), testModule, orchestrator.CodeSignature},
		{"altered after signing", bytes.Replace(good, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1), testModule, orchestrator.CodeEnvelope},
		{"above a cluster limit", signAs(t, signContract("acme"), newContract(func(c *contract.Contract) { c.Limits.MemoryPages = 60000 })), testModule, orchestrator.CodeContractRules},
		{"module of another digest", good, []byte("another"), orchestrator.CodeModuleDigest},
		{"module not sent", signAs(t, signContract("acme"), newContract(module("absent"))), nil, orchestrator.CodeModuleMissing},
		{"module over the cluster's limit", signAs(t, signContract("acme"), newContract(module("large"))), make([]byte, 17<<20), orchestrator.CodeTooLarge},
		{"module over the store's limit", signAs(t, signContract("acme"), newContract(func(c *contract.Contract) { c.Module = digest.Of(make([]byte, maxTestBlob+1)) })), make([]byte, maxTestBlob+1), orchestrator.CodeTooLarge},
		{"module that is not admitted", signAs(t, signContract("acme"), newContract(module("ungranted"))), []byte("ungranted"), orchestrator.CodeModule},
		{"module that nobody could check", signAs(t, signContract("acme"), newContract(module("crash"))), []byte("crash"), orchestrator.CodeBusy},
	}
	for _, tt := range tests {
		_, _, err := w.RegisterContract(ctx(t), actor("acme"), "acme", tt.envelope, tt.module)
		wantCode(t, tt.name, err, tt.want)
	}
	if size := w.audit.Size(); size != 1 {
		t.Errorf("refusals left %d records", size-1)
	}
	if _, err := w.GetBlob(ctx(t), "acme", digestOf("ungranted")); orchestrator.CodeOf(err) != orchestrator.CodeBlobUnknown {
		t.Errorf("a module that was not admitted was stored: %v", err)
	}

	// A module that was put before need not be sent.
	if _, err := w.PutBlob(ctx(t), "acme", testModule); err != nil {
		t.Fatal(err)
	}
	hash, a, err := w.RegisterContract(ctx(t), actor("acme"), "acme", good, nil)
	if err != nil || a.Duplicate {
		t.Fatalf("with the module as a blob: duplicate %v, %v", a.Duplicate, err)
	}
	// Again: the same index and opening, whoever of the tenant's keys signed, and
	// nothing for a signature that does not count.
	again, b, err := w.RegisterContract(ctx(t), actor("acme"), "acme", good, testModule)
	if err != nil || again != hash || !b.Duplicate || b.Index != a.Index || !bytes.Equal(b.Opening, a.Opening) {
		t.Errorf("registering again: %v, %+v, %v", again, b, err)
	}
	_, _, err = w.RegisterContract(ctx(t), actor("acme"), "acme", signAs(t, signContract("rival"), newContract()), testModule)
	wantCode(t, "a known contract under a foreign signature", err, orchestrator.CodeSignature)

	summary, envelope, err := w.Contract(hash, "acme")
	if err != nil || !bytes.Equal(envelope, good) || summary.GetName() != "echo" || summary.GetRetired() {
		t.Errorf("contract: %v, %v", summary, err)
	}
	_, _, err = w.Contract(hash, "rival")
	_, _, unknown := w.Contract(digestOf("nothing"), "rival")
	wantCode(t, "another tenant's contract", err, orchestrator.CodeContractUnknown)
	if err.Error() != unknown.Error() {
		t.Errorf("a foreign contract answers %q, an unknown one %q", err, unknown)
	}

	// Retirement.
	_, _, err = w.RetireContract(ctx(t), actor("rival"), "rival", w.retirement(hash))
	wantCode(t, "retiring another tenant's contract", err, orchestrator.CodeForeign)
	_, _, err = w.RetireContract(ctx(t), actor("acme"), "acme", good)
	wantCode(t, "retiring by a contract", err, orchestrator.CodeEnvelope)
	_, _, err = w.RetireContract(ctx(t), actor("acme"), "acme", w.retirement(digestOf("nothing")))
	wantCode(t, "retiring what is unknown", err, orchestrator.CodeContractUnknown)
	w.retire(hash)
	_, b, err = w.RetireContract(ctx(t), actor("acme"), "acme", w.retirement(hash))
	if err != nil || !b.Duplicate {
		t.Errorf("retiring again: duplicate %v, %v", b.Duplicate, err)
	}
	if summary, _, err := w.Contract(hash, ""); err != nil || !summary.GetRetired() {
		t.Errorf("retired contract: %v, %v", summary, err)
	}
	w.checkLog()
}

func TestSubmissionRefusals(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	expired := w.register(newContract(func(c *contract.Contract) { c.ExpiresEpoch, c.Name = 1, "expiring" }))
	many := w.register(newContract(func(c *contract.Contract) { c.Nodes, c.Agreement, c.MaxAssigned, c.Name = 4, 3, 4, "many" }))
	retired := w.register(newContract(func(c *contract.Contract) { c.Name = "retired" }))
	w.retire(retired)
	theirs := w.register(newContract(func(c *contract.Contract) { c.Tenant = "rival" }))
	w.change(membership.SetNodeQuorum{Quorum: 2})
	open := w.submit(hash, "open", 99)

	submission := func(edit ...func(*contract.Submission)) []byte { return w.newSubmission(hash, "x", 1, edit...) }
	on := func(c digest.Digest) func(*contract.Submission) {
		return func(s *contract.Submission) { s.Contract = c }
	}
	var changed contract.Submission
	tests := []struct {
		name     string
		envelope []byte
		input    string
		want     orchestrator.Code
	}{
		{"no envelope", []byte("x"), "x", orchestrator.CodeEnvelope},
		{"a contract", signAs(t, signContract("acme"), newContract()), "x", orchestrator.CodeEnvelope},
		{"another cluster's", submission(func(s *contract.Submission) { s.Cluster = "other" }), "x", orchestrator.CodeForeign},
		{"another tenant's", submission(func(s *contract.Submission) { s.Tenant = "rival" }), "x", orchestrator.CodeForeign},
		{"signed by another tenant", signAs(t, signSubmission("rival"), func() *contract.Submission {
			changed = contract.Submission{Cluster: cluster, Contract: hash, Input: digestOf("x"), LastEpoch: 9, Nonce: make([]byte, 16), ProtocolVersion: "1.0", Tenant: "acme"}
			return &changed
		}()), "x", orchestrator.CodeSignature},
		{"unknown contract", submission(on(digestOf("nothing"))), "x", orchestrator.CodeContractUnknown},
		{"another tenant's contract", submission(on(theirs)), "x", orchestrator.CodeContractUnknown},
		{"retired contract", submission(on(retired)), "x", orchestrator.CodeContractRetired},
		{"expired contract", submission(on(expired)), "x", orchestrator.CodeContractInvalid},
		{"too few nodes", submission(on(many)), "x", orchestrator.CodeEligible},
		{"epoch passed", submission(func(s *contract.Submission) { s.LastEpoch = 1 }), "x", orchestrator.CodeEpochPassed},
		{"unknown parent", submission(func(s *contract.Submission) { s.Parents = []digest.Digest{digestOf("p")} }), "x", orchestrator.CodeParent},
		{"open parent", submission(func(s *contract.Submission) { s.Parents = []digest.Digest{open} }), "x", orchestrator.CodeParent},
		{"another input", submission(), "y", orchestrator.CodeInputDigest},
		{"no input", submission(), "", orchestrator.CodeInputMissing},
		{"input over the contract's limit", submission(func(s *contract.Submission) { s.Input = digest.Of(make([]byte, 1025)) }), string(make([]byte, 1025)), orchestrator.CodeTooLarge},
	}
	size := w.audit.Size()
	for _, tt := range tests {
		_, _, err := w.Submit(ctx(t), actor("acme"), "acme", tt.envelope, []byte(tt.input))
		wantCode(t, tt.name, err, tt.want)
	}
	if _, err := w.PutBlob(ctx(t), "acme", make([]byte, 1025)); err != nil {
		t.Fatal(err)
	}
	_, _, err := w.Submit(ctx(t), actor("acme"), "acme", submission(func(s *contract.Submission) { s.Input = digest.Of(make([]byte, 1025)) }), nil)
	wantCode(t, "blob over the contract's limit", err, orchestrator.CodeTooLarge)
	// The other tenant's payload is not found by its digest.
	if _, err := w.PutBlob(ctx(t), "rival", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.Submit(ctx(t), actor("acme"), "acme", submission(func(s *contract.Submission) { s.Input = digestOf("secret") }), nil)
	wantCode(t, "another tenant's input", err, orchestrator.CodeInputMissing)
	if w.audit.Size() != size {
		t.Errorf("refusals left %d records", w.audit.Size()-size)
	}

	w.change(membership.SetNodeQuorum{Quorum: 3})
	w.change(membership.RemovePrincipal{ID: "node-3"})
	_, _, err = w.Submit(ctx(t), actor("acme"), "acme", submission(), []byte("x"))
	wantCode(t, "fewer members than the quorum", err, orchestrator.CodeQuorum)
	w.checkLog()
}

func TestDuplicateSubmission(t *testing.T) {
	w := newWorld(t, 3)
	envelope := w.newSubmission(w.register(newContract()), "x", 1)
	id, a, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x"))
	if err != nil || a.Duplicate {
		t.Fatalf("duplicate %v, %v", a.Duplicate, err)
	}
	for range 2 {
		again, b, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x"))
		if err != nil || again != id || !b.Duplicate || b.Index != a.Index || !bytes.Equal(b.Opening, a.Opening) {
			t.Errorf("again: %v, %+v, %v", again, b, err)
		}
		w.checkReceipt(b)
		w.restart()
	}
	_, _, err = w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("y"))
	wantCode(t, "the same submission with another input", err, orchestrator.CodeInputDigest)
	s := *payloadOf(t, envelope, contract.ParseSubmission)
	_, _, err = w.Submit(ctx(t), actor("acme"), "acme", signAs(t, signSubmission("rival"), &s), []byte("x"))
	wantCode(t, "the same payload under a foreign signature", err, orchestrator.CodeSignature)
	// The key was rotated: what it signed before is still known.
	w.change(membership.RotateKey{ID: "acme", Remove: actor("acme").KeyID, Add: &membership.Key{
		Algorithm: membership.AlgorithmEd25519, PublicKey: publicKey("acme-2"),
		Uses: []membership.Use{membership.UseContract, membership.UseSubmission, membership.UseToken}}}, "acme-2")
	if _, b, err := w.Submit(ctx(t), actor("acme"), "acme", envelope, []byte("x")); err != nil || !b.Duplicate {
		t.Errorf("after rotation: duplicate %v, %v", b.Duplicate, err)
	}
	if _, b, err := w.Submit(ctx(t), actor("acme"), "acme", signAs(t, signSubmission("acme-2"), &s), nil); err != nil || !b.Duplicate {
		t.Errorf("signed anew: duplicate %v, %v", b.Duplicate, err)
	}
	w.checkLog()
}

func TestCancellation(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	id := w.submit(hash, "x", 1)
	_, _, err := w.Cancel(ctx(t), actor("rival"), "rival", w.cancellation(id))
	wantCode(t, "cancelling another tenant's", err, orchestrator.CodeForeign)
	foreign, _, err := contract.Sign(&contract.Cancellation{Cluster: cluster, Execution: id, ProtocolVersion: "1.0", Tenant: "rival"}, testKey("rival"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = w.Cancel(ctx(t), actor("rival"), "rival", foreign)
	wantCode(t, "cancelling another tenant's id", err, orchestrator.CodeExecutionUnknown)
	_, _, err = w.Cancel(ctx(t), actor("acme"), "acme", []byte("{"))
	wantCode(t, "no envelope", err, orchestrator.CodeEnvelope)
	_, _, err = w.Cancel(ctx(t), actor("acme"), "acme", w.cancellation(digestOf("nothing")))
	wantCode(t, "cancelling what is unknown", err, orchestrator.CodeExecutionUnknown)
	w.cancel(id)
	if _, a, err := w.Cancel(ctx(t), actor("acme"), "acme", w.cancellation(id)); err != nil || !a.Duplicate {
		t.Errorf("cancelling again: duplicate %v, %v", a.Duplicate, err)
	}
	w.awaitState(id, pb.ExecutionState_EXECUTION_STATE_CANCELLED)
	w.checkNoResult(id)
	_, err = w.Provenance(ctx(t), id, "acme")
	wantCode(t, "provenance of what was cancelled", err, orchestrator.CodeProofNotReady)
	w.checkLog()
}

func TestAttestationRefusals(t *testing.T) {
	w := newWorld(t, 5)
	id := w.submit(w.register(newContract()), "x", 1)
	w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetWitnessed() })
	assigned := must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetAssignedNodes()
	other := ""
	for i := range 5 {
		if name := fmt.Sprintf("node-%d", i+1); !contains(assigned, name) {
			other = name
		}
	}
	n := w.worker(assigned[0])
	a := n.next()
	statement := n.statement(a)
	edited := func(edit func(*provenance.Statement)) []byte {
		s := *statement
		edit(&s)
		return n.envelope(&s)
	}
	as := func(signer string, edit func(*provenance.Statement)) []byte {
		s := *statement
		s.Node = signer
		edit(&s)
		return w.worker(signer).envelope(&s)
	}
	for _, tt := range []struct {
		name     string
		node     string
		envelope []byte
		want     orchestrator.Code
	}{
		{"no envelope", n.id, []byte("x"), orchestrator.CodeEnvelope},
		{"no statement", n.id, w.newSubmission(digestOf("c"), "x", 1), orchestrator.CodeEnvelope},
		{"another node's", other, edited(func(*provenance.Statement) {}), orchestrator.CodeWrongNode},
		{"signed by another node", n.id, func() []byte {
			s := *statement
			return (&worker{w: w, id: other}).envelope(&s)
		}(), orchestrator.CodeAttestation},
		{"unknown execution", n.id, edited(func(s *provenance.Statement) { s.Execution = digestOf("nothing") }), orchestrator.CodeExecutionUnknown},
		{"not assigned", other, as(other, func(*provenance.Statement) {}), orchestrator.CodeExecutionUnknown},
		{"another contract", n.id, edited(func(s *provenance.Statement) { s.Contract = digestOf("c") }), orchestrator.CodeAttestation},
		{"another epoch", n.id, edited(func(s *provenance.Statement) { s.Epoch = 2 }), orchestrator.CodeAttestation},
		{"a membership that never was", n.id, edited(func(s *provenance.Statement) { s.MembershipCheckpoint.RootHash = digestOf("r") }), orchestrator.CodeAttestation},
	} {
		_, _, _, err := w.Attest(ctx(t), actor(tt.node), tt.node, tt.envelope)
		wantCode(t, tt.name, err, tt.want)
	}

	// The first one counts, the same again is a duplicate, another result makes
	// the node void, and then it has said enough.
	_, first, _, err := w.Attest(ctx(t), actor(n.id), n.id, n.envelope(statement))
	if err != nil || first.Duplicate {
		t.Fatalf("attesting: duplicate %v, %v", first.Duplicate, err)
	}
	_, again, _, err := w.Attest(ctx(t), actor(n.id), n.id, n.envelope(statement))
	if err != nil || !again.Duplicate || again.Index != first.Index {
		t.Errorf("again: %+v, %v", again, err)
	}
	// Nothing is answered as known that the node did not sign just so.
	w.change(membership.RotateKey{ID: n.id, Add: &membership.Key{Algorithm: membership.AlgorithmEd25519,
		PublicKey: publicKey("node token"), Uses: []membership.Use{membership.UseToken}}}, "node token")
	for name, envelope := range map[string][]byte{
		"the same result in other words":  edited(func(s *provenance.Statement) { s.SoftwareVersion = "2.0" }),
		"the same result, other cluster":  edited(func(s *provenance.Statement) { s.Cluster = "other" }),
		"the same result, other module":   edited(func(s *provenance.Statement) { s.Module = digestOf("m") }),
		"the same, signed by a token key": w.signedWith(statement, "node token"),
		"the same, signed twice":          w.signedWith(statement, n.id, "node token"),
		"the same, as another type":       signedTypeBy(t, statement, provenance.AttestationType+"x", n.id),
	} {
		_, _, _, err := w.Attest(ctx(t), actor(n.id), n.id, envelope)
		wantCode(t, name, err, orchestrator.CodeAttestation)
	}
	lie := edited(func(s *provenance.Statement) { s.Outcome.OutputDigest = digestOf("lie") })
	if _, b, _, err := w.Attest(ctx(t), actor(n.id), n.id, lie); err != nil || b.Duplicate {
		t.Errorf("another result: duplicate %v, %v", b.Duplicate, err)
	}
	_, _, _, err = w.Attest(ctx(t), actor(n.id), n.id, edited(func(s *provenance.Statement) { s.Outcome.OutputDigest = digestOf("third") }))
	wantCode(t, "a third result", err, orchestrator.CodeAttestation)
	for _, r := range must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetReports() {
		if !r.GetVoid() {
			t.Errorf("report %v is not void", r)
		}
	}
	w.checkLog()
}

// The node's attestation key was replaced: what it signed with the old one is
// not answered as known any more, the same payload under the new one is.
func TestRepeatedAttestationAfterRotation(t *testing.T) {
	w := newWorld(t, 3)
	w.submit(w.register(newContract()), "x", 1)
	n := w.worker("node-1")
	statement := n.statement(n.next())
	_, first, _, err := w.Attest(ctx(t), actor(n.id), n.id, n.envelope(statement))
	if err != nil {
		t.Fatal(err)
	}
	w.change(membership.RotateKey{ID: n.id, Remove: actor(n.id).KeyID, Add: &membership.Key{
		Algorithm: membership.AlgorithmEd25519, PublicKey: publicKey("node-1 next"),
		Uses: []membership.Use{membership.UseAttestation, membership.UseToken}}}, "node-1 next")
	_, _, _, err = w.Attest(ctx(t), actor(n.id), n.id, n.envelope(statement))
	wantCode(t, "the same, under the old key", err, orchestrator.CodeAttestation)
	_, again, _, err := w.Attest(ctx(t), actor(n.id), n.id, w.signedWith(statement, "node-1 next"))
	if err != nil || !again.Duplicate || again.Index != first.Index {
		t.Errorf("the same, under the new key: %+v, %v", again, err)
	}
	w.checkLog()
}

// signedWith signs a statement with anybody's keys.
func (w *world) signedWith(s *provenance.Statement, keys ...string) []byte {
	w.t.Helper()
	return signedTypeBy(w.t, s, provenance.AttestationType, keys...)
}

func signedTypeBy(t testing.TB, s *provenance.Statement, payloadType string, keys ...string) []byte {
	t.Helper()
	payload := must[[]byte](t)(s.Marshal())
	var signers []dsse.Signer
	for _, k := range keys {
		signers = append(signers, must[dsse.Signer](t)(dsse.NewSigner(testKey(k))))
	}
	return must[[]byte](t)(must[*dsse.Envelope](t)(dsse.Sign(payloadType, payload, signers...)).Marshal())
}

// A repeated registration is held to its module as the first one was.
func TestRepeatedContractWithModule(t *testing.T) {
	w := newWorld(t, 3)
	w.register(newContract())
	envelope := signAs(t, signContract("acme"), newContract())
	for name, c := range map[string]struct {
		module []byte
		want   orchestrator.Code
	}{
		"none":      {nil, ""},
		"its own":   {testModule, ""},
		"another's": {[]byte("another"), orchestrator.CodeModuleDigest},
	} {
		_, a, err := w.RegisterContract(ctx(t), actor("acme"), "acme", envelope, c.module)
		wantCode(t, name, err, c.want)
		if err == nil && !a.Duplicate {
			t.Errorf("%s: no duplicate", name)
		}
	}
}

// Messages say what is wrong once.
func TestMessagesDoNotStutter(t *testing.T) {
	w := prepare(t, 3)
	w.admit = func(_, _ []byte) error {
		return fmt.Errorf("%w: %w", orchestrator.ErrNotAdmitted, errors.New("export \"_start\" is missing"))
	}
	w.mustOpen()
	_, _, err := w.RegisterContract(ctx(t), actor("acme"), "acme", signAs(t, signContract("acme"), newContract()), testModule)
	if want := "[module_refused] export \"_start\" is missing"; err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if !errors.Is(err, orchestrator.ErrNotAdmitted) {
		t.Errorf("the cause is lost: %v", err)
	}
	garbage := []byte("x")
	for name, call := range map[string]func() error{
		"contract":     func() error { _, _, err := w.RegisterContract(ctx(t), actor("acme"), "acme", garbage, nil); return err },
		"retirement":   func() error { _, _, err := w.RetireContract(ctx(t), actor("acme"), "acme", garbage); return err },
		"submission":   func() error { _, _, err := w.Submit(ctx(t), actor("acme"), "acme", garbage, nil); return err },
		"cancellation": func() error { _, _, err := w.Cancel(ctx(t), actor("acme"), "acme", garbage); return err },
		"attestation":  func() error { _, _, _, err := w.Attest(ctx(t), actor("node-1"), "node-1", garbage); return err },
		"change":       func() error { _, _, _, err := w.ApplyChange(ctx(t), actor("admin"), garbage); return err },
	} {
		err := call()
		wantCode(t, name, err, orchestrator.CodeEnvelope)
		if text := fmt.Sprint(err); strings.Count(text, "[") != 1 || strings.Count(text, "envelope:") != 1 {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func TestChangeRefusals(t *testing.T) {
	w := newWorld(t, 3)
	before := w.state
	good := w.propose(membership.SetNodeQuorum{Quorum: 2})
	unsigned, err := before.Propose(membership.SetNodeQuorum{Quorum: 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		envelope []byte
		want     orchestrator.Code
	}{
		{"no envelope", []byte("{}"), orchestrator.CodeEnvelope},
		{"a submission", w.newSubmission(digestOf("c"), "x", 1), orchestrator.CodeEnvelope},
		{"too large", make([]byte, 70_000), orchestrator.CodeTooLarge},
		{"signed by a tenant", signedBy(t, unsigned, "acme"), orchestrator.CodeChange},
		{"another version", signedBy(t, bytes.Replace(unsigned, []byte(`"protocol_version":"1.0"`), []byte(`"protocol_version":"9.0"`), 1), "admin"), orchestrator.CodeVersion},
	} {
		_, _, _, err := w.ApplyChange(ctx(t), actor("admin"), tt.envelope)
		wantCode(t, tt.name, err, tt.want)
	}
	d, epoch, dup, err := w.ApplyChange(ctx(t), actor("admin"), good)
	if err != nil || epoch != 2 || dup || d != w.state.PayloadDigest() {
		t.Fatalf("applying: %v, epoch %d, duplicate %v, %v", d, epoch, dup, err)
	}
	if _, epoch, dup, err = w.ApplyChange(ctx(t), actor("admin"), good); err != nil || epoch != 2 || !dup {
		t.Errorf("again: epoch %d, duplicate %v, %v", epoch, dup, err)
	}
	_, _, _, err = w.ApplyChange(ctx(t), actor("admin"), signedBy(t, unsigned, "admin"))
	wantCode(t, "a change for an epoch that has passed", err, orchestrator.CodeChange)
	_, _, _, err = w.ApplyChange(ctx(t), actor("admin"), w.genesis)
	if err != nil && orchestrator.CodeOf(err) != orchestrator.CodeChange {
		t.Errorf("genesis again: %v", err)
	}
	w.checkLog()
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
