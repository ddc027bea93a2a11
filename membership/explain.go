package membership

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/tallystick/tallystick/internal/digest"
)

// A Candidate is a node of the state and what the schedule of an execution
// makes of it.
type Candidate struct {
	Node  string        `json:"node"`
	Score digest.Digest `json:"score"`
	// Rank counts the eligible nodes from 0; it is -1 for a node that is not.
	Rank int `json:"rank"`
	// Attempt is the first one that assigns the node; -1 if none does.
	Attempt int64 `json:"attempt"`
	// Reasons say why the node is not eligible, or why no attempt assigns it.
	Reasons []string `json:"reasons,omitempty"`
}

// Explain says of every node of s why an execution is scheduled as it is: the
// eligible ones in rank order, then the others ascending by id. It ranks all of
// them, without the short cuts of [State.Schedule], whose result it agrees
// with. Errors are those of Schedule, but too few eligible nodes are none.
func (s *State) Explain(executionID digest.Digest, req ScheduleRequest) ([]Candidate, error) {
	if err := req.validate(); err != nil {
		return nil, err
	}
	var eligible, others []Candidate
	score := newScorer(executionID)
	for m := range s.members.from(0) {
		if m.Kind != KindNode {
			continue
		}
		c := Candidate{Node: m.ID, Score: score.of(m.ID), Rank: -1, Attempt: -1, Reasons: req.objections(m)}
		if c.Reasons == nil {
			eligible = append(eligible, c)
		} else {
			others = append(others, c)
		}
	}
	slices.SortFunc(eligible, func(a, b Candidate) int {
		return cmp.Or(bytes.Compare(a.Score[:], b.Score[:]), cmp.Compare(a.Node, b.Node))
	})
	for i := range eligible {
		c := &eligible[i]
		c.Rank = i
		switch rank := uint64(i); {
		case rank >= req.MaxAssigned:
			c.Reasons = []string{fmt.Sprintf("rank %d is beyond max_assigned %d", i, req.MaxAssigned)}
		case rank < req.Nodes:
			c.Attempt = 0
		default:
			c.Attempt = int64(1 + (rank-req.Nodes)/req.Step) // Step is not 0 when MaxAssigned is above Nodes
		}
	}
	return append(eligible, others...), nil
}

// objections says why a node may not run a contract with these constraints.
func (r ScheduleRequest) objections(m *member) (reasons []string) {
	if !m.holds(UseAttestation) {
		reasons = append(reasons, "it holds no key for attestations")
	}
	if m.TrustLevel < r.MinTrust {
		reasons = append(reasons, fmt.Sprintf("its trust level %d is below %d", m.TrustLevel, r.MinTrust))
	}
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		have, ok := m.Labels[key]
		switch {
		case !ok:
			reasons = append(reasons, fmt.Sprintf("it has no label %q, wanted is %q", key, r.Labels[key]))
		case have != r.Labels[key]:
			reasons = append(reasons, fmt.Sprintf("its label %q is %q, wanted is %q", key, have, r.Labels[key]))
		}
	}
	return reasons
}
