package controlapi

import (
	"context"
	"crypto/ed25519"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Core is what the edge asks of the rest of the control plane. A tenant
// argument "" means every tenant; refusals are *orchestrator.Error, and what
// belongs to another tenant is refused as what does not exist. All methods are
// safe for concurrent use.
type Core interface {
	Members
	Recorder
	Admission
	Executions
	Provenance
	Contracts
	Cluster
	Governance
	Logs
	Blobs
	Dispatch
}

// Members knows who is a member at the current epoch.
type Members interface {
	// TokenKey returns the key with this id if it is valid now and has use "token".
	TokenKey(keyID string) (principal string, public ed25519.PublicKey, ok bool)
	// Kind returns the principal's kind, "" for a stranger.
	Kind(principal string) string
}

// Recorder appends records of operations to the audit log. A nil error means
// that the record is durable.
type Recorder interface {
	RecordOperation(ctx context.Context, actor orchestrator.Actor, op *pb.OperationRecord) error
	RecordBatches(ctx context.Context, batches []*pb.OperationBatchRecord, noise []*pb.RefusalCount) error
}

// Admission takes what tenants signed, and makes a record of what it admits.
type Admission interface {
	RegisterContract(ctx context.Context, actor orchestrator.Actor, tenant string, envelope, module []byte) (digest.Digest, orchestrator.Appended, error)
	RetireContract(ctx context.Context, actor orchestrator.Actor, tenant string, envelope []byte) (digest.Digest, orchestrator.Appended, error)
	Submit(ctx context.Context, actor orchestrator.Actor, tenant string, submission, input []byte) (digest.Digest, orchestrator.Appended, error)
	Cancel(ctx context.Context, actor orchestrator.Actor, tenant string, envelope []byte) (digest.Digest, orchestrator.Appended, error)
}

// Executions shows executions.
type Executions interface {
	Status(id digest.Digest, tenant string) (*pb.ExecutionStatus, error)
	Watch(ctx context.Context, id digest.Digest, tenant string) (<-chan *pb.ExecutionStatus, error)
	ListExecutions(filter orchestrator.Filter, page orchestrator.Page) ([]*pb.ExecutionStatus, string, error)
	Bundle(ctx context.Context, id digest.Digest, tenant string, ancestors bool) ([]byte, error)
}

// Provenance shows what was executed and takes nodes' attestations.
type Provenance interface {
	Provenance(ctx context.Context, id digest.Digest, tenant string) (*pb.GetExecutionProvenanceResponse, error)
	Chain(ctx context.Context, id digest.Digest, tenant string) (*pb.VerifyProvenanceChainResponse, error)
	Attest(ctx context.Context, actor orchestrator.Actor, node string, envelope []byte) (digest.Digest, orchestrator.Appended, pb.ExecutionState, error)
}

// Contracts shows contracts.
type Contracts interface {
	Contract(hash digest.Digest, tenant string) (*pb.ContractSummary, []byte, error)
	ListContracts(tenant string, page orchestrator.Page) ([]*pb.ContractSummary, string, error)
}

// Cluster shows the cluster as a whole.
type Cluster interface {
	// Nodes leaves out what only the edge knows: who is connected.
	Nodes() *pb.ListClusterNodesResponse
	ClusterRoot() (*pb.GetClusterRootResponse, error)
}

// Governance shows and changes the membership.
type Governance interface {
	ApplyChange(ctx context.Context, actor orchestrator.Actor, envelope []byte) (change digest.Digest, epoch uint64, duplicate bool, err error)
	MembershipHash(epoch uint64) (*pb.GetMembershipHashResponse, error)
	VerifyMembership(ctx context.Context, principal string, epoch uint64) (*pb.VerifyMembershipResponse, error)
	Changes(ctx context.Context, from uint64, n int) ([][]byte, uint64, error)
}

// Logs shows both logs, and the records of the audit log.
type Logs interface {
	LogProofs
	Checkpoint(log pb.LogName) ([]byte, error)
	Records(ctx context.Context, tenant string, start int64, n int) ([]*pb.ProvenRecord, int64, error)
}

// LogProofs proves entries and growth. A size of 0 means the published one.
type LogProofs interface {
	InclusionProof(ctx context.Context, log pb.LogName, index, size int64) (*pb.GetInclusionProofResponse, error)
	ConsistencyProof(log pb.LogName, old, new int64) (*pb.GetConsistencyProofResponse, error)
	// TlogProof waits until a witnessed checkpoint covers the index.
	TlogProof(ctx context.Context, log pb.LogName, index int64) ([]byte, error)
}

// Blobs keeps payloads by owner.
type Blobs interface {
	PutBlob(ctx context.Context, owner string, data []byte) (digest.Digest, error)
	GetBlob(ctx context.Context, owner string, d digest.Digest) ([]byte, error)
	// GetAssignedBlob returns what an open assignment of the node refers to.
	GetAssignedBlob(ctx context.Context, node string, d digest.Digest) ([]byte, error)
	// GetExecutionBlob returns what a replay of the execution takes.
	GetExecutionBlob(ctx context.Context, execution, d digest.Digest) ([]byte, error)
}

// Dispatch hands out work to nodes, and takes it back.
type Dispatch interface {
	// Assignments sends what the node has to do until ctx ends. A second call
	// for the node closes the channel of the first.
	Assignments(ctx context.Context, node string) (<-chan *pb.Assignment, error)
	// Abandon notes that the node will not attest what it was assigned. The code
	// is as the node sent it. It calls recorded, once, when it would take the word,
	// and takes it only after that returned nil.
	Abandon(ctx context.Context, node string, id digest.Digest, code string, recorded func() error) error
	// Working notes what the node says that it compiles or runs now. Ids of what
	// it was not assigned have no effect.
	Working(node string, ids []digest.Digest)
}
