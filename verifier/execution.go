package verifier

import (
	"fmt"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// foldRecords is step 6: all records but the last, which is the provenance
// record.
func (v *verification) foldRecords() (string, *Error) {
	if err := v.checkSelection(); err != nil {
		return "", err
	}
	v.fold = provenance.NewPartialFold(v.bundle.GetCluster(), v.history)
	last := len(v.records) - 1
	for _, r := range v.records[:last] {
		if err := v.apply(r); err != nil {
			return "", err
		}
	}
	ex, ok := v.fold.Execution(v.execution)
	switch {
	case !ok:
		return "", refuse(CodeRules, "no request for execution %s", v.execution)
	case ex.State != provenance.StateComplete:
		return "", refuse(CodeIncomplete, "%d attestations leave the execution %s: %d nodes have to agree", len(ex.Attestations),
			ex.State, ex.Contract.Agreement)
	}
	p := ex.Provenance()
	return fmt.Sprintf("%d of %d attestations agree, by %v; outcome %q", len(p.GetNodes()), len(ex.Attestations), p.GetNodes(),
		ex.Outcome.Kind), nil
}

// checkSelection checks which records the bundle holds. Whether each is valid
// where it stands is for the fold.
func (v *verification) checkSelection() *Error {
	count := map[record.Kind]int{}
	for i, r := range v.records {
		kind := record.KindOf(r.record)
		count[kind]++
		switch kind {
		case record.KindContract, record.KindEpoch, record.KindReschedule, record.KindAttestation:
		case record.KindRequest:
			if count[record.KindEpoch] != 1 {
				return refuse(CodeRules, "%d epoch records before the request, want the one in force", count[record.KindEpoch])
			}
		case record.KindProvenance:
			if i != len(v.records)-1 {
				return refuse(CodeRules, "records after the provenance record")
			}
		default:
			return refuse(CodeRules, "record %d of kind %q has no place in a bundle", r.index, kind)
		}
	}
	for _, kind := range []record.Kind{record.KindContract, record.KindRequest, record.KindProvenance} {
		if count[kind] != 1 {
			return refuse(CodeRules, "%d records of kind %q, want one", count[kind], kind)
		}
	}
	return nil
}

// apply folds one record, which must count and be about this execution.
func (v *verification) apply(r opened) *Error {
	kind := record.KindOf(r.record)
	effect := v.fold.Apply(r.index, r.entry, r.record)
	code := CodeRules
	if kind == record.KindProvenance {
		code = CodeProvenance
	}
	switch {
	case effect.Void:
		err := refuse(code, "record %d (%s) is void: %s: %s", r.index, kind, effect.Code, effect.Detail)
		err.Rule = effect.Code
		return err
	case effect.Evidence:
		return refuse(code, "record %d (%s) stands after the agreement", r.index, kind)
	case effect.Execution != nil && *effect.Execution != v.execution:
		return refuse(code, "record %d (%s) is about execution %s", r.index, kind, *effect.Execution)
	}
	return nil
}

// checkProvenance is step 7.
func (v *verification) checkProvenance() (string, *Error) {
	last := v.records[len(v.records)-1]
	if err := v.apply(last); err != nil {
		return "", err
	}
	ex, _ := v.fold.Execution(v.execution)
	root := ex.Provenance().GetAuditRoot()
	if root.GetOrigin() != v.request.Origin || int64(root.GetSize()) != v.request.Size ||
		digest.Digest(root.GetRootHash()) != digest.Digest(v.request.Root) {
		return "", refuse(CodeProvenance, "the nodes attested to audit root %q, size %d, %x; the bundle's is %q, size %d, %x",
			root.GetOrigin(), root.GetSize(), root.GetRootHash(), v.request.Origin, v.request.Size, v.request.Root[:])
	}
	v.report.Execution = executionOf(ex, last.index)
	return fmt.Sprintf("execution proof %s, chain of %d records", v.report.Execution.ExecutionProof, v.report.Execution.ChainLength), nil
}

// conclude says what a verified bundle shows and what it does not.
func (v *verification) conclude() {
	e := v.report.Execution
	v.report.Verified = true
	v.report.Proven = []string{
		fmt.Sprintf("tenant %q signed contract %q %s and asked to apply it to the input with digest %s", e.Tenant, e.ContractName,
			e.ContractVersion, e.InputDigest),
		fmt.Sprintf("%d of the nodes that the schedule of epoch %d assigned attested the same outcome %q, output digest %s", len(e.Nodes),
			e.Epoch, e.Outcome.Kind, e.Outcome.OutputDigest),
		"these nodes and the tenant are members by lawful changes of the pinned genesis, " + witnessed(v.trust.MembershipPolicy),
		fmt.Sprintf("every record stands in the audit log at size %d, %s", v.audit.Size, witnessed(v.trust.AuditPolicy)),
	}
	v.report.NotProven = []string{
		fmt.Sprintf("that epoch %d was the current one when the request was made: the attesting nodes checked it; an audit of the whole log shows it", e.Epoch),
		"that no further attestation existed: an audit of the whole log shows it",
		"that the contract was not retired and the execution not cancelled before: the attesting nodes or an audit of the whole log",
		"that the outcome is right, if enough of the nodes collude: replay the execution",
	}
	if v.trust.AuditPolicy.QuorumNone() || v.trust.MembershipPolicy.QuorumNone() {
		v.report.NotProven = append(v.report.NotProven, "that everybody is shown the same logs: without witnesses each rests on its operator's word")
	}
	if len(e.Parents) > 0 {
		v.report.NotProven = append(v.report.NotProven, "that the outputs of the parents are those named: the attesting nodes checked it; verify the parents' own bundles")
	}
}

// witnessed says what a log's place in the proof rests on.
func witnessed(p *checkpoint.Policy) string {
	if p.QuorumNone() {
		return "by its operator's word alone: the policy asks for no witness"
	}
	return "witnessed as the policy asks"
}
