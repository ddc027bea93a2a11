package controlapi

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/controlapi/token"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

const testCluster = "example"

// members of the test cluster, by kind.
var members = map[string]string{
	"root": admin, "eve": auditor, "node-1": node, "node-2": node, "alice": tenant, "bob": tenant,
}

// tokenKeys are the members' public keys.
var tokenKeys = func() map[string]ed25519.PublicKey {
	keys := make(map[string]ed25519.PublicKey)
	for id := range members {
		keys[id] = keyOf(id).Public().(ed25519.PublicKey)
	}
	return keys
}()

func keyOf(principal string) ed25519.PrivateKey {
	seed := digest.Of([]byte("key of " + principal))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Things that exist in the test cluster, all alice's.
var (
	execution   = digest.Of([]byte("execution"))
	contractOne = digest.Of([]byte("contract"))
	absent      = digest.Of([]byte("absent"))
)

// fakeCore stands in for the core. It polices what it is given: records must be
// ones that the format allows, and an actor must be the principal that the
// operation acts for.
type fakeCore struct {
	t testing.TB

	mu         sync.Mutex
	kinds      map[string]string
	operations []*pb.Record // in order
	batches    []*pb.Record
	noise      []*pb.RefusalCount
	commits    int             // calls of RecordBatches
	made       map[string]bool // envelopes that made a record
	blobs      map[string][]byte
	recordErr  error         // records fail with it
	held       chan struct{} // records wait for it, if not nil
	recording  chan struct{} // gets a value when a record begins to wait
	coreErr    error         // everything else fails with it
	panics     bool          // everything else panics
	proofErr   error
	statuses   chan *pb.ExecutionStatus
	work       chan *pb.Assignment
	abandoned  []string // "<node> <code>", in order
	working    []string // "<node> <execution>", in order
}

func newFakeCore(t testing.TB) *fakeCore {
	f := &fakeCore{
		t:         t,
		kinds:     make(map[string]string),
		made:      make(map[string]bool),
		blobs:     make(map[string][]byte),
		recording: make(chan struct{}, 1_000),
		statuses:  make(chan *pb.ExecutionStatus, 10),
		work:      make(chan *pb.Assignment, 10),
	}
	for id, kind := range members {
		f.kinds[id] = kind
	}
	return f
}

func (f *fakeCore) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// recorded returns all records so far.
func (f *fakeCore) recorded() []*pb.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.operations, f.batches)
}

func (f *fakeCore) TokenKey(keyID string) (string, ed25519.PublicKey, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.kinds {
		if key := tokenKeys[id]; token.KeyID(key) == keyID {
			return id, key, true
		}
	}
	return "", nil, false
}

func (f *fakeCore) Kind(principal string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kinds[principal]
}

func (f *fakeCore) await() error {
	f.mu.Lock()
	held, err := f.held, f.recordErr
	f.mu.Unlock()
	if held != nil {
		f.recording <- struct{}{}
		<-held
	}
	return err
}

func (f *fakeCore) check(r *pb.Record) *pb.Record {
	r.ProtocolVersion, r.Cluster, r.TimeUnixMs = record.Version, testCluster, 1
	if _, err := record.Marshal(r); err != nil {
		f.t.Errorf("the edge made a record that the format refuses: %v", err)
	}
	return r
}

