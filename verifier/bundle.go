package verifier

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
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
}

// verification is one run of the seven steps. What a step finds, the later ones
// use.
type verification struct {
	trust  Trust
	opts   Options
	report *Report

	bundle     *pb.ProofBundle
	execution  digest.Digest
	audit      checkpoint.Checkpoint
	request    checkpoint.Checkpoint
	membership checkpoint.Checkpoint
	history    *membership.History
	records    []opened
	fold       *provenance.Fold
}

// opened is a record that was proven to stand at its index.
type opened struct {
	index  int64
	entry  [record.EntrySize]byte
	record *pb.Record
}

// VerifyBundle checks a proof bundle file. It returns a report in any case, and
// a nil error only if every step succeeded; otherwise the error is an [*Error].
// It takes time and memory in proportion to the file, which is at most
// provenance.MaxBundleSize bytes.
func VerifyBundle(file []byte, trust Trust, opts Options) (*Report, error) {
	v := &verification{trust: trust, opts: opts, report: &Report{}}
	for _, step := range []struct {
		name, title string
		run         func() (found string, err *Error)
	}{
		{"bundle", "the file is whole and is the bundle asked for", func() (string, *Error) { return v.readFile(file) }},
		{"checkpoints", "the checkpoints are signed by their logs and cosigned as the policies ask", v.checkCheckpoints},
		{"membership", "the members are those that lawful changes made of the pinned genesis", v.replayMembership},
		{"consistency", "the audit root that the nodes saw is part of the audit log", v.checkConsistency},
		{"inclusion", "every record is in the audit log", v.checkInclusion},
		{"execution", "contract, submission and attestations are signed by members, and enough nodes agree", v.foldRecords},
		{"provenance", "the provenance record says what was attested", v.checkProvenance},
	} {
		found, err := step.run()
		if err != nil {
			err.Step = step.name
			v.report.Steps = append(v.report.Steps, Step{Name: step.name, Title: step.title, Detail: err.Detail})
			v.report.Failure = &Failure{Code: err.Code, Step: err.Step, Rule: err.Rule, Detail: err.Detail, Hint: err.Hint()}
			return v.report, err
		}
		v.report.Steps = append(v.report.Steps, Step{Name: step.name, Title: step.title, OK: true, Detail: found})
	}
	v.conclude()
	return v.report, nil
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
	v.bundle, v.execution = b, digest.Digest(b.GetExecutionId())
	v.report.Cluster = b.GetCluster()
	if want := v.opts.Execution; want != "" && want != v.execution.String() {
		return "", refuse(CodeOtherExecution, "bundle of execution %s, asked for was %s", v.execution, want)
	}
	return fmt.Sprintf("%d bytes, execution %s of cluster %q", len(file), v.execution, b.GetCluster()), nil
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
		{CodeRequestCheckpoint, v.trust.AuditPolicy, v.bundle.GetRequestCheckpoint(), &v.request, &v.report.RequestCheckpoint},
	} {
		verified, err := c.policy.Verify(c.signed)
		if err != nil {
			return "", refuse(c.code, "%w", err)
		}
		*c.to, *c.report = verified.Checkpoint, checkpointOf(verified)
	}
	found := fmt.Sprintf("%q at size %d, %q at size %d; audit root at size %d", v.audit.Origin, v.audit.Size,
		v.membership.Origin, v.membership.Size, v.request.Size)
	if v.trust.AuditPolicy.QuorumNone() || v.trust.MembershipPolicy.QuorumNone() {
		found += "; a policy asks for no witness"
	}
	return found, nil
}

