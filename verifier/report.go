package verifier

import (
	"crypto/ed25519"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Report says what was checked and what was found. It marshals to JSON; digests
// and hashes are lowercase hexadecimal, but for root hashes of checkpoints,
// which are base64 as in the checkpoint itself.
type Report struct {
	Verified bool `json:"verified"`
	// Steps has one entry for each step that was begun, in order; the last one
	// has failed if Verified is false.
	Steps   []Step   `json:"steps"`
	Failure *Failure `json:"failure,omitempty"`

	// What follows is set as far as the steps came, and proven only if Verified.
	Cluster              string      `json:"cluster,omitempty"`
	AuditCheckpoint      *Checkpoint `json:"audit_checkpoint,omitempty"`
	RequestCheckpoint    *Checkpoint `json:"request_checkpoint,omitempty"` // the audit root
	MembershipCheckpoint *Checkpoint `json:"membership_checkpoint,omitempty"`
	Execution            *Execution  `json:"execution,omitempty"`
	// Ancestors are the executions that the input descends from, if the bundle has
	// them; all of them then, ascending by their last record.
	Ancestors []*Execution `json:"ancestors,omitempty"`
	// Proven and NotProven say in words what a verified bundle shows and what it
	// leaves to others.
	Proven    []string `json:"proven,omitempty"`
	NotProven []string `json:"not_proven,omitempty"`
}

// Step is one step of the verification.
type Step struct {
	Name   string `json:"name"`   // bundle, checkpoints, membership, consistency, inclusion, execution, provenance, ancestors
	Title  string `json:"title"`  // what the step checks, in words
	OK     bool   `json:"ok"`     // false in the step that failed
	Detail string `json:"detail"` // what was found
}

// Failure is the error of a report, for JSON.
type Failure struct {
	Code   Code            `json:"code"`
	Step   string          `json:"step"`
	Rule   provenance.Code `json:"rule,omitempty"`
	Detail string          `json:"detail"`
	Hint   string          `json:"hint"`
}

// Checkpoint is an accepted checkpoint and who cosigned it.
type Checkpoint struct {
	Origin       string        `json:"origin"`
	Size         int64         `json:"size"`
	RootHash     string        `json:"root_hash"`
	Cosignatures []Cosignature `json:"cosignatures,omitempty"`
}

// Cosignature is one that the policy counted.
type Cosignature struct {
	Witness   string `json:"witness"`   // its name in the policy
	Timestamp int64  `json:"timestamp"` // seconds since the POSIX epoch, by the witness's clock
}

// Execution is the execution that a bundle proves.
type Execution struct {
	ID              string           `json:"id"`
	State           provenance.State `json:"state"` // as which it ended
	Tenant          string           `json:"tenant"`
	ContractHash    string           `json:"contract_hash"`
	ContractName    string           `json:"contract_name"`
	ContractVersion string           `json:"contract_version"`
	ModuleDigest    string           `json:"module_digest"`
	InputDigest     string           `json:"input_digest"`
	Parents         []Parent         `json:"parents,omitempty"`
	Epoch           uint64           `json:"epoch"` // that the request pins
	MembershipHash  string           `json:"membership_hash"`
	ScheduleHash    string           `json:"cluster_schedule_hash"`
	Attempt         uint64           `json:"attempt"`  // the last that had begun
	Assigned        []string         `json:"assigned"` // nodes, in rank order
	// PassedOver are those of Assigned of which no attestation is in the bundle, and
	// which a later attempt was to stand in for, in rank order.
	PassedOver []string  `json:"passed_over,omitempty"`
	Agreement  uint64    `json:"agreement"`
	Nodes      []Node    `json:"nodes"`             // that agree, ascending by id
	Dissent    []Dissent `json:"dissent,omitempty"` // in log order
	// Outcome, ResultDigest and ExecutionProof exist for complete executions only.
	Outcome         contract.Outcome `json:"outcome,omitzero"`
	ResultDigest    string           `json:"result_digest,omitempty"`
	ExecutionProof  string           `json:"execution_proof,omitempty"`
	ChainHead       string           `json:"chain_head"`
	ChainLength     int              `json:"chain_length"`
	RequestIndex    int64            `json:"request_index"`
	CompletedAt     int64            `json:"completed_at"`     // index of the record that decided it
	ProvenanceIndex int64            `json:"provenance_index"` // of the closing record

	// Contract is the contract itself. It must not be changed.
	Contract *contract.Contract `json:"-"`
}

// Parent is an execution whose output was part of the input.
type Parent struct {
	ID string `json:"id"`
	// OutputDigest is what the attesting nodes say that its output was; "" if none
	// attested.
	OutputDigest string `json:"output_digest,omitempty"`
}

// Node is a node whose attestation agrees.
type Node struct {
	ID                string `json:"id"`
	AttestationDigest string `json:"attestation_digest"`
	Index             int64  `json:"index"` // of its record
	// RewrittenModule is the digest of what the node ran; "" under rewriter 0.
	RewrittenModule string `json:"rewritten_module,omitempty"`

	// Envelope is the attestation itself, a DSSE envelope with one signature, and
	// Key the node's key that made it. They must not be changed.
	Envelope []byte            `json:"-"`
	Key      ed25519.PublicKey `json:"-"`
}

// Dissent is an attestation, before the execution was decided, that is no part
// of an agreement.
type Dissent struct {
	Node
	Outcome      contract.Outcome `json:"outcome"`
	ResultDigest string           `json:"result_digest"`
	// Void says that the node attested twice with different results.
	Void bool `json:"void,omitempty"`
}

func checkpointOf(v *checkpoint.Verified) *Checkpoint {
	c := &Checkpoint{Origin: v.Checkpoint.Origin, Size: v.Checkpoint.Size, RootHash: v.Checkpoint.Root.String()}
	for _, s := range v.Cosignatures {
		c.Cosignatures = append(c.Cosignatures, Cosignature(s))
	}
	return c
}

// executionOf reports an execution, whose closing record is at an index.
func executionOf(ex provenance.Execution, closed int64) *Execution {
	e := &Execution{
		ID:              ex.ID.String(),
		State:           ex.State,
		Tenant:          ex.Tenant,
		ContractHash:    ex.ContractHash.String(),
		ContractName:    ex.Contract.Name,
		ContractVersion: ex.Contract.Version,
		ModuleDigest:    ex.Contract.Module.String(),
		InputDigest:     ex.Submission.Input.String(),
		Epoch:           ex.Epoch,
		MembershipHash:  ex.MembershipHash.String(),
		ScheduleHash:    ex.Schedule.Hash().String(),
		Attempt:         ex.Attempt,
		Assigned:        ex.Assigned(),
		PassedOver:      ex.PassedOver(),
		Agreement:       ex.Contract.Agreement,
		Nodes:           []Node{},
		ChainHead:       ex.ChainHead().String(),
		ChainLength:     len(ex.Chain),
		RequestIndex:    ex.RequestIndex,
		CompletedAt:     ex.DecidedAt,
		ProvenanceIndex: closed,
		Contract:        ex.Contract,
	}
	if ex.Outcome != nil {
		e.Outcome = *ex.Outcome
		e.ResultDigest = ex.Outcome.ResultDigest().String()
		e.ExecutionProof = digest.Digest(ex.Provenance().GetExecutionProof()).String()
	}
	for i, id := range ex.Submission.Parents {
		p := Parent{ID: id.String()}
		if i < len(ex.ParentOutputs) {
			p.OutputDigest = ex.ParentOutputs[i].String()
		}
		e.Parents = append(e.Parents, p)
	}
	for _, a := range ex.Attestations {
		n := Node{ID: a.Node, AttestationDigest: a.Digest.String(), Index: a.Index}
		if a.Statement.RewrittenModule != nil {
			n.RewrittenModule = a.Statement.RewrittenModule.String()
		}
		switch {
		case a.Agrees:
			e.Nodes = append(e.Nodes, n)
		case !a.Evidence:
			e.Dissent = append(e.Dissent, Dissent{n, a.Statement.Outcome, a.Statement.Outcome.ResultDigest().String(), a.Void})
		}
	}
	slices.SortFunc(e.Nodes, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
	return e
}
