package testcluster

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Module is what the contracts name as their module: the smallest one there is.
var Module = []byte("\x00asm\x01\x00\x00\x00")

// Contract returns an unsigned contract of the tenant: three nodes, two of
// which must agree, one more with each attempt up to five.
func (c *Cluster) Contract() *contract.Contract {
	return &contract.Contract{
		Agreement:       2,
		Capabilities:    []contract.Capability{contract.CapabilityStdio},
		Cluster:         c.Name,
		Limits:          contract.Limits{DiagnosticsBytes: 65_536, InputBytes: 1 << 20, MemoryPages: 1024, OutputBytes: 1 << 20},
		MaxAssigned:     5,
		Module:          digest.Of(Module),
		Name:            "inventory",
		Nodes:           3,
		ProtocolVersion: record.Version,
		Seed:            digest.Of([]byte("seed")),
		Step:            1,
		Tenant:          Tenant,
		Version:         "1.2.0",
		Versions:        contract.Versions{HostInterface: 1},
	}
}

// ContractRecord signs a contract with the key of its tenant and returns the
// record that registers it now.
func (c *Cluster) ContractRecord(con *contract.Contract) *pb.Record {
	c.t.Helper()
	envelope, hash, err := contract.Sign(con, Key(con.Tenant+"/contract"))
	c.must(err)
	return c.Fill(&pb.Record{Body: &pb.Record_Contract{Contract: &pb.ContractRecord{Tenant: con.Tenant, ContractHash: hash[:],
		Epoch: c.Fold.Epoch(), Envelope: envelope, ModuleSize: uint64(len(Module))}}})
}

// Register appends the record of a contract, nil for Contract().
func (c *Cluster) Register(con *contract.Contract) digest.Digest {
	c.t.Helper()
	if con == nil {
		con = c.Contract()
	}
	r := c.ContractRecord(con)
	c.valid(c.Append(r))
	return digest.Digest(r.GetContract().GetContractHash())
}

// Submission returns a submission to apply a contract to an input; each has
// another nonce.
func (c *Cluster) Submission(con digest.Digest, input []byte, parents ...digest.Digest) *contract.Submission {
	c.nonce++
	return &contract.Submission{
		Cluster:         c.Name,
		Contract:        con,
		Input:           digest.Of(input),
		LastEpoch:       c.Fold.Epoch() + 10,
		Nonce:           binary.BigEndian.AppendUint64(make([]byte, 8), c.nonce),
		Parents:         parents,
		ProtocolVersion: record.Version,
		Tenant:          Tenant,
	}
}

// RequestRecord signs a submission with the key of its tenant and returns the
// record that requests it now.
func (c *Cluster) RequestRecord(sub *contract.Submission) *pb.Record {
	c.t.Helper()
	envelope, _, err := contract.Sign(sub, Key(sub.Tenant+"/submission"))
	c.must(err)
	id := sub.ExecutionID()
	return c.Fill(&pb.Record{Body: &pb.Record_Request{Request: &pb.RequestRecord{Tenant: sub.Tenant, ExecutionId: id[:],
		ContractHash: sub.Contract[:], Epoch: c.Fold.Epoch(), Envelope: envelope}}})
}

// Submit appends a request and returns the execution id.
func (c *Cluster) Submit(con digest.Digest, input []byte, parents ...digest.Digest) digest.Digest {
	c.t.Helper()
	sub := c.Submission(con, input, parents...)
	c.valid(c.Append(c.RequestRecord(sub)))
	return sub.ExecutionID()
}

// RescheduleRecord returns the record of an execution's next attempt.
func (c *Cluster) RescheduleRecord(id digest.Digest) *pb.Record {
	c.t.Helper()
	return c.Fill(&pb.Record{Body: &pb.Record_Reschedule{Reschedule: &pb.RescheduleRecord{ExecutionId: id[:],
		Attempt: c.Execution(id).Attempt + 1}}})
}

// Execution returns an execution.
func (c *Cluster) Execution(id digest.Digest) provenance.Execution {
	c.t.Helper()
	ex, ok := c.Fold.Execution(id)
	if !ok {
		c.t.Fatalf("no execution %s", id)
	}
	return ex
}

