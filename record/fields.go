package record

import (
	"fmt"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Bounds of a record's fields.
const (
	// maxEnvelope is the largest DSSE envelope, in bytes.
	maxEnvelope = 98_304
	// maxNodes bounds the nodes of one execution: a contract's max_assigned.
	maxNodes = 64
	// maxAttestations bounds the attestations with an effect on one execution:
	// two for each node.
	maxAttestations = 2 * maxNodes
	// maxParents bounds the parents of an execution.
	maxParents = 8
	// maxText bounds free text: methods, token ids, reasons, origins, in bytes.
	maxText = 255
	// maxCode bounds the code of a refusal, in bytes.
	maxCode = 64
)

// validate checks every field of r for its range. It judges one record by
// itself; what a record means among others is for the fold.
func validate(r *pb.Record) error {
	if v := r.GetProtocolVersion(); v != Version {
		return fmt.Errorf("%w %q, this program knows %q", ErrVersion, v, Version)
	}
	v := validator{}
	v.id("cluster", r.GetCluster())
	v.actor(KindOf(r), r.GetActor())
	switch body := r.GetBody().(type) {
	case *pb.Record_Epoch:
		v.epochRecord(body.Epoch)
	case *pb.Record_Contract:
		v.id("contract.tenant", body.Contract.GetTenant())
		v.digest("contract.contract_hash", body.Contract.GetContractHash())
		v.positive("contract.epoch", body.Contract.GetEpoch())
		v.envelope("contract.envelope", body.Contract.GetEnvelope())
		v.positive("contract.module_size", body.Contract.GetModuleSize())
	case *pb.Record_Retirement:
		v.id("retirement.tenant", body.Retirement.GetTenant())
		v.digest("retirement.contract_hash", body.Retirement.GetContractHash())
		v.positive("retirement.epoch", body.Retirement.GetEpoch())
		v.envelope("retirement.envelope", body.Retirement.GetEnvelope())
	case *pb.Record_Request:
		v.id("request.tenant", body.Request.GetTenant())
		v.digest("request.execution_id", body.Request.GetExecutionId())
		v.digest("request.contract_hash", body.Request.GetContractHash())
		v.positive("request.epoch", body.Request.GetEpoch())
		v.envelope("request.envelope", body.Request.GetEnvelope())
	case *pb.Record_Cancellation:
		v.id("cancellation.tenant", body.Cancellation.GetTenant())
		v.digest("cancellation.execution_id", body.Cancellation.GetExecutionId())
		v.positive("cancellation.epoch", body.Cancellation.GetEpoch())
		v.envelope("cancellation.envelope", body.Cancellation.GetEnvelope())
	case *pb.Record_Reschedule:
		v.digest("reschedule.execution_id", body.Reschedule.GetExecutionId())
		v.positive("reschedule.attempt", body.Reschedule.GetAttempt())
	case *pb.Record_Attestation:
		v.digest("attestation.execution_id", body.Attestation.GetExecutionId())
		v.id("attestation.node", body.Attestation.GetNode())
		v.positive("attestation.epoch", body.Attestation.GetEpoch())
		v.envelope("attestation.envelope", body.Attestation.GetEnvelope())
	case *pb.Record_Divergence:
		v.digest("divergence.execution_id", body.Divergence.GetExecutionId())
		v.positive("divergence.diverged_at", body.Divergence.GetDivergedAt())
		v.digests("divergence.attestation_digests", body.Divergence.GetAttestationDigests(), 1, maxAttestations)
	case *pb.Record_Provenance:
		v.provenance(body.Provenance)
	case *pb.Record_Expired:
		v.digest("expired.execution_id", body.Expired.GetExecutionId())
	case *pb.Record_Operation:
		v.optionalID("operation.tenant", body.Operation.GetTenant())
		v.code("operation.code", body.Operation.GetCode())
		v.optionalDigest("operation.object", body.Operation.GetObject())
	case *pb.Record_OperationBatch:
		v.operationBatch(body.OperationBatch)
	case *pb.Record_Unauthenticated:
		v.unauthenticated(body.Unauthenticated)
	case *pb.Record_Erasure:
		v.id("erasure.tenant", body.Erasure.GetTenant())
		v.digest("erasure.digest", body.Erasure.GetDigest())
		v.text("erasure.reason", body.Erasure.GetReason())
	default:
		v.fail("body", "absent")
	}
	return v.err
}

// validator keeps the first fault it is told of.
type validator struct{ err error }

func (v *validator) fail(field, format string, args ...any) {
	if v.err == nil {
		v.err = invalid(field, format, args...)
	}
}

// actor: records that only an operation can cause name who caused it, records
// that the control plane writes by itself name nobody.
func (v *validator) actor(kind Kind, a *pb.Actor) {
	switch kind {
	case KindContract, KindRetirement, KindRequest, KindCancellation, KindAttestation, KindOperation:
		if a == nil {
			v.fail("actor", "absent in a record of kind %q", kind)
			return
		}
	case KindReschedule, KindDivergence, KindProvenance, KindExpired, KindOperationBatch, KindUnauthenticated:
		if a != nil {
			v.fail("actor", "present in a record of kind %q", kind)
			return
		}
	}
	if a == nil {
		return
	}
	v.id("actor.principal", a.GetPrincipal())
	if _, err := digest.Parse(a.GetKeyId()); err != nil {
		v.fail("actor.key_id", "%q is not a key id", clip(a.GetKeyId()))
	}
	v.text("actor.method", a.GetMethod())
	if a.GetTokenId() != "" {
		v.text("actor.token_id", a.GetTokenId())
	}
}

func (v *validator) epochRecord(e *pb.EpochRecord) {
	v.positive("epoch.epoch", e.GetEpoch())
	v.positive("epoch.membership_size", e.GetMembershipSize())
	v.digest("epoch.membership_root", e.GetMembershipRoot())
	v.digest("epoch.membership_hash", e.GetMembershipHash())
	v.digest("epoch.cluster_identity_hash", e.GetClusterIdentityHash())
}

func (v *validator) provenance(p *pb.ProvenanceRecord) {
	v.digest("provenance.execution_id", p.GetExecutionId())
	v.id("provenance.tenant", p.GetTenant())
	v.digest("provenance.contract_hash", p.GetContractHash())
	if n := len(p.GetNodes()); n < 1 || n > maxNodes {
		v.fail("provenance.nodes", "%d elements, want 1 to %d", n, maxNodes)
	}
	for i, node := range p.GetNodes() {
		v.id("provenance.nodes", node)
		if i > 0 && p.GetNodes()[i-1] >= node {
			v.fail("provenance.nodes", "not ascending at %q", clip(node))
		}
	}
	v.digest("provenance.cluster_schedule_hash", p.GetClusterScheduleHash())
	v.text("provenance.audit_root.origin", p.GetAuditRoot().GetOrigin())
	v.positive("provenance.audit_root.size", p.GetAuditRoot().GetSize())
	v.digest("provenance.audit_root.root_hash", p.GetAuditRoot().GetRootHash())
	v.digest("provenance.execution_proof", p.GetExecutionProof())
	v.positive("provenance.epoch", p.GetEpoch())
	v.digest("provenance.membership_hash", p.GetMembershipHash())
	v.digest("provenance.input_digest", p.GetInputDigest())
	v.digest("provenance.output_digest", p.GetOutputDigest())
	v.digest("provenance.result_digest", p.GetResultDigest())
	v.digests("provenance.attestation_digests", p.GetAttestationDigests(), len(p.GetNodes()), len(p.GetNodes()))
	v.digests("provenance.parents", p.GetParents(), 0, maxParents)
	v.positive("provenance.completed_at", p.GetCompletedAt())
}

func (v *validator) operationBatch(b *pb.OperationBatchRecord) {
	v.optionalID("operation_batch.tenant", b.GetTenant())
	if len(b.GetItems()) == 0 {
		v.fail("operation_batch.items", "absent")
	}
	for _, item := range b.GetItems() {
		v.id("operation_batch.items.principal", item.GetPrincipal())
		v.text("operation_batch.items.method", item.GetMethod())
		v.code("operation_batch.items.code", item.GetCode())
		v.optionalDigest("operation_batch.items.object", item.GetObject())
		v.positive("operation_batch.items.count", item.GetCount())
	}
}

func (v *validator) unauthenticated(u *pb.UnauthenticatedRecord) {
	if len(u.GetCounts()) == 0 {
		v.fail("unauthenticated.counts", "absent")
	}
	for _, c := range u.GetCounts() {
		v.code("unauthenticated.counts.code", c.GetCode())
		v.positive("unauthenticated.counts.count", c.GetCount())
	}
}

func (v *validator) positive(field string, n uint64) {
	if n == 0 {
		v.fail(field, "absent or 0")
	}
}

func (v *validator) digest(field string, b []byte) {
	if len(b) != digest.Size {
		v.fail(field, "%d bytes, want %d", len(b), digest.Size)
	}
}

func (v *validator) optionalDigest(field string, b []byte) {
	if len(b) != 0 {
		v.digest(field, b)
	}
}

func (v *validator) digests(field string, list [][]byte, least, most int) {
	if len(list) < least || len(list) > most {
		v.fail(field, "%d elements, want %d to %d", len(list), least, most)
	}
	for _, b := range list {
		v.digest(field, b)
	}
}

func (v *validator) envelope(field string, b []byte) {
	if len(b) == 0 || len(b) > maxEnvelope {
		v.fail(field, "%d bytes, want 1 to %d", len(b), maxEnvelope)
	}
}

func (v *validator) id(field, s string) {
	if !contract.ValidIdentifier(s) {
		v.fail(field, "%q is not an identifier", clip(s))
	}
}

func (v *validator) optionalID(field, s string) {
	if s != "" {
		v.id(field, s)
	}
}

// text: printable ASCII, so that what people are shown is what is there.
func (v *validator) text(field, s string) {
	if s == "" || len(s) > maxText {
		v.fail(field, "%d bytes, want 1 to %d", len(s), maxText)
	}
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			v.fail(field, "%q is not printable ASCII", clip(s))
		}
	}
}

func (v *validator) code(field, s string) {
	if s == "" || len(s) > maxCode {
		v.fail(field, "%d bytes, want 1 to %d", len(s), maxCode)
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			v.fail(field, "%q is not a code of lower-case letters, digits and _", clip(s))
		}
	}
}

// clip shortens suspect text for an error.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
