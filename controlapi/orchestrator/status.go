package orchestrator

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// cloneRecord copies a record that belongs to the fold.
func cloneRecord(r *pb.Record) *pb.Record { return proto.CloneOf(r) }

func stateOf(s provenance.State) pb.ExecutionState {
	switch s {
	case provenance.StateOpen:
		return pb.ExecutionState_EXECUTION_STATE_OPEN
	case provenance.StateComplete:
		return pb.ExecutionState_EXECUTION_STATE_COMPLETE
	case provenance.StateDiverged:
		return pb.ExecutionState_EXECUTION_STATE_DIVERGED
	case provenance.StateCancelled:
		return pb.ExecutionState_EXECUTION_STATE_CANCELLED
	case provenance.StateExpired:
		return pb.ExecutionState_EXECUTION_STATE_EXPIRED
	}
	return pb.ExecutionState_EXECUTION_STATE_UNSPECIFIED
}

// Status returns an execution's status. Tenant "" may see all; another
// tenant's execution is CodeExecutionUnknown, as one that does not exist.
func (o *Orchestrator) Status(id digest.Digest, tenant string) (*pb.ExecutionStatus, error) {
	if err := o.usable(); err != nil {
		return nil, err
	}
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	ex, x, err := o.view.visible(id, tenant)
	if err != nil {
		return nil, err
	}
	return o.view.status(&ex, x), nil
}

func (v *view) status(ex *provenance.Execution, x *tracked) *pb.ExecutionStatus {
	s := &pb.ExecutionStatus{
		ExecutionId: ex.ID.String(), Tenant: ex.Tenant, ContractHash: ex.ContractHash.String(),
		State: stateOf(ex.State), Epoch: ex.Epoch, RequestIndex: uint64(ex.RequestIndex),
		Witnessed: ex.RequestIndex < v.covered, Attempt: ex.Attempt, AssignedNodes: ex.Assigned(),
		ClusterScheduleHash: ex.Schedule.Hash().String(), InputDigest: ex.Submission.Input.String(),
		SubmittedUnixMs: x.submitted, ProofReady: x.closed >= 0 && x.closed < v.covered,
	}
	for _, a := range ex.Attestations {
		s.Reports = append(s.Reports, &pb.NodeReport{
			Node: a.Node, ResultDigest: a.Statement.Outcome.ResultDigest().String(), Index: uint64(a.Index),
			Agrees: a.Agrees, Void: a.Void, Stance: string(ex.Stance(a)), AttestationDigest: a.Digest.String(), Evidence: a.Evidence,
		})
	}
	for _, node := range s.AssignedNodes {
		if code, ok := x.abandoned[node]; ok {
			s.Reports = append(s.Reports, &pb.NodeReport{Node: node, Abandoned: code})
		}
	}
	for _, parent := range ex.Submission.Parents {
		s.Parents = append(s.Parents, parent.String())
	}
	if ex.Outcome != nil {
		s.Outcome = outcomeMessage(*ex.Outcome)
		s.ExecutionProof = hex.EncodeToString(ex.Provenance().GetExecutionProof())
	}
	return s
}

func outcomeMessage(out contract.Outcome) *pb.Outcome {
	m := &pb.Outcome{
		Kind: string(out.Kind), Gas: out.Gas, PeakPages: out.PeakPages,
		OutputLength: out.OutputLength, OutputDigest: out.OutputDigest.String(),
		DiagnosticsLength: out.DiagnosticsLength, DiagnosticsDigest: out.DiagnosticsDigest.String(),
		ResultDigest: out.ResultDigest().String(),
	}
	if out.Kind == contract.OutcomeExit {
		m.ExitCode = proto.Uint32(uint32(out.ExitCode))
	}
	return m
}

// final reports whether the status will not change any more.
func final(s *pb.ExecutionStatus) bool {
	return s.GetState() != pb.ExecutionState_EXECUTION_STATE_OPEN && s.GetProofReady()
}

// Watch sends the status now and after every change, skipping intermediate ones
// if the receiver is slow. The channel is closed after the last one (terminal,
// with the proof ready) and when ctx ends.
func (o *Orchestrator) Watch(ctx context.Context, id digest.Digest, tenant string) (<-chan *pb.ExecutionStatus, error) {
	// Nothing is kept for an id before it is known to exist.
	if _, err := o.Status(id, tenant); err != nil {
		return nil, err
	}
	changed := o.watchers.wait(id)
	s, err := o.Status(id, tenant)
	if err != nil {
		return nil, err
	}
	out := make(chan *pb.ExecutionStatus)
	started := o.start(func() {
		defer close(out)
		defer o.watchers.wake(id) // others look again; nothing is left behind
		for {
			select {
			case out <- s:
			case <-ctx.Done():
				return
			case <-o.ctx.Done():
				return
			}
			if final(s) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-o.ctx.Done():
				return
			}
			changed = o.watchers.wait(id)
			if s, err = o.Status(id, tenant); err != nil {
				return
			}
		}
	})
	if !started {
		return nil, o.usable()
	}
	return out, nil
}

