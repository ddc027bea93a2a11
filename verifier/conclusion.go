package verifier

import (
	"fmt"

	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// conclude says what a verified bundle shows and what it does not. It returns
// the error of a bundle that proves an end without a result.
func (v *verification) conclude() error {
	e := v.report.Execution
	v.report.Proven = v.proven(e)
	v.report.NotProven = v.notProven(e)
	if e.State == provenance.StateComplete {
		v.report.Verified = true
		return nil
	}
	err := refuse(CodeNoResult, "the execution ended as %s", e.State)
	err.Step = "provenance"
	v.report.Failure = failureOf(err)
	return err
}

func (v *verification) proven(e *Execution) []string {
	out := []string{fmt.Sprintf("tenant %q signed contract %q %s and asked to apply it to the input with digest %s", e.Tenant,
		e.ContractName, e.ContractVersion, e.InputDigest)}
	members := "these nodes and the tenant are members"
	switch e.State {
	case provenance.StateComplete:
		out = append(out, fmt.Sprintf("%d of the nodes that the schedule of epoch %d assigned attested the same outcome %q, output digest %s",
			len(e.Nodes), e.Epoch, e.Outcome.Kind, e.Outcome.OutputDigest))
	// An end without a result can be made to seem so by leaving attestations out.
	case provenance.StateDiverged:
		out = append(out, fmt.Sprintf("among the attestations in the bundle, %d by nodes that the schedule of epoch %d assigned are such that no %d nodes can agree any more",
			len(e.Dissent), e.Epoch, e.Agreement))
	case provenance.StateCancelled:
		out = append(out, fmt.Sprintf("the tenant signed the cancellation, and among the attestations in the bundle no %d nodes agree before it", e.Agreement))
		members = "the tenant is a member"
	default:
		out = append(out, fmt.Sprintf("every rank of the schedule was assigned, and the execution was given up; among the attestations in the bundle no %d nodes agree", e.Agreement))
		members = "the tenant is a member"
	}
	out = append(out, members+" by lawful changes of the pinned genesis, "+witnessed(v.trust.MembershipPolicy),
		fmt.Sprintf("every record stands in the audit log at size %d, %s", v.audit.Size, witnessed(v.trust.AuditPolicy)))
	if n := len(v.report.Ancestors); n > 0 {
		out = append(out, fmt.Sprintf("the same of all %d executions that the input descends from: each output that was read is the one that its own nodes attested", n))
	}
	return out
}

func (v *verification) notProven(e *Execution) []string {
	out := []string{
		fmt.Sprintf("that epoch %d was the current one when the request was made: the attesting nodes checked it; an audit of the whole log shows it", e.Epoch),
		"that no further attestation existed: an audit of the whole log shows it",
		"that no further record about the execution stood before its end, such as an end that came first: an audit of the whole log shows it",
		"that the request record is the first of this execution, since a second one has no effect: an audit of the whole log shows it",
		"that the epochs which attestations and the cancellation state were the current ones where they stand: an audit of the whole log shows it",
		"that the contract was not retired and the execution not cancelled before: an audit of the whole log shows it",
	}
	if e.State == provenance.StateComplete {
		out = append(out, "that the outcome is right, if enough of the nodes collude: replay the execution")
	} else {
		out[1] = "that no further attestation existed, with which nodes would have agreed: an audit of the whole log shows it"
	}
	if v.trust.AuditPolicy.QuorumNone() || v.trust.MembershipPolicy.QuorumNone() {
		out = append(out, "that everybody is shown the same logs: without witnesses each rests on its operator's word")
	}
	if len(e.Parents) > 0 && len(v.report.Ancestors) == 0 {
		out = append(out, "that the outputs of the parents are those named: the attesting nodes checked it; verify the parents' own bundles, or fetch the bundle with its ancestors")
	}
	return out
}

// witnessed says what a log's place in the proof rests on.
func witnessed(p *checkpoint.Policy) string {
	if p.QuorumNone() {
		return "by its operator's word alone: the policy asks for no witness"
	}
	return "witnessed as the policy asks"
}