func (f *fakeCore) RecordOperation(_ context.Context, a orchestrator.Actor, op *pb.OperationRecord) error {
	if err := f.await(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.operations = append(f.operations, f.check(&pb.Record{
		Actor: &pb.Actor{Principal: a.Principal, KeyId: a.KeyID, Method: a.Method, TokenId: a.TokenID},
		Body:  &pb.Record_Operation{Operation: proto.CloneOf(op)},
	}))
	return nil
}

func (f *fakeCore) RecordBatches(_ context.Context, batches []*pb.OperationBatchRecord, noise []*pb.RefusalCount) error {
	if err := f.await(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.commits++
	for _, b := range batches {
		f.batches = append(f.batches, f.check(&pb.Record{Body: &pb.Record_OperationBatch{OperationBatch: proto.CloneOf(b)}}))
	}
	if len(noise) > 0 {
		f.check(&pb.Record{Body: &pb.Record_Unauthenticated{Unauthenticated: &pb.UnauthenticatedRecord{Counts: noise}}})
	}
	f.noise = append(f.noise, noise...)
	return nil
}

// enter is the beginning of every other method.
func (f *fakeCore) enter() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.panics {
		panic("core: secret-payload")
	}
	return f.coreErr
}

// admit makes a record of an envelope once.
func (f *fakeCore) admit(a orchestrator.Actor, actsFor string, envelope []byte) (digest.Digest, orchestrator.Appended, error) {
	if err := f.enter(); err != nil {
		return digest.Digest{}, orchestrator.Appended{}, err
	}
	if a.Principal != actsFor || a.KeyID == "" || a.TokenID == "" || a.Method == "" {
		f.t.Errorf("actor %+v acts for %q", a, actsFor)
	}
	if len(envelope) == 0 {
		return digest.Digest{}, orchestrator.Appended{}, &orchestrator.Error{Code: orchestrator.CodeEnvelope, Message: "empty: sign something"}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	duplicate := f.made[string(envelope)]
	f.made[string(envelope)] = true
	return digest.Of(envelope), orchestrator.Appended{
		Index: 7, Duplicate: duplicate, Opening: []byte("opening"), Head: []byte("head"), Proof: [][]byte{{1}},
	}, nil
}

func (f *fakeCore) RegisterContract(_ context.Context, a orchestrator.Actor, tenant string, envelope, _ []byte) (digest.Digest, orchestrator.Appended, error) {
	return f.admit(a, tenant, envelope)
}
func (f *fakeCore) RetireContract(_ context.Context, a orchestrator.Actor, tenant string, envelope []byte) (digest.Digest, orchestrator.Appended, error) {
	return f.admit(a, tenant, envelope)
}
func (f *fakeCore) Submit(_ context.Context, a orchestrator.Actor, tenant string, envelope, _ []byte) (digest.Digest, orchestrator.Appended, error) {
	return f.admit(a, tenant, envelope)
}
func (f *fakeCore) Cancel(_ context.Context, a orchestrator.Actor, tenant string, envelope []byte) (digest.Digest, orchestrator.Appended, error) {
	return f.admit(a, tenant, envelope)
}
func (f *fakeCore) Attest(_ context.Context, a orchestrator.Actor, node string, envelope []byte) (digest.Digest, orchestrator.Appended, pb.ExecutionState, error) {
	d, made, err := f.admit(a, node, envelope)
	return d, made, pb.ExecutionState_EXECUTION_STATE_OPEN, err
}
func (f *fakeCore) ApplyChange(_ context.Context, a orchestrator.Actor, envelope []byte) (digest.Digest, uint64, bool, error) {
	d, made, err := f.admit(a, "root", envelope)
	return d, 2, made.Duplicate, err
}

// owned finds alice's execution and contract.
func (f *fakeCore) owned(d, exists digest.Digest, tenant string, code orchestrator.Code) error {
	if err := f.enter(); err != nil {
		return err
	}
	if d != exists || (tenant != "" && tenant != "alice") {
		return &orchestrator.Error{Code: code, Message: "no such thing for this tenant: look again"}
	}
	return nil
}

func (f *fakeCore) Status(id digest.Digest, tenant string) (*pb.ExecutionStatus, error) {
	if err := f.owned(id, execution, tenant, orchestrator.CodeExecutionUnknown); err != nil {
		return nil, err
	}
	return &pb.ExecutionStatus{ExecutionId: id.String(), Tenant: "alice"}, nil
}

func (f *fakeCore) Watch(ctx context.Context, id digest.Digest, tenant string) (<-chan *pb.ExecutionStatus, error) {
	if err := f.owned(id, execution, tenant, orchestrator.CodeExecutionUnknown); err != nil {
		return nil, err
	}
	return pipe(ctx, f.statuses), nil
}

// pipe copies until ctx ends or a nil is sent, then closes.
func pipe[M any](ctx context.Context, from <-chan *M) <-chan *M {
	out := make(chan *M)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-from:
				if m == nil {
					return
				}
				select {
				case out <- m:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

func (f *fakeCore) ListExecutions(filter orchestrator.Filter, _ orchestrator.Page) ([]*pb.ExecutionStatus, string, error) {
	if err := f.enter(); err != nil {
		return nil, "", err
	}
	if filter.Tenant == "bob" {
		return nil, "", nil
	}
	return []*pb.ExecutionStatus{{ExecutionId: execution.String()}}, "more", nil
}

func (f *fakeCore) Bundle(_ context.Context, id digest.Digest, tenant string, _ bool) ([]byte, error) {
	return []byte("bundle"), f.owned(id, execution, tenant, orchestrator.CodeExecutionUnknown)
}

func (f *fakeCore) Provenance(_ context.Context, id digest.Digest, tenant string) (*pb.GetExecutionProvenanceResponse, error) {
	return &pb.GetExecutionProvenanceResponse{}, f.owned(id, execution, tenant, orchestrator.CodeExecutionUnknown)
}

func (f *fakeCore) Chain(_ context.Context, id digest.Digest, tenant string) (*pb.VerifyProvenanceChainResponse, error) {
	return &pb.VerifyProvenanceChainResponse{}, f.owned(id, execution, tenant, orchestrator.CodeExecutionUnknown)
}

func (f *fakeCore) Contract(hash digest.Digest, tenant string) (*pb.ContractSummary, []byte, error) {
	return &pb.ContractSummary{}, []byte("envelope"), f.owned(hash, contractOne, tenant, orchestrator.CodeContractUnknown)
}

func (f *fakeCore) ListContracts(string, orchestrator.Page) ([]*pb.ContractSummary, string, error) {
	return nil, "", f.enter()
}

func (f *fakeCore) Nodes() *pb.ListClusterNodesResponse {
	_ = f.enter()
	return &pb.ListClusterNodesResponse{Nodes: []*pb.ClusterNode{{Id: "node-1"}, {Id: "node-2"}}}
}

func (f *fakeCore) ClusterRoot() (*pb.GetClusterRootResponse, error) {
	return &pb.GetClusterRootResponse{Cluster: testCluster, Epoch: 1}, f.enter()
}

func (f *fakeCore) MembershipHash(uint64) (*pb.GetMembershipHashResponse, error) {
	return &pb.GetMembershipHashResponse{Epoch: 1}, f.enter()
}

func (f *fakeCore) VerifyMembership(context.Context, string, uint64) (*pb.VerifyMembershipResponse, error) {
	return &pb.VerifyMembershipResponse{Epoch: 1}, f.enter()
}

func (f *fakeCore) Changes(_ context.Context, from uint64, n int) ([][]byte, uint64, error) {
	if from < 1 || n < 1 || n > maxChanges {
		f.t.Errorf("Changes(%d, %d)", from, n)
	}
	return [][]byte{[]byte("change")}, 1, f.enter()
}

func (f *fakeCore) Checkpoint(pb.LogName) ([]byte, error) { return []byte("checkpoint"), f.enter() }

func (f *fakeCore) Records(_ context.Context, tenant string, start int64, n int) ([]*pb.ProvenRecord, int64, error) {
	if start < 0 || n < 1 || n > maxRecords {
		f.t.Errorf("Records(%d, %d)", start, n)
	}
	return []*pb.ProvenRecord{{Index: 1, Opening: []byte("seen by " + tenant)}}, 2, f.enter()
}

func (f *fakeCore) InclusionProof(context.Context, pb.LogName, int64, int64) (*pb.GetInclusionProofResponse, error) {
	return &pb.GetInclusionProofResponse{Size: 1}, f.enter()
}

func (f *fakeCore) ConsistencyProof(pb.LogName, int64, int64) (*pb.GetConsistencyProofResponse, error) {
	return &pb.GetConsistencyProofResponse{NewSize: 1}, f.enter()
}

func (f *fakeCore) TlogProof(ctx context.Context, _ pb.LogName, index int64) ([]byte, error) {
	if err := f.enter(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	err := f.proofErr
	f.mu.Unlock()
	if errors.Is(err, context.DeadlineExceeded) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return []byte("tlog proof"), err
}

func (f *fakeCore) PutBlob(_ context.Context, owner string, data []byte) (digest.Digest, error) {
	if err := f.enter(); err != nil {
		return digest.Digest{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d := digest.Of(data)
	f.blobs[owner+"/"+d.String()] = data
	return d, nil
}

func (f *fakeCore) GetBlob(_ context.Context, owner string, d digest.Digest) ([]byte, error) {
	if err := f.enter(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	data, ok := f.blobs[owner+"/"+d.String()]
	if !ok {
		return nil, &orchestrator.Error{Code: orchestrator.CodeBlobUnknown, Message: "no such payload: put it first"}
	}
	return data, nil
}

func (f *fakeCore) GetExecutionBlob(ctx context.Context, _, d digest.Digest) ([]byte, error) {
	return f.GetBlob(ctx, "replayed", d)
}

func (f *fakeCore) GetAssignedBlob(ctx context.Context, node string, d digest.Digest) ([]byte, error) {
	if node != "node-1" && node != "node-2" {
		f.t.Errorf("GetAssignedBlob for %q", node)
	}
	return f.GetBlob(ctx, "assigned", d)
}

func (f *fakeCore) Abandon(_ context.Context, node string, id digest.Digest, code string, recorded func() error) error {
	if err := f.owned(id, execution, "", orchestrator.CodeExecutionUnknown); err != nil {
		return err
	}
	if err := recorded(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abandoned = append(f.abandoned, node+" "+code)
	return nil
}

func (f *fakeCore) Working(node string, ids []digest.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		f.working = append(f.working, node+" "+id.String())
	}
}

func (f *fakeCore) Assignments(ctx context.Context, node string) (<-chan *pb.Assignment, error) {
	if node != "node-1" && node != "node-2" {
		f.t.Errorf("Assignments for %q", node)
	}
	if err := f.enter(); err != nil {
		return nil, err
	}
	return pipe(ctx, f.work), nil
}