// OK returns the outcome of a run that wrote output and ended well.
func OK(output string) contract.Outcome {
	return contract.Outcome{
		DiagnosticsDigest: digest.Of(nil),
		Kind:              contract.OutcomeOK,
		OutputDigest:      digest.Of([]byte(output)),
		OutputLength:      uint64(len(output)),
		PeakPages:         1,
	}
}

// RequestCheckpoint returns the audit checkpoint that the attestations of an
// execution name: the one at the size that the log had at the first call.
func (c *Cluster) RequestCheckpoint(id digest.Digest) []byte {
	c.t.Helper()
	if _, ok := c.requests[id]; !ok {
		c.requests[id] = string(c.Audit.Signed(c.Audit.Size()))
	}
	return []byte(c.requests[id])
}

// Statement returns the statement of an honest node that found the outcome.
func (c *Cluster) Statement(id digest.Digest, node string, outcome contract.Outcome) *provenance.Statement {
	c.t.Helper()
	ex := c.Execution(id)
	attempt, _ := ex.Schedule.FirstAttempt(node)
	request, err := c.AuditPolicy.Verify(c.RequestCheckpoint(id))
	c.must(err)
	return &provenance.Statement{
		Cluster:              c.Name,
		Tenant:               ex.Tenant,
		Contract:             ex.ContractHash,
		Submission:           ex.SubmissionDigest,
		Input:                ex.Submission.Input,
		Parents:              ex.Submission.Parents,
		ParentOutputs:        ex.ParentOutputs,
		Execution:            id,
		Node:                 node,
		Attempt:              attempt,
		Epoch:                ex.Epoch,
		MembershipHash:       ex.MembershipHash,
		ScheduleHash:         ex.Schedule.Hash(),
		RequestCheckpoint:    ref(request.Checkpoint),
		MembershipCheckpoint: ref(c.Membership.Checkpoint(c.Membership.Size())),
		Module:               ex.Contract.Module,
		Outcome:              outcome,
		SoftwareVersion:      "v1.0.0",
	}
}

func ref(c checkpoint.Checkpoint) provenance.CheckpointRef {
	return provenance.CheckpointRef{Origin: c.Origin, Size: c.Size, RootHash: digest.Digest(c.Root)}
}

// AttestationRecord signs a statement with the key of its node and returns the
// record of it now.
func (c *Cluster) AttestationRecord(s *provenance.Statement) *pb.Record {
	c.t.Helper()
	payload, err := s.Marshal()
	c.must(err)
	return c.Fill(&pb.Record{Body: &pb.Record_Attestation{Attestation: &pb.AttestationRecord{ExecutionId: s.Execution[:],
		Node: s.Node, Epoch: c.Fold.Epoch(),
		Envelope: c.Envelope(provenance.AttestationType, payload, s.Node+"/attestation")}}})
}

// Attest appends the attestation of an honest node, and the record that the
// fold derives from it, if any.
func (c *Cluster) Attest(id digest.Digest, node string, outcome contract.Outcome) provenance.Effect {
	c.t.Helper()
	index, effect := c.Append(c.AttestationRecord(c.Statement(id, node, outcome)))
	c.valid(index, effect)
	if effect.Derived != nil {
		c.valid(c.Append(effect.Derived))
	}
	return effect
}

// Run makes the nodes of an execution's first attempt agree on an outcome.
func (c *Cluster) Run(id digest.Digest, outcome contract.Outcome) {
	c.t.Helper()
	for _, node := range c.Execution(id).Assigned() {
		if c.Execution(id).State == provenance.StateOpen {
			c.Attest(id, node, outcome)
		}
	}
	if state := c.Execution(id).State; state != provenance.StateComplete {
		c.t.Fatalf("execution is %s", state)
	}
}

// Proven returns a record of the audit log with its proof at a size.
func (c *Cluster) Proven(index, size int64) *pb.ProvenRecord {
	c.t.Helper()
	return &pb.ProvenRecord{Index: uint64(index), Opening: c.Audit.Openings[index], InclusionProof: c.Audit.Inclusion(index, size)}
}

// Bundle returns the proof bundle of an execution that has ended, as a message
// that a test may change before it formats it.
func (c *Cluster) Bundle(id digest.Digest) *pb.ProofBundle {
	c.t.Helper()
	content, ok := c.Fold.BundleContent(id)
	if !ok {
		c.t.Fatalf("no bundle for execution %s yet", id)
	}
	return c.BundleOf(id, content)
}

