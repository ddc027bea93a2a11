package provenance

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/record"
)

// AttestationType is the DSSE payload type of attestations.
const AttestationType = "application/vnd.in-toto+json"

const (
	statementType  = "https://in-toto.io/Statement/v1"
	predicateType  = "https://slsa.dev/provenance/v1"
	buildType      = "https://github.com/tallystick/tallystick/execution/v1"
	builderPrefix  = "https://github.com/tallystick/tallystick/node/"
	versionName    = "tallystick" // the key of builder.version
	maxVersionText = 63           // bytes of a software version
)

// ErrStatement says that a payload is not a statement of the documented form.
var ErrStatement = errors.New("malformed statement")

// A CheckpointRef names a checkpoint without its signatures.
type CheckpointRef struct {
	Origin   string
	Size     int64 // 1 to 2^53 − 1
	RootHash digest.Digest
}

// A Statement is what one node attests about one execution: the in-toto
// Statement of docs/formats/execution.md without its constant members and
// without those that repeat others. There are no times in it.
type Statement struct {
	Cluster    string
	Tenant     string
	Contract   digest.Digest   // contract hash
	Submission digest.Digest   // of the submission's payload
	Input      digest.Digest   // of the submission's own input
	Parents    []digest.Digest // execution ids, in the order of the submission
	// ParentOutputs are the output digests of Parents, in the same order.
	ParentOutputs []digest.Digest
	Execution     digest.Digest // execution id

	Node    string // id of the node that attests
	Attempt uint64 // the first attempt that assigned the node
	Epoch   uint64 // the epoch that the request pins
	// MembershipHash is that of Epoch.
	MembershipHash       digest.Digest
	ScheduleHash         digest.Digest // cluster schedule hash
	RequestCheckpoint    CheckpointRef // of the audit log, covers the request
	MembershipCheckpoint CheckpointRef // of the membership log, as the node saw it

	Module digest.Digest
	// RewrittenModule is nil under rewriter version 0.
	RewrittenModule *digest.Digest
	Outcome         contract.Outcome
	// SoftwareVersion is the node's own, for information; "" leaves it out.
	SoftwareVersion string
}

// The JSON form. Members are in ascending order, as the canonical form wants.
type wireStatement struct {
	Type          string        `json:"_type"`
	Predicate     wirePredicate `json:"predicate"`
	PredicateType string        `json:"predicateType"`
	Subject       []wireSubject `json:"subject"`
}