// Page asks for a part of a list.
type Page struct {
	Size  int    // 1 to MaxPageSize; more means MaxPageSize, less DefaultPageSize
	Token string // of the previous part; "" for the first
}

// Sizes of pages.
const (
	DefaultPageSize = 50
	MaxPageSize     = 200
	// maxScan bounds how many elements one call looks at, with the view locked.
	maxScan = 2000
)

// walk visits a list from its newest element on, from where the page's token
// says, until take has returned true as often as the page is long, or maxScan
// elements were looked at. It returns the token of the next part, "" at the end.
// Tokens are positions in a list that only grows, so pages neither repeat nor
// skip.
func walk(page Page, length int, take func(i int) bool) (string, error) {
	size := page.Size
	if size < 1 {
		size = DefaultPageSize
	}
	size = min(size, MaxPageSize)
	i := length
	if page.Token != "" {
		n, err := strconv.ParseUint(page.Token, 10, 31)
		if err != nil || int(n) > length {
			return "", refuse(CodeArgument, "malformed page token: use one that the previous answer gave")
		}
		i = int(n)
	}
	for scanned := 0; size > 0 && i > 0 && scanned < maxScan; scanned++ {
		i--
		if take(i) {
			size--
		}
	}
	if i == 0 {
		return "", nil
	}
	return strconv.Itoa(i), nil
}

// Filter says which executions to list. The zero value is all of them.
type Filter struct {
	Tenant        string            // whose; "" means everybody's
	State         pb.ExecutionState // 0 means any
	DivergentNode string            // a node whose attestation is divergent; "" means any execution
}

// ListExecutions returns executions, newest first. A part may be short, or even
// empty, and yet not be the last: the token says.
func (o *Orchestrator) ListExecutions(filter Filter, page Page) ([]*pb.ExecutionStatus, string, error) {
	if err := o.usable(); err != nil {
		return nil, "", err
	}
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	var out []*pb.ExecutionStatus
	list := o.view.listing(filter.Tenant).executions
	next, err := walk(page, len(list), func(i int) bool {
		if node := filter.DivergentNode; node != "" && list[i].divergent[node] == "" {
			return false
		}
		ex, _ := o.view.fold.Execution(list[i].id)
		if filter.State != 0 && stateOf(ex.State) != filter.State {
			return false
		}
		out = append(out, o.view.status(&ex, list[i]))
		return true
	})
	return out, next, err
}

// ListContracts returns contracts, newest first.
func (o *Orchestrator) ListContracts(tenant string, page Page) ([]*pb.ContractSummary, string, error) {
	if err := o.usable(); err != nil {
		return nil, "", err
	}
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	var out []*pb.ContractSummary
	list := o.view.listing(tenant).contracts
	next, err := walk(page, len(list), func(i int) bool {
		c, _ := o.view.fold.Contract(list[i])
		out = append(out, contractSummary(c))
		return true
	})
	return out, next, err
}

// listing returns what a tenant may list; "" lists all.
func (v *view) listing(tenant string) *listing {
	if tenant == "" {
		return &v.all
	}
	if l, ok := v.tenants[tenant]; ok {
		return l
	}
	return &listing{}
}

// Nodes returns the epoch, the quorum and the member nodes, ascending by id.
// Whether they are connected, and what they say of themselves, the edge knows.
func (o *Orchestrator) Nodes() *pb.ListClusterNodesResponse {
	o.view.mu.RLock()
	defer o.view.mu.RUnlock()
	s := o.view.current
	out := &pb.ListClusterNodesResponse{Epoch: s.Epoch(), NodeQuorum: s.NodeQuorum()}
	for _, n := range s.Nodes() {
		d := o.view.divergences[n.ID]
		out.Nodes = append(out.Nodes, &pb.ClusterNode{
			Id: n.ID, Name: n.Name, TrustLevel: n.TrustLevel, Labels: n.Labels, ExecutionsAttested: o.view.attested[n.ID],
			ExecutionsDiffered: d.differed, ExecutionsDisputed: d.disputed,
		})
	}
	slices.SortFunc(out.Nodes, func(a, b *pb.ClusterNode) int { return strings.Compare(a.GetId(), b.GetId()) })
	return out
}