// replayMembership is step 3.
func (v *verification) replayMembership() (string, *Error) {
	changes := v.bundle.GetMembershipChanges()
	if v.bundle.GetExternalMembership() {
		if int64(len(v.opts.Changes)) < v.membership.Size {
			return "", refuse(CodeExternalMembership, "%d changes given, the checkpoint covers %d", len(v.opts.Changes), v.membership.Size)
		}
		changes = v.opts.Changes[:v.membership.Size]
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
	v.history = membership.NewHistory()
	for i, change := range changes {
		if _, err := v.history.Append(change); err != nil && i == 0 {
			return "", refuse(CodeTrust, "pinned genesis: %w", err)
		} else if err != nil {
			return "", refuse(CodeMembership, "change %d: %w", i, err)
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
	return fmt.Sprintf("%d changes, %d members, %d of %d admins decide", len(changes), current.Count(),
		current.AdminThreshold(), admins(current)), nil
}

func admins(s *membership.State) (n int) {
	for p := range s.Principals() {
		if p.Kind == membership.KindAdmin {
			n++
		}
	}
	return n
}

// checkLogKeys checks that each checkpoint is signed by a key that both the
// policy and some epoch of the membership name for its log.
func (v *verification) checkLogKeys() *Error {
	known, err := v.knownKeys()
	if err != nil {
		return refuse(CodeMembership, "%w", err)
	}
	for _, c := range []struct {
		log    membership.LogName
		policy *checkpoint.Policy
		origin string
		signed []byte
	}{
		{membership.LogAudit, v.trust.AuditPolicy, v.audit.Origin, v.bundle.GetAuditCheckpoint()},
		{membership.LogAudit, v.trust.AuditPolicy, v.request.Origin, v.bundle.GetRequestCheckpoint()},
		{membership.LogMembership, v.trust.MembershipPolicy, v.membership.Origin, v.bundle.GetMembershipCheckpoint()},
	} {
		var keys []note.Verifier
		for _, key := range c.policy.Logs() {
			if known[logKey{c.log, c.origin, key.Vkey}] {
				keys = append(keys, key.Key)
			}
		}
		if _, err := checkpoint.Open(c.signed, c.origin, keys); err != nil {
			return refuse(CodeLogKeys, "%s checkpoint of %q is not signed by a key that policy and membership both name: %w",
				c.log, c.origin, err)
		}
	}
	return nil
}

// logKey is a key of a log as membership names it.
type logKey struct {
	log          membership.LogName
	origin, vkey string
}

// knownKeys collects the keys that any epoch names: a log that changed its key
// or found a successor keeps what it signed before.
func (v *verification) knownKeys() (map[logKey]bool, error) {
	known := map[logKey]bool{}
	for epoch := uint64(1); epoch <= v.history.Size(); epoch++ {
		state, err := v.history.StateAt(epoch)
		if err != nil {
			return nil, err
		}
		for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
			log := state.Logs().Named(name)
			for _, vkey := range log.Keys {
				known[logKey{name, log.Origin, vkey}] = true
			}
		}
	}
	return known, nil
}

// checkConsistency is step 4.
func (v *verification) checkConsistency() (string, *Error) {
	if err := checkpoint.VerifyConsistency(v.request.Tree(), v.audit.Tree(), hashes(v.bundle.GetConsistencyProof())); err != nil {
		return "", refuse(CodeConsistency, "from size %d to %d: %w", v.request.Size, v.audit.Size, err)
	}
	return fmt.Sprintf("size %d is a prefix of size %d", v.request.Size, v.audit.Size), nil
}

// checkInclusion is step 5.
func (v *verification) checkInclusion() (string, *Error) {
	for _, proven := range v.bundle.GetRecords() {
		index := int64(proven.GetIndex())
		opening, err := record.ParseOpening(proven.GetOpening())
		if err != nil {
			return "", refuse(CodeRecord, "record %d: %w", index, err)
		}
		entry := opening.Entry()
		leaf := tlog.RecordHash(entry[:])
		if err := checkpoint.VerifyInclusion(v.audit.Tree(), index, leaf, hashes(proven.GetInclusionProof())); err != nil {
			return "", refuse(CodeInclusion, "record %d: %w", index, err)
		}
		r, err := record.Parse(opening.Record())
		if err != nil {
			return "", refuse(CodeRecord, "record %d: %w", index, err)
		}
		v.records = append(v.records, opened{index, entry, r})
	}
	return fmt.Sprintf("%d records, indexes %d to %d", len(v.records), v.records[0].index, v.records[len(v.records)-1].index), nil
}

// hashes were checked for their length when the bundle was read.
func hashes(list [][]byte) []tlog.Hash {
	out := make([]tlog.Hash, len(list))
	for i, b := range list {
		out[i] = tlog.Hash(b)
	}
	return out
}
