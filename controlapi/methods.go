package controlapi

import (
	"slices"

	"connectrpc.com/grpcreflect"

	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// The kinds of principal, as the membership calls them.
const (
	admin   = "admin"
	auditor = "auditor"
	node    = "node"
	tenant  = "tenant"
)

// effect says how an operation that succeeded is recorded.
type effect string

const (
	// reads are batched: nothing changed.
	reads effect = "read"
	// appends has a record of its own in the audit log, made by the core. A
	// duplicate appended nothing and gets an operation record.
	appends effect = "append"
	// stores changes what no record of its own tells: it gets an operation record.
	stores effect = "store"
	// streams are reads that last: one operation, recorded before the first message.
	streams effect = "stream"
	// heartbeats are no operations: they have no record unless they are refused.
	heartbeats effect = "heartbeat"
)

// size is the bound of a method's request message.
type size int

const (
	smallRequest    size = 4 << 10   // identifiers, digests and numbers
	envelopeRequest size = 192 << 10 // one envelope of 98,304 bytes, in base64 if JSON
	payloadRequest  size = -1        // an envelope and a payload: Config.MaxPayload decides
)

// method is one row of the table: who may call it and what a call counts as.
type method struct {
	procedure string   // "/package.Service/Method"
	kinds     []string // who may call it, ascending
	effect    effect
	size      size
}

func (m *method) allows(kind string) bool { return slices.Contains(m.kinds, kind) }

// name is how records name the method.
func (m *method) name() string { return m.procedure[1:] }

var (
	everyone  = []string{admin, auditor, node, tenant}
	readers   = []string{auditor, tenant} // of what belongs to tenants
	onlyAdmin = []string{admin}
	onlyNode  = []string{node}
	tenants   = []string{tenant}
)

// methods is the whole of authorisation by kind. What tenants and nodes may see
// within a method is decided where it is looked up, by their id. Membership,
// checkpoints and proofs are public in the logs' trees, so every member may ask
// for them here.
var methods = table(
	method{rpc.ControlRegisterContractProcedure, tenants, appends, payloadRequest},
	method{rpc.ControlRetireContractProcedure, tenants, appends, envelopeRequest},
	method{rpc.ControlGetContractProcedure, readers, reads, smallRequest},
	method{rpc.ControlListContractsProcedure, readers, reads, smallRequest},
	method{rpc.ControlSubmitExecutionRequestProcedure, tenants, appends, payloadRequest},
	method{rpc.ControlCancelExecutionProcedure, tenants, appends, envelopeRequest},
	method{rpc.ControlQueryExecutionStatusProcedure, readers, reads, smallRequest},
	method{rpc.ControlWatchExecutionProcedure, readers, streams, smallRequest},
	method{rpc.ControlRetrieveExecutionProofProcedure, readers, reads, smallRequest},
	method{rpc.ControlListExecutionsProcedure, readers, reads, smallRequest},
	method{rpc.ControlListClusterNodesProcedure, []string{admin, auditor, tenant}, reads, smallRequest},
	method{rpc.ControlGetClusterRootProcedure, everyone, reads, smallRequest},
	method{rpc.ControlPutBlobProcedure, []string{node, tenant}, stores, payloadRequest},
	method{rpc.ControlGetBlobProcedure, []string{auditor, node, tenant}, reads, smallRequest},

	method{rpc.NodeWatchAssignmentsProcedure, onlyNode, streams, smallRequest},
	method{rpc.NodeAbandonAssignmentProcedure, onlyNode, stores, smallRequest},
	method{rpc.NodeReportNodeStatusProcedure, onlyNode, heartbeats, smallRequest},

	method{rpc.ProvenanceGetExecutionProvenanceProcedure, readers, reads, smallRequest},
	method{rpc.ProvenanceVerifyProvenanceChainProcedure, readers, reads, smallRequest},
	method{rpc.ProvenanceRecordExecutionProvenanceProcedure, onlyNode, appends, envelopeRequest},

	method{rpc.MembershipRegisterTrustedNodeProcedure, onlyAdmin, appends, envelopeRequest},
	method{rpc.MembershipApplyChangeProcedure, onlyAdmin, appends, envelopeRequest},
	method{rpc.MembershipGetMembershipHashProcedure, everyone, reads, smallRequest},
	method{rpc.MembershipVerifyMembershipProcedure, everyone, reads, smallRequest},
	method{rpc.MembershipListChangesProcedure, everyone, reads, smallRequest},

	method{rpc.LogGetCheckpointProcedure, everyone, reads, smallRequest},
	method{rpc.LogGetInclusionProofProcedure, everyone, reads, smallRequest},
	method{rpc.LogGetConsistencyProofProcedure, everyone, reads, smallRequest},
	method{rpc.LogGetTlogProofProcedure, everyone, reads, smallRequest},
	method{rpc.LogListRecordsProcedure, readers, reads, smallRequest},

	// The schema is public, but what nobody authenticated asks for costs a
	// stream, so reflection wants a token too.
	method{reflection(grpcreflect.ReflectV1ServiceName), everyone, streams, smallRequest},
	method{reflection(grpcreflect.ReflectV1AlphaServiceName), everyone, streams, smallRequest},
)

func table(rows ...method) map[string]*method {
	byProcedure := make(map[string]*method, len(rows))
	for _, row := range rows {
		byProcedure[row.procedure] = &row
	}
	return byProcedure
}

func reflection(service string) string { return "/" + service + "/ServerReflectionInfo" }
