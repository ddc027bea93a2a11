package provenance

import (
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/printable"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// states gives the states their numbers in the API.
var states = map[pb.ExecutionState]State{
	pb.ExecutionState_EXECUTION_STATE_OPEN:      StateOpen,
	pb.ExecutionState_EXECUTION_STATE_COMPLETE:  StateComplete,
	pb.ExecutionState_EXECUTION_STATE_DIVERGED:  StateDiverged,
	pb.ExecutionState_EXECUTION_STATE_CANCELLED: StateCancelled,
	pb.ExecutionState_EXECUTION_STATE_EXPIRED:   StateExpired,
}

// CompareStatus compares what a control plane answered about an execution with
// what the log says of it. It returns the first difference in words, "" if there
// is none. The answer must have been given no later than the log was read: so it
// may tell an earlier moment of the same history, but nothing that this history
// does not have.
//
// Not compared is what is no part of the log: whether witnesses have cosigned,
// the writer's clock, and what nodes have abandoned. What is quoted of the answer is
// made printable.
func (e Execution) CompareStatus(s *pb.ExecutionStatus) string {
	return printable.Text(e.compareStatus(s))
}

func (e Execution) compareStatus(s *pb.ExecutionStatus) string {
	differs := func(member string, have, want any) string {
		return fmt.Sprintf("%s is %v, the log says %v", member, have, want)
	}
	// What the request fixes.
	for _, m := range []struct {
		name       string
		have, want any
	}{
		{"execution_id", s.GetExecutionId(), e.ID.String()},
		{"tenant", s.GetTenant(), e.Tenant},
		{"contract_hash", s.GetContractHash(), e.ContractHash.String()},
		{"epoch", s.GetEpoch(), e.Epoch},
		{"request_index", s.GetRequestIndex(), uint64(e.RequestIndex)},
		{"cluster_schedule_hash", s.GetClusterScheduleHash(), e.Schedule.Hash().String()},
		{"input_digest", s.GetInputDigest(), e.Submission.Input.String()},
	} {
		if m.have != m.want {
			return differs(m.name, clip(fmt.Sprint(m.have)), m.want)
		}
	}
	parents := make([]string, len(e.Submission.Parents))
	for i, p := range e.Submission.Parents {
		parents[i] = p.String()
	}
	if !slices.Equal(s.GetParents(), parents) {
		return differs("parents", len(s.GetParents()), len(parents))
	}
	// What came to pass since.
	state, ok := states[s.GetState()]
	if !ok || state != e.State && state != StateOpen {
		return differs("state", s.GetState(), e.State)
	}
	if s.GetAttempt() > e.Attempt || state != StateOpen && s.GetAttempt() != e.Attempt {
		return differs("attempt", s.GetAttempt(), e.Attempt)
	}
	if want := e.Schedule.Assigned(s.GetAttempt()); !slices.Equal(s.GetAssignedNodes(), want) {
		return differs("assigned_nodes", fmt.Sprintf("%.255q", s.GetAssignedNodes()), want)
	}
	if detail := e.compareReports(s, state); detail != "" {
		return detail
	}
	return e.compareOutcome(s, state)
}

// compareReports: the reports are the first attestations of the log, in a state
// that these make.
func (e Execution) compareReports(s *pb.ExecutionStatus, state State) string {
	var reports []*pb.NodeReport
	for _, r := range s.GetReports() {
		if r.GetAbandoned() == "" {
			reports = append(reports, r)
		}
	}
	decisive := 0 // attestations up to the decision
	for _, a := range e.Attestations {
		if !a.Evidence {
			decisive++
		}
	}
	switch n := len(reports); {
	case n > len(e.Attestations), state != StateOpen && n < decisive,
		// An attestation that decided ended the open state.
		state == StateOpen && e.State != StateOpen && (n > decisive || n == decisive && e.byAttestation()):
		return fmt.Sprintf("%d reports with state %s, the log has %d attestations, %d of them before the execution was decided",
			n, state, len(e.Attestations), decisive)
	}
	said := map[string]int{}
	for i := range reports {
		said[e.Attestations[i].Node]++
	}
	for i, r := range reports {
		a := e.Attestations[i]
		then := e // as it stood when the answer was given
		then.State = state
		a.Agrees, a.Void = a.Agrees && state == StateComplete, said[a.Node] > 1
		have := report{r.GetNode(), r.GetResultDigest(), r.GetAttestationDigest(), r.GetStance(), r.GetIndex(), r.GetAgrees(), r.GetVoid(), r.GetEvidence()}
		want := report{a.Node, a.Statement.Outcome.ResultDigest().String(), a.Digest.String(), string(then.Stance(a)), uint64(a.Index), a.Agrees, a.Void, a.Evidence}
		if have != want {
			return fmt.Sprintf("report %d is %.512q, the log says %.512q", i, fmt.Sprint(have), fmt.Sprint(want))
		}
	}
	return ""
}

// report is what is compared of a node's report.
type report struct {
	node, result, attestation, stance string
	index                             uint64
	agrees, void, evidence            bool
}

// byAttestation reports whether an attestation decided the execution.
func (e Execution) byAttestation() bool {
	return e.State == StateComplete || e.State == StateDiverged
}

// compareOutcome: there is one exactly when the execution is complete.
func (e Execution) compareOutcome(s *pb.ExecutionStatus, state State) string {
	if state != StateComplete {
		if s.GetOutcome() != nil || s.GetExecutionProof() != "" {
			return fmt.Sprintf("there is an outcome, and the execution is %s", state)
		}
		return ""
	}
	if have, want := clip(s.GetExecutionProof()), fmt.Sprintf("%x", e.Provenance().GetExecutionProof()); have != want {
		return fmt.Sprintf("execution_proof is %q, the log says %s", have, want)
	}
	o, want := s.GetOutcome(), e.Outcome
	switch {
	case o == nil:
		return "there is no outcome, and the execution is complete"
	case o.GetResultDigest() != want.ResultDigest().String():
		return fmt.Sprintf("result_digest is %q, the log says %s", clip(o.GetResultDigest()), want.ResultDigest())
	case o.GetKind() != string(want.Kind), (o.ExitCode != nil) != (want.Kind == contract.OutcomeExit), o.GetExitCode() != uint32(want.ExitCode),
		(o.Gas != nil) != (want.Gas != nil), want.Gas != nil && o.GetGas() != *want.Gas, o.GetPeakPages() != want.PeakPages,
		o.GetOutputLength() != want.OutputLength, o.GetOutputDigest() != want.OutputDigest.String(),
		o.GetDiagnosticsLength() != want.DiagnosticsLength, o.GetDiagnosticsDigest() != want.DiagnosticsDigest.String():
		return fmt.Sprintf("the outcome %.255q is not the one whose result digest it names", o.String())
	}
	return ""
}
