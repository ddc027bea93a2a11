package orchestrator

import (
	"context"
	"crypto/ed25519"

	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Orchestrator is the running core. Open makes one.
type Orchestrator struct{ cfg Config }

// Open recovers the state from the logs and starts working: epoch records that
// are missing are appended before anything else, the fold runs to the end of
// the audit log, membership checkpoints up to the current epoch are allowed to
// go to witnesses, and derived records that are missing are appended. The logs
// and the blob store stay the caller's to close, after Close.
func Open(ctx context.Context, cfg Config) (*Orchestrator, error) { return nil, errSkeleton }

var errSkeleton = refuse(CodeUnavailable, "the control plane is not started")

// Close stops all goroutines and waits for them. Operations under way answer
// CodeUnavailable.
func (o *Orchestrator) Close() error { return errSkeleton }

// Err returns why the orchestrator refuses everything, nil while it works. An
// orchestrator that has failed stays so until it is opened again.
func (o *Orchestrator) Err() error { return errSkeleton }

// RegisterContract admits a contract envelope. The module may be nil when the
// tenant has put it as a blob before.
func (o *Orchestrator) RegisterContract(ctx context.Context, actor Actor, tenant string, envelope, module []byte) (digest.Digest, Appended, error) {
	return digest.Digest{}, Appended{}, errSkeleton
}

// RetireContract withdraws a contract. The digest is the contract hash.
func (o *Orchestrator) RetireContract(ctx context.Context, actor Actor, tenant string, envelope []byte) (digest.Digest, Appended, error) {
	return digest.Digest{}, Appended{}, errSkeleton
}

// Submit admits a submission and returns its execution id. The input may be nil
// when the tenant has put it as a blob before, or when it is empty.
func (o *Orchestrator) Submit(ctx context.Context, actor Actor, tenant string, submission, input []byte) (digest.Digest, Appended, error) {
	return digest.Digest{}, Appended{}, errSkeleton
}

// Cancel ends an open execution. The digest is the execution id.
func (o *Orchestrator) Cancel(ctx context.Context, actor Actor, tenant string, envelope []byte) (digest.Digest, Appended, error) {
	return digest.Digest{}, Appended{}, errSkeleton
}

// Attest takes a node's attestation envelope. The digest is the execution id;
// the state is that after the attestation.
func (o *Orchestrator) Attest(ctx context.Context, actor Actor, node string, envelope []byte) (digest.Digest, Appended, pb.ExecutionState, error) {
	return digest.Digest{}, Appended{}, 0, errSkeleton
}

// ApplyChange applies a signed membership change, other than genesis. The
// digest is that of the change's payload.
func (o *Orchestrator) ApplyChange(ctx context.Context, actor Actor, envelope []byte) (d digest.Digest, epoch uint64, duplicate bool, err error) {
	return digest.Digest{}, 0, false, errSkeleton
}

// RecordOperation appends an operation record, for a mutation or refusal that
// has no record of its own. When it returns nil the record is durable.
func (o *Orchestrator) RecordOperation(ctx context.Context, actor Actor, op *pb.OperationRecord) error {
	return errSkeleton
}

// RecordBatches appends operation batch records, and one with counts of
// unauthenticated requests if noise is not empty, in one commit.
func (o *Orchestrator) RecordBatches(ctx context.Context, batches []*pb.OperationBatchRecord, noise []*pb.RefusalCount) error {
	return errSkeleton
}

// TokenKey returns the key with this id if it is valid at the current epoch and
// has use "token". The key id may come from a stranger.
func (o *Orchestrator) TokenKey(keyID string) (principal string, public ed25519.PublicKey, ok bool) {
	return "", nil, false
}

// Kind returns the kind of a member at the current epoch ("admin", "auditor",
// "node" or "tenant"), "" for anybody else.
func (o *Orchestrator) Kind(principal string) string { return "" }

// Status returns an execution's status. Tenant "" may see all; another
// tenant's execution is CodeExecutionUnknown, as one that does not exist.
func (o *Orchestrator) Status(id digest.Digest, tenant string) (*pb.ExecutionStatus, error) {
	return nil, errSkeleton
}

// Watch sends the status now and after every change, skipping intermediate ones
// if the receiver is slow. The channel is closed after the last one (terminal,
// with the proof ready if there is one to come) and when ctx ends.
func (o *Orchestrator) Watch(ctx context.Context, id digest.Digest, tenant string) (<-chan *pb.ExecutionStatus, error) {
	return nil, errSkeleton
}

// Page asks for a part of a list.
type Page struct {
	Size  int    // 1 to MaxPageSize; anything else means the nearest of the two, 0 DefaultPageSize
	Token string // of the previous part; "" for the first
}

// Sizes of pages.
const (
	DefaultPageSize = 50
	MaxPageSize     = 200
)

// ListExecutions returns executions, newest first, of one tenant or of all
// (tenant ""), in one state or in any (0).
func (o *Orchestrator) ListExecutions(tenant string, state pb.ExecutionState, page Page) ([]*pb.ExecutionStatus, string, error) {
	return nil, "", errSkeleton
}

// Contract returns a contract and its envelope.
func (o *Orchestrator) Contract(hash digest.Digest, tenant string) (*pb.ContractSummary, []byte, error) {
	return nil, nil, errSkeleton
}

// ListContracts returns contracts, newest first.
func (o *Orchestrator) ListContracts(tenant string, page Page) ([]*pb.ContractSummary, string, error) {
	return nil, "", errSkeleton
}

// Nodes returns the epoch, the quorum and the member nodes, ascending by id.
// Whether they are connected, and what they say of themselves, the edge knows.
func (o *Orchestrator) Nodes() *pb.ListClusterNodesResponse { return nil }

// ClusterRoot returns the state of membership and of both logs. Checkpoints
// that nothing has published yet are empty.
func (o *Orchestrator) ClusterRoot() (*pb.GetClusterRootResponse, error) { return nil, errSkeleton }

// Bundle returns the proof bundle of a complete execution, always the same
// bytes. It is CodeProofNotReady until a checkpoint covers the provenance record.
func (o *Orchestrator) Bundle(ctx context.Context, id digest.Digest, tenant string) ([]byte, error) {
	return nil, errSkeleton
}

// Provenance returns the provenance record with its proof.
func (o *Orchestrator) Provenance(ctx context.Context, id digest.Digest, tenant string) (*pb.GetExecutionProvenanceResponse, error) {
	return nil, errSkeleton
}

// Chain returns the provenance chain of an execution as far as the newest
// published checkpoint covers it.
func (o *Orchestrator) Chain(ctx context.Context, id digest.Digest, tenant string) (*pb.VerifyProvenanceChainResponse, error) {
	return nil, errSkeleton
}

// Records returns openings from index start on, at most n of them, that the
// tenant may see (all for ""), and where to go on, 0 at the end.
func (o *Orchestrator) Records(ctx context.Context, tenant string, start int64, n int) ([]*pb.ProvenRecord, int64, error) {
	return nil, 0, errSkeleton
}

// Checkpoint returns the newest published checkpoint of a log.
func (o *Orchestrator) Checkpoint(log pb.LogName) ([]byte, error) { return nil, errSkeleton }

// InclusionProof proves the entry at index in the tree of the given size, or of
// the published checkpoint if size is 0.
func (o *Orchestrator) InclusionProof(ctx context.Context, log pb.LogName, index, size int64) (*pb.GetInclusionProofResponse, error) {
	return nil, errSkeleton
}

// ConsistencyProof proves that the tree of size new extends that of size old;
// new 0 means the published checkpoint.
func (o *Orchestrator) ConsistencyProof(log pb.LogName, old, new int64) (*pb.GetConsistencyProofResponse, error) {
	return nil, errSkeleton
}

// TlogProof waits until a witnessed checkpoint covers the index and returns a
// c2sp.org/tlog-proof under it.
func (o *Orchestrator) TlogProof(ctx context.Context, log pb.LogName, index int64) ([]byte, error) {
	return nil, errSkeleton
}

// MembershipHash returns the hashes of an epoch; 0 means the current one.
func (o *Orchestrator) MembershipHash(epoch uint64) (*pb.GetMembershipHashResponse, error) {
	return nil, errSkeleton
}

// VerifyMembership proves that a principal is a member at an epoch, or is not.
func (o *Orchestrator) VerifyMembership(ctx context.Context, principal string, epoch uint64) (*pb.VerifyMembershipResponse, error) {
	return nil, errSkeleton
}

// Changes returns envelopes of changes from an epoch on, at most n, and the
// current epoch.
func (o *Orchestrator) Changes(ctx context.Context, from uint64, n int) ([][]byte, uint64, error) {
	return nil, 0, errSkeleton
}

// Assignments sends what the node has to do: every open assignment first, then
// new ones as they become provable. A node has one stream: a second call ends
// the first, whose channel is closed, as it is when ctx ends.
func (o *Orchestrator) Assignments(ctx context.Context, node string) (<-chan *pb.Assignment, error) {
	return nil, errSkeleton
}

// PutBlob stores a payload in the owner's namespace.
func (o *Orchestrator) PutBlob(ctx context.Context, owner string, data []byte) (digest.Digest, error) {
	return digest.Digest{}, errSkeleton
}

// GetBlob returns a payload of the owner.
func (o *Orchestrator) GetBlob(ctx context.Context, owner string, d digest.Digest) ([]byte, error) {
	return nil, errSkeleton
}

// GetAssignedBlob returns a payload that an open assignment of the node refers
// to: module, input, or the output of a parent.
func (o *Orchestrator) GetAssignedBlob(ctx context.Context, node string, d digest.Digest) ([]byte, error) {
	return nil, errSkeleton
}

// EraseBlob destroys the key of a tenant's payload and appends the erasure record.
func (o *Orchestrator) EraseBlob(ctx context.Context, actor Actor, tenant string, d digest.Digest, reason string) (Appended, error) {
	return Appended{}, errSkeleton
}
