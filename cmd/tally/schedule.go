package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// A scheduleReport is what schedule --json prints.
type scheduleReport struct {
	ExecutionID    string            `json:"execution_id"`
	ContractHash   string            `json:"contract_hash"`
	Epoch          uint64            `json:"epoch"` // that the request pins
	CurrentEpoch   uint64            `json:"current_epoch"`
	MembershipHash string            `json:"membership_hash"`
	Nodes          uint64            `json:"nodes"`
	Agreement      uint64            `json:"agreement"`
	Step           uint64            `json:"step"`
	MaxAssigned    uint64            `json:"max_assigned"`
	MinTrustLevel  uint64            `json:"min_trust_level"`
	NodeLabels     map[string]string `json:"node_labels,omitempty"`
	Eligible       int               `json:"eligible"`
	// ScheduleHash is computed here, RecordedHash what the control plane tells.
	ScheduleHash string     `json:"cluster_schedule_hash"`
	RecordedHash string     `json:"recorded_schedule_hash"`
	Attempt      uint64     `json:"attempt"` // the last that has begun
	Attempts     [][]string `json:"attempts"`
	Candidates   []standing `json:"candidates"`
	// NewNodes are members now and were none at the pinned epoch.
	NewNodes []string `json:"new_nodes,omitempty"`
}

// A standing is a candidate and what became of it since.
type standing struct {
	membership.Candidate
	// Removed is the epoch from which on it was no member; 0 if it still is.
	Removed uint64 `json:"removed,omitempty"`
}

func scheduleCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schedule EXECUTION",
		Short: "Explain on which nodes an execution runs, and why",
		Long: `Explain the schedule of an execution: how its contract ranks the nodes of the
pinned epoch, which nodes are not eligible and why, which attempt assigns whom,
and who was removed since. All of it is computed here, from the membership that is
replayed from the profile's genesis and from the contract, and compared with the
schedule hash and the assignment that the control plane tells; a difference is an
error. That the request pins this epoch and contract is proven by the bundle
("tally proof").`,
		Args: oneDigest("execution", "an id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			r, err := explain(cmd.Context(), p, c, args[0])
			if err != nil {
				return err
			}
			return a.printer.value(r, func(w io.Writer) { printSchedule(w, r) })
		},
	}
}

// explain recomputes the schedule of an execution.
func explain(ctx context.Context, p *profile, c *client.Client, execution string) (*scheduleReport, error) {
	id, err := digest.Parse(execution)
	if err != nil {
		return nil, fmt.Errorf("%q is no execution id: %w", execution, err)
	}
	status, err := query(ctx, c, execution)
	if err != nil {
		return nil, err
	}
	con, err := fetchContract(ctx, c, status.ContractHash)
	if err != nil {
		return nil, err
	}
	h, err := history(ctx, p, c)
	if err != nil {
		return nil, err
	}
	state, err := h.StateAt(status.Epoch)
	if err != nil {
		return nil, err
	}
	req := provenance.ScheduleRequest(con)
	schedule, err := state.Schedule(id, req)
	if err != nil {
		return nil, err
	}
	candidates, err := state.Explain(id, req)
	if err != nil {
		return nil, err
	}
	r := &scheduleReport{
		ExecutionID: execution, ContractHash: status.ContractHash, Epoch: state.Epoch(), CurrentEpoch: h.Size(),
		MembershipHash: state.MembershipHash().String(), Nodes: con.Nodes, Agreement: con.Agreement, Step: con.Step,
		MaxAssigned: con.MaxAssigned, MinTrustLevel: con.MinTrustLevel, NodeLabels: con.NodeLabels, Eligible: schedule.Eligible,
		ScheduleHash: schedule.Hash().String(), RecordedHash: status.ClusterScheduleHash, Attempt: status.Attempt,
		NewNodes: newNodes(state, h.Current()),
	}
	for attempt := range schedule.Attempts() {
		r.Attempts = append(r.Attempts, schedule.Assigned(attempt))
	}
	for _, candidate := range candidates {
		s := standing{Candidate: candidate}
		if s.Removed, err = removedAt(h, candidate.Node, state.Epoch()); err != nil {
			return nil, err
		}
		r.Candidates = append(r.Candidates, s)
	}
	return r, r.compare(status, schedule)
}

