package orchestrator_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

const cluster = "test"

// world is a cluster with everything but nodes' sandboxes: two fake logs, blobs
// in memory, and the keys of everybody.
type world struct {
	t       testing.TB
	audit   *fakeLog
	members *fakeLog
	blobs   *memoryBlobs
	admit   admitter
	genesis []byte
	state   *membership.State // that the next change builds on
	config  func(*orchestrator.Config)
	*orchestrator.Orchestrator
}

type admitter func(payload, module []byte) error

func (a admitter) Admit(_ context.Context, payload, module []byte, _ uint64) error {
	if a == nil {
		return nil
	}
	return a(payload, module)
}

// principal makes a principal whose one key has all uses of its kind.
func principal(kind membership.Kind, id string) membership.Principal {
	uses := map[membership.Kind][]membership.Use{
		membership.KindAdmin:   {membership.UseChange, membership.UseToken},
		membership.KindAuditor: {membership.UseToken},
		membership.KindNode:    {membership.UseAttestation, membership.UseToken},
		membership.KindTenant:  {membership.UseContract, membership.UseSubmission, membership.UseToken},
	}[kind]
	return membership.Principal{ID: id, Kind: kind, Keys: []membership.Key{{
		Algorithm: membership.AlgorithmEd25519, PublicKey: testKey(id).Public().(ed25519.PublicKey), Uses: uses}}}
}

// signedBy wraps a change's payload in an envelope with the keys' signatures.
func signedBy(t testing.TB, payload []byte, keys ...string) []byte {
	t.Helper()
	var signers []dsse.Signer
	for _, k := range keys {
		s, err := dsse.NewSigner(testKey(k))
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
	}
	e, err := dsse.Sign(membership.PayloadType, payload, signers...)
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// prepare makes a world whose orchestrator is not open yet.
func prepare(t testing.TB, nodes int) *world {
	t.Helper()
	w := &world{t: t, blobs: newMemoryBlobs()}
	w.audit = newFakeLog(t, cluster+"/audit", false)
	w.members = newFakeLog(t, cluster+"/membership", true)
	founding := membership.Founding{
		AdminThreshold: 1, NodeQuorum: 1, Limits: contract.DefaultClusterLimits(),
		Logs: membership.Logs{
			Audit:      membership.Log{Origin: cluster + "/audit", Keys: []string{vkey(t, cluster+"/audit")}, ReceiptKeys: []string{vkey(t, cluster+"/audit/receipt")}},
			Membership: membership.Log{Origin: cluster + "/membership", Keys: []string{vkey(t, cluster+"/membership")}},
		},
		Principals: []membership.Principal{
			principal(membership.KindTenant, "acme"), principal(membership.KindAdmin, "admin"),
			principal(membership.KindAuditor, "auditor"),
		},
	}
	keys := []string{"acme", "admin", "auditor"}
	for i := range nodes {
		id := fmt.Sprintf("node-%d", i+1)
		founding.Principals = append(founding.Principals, principal(membership.KindNode, id))
		keys = append(keys, id)
	}
	founding.Principals = append(founding.Principals, principal(membership.KindTenant, "rival"))
	payload, err := membership.ProposeGenesis(cluster, founding)
	if err != nil {
		t.Fatal(err)
	}
	w.genesis = signedBy(t, payload, append(keys, "rival")...)
	if w.state, _, err = membership.Genesis(w.genesis); err != nil {
		t.Fatal(err)
	}
	// The order of docs/architecture.md, "State and who owns it": no witness sees
	// an epoch whose record is not in the audit log.
	w.police()
	return w
}

func (w *world) police() {
	audit := w.audit
	w.members.mayAllow = func(size int64) error {
		epoch, err := audit.Register("epoch")
		if err == nil && int64(epoch) < size {
			err = fmt.Errorf("the audit log has epoch %d", epoch)
		}
		return err
	}
}

func (w *world) open() error {
	cfg := orchestrator.Config{
		Cluster: cluster, Audit: w.audit, Membership: w.members,
		AuditPolicy: w.audit.policy, MembershipPolicy: w.members.policy,
		Genesis: w.genesis, Blobs: w.blobs, Admitter: w.admit,
		AttemptDeadline: time.Hour,
	}
	if w.config != nil {
		w.config(&cfg)
	}
	o, err := orchestrator.Open(context.Background(), cfg)
	w.Orchestrator = o
	return err
}

// newWorld is prepare and open.
func newWorld(t testing.TB, nodes int) *world {
	t.Helper()
	w := prepare(t, nodes)
	w.mustOpen()
	return w
}

func (w *world) mustOpen() {
	w.t.Helper()
	if err := w.open(); err != nil {
		w.t.Fatal(err)
	}
	o := w.Orchestrator
	w.t.Cleanup(func() { o.Close() })
}

// restart kills both logs under the orchestrator, as kill -9 would, and opens
// what they had on disk.
func (w *world) restart() {
	w.t.Helper()
	audit, members := w.audit.reopen(), w.members.reopen()
	if w.Orchestrator != nil {
		w.Close()
	}
	w.audit, w.members = audit, members
	w.police()
	w.mustOpen()
}

// change applies an effect that the admin and the holders of new keys sign.
func (w *world) change(effect membership.Effect, newKeys ...string) uint64 {
	w.t.Helper()
	_, epoch, dup, err := w.ApplyChange(ctx(w.t), actor("admin"), w.propose(effect, newKeys...))
	if err != nil || dup {
		w.t.Fatalf("applying %s: duplicate %v, %v", effect.Kind(), dup, err)
	}
	return epoch
}

func (w *world) propose(effect membership.Effect, newKeys ...string) []byte {
	w.t.Helper()
	payload, err := w.state.Propose(effect)
	if err != nil {
		w.t.Fatal(err)
	}
	envelope := signedBy(w.t, payload, append([]string{"admin"}, newKeys...)...)
	next, _, err := w.state.Apply(envelope)
	if err != nil {
		w.t.Fatal(err)
	}
	w.state = next
	return envelope
}

func actor(id string) orchestrator.Actor {
	return orchestrator.Actor{Principal: id, KeyID: dsse.KeyID(testKey(id).Public().(ed25519.PublicKey)),
		Method: "tallystick.v1.Control/Test", TokenID: "0123456789abcdef"}
}

// ctx is a context that ends before the test's own limit, so that a hang has a
// name.
func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

var testModule = []byte("\x00asm\x01\x00\x00\x00")

// newContract is a contract of acme for two of three nodes and up to five.
func newContract(edit ...func(*contract.Contract)) *contract.Contract {
	c := &contract.Contract{
		Agreement: 2, Capabilities: []contract.Capability{contract.CapabilityStdio}, Cluster: cluster,
		Limits:      contract.Limits{DiagnosticsBytes: 1 << 10, InputBytes: 1 << 10, MemoryPages: 16, OutputBytes: 1 << 10},
		MaxAssigned: 5, Module: digest.Of(testModule), Name: "echo", Nodes: 3, ProtocolVersion: "1.0", Step: 1,
		Tenant: "acme", Version: "1.0.0", Versions: contract.Versions{HostInterface: 1},
	}
	for _, e := range edit {
		e(c)
	}
	return c
}

// must unwraps what may not fail.
func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) register(c *contract.Contract) digest.Digest {
	w.t.Helper()
	envelope, hash, err := contract.Sign(c, testKey(c.Tenant))
	if err != nil {
		w.t.Fatal(err)
	}
	got, a, err := w.RegisterContract(ctx(w.t), actor(c.Tenant), c.Tenant, envelope, testModule)
	if err != nil || got != hash {
		w.t.Fatalf("registering: %v, %v", got, err)
	}
	w.checkReceipt(a)
	return hash
}

