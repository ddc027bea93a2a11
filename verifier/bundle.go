package verifier

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Trust is what a verifier believes without proof. All of it is required.
type Trust struct {
	// AuditPolicy and MembershipPolicy say which checkpoints of the two logs are
	// acceptable. Each names exactly one origin.
	AuditPolicy, MembershipPolicy *checkpoint.Policy
	// Genesis is the first entry of the membership log, byte for byte.
	Genesis []byte
}

// Options narrows a verification. The zero value accepts the bundle of any
// execution of the cluster.
type Options struct {
	// Execution is the id of the only execution that will do, in hexadecimal;
	// "" means any.
	Execution string
	// Changes are the entries of the membership log from the first on, for
	// bundles that leave them out. They are suspect like the bundle itself.
	Changes [][]byte
	// History is one that the caller has folded from Trust.Genesis, and believes. The
	// changes that it has are not checked again, and it stands in for those that a
	// bundle leaves out. nil means none.
	History *membership.History
}

// verification is one run of the seven steps. What a step finds, the later ones
// use.
type verification struct {
	trust  Trust
	opts   Options
	report *Report

	bundle     *pb.ProofBundle
	audit      checkpoint.Checkpoint
	membership checkpoint.Checkpoint
	history    *membership.History
	known      logKeys // that membership names
	main       part    // the execution that the bundle is about
}

// VerifyBundle checks a proof bundle file. It returns a report in any case, and
// a nil error only if every step succeeded and the execution is complete;
// otherwise the error is an [*Error]. One with [CodeNoResult] says that all of it
// is proven, and that what it proves is an end without a result.
//
// It takes time and memory in proportion to the file, which is at most
// provenance.MaxBundleSize bytes.
func VerifyBundle(file []byte, trust Trust, opts Options) (*Report, error) {
	v := &verification{trust: trust, opts: opts, report: &Report{}}
	for _, step := range []step{
		{"bundle", "the file is whole and is the bundle asked for", func() (string, *Error) { return v.readFile(file) }},
		{"checkpoints", "the checkpoints are signed by their logs and cosigned as the policies ask", v.checkCheckpoints},
		{"membership", "the members are those that lawful changes made of the pinned genesis", v.replayMembership},
		{"consistency", "the audit root that the nodes saw is part of the audit log", v.checkConsistency},
		{"inclusion", "every record is in the audit log", v.checkInclusion},
		{"execution", "contract, submission and attestations are signed by members, and enough nodes agree", v.foldRecords},
		{"provenance", "the closing record says what follows from the others", v.checkProvenance},
	} {
		if err := v.take(step); err != nil {
			return v.report, err
		}
	}
	if len(v.bundle.GetAncestors()) > 0 {
		if err := v.take(step{"ancestors", "every execution that the input comes from is proven, and its output is the one named", v.checkAncestors}); err != nil {
			return v.report, err
		}
	}
	return v.report, v.conclude()
}

// step is one step of a verification.
type step struct {
	name, title string
	run         func() (found string, err *Error)
}

// take runs a step and reports it.
func (v *verification) take(s step) error {
	found, err := s.run()
	if err != nil {
		err.Step = s.name
		v.report.Steps = append(v.report.Steps, Step{Name: s.name, Title: s.title, Detail: err.Detail})
		v.report.Failure = failureOf(err)
		return err
	}
	v.report.Steps = append(v.report.Steps, Step{Name: s.name, Title: s.title, OK: true, Detail: found})
	return nil
}

// readFile is step 1. It also refuses a Trust that nothing could satisfy.
func (v *verification) readFile(file []byte) (string, *Error) {
	if v.trust.AuditPolicy == nil || v.trust.MembershipPolicy == nil {
		return "", refuse(CodeTrust, "a policy for the audit log and one for the membership log are needed")
	}
	for _, p := range []*checkpoint.Policy{v.trust.AuditPolicy, v.trust.MembershipPolicy} {
		if _, err := p.Origin(); err != nil {
			return "", refuse(CodeTrust, "policy: %w", err)
		}
	}
	b, err := provenance.ParseBundle(file)
	switch {
	case errors.Is(err, provenance.ErrBundleDigest):
		return "", refuse(CodeDamaged, "%w", err)
	case errors.Is(err, provenance.ErrBundleVersion):
		return "", refuse(CodeVersion, "%w", err)
	case err != nil:
		return "", refuse(CodeFormat, "%w", err)
	}
	v.bundle, v.main = b, part{id: digest.Digest(b.GetExecutionId()), proven: b}
	v.report.Cluster = b.GetCluster()
	if want := v.opts.Execution; want != "" && want != v.main.id.String() {
		return "", refuse(CodeOtherExecution, "bundle of execution %s, asked for was %s", v.main.id, want)
	}
	return fmt.Sprintf("%d bytes, execution %s of cluster %q", len(file), v.main.id, b.GetCluster()), nil
}

// checkCheckpoints is step 2.
func (v *verification) checkCheckpoints() (string, *Error) {
	for _, c := range []struct {
		code   Code
		policy *checkpoint.Policy
		signed []byte
		to     *checkpoint.Checkpoint
		report **Checkpoint
	}{
		{CodeAuditCheckpoint, v.trust.AuditPolicy, v.bundle.GetAuditCheckpoint(), &v.audit, &v.report.AuditCheckpoint},
		{CodeMembershipCheckpoint, v.trust.MembershipPolicy, v.bundle.GetMembershipCheckpoint(), &v.membership, &v.report.MembershipCheckpoint},
		{CodeRequestCheckpoint, v.trust.AuditPolicy, v.bundle.GetRequestCheckpoint(), &v.main.request, &v.report.RequestCheckpoint},
	} {
		verified, err := c.policy.Verify(c.signed)
		if err != nil {
			return "", refuse(c.code, "%w", err)
		}
		*c.to, *c.report = verified.Checkpoint, checkpointOf(verified)
	}
	found := fmt.Sprintf("%q at size %d, %q at size %d; audit root at size %d", v.audit.Origin, v.audit.Size,
		v.membership.Origin, v.membership.Size, v.main.request.Size)
	if v.trust.AuditPolicy.QuorumNone() || v.trust.MembershipPolicy.QuorumNone() {
		found += "; a policy asks for no witness"
	}
	return found, nil
}