// compare holds what the control plane tells to what was computed.
func (r *scheduleReport) compare(status *pb.ExecutionStatus, schedule *membership.Schedule) error {
	if r.ScheduleHash != r.RecordedHash {
		return withHint(fmt.Errorf("the schedule has hash %s, the control plane tells %s", r.ScheduleHash, r.RecordedHash),
			"the nodes check this too and run nothing that differs; keep the answer of `tally status --json`")
	}
	if want := schedule.Assigned(status.Attempt); !slices.Equal(want, status.AssignedNodes) {
		return fmt.Errorf("attempt %d assigns %s, the control plane tells %s",
			status.Attempt, strings.Join(want, ", "), strings.Join(status.AssignedNodes, ", "))
	}
	return nil
}

// fetchContract returns a contract by its hash, which it has.
func fetchContract(ctx context.Context, c *client.Client, hash string) (*contract.Contract, error) {
	res, err := c.Control.GetContract(ctx, connect.NewRequest(&pb.GetContractRequest{ContractHash: hash}))
	if err != nil {
		return nil, err
	}
	envelope, err := dsse.Parse(res.Msg.Envelope)
	if err != nil {
		return nil, fmt.Errorf("the contract: %w", err)
	}
	if got := digest.Of(envelope.Payload).String(); got != hash {
		return nil, fmt.Errorf("the control plane answered with another contract: its hash is %s", got)
	}
	return contract.ParseContract(envelope.Payload)
}

// removedAt returns the first epoch after from at which a principal was no
// member, 0 if it has been one ever since.
func removedAt(h *membership.History, id string, from uint64) (uint64, error) {
	for epoch := from + 1; epoch <= h.Size(); epoch++ {
		info, _, err := h.Change(epoch)
		if err != nil {
			return 0, err
		}
		if e, ok := info.Change.Effect.(membership.RemovePrincipal); ok && e.ID == id {
			return epoch, nil
		}
	}
	return 0, nil
}

// newNodes lists the nodes that are members now and were none then.
func newNodes(then, now *membership.State) (list []string) {
	for _, n := range now.Nodes() {
		if p, ok := then.Principal(n.ID); !ok || p.Kind != membership.KindNode {
			list = append(list, n.ID)
		}
	}
	return list
}

func printSchedule(w io.Writer, r *scheduleReport) {
	fmt.Fprintf(w, "execution       %s\n", r.ExecutionID)
	fmt.Fprintf(w, "contract        %s\n", r.ContractHash)
	fmt.Fprintf(w, "asks for        %d nodes, %d of which agree; %d more with each attempt, at most %d", r.Nodes, r.Agreement, r.Step, r.MaxAssigned)
	if r.MinTrustLevel > 0 {
		fmt.Fprintf(w, "; trust level %d", r.MinTrustLevel)
	}
	if len(r.NodeLabels) > 0 {
		fmt.Fprintf(w, "; labels %s", labels(r.NodeLabels))
	}
	fmt.Fprintf(w, "\nepoch           %d (now %d), membership hash %s\n", r.Epoch, r.CurrentEpoch, r.MembershipHash)
	fmt.Fprintf(w, "schedule hash   %s, computed here and as recorded\n\n", r.ScheduleHash)
	var rows [][]string
	for _, c := range r.Candidates {
		rank, attempt := "-", "-"
		if c.Rank >= 0 {
			rank = fmt.Sprint(c.Rank)
		}
		if c.Attempt >= 0 {
			attempt = fmt.Sprint(c.Attempt)
		}
		rows = append(rows, []string{rank, c.Node, short(c.Score.String()), attempt, c.note(r.Attempt)})
	}
	table(w, "RANK|NODE|SCORE|ATTEMPT|", rows)
	fmt.Fprintf(w, "\n%d of %d nodes are eligible; the smallest score comes first\n", r.Eligible, len(r.Candidates))
	fmt.Fprintf(w, "attempt %d of %d has begun: %s\n", r.Attempt, len(r.Attempts)-1, strings.Join(r.Attempts[min(r.Attempt, uint64(len(r.Attempts)-1))], ", "))
	if len(r.NewNodes) > 0 {
		fmt.Fprintf(w, "members since, so without a part in it: %s\n", strings.Join(r.NewNodes, ", "))
	}
}

// note says in words how a candidate stands at an attempt.
func (s standing) note(attempt uint64) string {
	var notes []string
	switch {
	case s.Rank < 0:
		notes = append(notes, "not eligible: "+strings.Join(s.Reasons, "; "))
	case s.Attempt < 0:
		notes = append(notes, s.Reasons...)
	case uint64(s.Attempt) <= attempt:
		notes = append(notes, "assigned")
	default:
		notes = append(notes, "not asked so far")
	}
	if s.Removed != 0 {
		notes = append(notes, fmt.Sprintf("no member since epoch %d, so it does not attest", s.Removed))
	}
	return strings.Join(notes, "; ")
}
