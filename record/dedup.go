package record

import (
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// DedupKey returns the key under which the log holds at most one record like r,
// and false for kinds that may repeat and for an attestation whose envelope
// cannot be read. The caller must leave the key out when it appends a record
// that the fold finds void, or a valid one could never follow it.
func DedupKey(r *pb.Record) (digest.Digest, bool) {
	h := digest.New("tallystick/v1/dedup").Text(string(KindOf(r)))
	switch body := r.GetBody().(type) {
	case *pb.Record_Epoch:
		h.Uint(body.Epoch.GetEpoch())
	case *pb.Record_Contract:
		h.Bytes(body.Contract.GetContractHash())
	case *pb.Record_Retirement:
		h.Bytes(body.Retirement.GetContractHash())
	case *pb.Record_Request:
		h.Bytes(body.Request.GetExecutionId())
	case *pb.Record_Cancellation:
		h.Bytes(body.Cancellation.GetExecutionId())
	case *pb.Record_Reschedule:
		h.Bytes(body.Reschedule.GetExecutionId()).Uint(body.Reschedule.GetAttempt())
	case *pb.Record_Attestation:
		a := body.Attestation
		env, err := dsse.Parse(a.GetEnvelope())
		if err != nil {
			return digest.Digest{}, false
		}
		h.Bytes(a.GetExecutionId()).Text(a.GetNode()).Digest(digest.Of(env.Payload))
	case *pb.Record_Divergence:
		h.Bytes(body.Divergence.GetExecutionId())
	case *pb.Record_Provenance:
		h.Bytes(body.Provenance.GetExecutionId())
	case *pb.Record_Expired:
		h.Bytes(body.Expired.GetExecutionId())
	case *pb.Record_Erasure:
		h.Text(body.Erasure.GetTenant()).Bytes(body.Erasure.GetDigest())
	default:
		return digest.Digest{}, false
	}
	return h.Sum(), true
}