// replayMembership is step 3.
func (v *verification) replayMembership() (string, *Error) {
	changes, refusal := v.changes()
	if refusal != nil {
		return "", refusal
	}
	if len(changes) == 0 || !bytes.Equal(changes[0], v.trust.Genesis) {
		if _, _, err := membership.Genesis(v.trust.Genesis); err != nil {
			return "", refuse(CodeTrust, "pinned genesis: %w", err)
		}
		return "", refuse(CodeGenesis, "the membership log does not begin with the pinned genesis")
	}
	if int64(len(changes)) != v.membership.Size {
		return "", refuse(CodeMembership, "%d changes, the checkpoint has size %d", len(changes), v.membership.Size)
	}
	if v.history = v.folded(changes); v.history == nil {
		v.history = membership.NewHistory()
		for i, change := range changes {
			if _, err := v.history.Append(change); err != nil && i == 0 {
				return "", refuse(CodeTrust, "pinned genesis: %w", err)
			} else if err != nil {
				return "", refuse(CodeMembership, "change %d: %w", i, err)
			}
		}
	}
	if cluster := v.history.Current().Cluster(); cluster != v.bundle.GetCluster() {
		return "", refuse(CodeOtherExecution, "bundle of cluster %q, the genesis is of %q", v.bundle.GetCluster(), cluster)
	}
	root, err := v.history.Root(uint64(len(changes)))
	if err != nil || root != v.membership.Root {
		return "", refuse(CodeMembership, "the changes have root hash %v, the checkpoint %v", root, v.membership.Root)
	}
	if err := v.checkLogKeys(); err != nil {
		return "", err
	}
	current := v.history.Current()
	return fmt.Sprintf("epoch %d, %d members, %d of %d admins decide", len(changes), current.Count(),
		current.AdminThreshold(), admins(current)), nil
}

// changes are the entries of the membership log up to the bundle's checkpoint: its
// own, or if it leaves them out those of the caller.
func (v *verification) changes() ([][]byte, *Error) {
	if !v.bundle.GetExternalMembership() {
		return v.bundle.GetMembershipChanges(), nil
	}
	given := v.opts.Changes
	if h := v.opts.History; h != nil && given == nil {
		for epoch := uint64(1); epoch <= h.Size() && epoch <= uint64(v.membership.Size); epoch++ {
			_, envelope, err := h.Change(epoch)
			if err != nil {
				return nil, refuse(CodeMembership, "%w", err)
			}
			given = append(given, envelope)
		}
	}
	if int64(len(given)) < v.membership.Size {
		return nil, refuse(CodeExternalMembership, "%d changes given, the checkpoint covers %d", len(given), v.membership.Size)
	}
	return given[:v.membership.Size], nil
}

// folded returns the caller's history of these changes, nil if that has others.
func (v *verification) folded(changes [][]byte) *membership.History {
	h := v.opts.History
	if h == nil {
		return nil
	}
	for i, change := range changes {
		if _, known, err := h.Change(uint64(i) + 1); err != nil || !bytes.Equal(known, change) {
			return nil
		}
	}
	prefix, err := h.Prefix(uint64(len(changes)))
	if err != nil {
		return nil // never: it has these epochs
	}
	return prefix
}

func admins(s *membership.State) (n int) {
	for p := range s.Principals() {
		if p.Kind == membership.KindAdmin {
			n++
		}
	}
	return n
}

// checkLogKeys checks the keys of the bundle's three checkpoints.
func (v *verification) checkLogKeys() *Error {
	var err error
	if v.known, err = knownKeys(v.history); err != nil {
		return refuse(CodeMembership, "%w", err)
	}
	for _, c := range []struct {
		log    membership.LogName
		policy *checkpoint.Policy
		signed []byte
	}{
		{membership.LogAudit, v.trust.AuditPolicy, v.bundle.GetAuditCheckpoint()},
		{membership.LogAudit, v.trust.AuditPolicy, v.bundle.GetRequestCheckpoint()},
		{membership.LogMembership, v.trust.MembershipPolicy, v.bundle.GetMembershipCheckpoint()},
	} {
		if err := v.known.check(c.log, c.policy, c.signed); err != nil {
			return err
		}
	}
	return nil
}

// Steps 4 to 7 are about one execution, the bundle's own; for ancestors see
// checkAncestors.

func (v *verification) checkConsistency() (string, *Error) { return v.main.checkConsistency(v.audit) }
func (v *verification) checkInclusion() (string, *Error)   { return v.main.checkInclusion(v.audit) }
func (v *verification) foldRecords() (string, *Error) {
	return v.main.foldRecords(v.bundle.GetCluster(), v.history)
}

func (v *verification) checkProvenance() (string, *Error) {
	ex, err := v.main.checkClosing(v.history)
	if err != nil {
		return "", err
	}
	v.report.Execution = ex
	if ex.State != provenance.StateComplete {
		return fmt.Sprintf("the execution ended as %s, chain of %d records", ex.State, ex.ChainLength), nil
	}
	return fmt.Sprintf("execution proof %s, chain of %d records", ex.ExecutionProof, ex.ChainLength), nil
}