// newSubmission is a submission of acme with a nonce of its own.
func (w *world) newSubmission(hash digest.Digest, input string, nonce byte, edit ...func(*contract.Submission)) []byte {
	w.t.Helper()
	s := &contract.Submission{Cluster: cluster, Contract: hash, Input: digest.Of([]byte(input)), LastEpoch: 100,
		Nonce: bytes.Repeat([]byte{nonce}, 16), ProtocolVersion: "1.0", Tenant: "acme"}
	for _, e := range edit {
		e(s)
	}
	envelope, _, err := contract.Sign(s, testKey(s.Tenant))
	if err != nil {
		w.t.Fatal(err)
	}
	return envelope
}

func (w *world) submit(hash digest.Digest, input string, nonce byte, edit ...func(*contract.Submission)) digest.Digest {
	w.t.Helper()
	id, a, err := w.Submit(ctx(w.t), actor("acme"), "acme", w.newSubmission(hash, input, nonce, edit...), []byte(input))
	if err != nil {
		w.t.Fatalf("submitting: %v", err)
	}
	w.checkReceipt(a)
	return id
}

// checkReceipt verifies a receipt as a client would.
func (w *world) checkReceipt(a orchestrator.Appended) {
	w.t.Helper()
	receipt, err := checkpoint.ParseVkey(vkey(w.t, cluster+"/audit/receipt"))
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := checkpoint.ParseNote(a.Head)
	if err != nil {
		w.t.Fatalf("receipt head: %v", err)
	}
	c, err := checkpoint.Parse(n.Text)
	if err != nil || !receipt.Verify(n.Text, n.Signatures[0].Bytes) {
		w.t.Fatalf("receipt head: %v, or its signature", err)
	}
	if err := checkpoint.VerifyInclusion(c.Tree(), a.Index, leafOf(w.t, a.Opening), hashes(a.Proof)); err != nil {
		w.t.Errorf("receipt: %v", err)
	}
}

