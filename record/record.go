package record

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Version is the protocol version that this package reads and writes.
const Version = "1.0"

// Bounds of a record.
const (
	// MaxSize is the largest record, in bytes: an envelope of the largest size
	// and as much again for everything else.
	MaxSize = 131_072
	// maxElements bounds the repeated fields of a record together: a batch of
	// the shortest possible items fills MaxSize at about this number.
	maxElements = 8192
)

// Kind names what a record is about: the name of the body's field in the schema.
type Kind string

// The kinds of record. The set is closed.
const (
	KindEpoch           Kind = "epoch"
	KindContract        Kind = "contract"
	KindRetirement      Kind = "retirement"
	KindRequest         Kind = "request"
	KindCancellation    Kind = "cancellation"
	KindReschedule      Kind = "reschedule"
	KindAttestation     Kind = "attestation"
	KindDivergence      Kind = "divergence"
	KindProvenance      Kind = "provenance"
	KindExpired         Kind = "expired"
	KindOperation       Kind = "operation"
	KindOperationBatch  Kind = "operation_batch"
	KindUnauthenticated Kind = "unauthenticated"
	KindErasure         Kind = "erasure"
)

// KindOf returns the kind of r, "" for a record without body.
func KindOf(r *pb.Record) Kind {
	switch r.GetBody().(type) {
	case *pb.Record_Epoch:
		return KindEpoch
	case *pb.Record_Contract:
		return KindContract
	case *pb.Record_Retirement:
		return KindRetirement
	case *pb.Record_Request:
		return KindRequest
	case *pb.Record_Cancellation:
		return KindCancellation
	case *pb.Record_Reschedule:
		return KindReschedule
	case *pb.Record_Attestation:
		return KindAttestation
	case *pb.Record_Divergence:
		return KindDivergence
	case *pb.Record_Provenance:
		return KindProvenance
	case *pb.Record_Expired:
		return KindExpired
	case *pb.Record_Operation:
		return KindOperation
	case *pb.Record_OperationBatch:
		return KindOperationBatch
	case *pb.Record_Unauthenticated:
		return KindUnauthenticated
	case *pb.Record_Erasure:
		return KindErasure
	}
	return ""
}

// Marshal returns the canonical bytes of r. A record that Parse would refuse is
// refused here with the same error.
func Marshal(r *pb.Record) ([]byte, error) {
	if err := validate(r); err != nil {
		return nil, err
	}
	return Encode(r, Limits{Bytes: MaxSize, Elements: maxElements})
}

// Parse reads the canonical bytes of a record and checks every field for its
// range. It does not keep b.
func Parse(b []byte) (*pb.Record, error) {
	r := new(pb.Record)
	if err := Decode(b, r, Limits{Bytes: MaxSize, Elements: maxElements}); err != nil {
		return nil, err
	}
	if err := validate(r); err != nil {
		return nil, err
	}
	return r, nil
}

// Encode returns the canonical wire form of any message of the schema. The
// encoder's output is not trusted but checked.
func Encode(m proto.Message, limits Limits) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotCanonical, err)
	}
	if err := Check(b, m.ProtoReflect().Descriptor(), limits); err != nil {
		return nil, err
	}
	return b, nil
}

// Decode reads the canonical wire form of any message of the schema into m,
// which must be empty. It does not keep b.
func Decode(b []byte, m proto.Message, limits Limits) error {
	if err := Check(b, m.ProtoReflect().Descriptor(), limits); err != nil {
		return err
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %w", ErrNotCanonical, err)
	}
	return nil
}