// BundleOf returns a bundle with a chosen content, whether or not it proves
// anything.
func (c *Cluster) BundleOf(id digest.Digest, content provenance.BundleContent) *pb.ProofBundle {
	c.t.Helper()
	size := content.Records[len(content.Records)-1] + 1
	request, err := c.AuditPolicy.Verify(c.RequestCheckpoint(id))
	c.must(err)
	b := &pb.ProofBundle{
		ProtocolVersion:      record.Version,
		Cluster:              c.Name,
		ExecutionId:          id[:],
		AuditCheckpoint:      c.Audit.Signed(size),
		RequestCheckpoint:    c.RequestCheckpoint(id),
		ConsistencyProof:     c.Audit.Consistency(request.Checkpoint.Size, size),
		MembershipCheckpoint: c.Membership.Signed(int64(content.Epoch)),
		MembershipChanges:    c.Membership.Entries[:content.Epoch],
	}
	for _, index := range content.Records {
		b.Records = append(b.Records, c.Proven(index, size))
	}
	return b
}

// BundleWithAncestors is Bundle with the executions that it descends from.
func (c *Cluster) BundleWithAncestors(id digest.Digest) *pb.ProofBundle {
	c.t.Helper()
	ids, ok := c.Fold.Ancestors(id)
	if !ok {
		c.t.Fatal("too many ancestors")
	}
	whole, _ := c.Fold.BundleContent(id)
	contents := map[digest.Digest]provenance.BundleContent{}
	size := whole.Records[len(whole.Records)-1] + 1
	for _, id := range ids {
		content, ok := c.Fold.BundleContent(id)
		if !ok {
			c.t.Fatalf("no bundle for execution %s yet", id)
		}
		contents[id] = content
		size = max(size, content.Records[len(content.Records)-1]+1)
		whole.Epoch = max(whole.Epoch, content.Epoch)
	}
	slices.SortFunc(ids, func(a, b digest.Digest) int {
		return cmp.Compare(slices.Max(contents[a].Records), slices.Max(contents[b].Records))
	})
	b := c.BundleOf(id, whole)
	main := c.ProvenExecution(id, whole, size)
	b.AuditCheckpoint, b.ConsistencyProof, b.Records = c.Audit.Signed(size), main.ConsistencyProof, main.Records
	for _, id := range ids {
		b.Ancestors = append(b.Ancestors, c.ProvenExecution(id, contents[id], size))
	}
	return b
}

// ProvenExecution returns an execution as an ancestor in a bundle, its records
// proven in the tree of a size.
func (c *Cluster) ProvenExecution(id digest.Digest, content provenance.BundleContent, size int64) *pb.ProvenExecution {
	c.t.Helper()
	request, err := c.AuditPolicy.Verify(c.RequestCheckpoint(id))
	c.must(err)
	e := &pb.ProvenExecution{ExecutionId: id[:], RequestCheckpoint: c.RequestCheckpoint(id),
		ConsistencyProof: c.Audit.Consistency(request.Checkpoint.Size, size)}
	for _, index := range content.Records {
		e.Records = append(e.Records, c.Proven(index, size))
	}
	return e
}

// CancellationRecord returns the record by which the tenant cancels an execution
// now.
func (c *Cluster) CancellationRecord(id digest.Digest) *pb.Record {
	c.t.Helper()
	ex := c.Execution(id)
	envelope, _, err := contract.Sign(&contract.Cancellation{Cluster: c.Name, Execution: id, ProtocolVersion: record.Version, Tenant: ex.Tenant},
		Key(ex.Tenant+"/submission"))
	c.must(err)
	return c.Fill(&pb.Record{Body: &pb.Record_Cancellation{Cancellation: &pb.CancellationRecord{Tenant: ex.Tenant, ExecutionId: id[:],
		Epoch: c.Fold.Epoch(), Envelope: envelope}}})
}

// valid ends the test when a record that should count is void.
func (c *Cluster) valid(index int64, effect provenance.Effect) {
	c.t.Helper()
	if effect.Void {
		c.t.Fatalf("record %d is void: %s: %s", index, effect.Code, effect.Detail)
	}
}