// await watches an execution until ok is satisfied or nothing more comes.
func (w *world) await(id digest.Digest, ok func(*pb.ExecutionStatus) bool) *pb.ExecutionStatus {
	w.t.Helper()
	c, cancel := context.WithCancel(ctx(w.t))
	defer cancel()
	statuses, err := w.Watch(c, id, "")
	if err != nil {
		w.t.Fatal(err)
	}
	var last *pb.ExecutionStatus
	for s := range statuses {
		if last = s; ok(s) {
			return s
		}
	}
	w.t.Fatalf("execution never got there: %v", last)
	return nil
}

func (w *world) awaitState(id digest.Digest, state pb.ExecutionState) *pb.ExecutionStatus {
	w.t.Helper()
	return w.await(id, func(s *pb.ExecutionStatus) bool { return s.GetState() == state })
}

func proofReady(s *pb.ExecutionStatus) bool { return s.GetProofReady() }

// memoryBlobs keeps payloads in memory.
type memoryBlobs struct {
	mu   sync.Mutex
	data map[string][]byte
	fail error
}

func newMemoryBlobs() *memoryBlobs { return &memoryBlobs{data: make(map[string][]byte)} }

const maxTestBlob = 1 << 20

func (b *memoryBlobs) failing(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

func (b *memoryBlobs) Put(ctx context.Context, owner string, data []byte) (digest.Digest, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(data) > maxTestBlob {
		return digest.Digest{}, orchestrator.ErrBlobTooLarge
	}
	d := digest.Of(data)
	b.data[owner+"/"+d.String()] = slices.Clone(data)
	return d, errors.Join(b.fail, ctx.Err())
}

func (b *memoryBlobs) Get(ctx context.Context, owner string, d digest.Digest) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.data[owner+"/"+d.String()]
	if !ok {
		return nil, orchestrator.ErrNoBlob
	}
	return data, errors.Join(b.fail, ctx.Err())
}

func (b *memoryBlobs) Size(ctx context.Context, owner string, d digest.Digest) (int64, error) {
	data, err := b.Get(ctx, owner, d)
	return int64(len(data)), err
}

func (b *memoryBlobs) Erase(ctx context.Context, owner string, d digest.Digest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.data, owner+"/"+d.String())
	return b.fail
}

// worker is a node without a sandbox: it verifies an assignment's proofs as a
// node does and attests that the output is whatever run returns.
type worker struct {
	w    *world
	id   string
	run  func(a *pb.Assignment, input []byte) string
	only func(s *provenance.Statement) // edits a statement before it is signed
}

func (w *world) worker(id string) *worker {
	return &worker{w: w, id: id, run: func(_ *pb.Assignment, input []byte) string { return strings.ToUpper(string(input)) }}
}

