package record

import (
	"bytes"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// envelope is well formed; nothing in this package verifies a signature.
const envelope = `{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":"` +
	`1111111111111111111111111111111111111111111111111111111111111111","sig":"` +
	`AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="}]}`

func header(kind Kind) *pb.Record {
	r := &pb.Record{ProtocolVersion: Version, Cluster: "example", TimeUnixMs: 1_767_225_600_000}
	switch kind {
	case KindContract, KindRetirement, KindRequest, KindCancellation, KindAttestation, KindOperation:
		r.Actor = &pb.Actor{
			Principal: "tenant-1",
			KeyId:     "4242424242424242424242424242424242424242424242424242424242424242",
			Method:    "tallystick.v1.Control/SubmitExecutionRequest",
			TokenId:   "a1b2",
		}
	}
	return r
}

// samples returns one record of every kind, in the order of the schema.
func samples() []*pb.Record {
	var list []*pb.Record
	add := func(kind Kind, body func(r *pb.Record)) {
		r := header(kind)
		body(r)
		list = append(list, r)
	}
	env := []byte(envelope)
	add(KindEpoch, func(r *pb.Record) {
		r.Body = &pb.Record_Epoch{Epoch: &pb.EpochRecord{Epoch: 1, MembershipSize: 1,
			MembershipRoot: fill(1), MembershipHash: fill(2), ClusterIdentityHash: fill(3)}}
	})
	add(KindContract, func(r *pb.Record) {
		r.Body = &pb.Record_Contract{Contract: &pb.ContractRecord{Tenant: "tenant-1", ContractHash: fill(4),
			Epoch: 1, Envelope: env, ModuleSize: 2_345_678}}
	})
	add(KindRetirement, func(r *pb.Record) {
		r.Body = &pb.Record_Retirement{Retirement: &pb.RetirementRecord{Tenant: "tenant-1", ContractHash: fill(4),
			Epoch: 3, Envelope: env}}
	})
	add(KindRequest, func(r *pb.Record) {
		r.Body = &pb.Record_Request{Request: &pb.RequestRecord{Tenant: "tenant-1", ExecutionId: fill(5),
			ContractHash: fill(4), Epoch: 2, Envelope: env}}
	})
	add(KindCancellation, func(r *pb.Record) {
		r.Body = &pb.Record_Cancellation{Cancellation: &pb.CancellationRecord{Tenant: "tenant-1", ExecutionId: fill(5),
			Epoch: 2, Envelope: env}}
	})
	add(KindReschedule, func(r *pb.Record) {
		r.Body = &pb.Record_Reschedule{Reschedule: &pb.RescheduleRecord{ExecutionId: fill(5), Attempt: 1}}
	})
	add(KindAttestation, func(r *pb.Record) {
		r.Body = &pb.Record_Attestation{Attestation: &pb.AttestationRecord{ExecutionId: fill(5), Node: "node-1",
			Epoch: 2, Envelope: env}}
	})
	add(KindDivergence, func(r *pb.Record) {
		r.Body = &pb.Record_Divergence{Divergence: &pb.DivergenceRecord{ExecutionId: fill(5), DivergedAt: 9,
			AttestationDigests: [][]byte{fill(6), fill(7)}}}
	})
	add(KindProvenance, func(r *pb.Record) {
		r.Body = &pb.Record_Provenance{Provenance: &pb.ProvenanceRecord{ExecutionId: fill(5), Tenant: "tenant-1",
			ContractHash: fill(4), Nodes: []string{"node-1", "node-3"}, ClusterScheduleHash: fill(8),
			AuditRoot:      &pb.CheckpointRef{Origin: "example/audit", Size: 5, RootHash: fill(9)},
			ExecutionProof: fill(10), Epoch: 2, MembershipHash: fill(11), InputDigest: fill(12),
			OutputDigest: fill(13), ResultDigest: fill(14), AttestationDigests: [][]byte{fill(6), fill(7)},
			Parents: [][]byte{fill(15)}, CompletedAt: 9}}
	})
	add(KindExpired, func(r *pb.Record) {
		r.Body = &pb.Record_Expired{Expired: &pb.ExpiredRecord{ExecutionId: fill(5)}}
	})
	add(KindOperation, func(r *pb.Record) {
		r.Body = &pb.Record_Operation{Operation: &pb.OperationRecord{Tenant: "tenant-1", Code: "ok",
			Object: fill(16), DuplicateOf: 7}}
	})
	add(KindOperationBatch, func(r *pb.Record) {
		r.Body = &pb.Record_OperationBatch{OperationBatch: &pb.OperationBatchRecord{Tenant: "tenant-1",
			Items: []*pb.OperationItem{
				{Principal: "tenant-1", Method: "tallystick.v1.Control/QueryExecutionStatus", Code: "ok", Object: fill(5), Count: 3},
				{Principal: "tenant-1", Method: "tallystick.v1.Control/ListExecutions", Code: "resource_exhausted", Count: 200},
			}}}
	})
	add(KindUnauthenticated, func(r *pb.Record) {
		r.Body = &pb.Record_Unauthenticated{Unauthenticated: &pb.UnauthenticatedRecord{
			Counts: []*pb.RefusalCount{{Code: "token_expired", Count: 12}}}}
	})
	add(KindErasure, func(r *pb.Record) {
		r.Body = &pb.Record_Erasure{Erasure: &pb.ErasureRecord{Tenant: "tenant-1", Digest: fill(12), Reason: "requested by the tenant"}}
	})
	return list
}
