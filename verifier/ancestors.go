package verifier

import (
	"fmt"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// checkAncestors is step 8, for bundles that have ancestors: it takes each
// through steps 2 to 7 and then holds the parents that executions name against
// them.
func (v *verification) checkAncestors() (string, *Error) {
	proven := map[string]*Execution{}
	for _, a := range v.bundle.GetAncestors() {
		ex, err := v.checkAncestor(a)
		if err != nil {
			err.Detail = fmt.Sprintf("ancestor %x: %s", a.GetExecutionId(), err.Detail)
			return "", err
		}
		if proven[ex.ID] != nil || ex.ID == v.main.id.String() {
			return "", refuse(CodeAncestor, "execution %s is in the bundle twice", ex.ID)
		}
		proven[ex.ID] = ex
		v.report.Ancestors = append(v.report.Ancestors, ex)
	}
	// A parent is decided before its child is requested, so this ends, whatever
	// the executions name.
	reached := map[string]bool{}
	for queue := []*Execution{v.report.Execution}; len(queue) > 0; queue = queue[1:] {
		for _, named := range queue[0].Parents {
			parent := proven[named.ID]
			if err := checkParent(queue[0], named, parent); err != nil {
				return "", err
			}
			if !reached[named.ID] {
				reached[named.ID] = true
				queue = append(queue, parent)
			}
		}
	}
	for id := range proven {
		if !reached[id] {
			return "", refuse(CodeAncestor, "execution %s is in the bundle, and no output of it went into the input", id)
		}
	}
	return fmt.Sprintf("%d executions, their outputs are those that their children read", len(proven)), nil
}

// checkAncestor takes one ancestor through the steps that are its own.
func (v *verification) checkAncestor(a *pb.ProvenExecution) (*Execution, *Error) {
	verified, err := v.trust.AuditPolicy.Verify(a.GetRequestCheckpoint())
	if err != nil {
		return nil, refuse(CodeRequestCheckpoint, "%w", err)
	}
	p := part{id: digest.Digest(a.GetExecutionId()), proven: a, request: verified.Checkpoint}
	if err := v.known.check(membership.LogAudit, v.trust.AuditPolicy, a.GetRequestCheckpoint()); err != nil {
		return nil, err
	}
	if _, err := p.checkConsistency(v.audit); err != nil {
		return nil, err
	}
	if _, err := p.checkInclusion(v.audit); err != nil {
		return nil, err
	}
	if _, err := p.foldRecords(v.bundle.GetCluster(), v.history); err != nil {
		return nil, err
	}
	return p.checkClosing(v.history)
}

// checkParent holds what a child names as a parent against the parent itself,
// nil if the bundle has none such. It is the rule of the fold for requests
// (docs/formats/execution.md, "The fold"), which a fold of the child's records
// alone cannot apply.
func checkParent(child *Execution, named Parent, parent *Execution) *Error {
	switch {
	case parent == nil:
		return refuse(CodeAncestor, "parent %s of %s is not in the bundle", named.ID, child.ID)
	case parent.Tenant != child.Tenant:
		return refuse(CodeAncestor, "parent %s is of tenant %q, its child %s of %q", parent.ID, parent.Tenant, child.ID, child.Tenant)
	case parent.State != provenance.StateComplete:
		return refuse(CodeAncestor, "parent %s of %s ended as %s", parent.ID, child.ID, parent.State)
	case parent.Outcome.Kind != contract.OutcomeOK:
		return refuse(CodeAncestor, "parent %s of %s has outcome %q", parent.ID, child.ID, parent.Outcome.Kind)
	case parent.CompletedAt >= child.RequestIndex:
		return refuse(CodeAncestor, "parent %s was complete at index %d, its child %s requested at %d", parent.ID, parent.CompletedAt,
			child.ID, child.RequestIndex)
	case named.OutputDigest != "" && named.OutputDigest != parent.Outcome.OutputDigest.String():
		return refuse(CodeAncestor, "%s read output %s of its parent %s, whose output is %s", child.ID, named.OutputDigest, parent.ID,
			parent.Outcome.OutputDigest)
	}
	return nil
}