// statement verifies the assignment and makes the statement.
func (n *worker) statement(a *pb.Assignment) *provenance.Statement {
	t, w := n.w.t, n.w
	t.Helper()
	request := verified(t, w.audit.policy, a.GetRequestCheckpoint())
	audit := verified(t, w.audit.policy, a.GetAuditCheckpoint())
	members := verified(t, w.members.policy, a.GetMembershipCheckpoint())
	contractRecord := provenRecord(t, a.GetContract(), request).GetContract()
	requestRecord := provenRecord(t, a.GetRequest(), request).GetRequest()
	var epochs []*pb.EpochRecord
	for _, r := range a.GetEpochs() {
		epochs = append(epochs, provenRecord(t, r, audit).GetEpoch())
	}
	for i, r := range a.GetReschedules() {
		if got := provenRecord(t, r, audit).GetReschedule().GetAttempt(); got != uint64(i)+1 {
			t.Errorf("reschedule %d is of attempt %d", i, got)
		}
	}
	if len(a.GetReschedules()) != int(a.GetAttempt()) {
		t.Errorf("attempt %d with %d reschedule records", a.GetAttempt(), len(a.GetReschedules()))
	}
	if epochs[0].GetEpoch() != requestRecord.GetEpoch() || epochs[len(epochs)-1].GetEpoch() != uint64(members.Size) {
		t.Errorf("epochs %v with a request of epoch %d and a membership of size %d", epochs, requestRecord.GetEpoch(), members.Size)
	}
	c, sub := payloadOf(t, contractRecord.GetEnvelope(), contract.ParseContract), payloadOf(t, requestRecord.GetEnvelope(), contract.ParseSubmission)
	var outputs []digest.Digest
	var input []byte
	for _, file := range a.GetParentBundles() {
		b := must[*pb.ProofBundle](t)(provenance.ParseBundle(file))
		if c := verified(t, w.members.policy, b.GetMembershipCheckpoint()); !b.GetExternalMembership() || c.Size > members.Size {
			t.Errorf("a parent's bundle with %d changes, up to size %d, for a node that knows %d", len(b.GetMembershipChanges()), c.Size, members.Size)
		}
		last := b.GetRecords()[len(b.GetRecords())-1]
		output := digest.Digest(openingRecord(t, last.GetOpening()).GetProvenance().GetOutputDigest())
		outputs = append(outputs, output)
		input = append(input, must[[]byte](t)(w.GetAssignedBlob(ctx(t), n.id, output))...)
	}
	own := must[[]byte](t)(w.GetAssignedBlob(ctx(t), n.id, sub.Input))
	input = append(input, own...)
	output := []byte(n.run(a, input))
	must[digest.Digest](t)(w.PutBlob(ctx(t), n.id, output))

	state := w.stateAt(requestRecord.GetEpoch())
	schedule, err := state.Schedule(sub.ExecutionID(), provenance.ScheduleRequest(c))
	if err != nil {
		t.Fatal(err)
	}
	e := must[*dsse.Envelope](t)(dsse.Parse(requestRecord.GetEnvelope()))
	s := &provenance.Statement{
		Cluster: cluster, Tenant: sub.Tenant, Contract: sub.Contract, Submission: digest.Of(e.Payload), Input: sub.Input,
		Parents: sub.Parents, ParentOutputs: outputs, Execution: sub.ExecutionID(),
		Node: n.id, Attempt: a.GetAttempt(), Epoch: requestRecord.GetEpoch(), MembershipHash: state.MembershipHash(),
		ScheduleHash: schedule.Hash(), RequestCheckpoint: refOf(request), MembershipCheckpoint: refOf(members), Module: c.Module,
		Outcome: contract.Outcome{Kind: contract.OutcomeOK, PeakPages: 1, OutputLength: uint64(len(output)),
			OutputDigest: digest.Of(output), DiagnosticsDigest: digest.Of(nil)},
	}
	if n.only != nil {
		n.only(s)
	}
	return s
}

// envelope signs a statement.
func (n *worker) envelope(s *provenance.Statement) []byte {
	n.w.t.Helper()
	payload, err := s.Marshal()
	if err != nil {
		n.w.t.Fatal(err)
	}
	signer, err := dsse.NewSigner(testKey(n.id))
	if err != nil {
		n.w.t.Fatal(err)
	}
	e, err := dsse.Sign(provenance.AttestationType, payload, signer)
	if err != nil {
		n.w.t.Fatal(err)
	}
	b, err := e.Marshal()
	if err != nil {
		n.w.t.Fatal(err)
	}
	return b
}

// next takes the next assignment from a stream of its own.
func (n *worker) next() *pb.Assignment {
	n.w.t.Helper()
	return n.await(func(*pb.Assignment) bool { return true })
}

// await takes the first assignment that is wanted.
func (n *worker) await(wanted func(*pb.Assignment) bool) *pb.Assignment {
	n.w.t.Helper()
	c, cancel := context.WithCancel(ctx(n.w.t))
	defer cancel()
	stream, err := n.w.Assignments(c, n.id)
	if err != nil {
		n.w.t.Fatal(err)
	}
	for a := range stream {
		if wanted(a) {
			return a
		}
	}
	n.w.t.Fatal("no such assignment came")
	return nil
}

// work does the next assignment.
func (n *worker) work() pb.ExecutionState {
	n.w.t.Helper()
	return n.do(n.next())
}

func (n *worker) do(assignment *pb.Assignment) pb.ExecutionState {
	n.w.t.Helper()
	_, a, state, err := n.w.Attest(ctx(n.w.t), actor(n.id), n.id, n.envelope(n.statement(assignment)))
	if err != nil {
		n.w.t.Fatalf("attesting: %v", err)
	}
	n.w.checkReceipt(a)
	return state
}

// complete has the first nodes of an execution work until it is complete and
// proven.
func (w *world) complete(id digest.Digest) *pb.ExecutionStatus {
	w.t.Helper()
	s := must[*pb.ExecutionStatus](w.t)(w.Status(id, ""))
	for _, node := range s.GetAssignedNodes()[:2] {
		n := w.worker(node)
		n.do(n.await(func(a *pb.Assignment) bool { return a.GetExecutionId() == id.String() }))
	}
	return w.await(id, proofReady)
}

func publicKey(name string) ed25519.PublicKey { return testKey(name).Public().(ed25519.PublicKey) }