type wirePredicate struct {
	BuildDefinition struct {
		BuildType            string        `json:"buildType"`
		ExternalParameters   wireExternal  `json:"externalParameters"`
		InternalParameters   wireInternal  `json:"internalParameters"`
		ResolvedDependencies []wireSubject `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID      string       `json:"id"`
			Version *wireVersion `json:"version,omitempty"`
		} `json:"builder"`
		Metadata struct {
			InvocationID digest.Digest `json:"invocationId"`
		} `json:"metadata"`
	} `json:"runDetails"`
}

type wireExternal struct {
	Cluster    string          `json:"cluster"`
	Contract   digest.Digest   `json:"contract"`
	Input      digest.Digest   `json:"input"`
	Parents    []digest.Digest `json:"parents,omitempty"`
	Submission digest.Digest   `json:"submission"`
	Tenant     string          `json:"tenant"`
}

type wireInternal struct {
	Attempt              uint64           `json:"attempt"`
	ClusterScheduleHash  digest.Digest    `json:"cluster_schedule_hash"`
	Epoch                uint64           `json:"epoch"`
	MembershipCheckpoint wireCheckpoint   `json:"membership_checkpoint"`
	MembershipHash       digest.Digest    `json:"membership_hash"`
	Node                 string           `json:"node"`
	Outcome              contract.Outcome `json:"outcome"`
	ProtocolVersion      string           `json:"protocol_version"`
	RequestCheckpoint    wireCheckpoint   `json:"request_checkpoint"`
	ResultDigest         digest.Digest    `json:"result_digest"`
	RewrittenModule      *digest.Digest   `json:"rewritten_module,omitempty"`
}

type wireCheckpoint struct {
	Origin   string `json:"origin"`
	RootHash []byte `json:"root_hash"`
	Size     int64  `json:"size"`
}

type wireSubject struct {
	Digest struct {
		SHA256 digest.Digest `json:"sha256"`
	} `json:"digest"`
	Name string `json:"name"`
}

type wireVersion struct {
	Tallystick string `json:"tallystick"`
}

// Marshal returns the payload of an attestation in canonical JSON. A statement
// that ParseStatement would refuse is an error that wraps ErrStatement.
func (s *Statement) Marshal() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	b, err := strictjson.Marshal(s.wire())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if len(b) > dsse.MaxPayload {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrStatement, len(b), dsse.MaxPayload)
	}
	return b, nil
}

// ParseStatement reads the payload of an attestation. Members that repeat one
// another must agree. Whether the statement is true, or fits the execution, is
// for the fold.
func ParseStatement(payload []byte) (*Statement, error) {
	var w wireStatement
	if err := strictjson.Unmarshal(payload, &w, dsse.MaxPayload); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	s, err := w.statement()
	if err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Statement) wire() wireStatement {
	w := wireStatement{Type: statementType, PredicateType: predicateType,
		Subject: []wireSubject{subject("output", s.Outcome.OutputDigest)}}
	build := &w.Predicate.BuildDefinition
	build.BuildType = buildType
	build.ExternalParameters = wireExternal{Cluster: s.Cluster, Contract: s.Contract, Input: s.Input,
		Parents: s.Parents, Submission: s.Submission, Tenant: s.Tenant}
	build.InternalParameters = wireInternal{Attempt: s.Attempt, ClusterScheduleHash: s.ScheduleHash, Epoch: s.Epoch,
		MembershipCheckpoint: s.MembershipCheckpoint.wire(), MembershipHash: s.MembershipHash, Node: s.Node,
		Outcome: s.Outcome, ProtocolVersion: record.Version, RequestCheckpoint: s.RequestCheckpoint.wire(),
		ResultDigest: s.Outcome.ResultDigest(), RewrittenModule: s.RewrittenModule}
	build.ResolvedDependencies = []wireSubject{subject("module", s.Module), subject("input", s.Input)}
	for i, d := range s.ParentOutputs {
		build.ResolvedDependencies = append(build.ResolvedDependencies, subject("parent-"+strconv.Itoa(i), d))
	}
	run := &w.Predicate.RunDetails
	run.Builder.ID = builderPrefix + s.Cluster + "/" + s.Node
	if s.SoftwareVersion != "" {
		run.Builder.Version = &wireVersion{s.SoftwareVersion}
	}
	run.Metadata.InvocationID = s.Execution
	return w
}

// statement reads the values and refuses members that are not the constants or
// repetitions that they must be.
func (w *wireStatement) statement() (*Statement, error) {
	build, run := &w.Predicate.BuildDefinition, &w.Predicate.RunDetails
	ext, in := &build.ExternalParameters, &build.InternalParameters
	bad := func(format string, args ...any) (*Statement, error) {
		return nil, fmt.Errorf("%w: %s", ErrStatement, fmt.Sprintf(format, args...))
	}
	switch {
	case w.Type != statementType:
		return bad("_type %.80q, want %q", w.Type, statementType)
	case w.PredicateType != predicateType:
		return bad("predicateType %.80q, want %q", w.PredicateType, predicateType)
	case build.BuildType != buildType:
		return bad("buildType %.80q, want %q", build.BuildType, buildType)
	case in.ProtocolVersion != record.Version:
		return bad("protocol version %.20q, this program knows %q", in.ProtocolVersion, record.Version)
	case in.ResultDigest != in.Outcome.ResultDigest():
		return bad("result_digest is not that of the outcome")
	case run.Builder.ID != builderPrefix+ext.Cluster+"/"+in.Node:
		return bad("builder id %.200q is not that of node %.63q", run.Builder.ID, in.Node)
	case len(w.Subject) != 1 || w.Subject[0] != subject("output", in.Outcome.OutputDigest):
		return bad("subject is not the outcome's output")
	}
	deps := build.ResolvedDependencies
	if len(deps) != 2+len(ext.Parents) || deps[0].Name != "module" || deps[1] != subject("input", ext.Input) {
		return bad("resolvedDependencies are not module, input and one for each parent")
	}
	s := &Statement{Cluster: ext.Cluster, Tenant: ext.Tenant, Contract: ext.Contract, Submission: ext.Submission,
		Input: ext.Input, Parents: ext.Parents, Execution: run.Metadata.InvocationID,
		Node: in.Node, Attempt: in.Attempt, Epoch: in.Epoch, MembershipHash: in.MembershipHash,
		ScheduleHash: in.ClusterScheduleHash, Module: deps[0].Digest.SHA256, RewrittenModule: in.RewrittenModule,
		Outcome: in.Outcome}
	for i, dep := range deps[2:] {
		if dep.Name != "parent-"+strconv.Itoa(i) {
			return bad("dependency %.40q, want \"parent-%d\"", dep.Name, i)
		}
		s.ParentOutputs = append(s.ParentOutputs, dep.Digest.SHA256)
	}
	if run.Builder.Version != nil {
		s.SoftwareVersion = run.Builder.Version.Tallystick
		if s.SoftwareVersion == "" {
			return bad("empty software version, leave it out")
		}
	}
	var err error
	if s.RequestCheckpoint, err = in.RequestCheckpoint.ref(); err != nil {
		return bad("request_checkpoint: %v", err)
	}
	if s.MembershipCheckpoint, err = in.MembershipCheckpoint.ref(); err != nil {
		return bad("membership_checkpoint: %v", err)
	}
	return s, nil
}

// check holds the ranges that reading and writing share.
func (s *Statement) check() error {
	err := s.Outcome.Validate()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrStatement, err)
	case !contract.ValidIdentifier(s.Cluster), !contract.ValidIdentifier(s.Tenant), !contract.ValidIdentifier(s.Node):
		return fmt.Errorf("%w: cluster %.80q, tenant %.80q or node %.80q is no identifier", ErrStatement, s.Cluster, s.Tenant, s.Node)
	case s.Epoch == 0:
		return fmt.Errorf("%w: epoch 0", ErrStatement)
	case len(s.Parents) > maxParents || len(s.Parents) != len(s.ParentOutputs):
		return fmt.Errorf("%w: %d parents with %d outputs, at most %d", ErrStatement, len(s.Parents), len(s.ParentOutputs), maxParents)
	case len(s.SoftwareVersion) > maxVersionText || !plain(s.SoftwareVersion):
		return fmt.Errorf("%w: software version %.80q", ErrStatement, s.SoftwareVersion)
	}
	for _, c := range []CheckpointRef{s.RequestCheckpoint, s.MembershipCheckpoint} {
		if c.Size < 1 || c.Size > strictjson.MaxInteger || c.Origin == "" || len(c.Origin) > maxOrigin || !plain(c.Origin) {
			return fmt.Errorf("%w: checkpoint of %.80q with size %d", ErrStatement, c.Origin, c.Size)
		}
	}
	return nil
}

// maxParents bounds the parents of an execution, maxOrigin an origin in bytes.
const (
	maxParents = 8
	maxOrigin  = math.MaxUint8
)

// plain reports whether s is printable ASCII without space, so that what
// people are shown is what is there.
func plain(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

func subject(name string, d digest.Digest) wireSubject {
	w := wireSubject{Name: name}
	w.Digest.SHA256 = d
	return w
}

func (c CheckpointRef) wire() wireCheckpoint {
	return wireCheckpoint{Origin: c.Origin, RootHash: c.RootHash[:], Size: c.Size}
}

func (w wireCheckpoint) ref() (CheckpointRef, error) {
	root, err := digest.FromBytes(w.RootHash)
	return CheckpointRef{Origin: w.Origin, Size: w.Size, RootHash: root}, err
}
