package provenance

import (
	"slices"
	"strings"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
)

// An Execution is a contract applied to an input, as the records folded so far
// tell it. It is a snapshot: the fold does not change it any more. What it
// points to is shared and must not be changed.
type Execution struct {
	ID               digest.Digest
	Tenant           string
	Contract         *contract.Contract
	ContractHash     digest.Digest
	ContractIndex    int64 // of the contract record
	Submission       *contract.Submission
	SubmissionDigest digest.Digest // of the submission's payload

	RequestIndex   int64  // of the request record
	Epoch          uint64 // that the request pins
	MembershipHash digest.Digest
	Schedule       *membership.Schedule
	Attempt        uint64 // the last one that has begun, from 0
	// ParentOutputs are the output digests of the submission's parents. In a
	// partial fold they are what the first attestation says, nil before.
	ParentOutputs []digest.Digest

	State State
	// DecidedAt is the index of the record that ended StateOpen, -1 before.
	DecidedAt int64
	// Attestations are the valid ones in log order, evidence included.
	Attestations []Attestation
	// Outcome is what the agreeing nodes found; nil unless StateComplete.
	Outcome *contract.Outcome
	// Derived is the provenance or divergence record that the fold derived, nil
	// if none. Recorded says whether the log holds it already.
	Derived  *pb.Record
	Recorded bool
	// Chain are the links of the provenance chain so far. It is closed by the
	// recorded Derived, a cancellation or an expired record.
	Chain []Link
}

// An Attestation is one valid attestation record.
type Attestation struct {
	Index     int64 // of the record
	Node      string
	Digest    digest.Digest // of the statement
	Statement *Statement    // must not be changed
	Agrees    bool          // part of the agreement of a complete execution
	Void      bool          // the node has said two different things
	Evidence  bool          // came after the execution was decided
}

// Provenance returns the provenance record that the fold derived, nil unless
// the execution is complete.
func (e Execution) Provenance() *pb.ProvenanceRecord { return e.Derived.GetProvenance() }

// Payloads returns the digests of all that a run of the execution reads: the
// module, the submission's input, and the outputs of the parents as far as they
// are known.
func (e Execution) Payloads() []digest.Digest {
	return append([]digest.Digest{e.Contract.Module, e.Submission.Input}, e.ParentOutputs...)
}

// Assigned returns the nodes that attempts 0 to Attempt assign, in rank order.
func (e Execution) Assigned() []string { return e.Schedule.Assigned(e.Attempt) }

// ChainHead is the hash of the chain so far.
func (e Execution) ChainHead() digest.Digest {
	if len(e.Chain) == 0 {
		return ChainStart(e.ID)
	}
	return e.Chain[len(e.Chain)-1].Hash
}

// link appends a record to the chain.
func (e *execution) link(index int64, entry [record.EntrySize]byte, kind record.Kind) {
	e.Chain = append(e.Chain, Link{Index: index, Kind: kind, Hash: ChainNext(e.ChainHead(), index, entry)})
}

// complete fills in what follows from an agreement.
func (e *execution) complete(index int64, won opinion, voices map[string]voice) {
	e.State, e.DecidedAt = StateComplete, index
	var agreeing []Attestation
	for i := range e.Attestations {
		a := &e.Attestations[i]
		if v := voices[a.Node]; !v.void && v.opinion == won {
			a.Agrees = true
			agreeing = append(agreeing, *a)
		}
	}
	slices.SortFunc(agreeing, func(a, b Attestation) int { return strings.Compare(a.Node, b.Node) })
	outcome := agreeing[0].Statement.Outcome
	e.Outcome = &outcome

	p := &pb.ProvenanceRecord{
		ExecutionId:         raw(e.ID),
		Tenant:              e.Tenant,
		ContractHash:        raw(e.ContractHash),
		ClusterScheduleHash: raw(e.Schedule.Hash()),
		AuditRoot: &pb.CheckpointRef{Origin: won.checkpoint.Origin, Size: uint64(won.checkpoint.Size),
			RootHash: raw(won.checkpoint.RootHash)},
		ExecutionProof: raw(ExecutionProof(e.ID, e.ContractHash, e.Submission.Input, e.Schedule.Hash(), won.result)),
		Epoch:          e.Epoch,
		MembershipHash: raw(e.MembershipHash),
		InputDigest:    raw(e.Submission.Input),
		OutputDigest:   raw(outcome.OutputDigest),
		ResultDigest:   raw(won.result),
		CompletedAt:    uint64(index),
	}
	for _, a := range agreeing {
		p.Nodes = append(p.Nodes, a.Node)
		p.AttestationDigests = append(p.AttestationDigests, raw(a.Digest))
	}
	for _, parent := range e.Submission.Parents {
		p.Parents = append(p.Parents, raw(parent))
	}
	e.Derived = derived(e.Contract.Cluster, &pb.Record{Body: &pb.Record_Provenance{Provenance: p}})
}

// diverge fills in what follows when no agreement is possible any more.
func (e *execution) diverge(index int64) {
	e.State, e.DecidedAt = StateDiverged, index
	d := &pb.DivergenceRecord{ExecutionId: raw(e.ID), DivergedAt: uint64(index)}
	for _, a := range e.Attestations {
		d.AttestationDigests = append(d.AttestationDigests, raw(a.Digest))
	}
	e.Derived = derived(e.Contract.Cluster, &pb.Record{Body: &pb.Record_Divergence{Divergence: d}})
}

// derived fills the header of a record that nobody's operation caused.
func derived(cluster string, r *pb.Record) *pb.Record {
	r.ProtocolVersion, r.Cluster = record.Version, cluster
	return r
}

// snapshot copies what the fold may change later.
func (e *execution) snapshot() Execution {
	s := e.Execution
	s.Attestations = slices.Clone(e.Attestations)
	for i := range s.Attestations {
		s.Attestations[i].Void = e.ballot.voices[s.Attestations[i].Node].void
	}
	s.Chain = slices.Clone(e.Chain)
	return s
}

// raw returns a digest as the bytes of a record's field.
func raw(d digest.Digest) []byte { return d[:] }
