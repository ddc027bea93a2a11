package verifier

import (
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
	// Proven and NotProven say in words what a verified bundle shows and what it
	// leaves to others.
	Proven    []string `json:"proven,omitempty"`
	NotProven []string `json:"not_proven,omitempty"`
}

// Step is one step of the verification.
type Step struct {
	Name   string `json:"name"`   // bundle, checkpoints, membership, consistency, inclusion, execution, provenance
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
	Agreement       uint64           `json:"agreement"`
	Nodes           []Node           `json:"nodes"` // that agree, ascending by id
	Outcome         contract.Outcome `json:"outcome"`
	ResultDigest    string           `json:"result_digest"`
	ExecutionProof  string           `json:"execution_proof"`
	ChainHead       string           `json:"chain_head"`
	ChainLength     int              `json:"chain_length"`
	RequestIndex    int64            `json:"request_index"`
	CompletedAt     int64            `json:"completed_at"`     // index of the completing attestation
	ProvenanceIndex int64            `json:"provenance_index"` // of the provenance record

	// Contract is the contract itself. It must not be changed.
	Contract *contract.Contract `json:"-"`
}

// Parent is an execution whose output was part of the input.
type Parent struct {
	ID string `json:"id"`
	// OutputDigest is what the attesting nodes say that its output was.
	OutputDigest string `json:"output_digest"`
}

// Node is a node whose attestation agrees.
type Node struct {
	ID                string `json:"id"`
	AttestationDigest string `json:"attestation_digest"`
	Index             int64  `json:"index"` // of its record
}

func checkpointOf(v *checkpoint.Verified) *Checkpoint {
	c := &Checkpoint{Origin: v.Checkpoint.Origin, Size: v.Checkpoint.Size, RootHash: v.Checkpoint.Root.String()}
	for _, s := range v.Cosignatures {
		c.Cosignatures = append(c.Cosignatures, Cosignature(s))
	}
	return c
}

func executionOf(ex provenance.Execution, provenanceIndex int64) *Execution {
	p := ex.Provenance()
	e := &Execution{
		ID:              ex.ID.String(),
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
		Agreement:       ex.Contract.Agreement,
		Outcome:         *ex.Outcome,
		ResultDigest:    ex.Outcome.ResultDigest().String(),
		ExecutionProof:  digest.Digest(p.GetExecutionProof()).String(),
		ChainHead:       ex.ChainHead().String(),
		ChainLength:     len(ex.Chain),
		RequestIndex:    ex.RequestIndex,
		CompletedAt:     ex.DecidedAt,
		ProvenanceIndex: provenanceIndex,
		Contract:        ex.Contract,
	}
	for i, id := range ex.Submission.Parents {
		e.Parents = append(e.Parents, Parent{ID: id.String(), OutputDigest: ex.ParentOutputs[i].String()})
	}
	for i, node := range p.GetNodes() {
		n := Node{ID: node, AttestationDigest: digest.Digest(p.GetAttestationDigests()[i]).String()}
		for _, a := range ex.Attestations {
			if a.Node == node {
				n.Index = a.Index
			}
		}
		e.Nodes = append(e.Nodes, n)
	}
	return e
}
