package membership

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
)

// A ScheduleRequest is what a contract asks of the schedule.
type ScheduleRequest struct {
	Nodes       uint64 // of attempt 0, at least 1
	Step        uint64 // more with each attempt; may be 0 when MaxAssigned = Nodes
	MaxAssigned uint64 // over all attempts, Nodes to contract.MaxAssigned
	MinTrust    uint64
	Labels      map[string]string // each must be on the node
}

func (r ScheduleRequest) validate() error {
	if r.Nodes < 1 || r.Nodes > r.MaxAssigned || r.MaxAssigned > contract.MaxAssigned ||
		r.Step == 0 && r.MaxAssigned != r.Nodes {
		return fmt.Errorf("%w: nodes %d, step %d, max_assigned %d", ErrScheduleRequest, r.Nodes, r.Step, r.MaxAssigned)
	}
	return nil
}

// A Schedule says which nodes run one execution, attempt by attempt. It is a
// function of the state, the execution id and the request alone.
type Schedule struct {
	// Ranking has the node ids in rank order, as many as all attempts together
	// can assign: the smaller of MaxAssigned and the number of eligible nodes.
	Ranking []string
	// Eligible is how many nodes qualified.
	Eligible int

	execution digest.Digest
	hash      digest.Digest // of the membership
	nodes     int
	step      int
}

// Eligible returns the ids of the nodes that may run a contract with these
// constraints, ascending: nodes that hold an attestation key, with at least
// this trust level and every one of the labels.
func (s *State) Eligible(minTrust uint64, labels map[string]string) []string {
	var ids []string
	for _, m := range s.eligible(minTrust, labels) {
		ids = append(ids, m.ID)
	}
	return ids
}

// eligible are the nodes that a constraint admits, ascending by id; immutable.
type eligible struct {
	minTrust uint64
	labels   map[string]string
	nodes    []*member
}

func (s *State) eligible(minTrust uint64, labels map[string]string) []*member {
	if last := s.cachedEligible.Load(); last != nil && last.minTrust == minTrust && maps.Equal(last.labels, labels) {
		return last.nodes
	}
	e := &eligible{minTrust: minTrust, labels: maps.Clone(labels)}
	for _, m := range s.attesters() {
		if m.TrustLevel >= minTrust && m.hasLabels(labels) {
			e.nodes = append(e.nodes, m)
		}
	}
	s.cachedEligible.Store(e) // a concurrent schedule may store another: the last one stays
	return e.nodes
}

func (p *Principal) hasLabels(want map[string]string) bool {
	for key, value := range want {
		if have, ok := p.Labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// Schedule ranks the eligible nodes for an execution. Errors wrap
// [ErrScheduleRequest], or [ErrTooFewEligible] when attempt 0 cannot be filled.
func (s *State) Schedule(executionID digest.Digest, req ScheduleRequest) (*Schedule, error) {
	if err := req.validate(); err != nil {
		return nil, err
	}
	nodes := s.eligible(req.MinTrust, req.Labels)
	if uint64(len(nodes)) < req.Nodes {
		return nil, fmt.Errorf("%w: %d of %d at epoch %d", ErrTooFewEligible, len(nodes), req.Nodes, s.epoch)
	}
	first := newRanking(nodes, executionID, int(req.MaxAssigned))
	for i := range nodes {
		first.consider(i)
	}
	best := first.inOrder()
	sch := &Schedule{
		Ranking:   make([]string, len(best)),
		Eligible:  len(nodes),
		execution: executionID,
		hash:      s.hash,
		nodes:     int(req.Nodes),
		step:      int(min(req.Step, contract.MaxAssigned)), // one such step assigns all
	}
	for i, r := range best {
		sch.Ranking[i] = nodes[r.node].ID
	}
	return sch, nil
}

// Assigned returns the nodes that attempt a (from 0) and those before it have
// assigned, in rank order.
func (s *Schedule) Assigned(attempt uint64) []string {
	// Beyond this many attempts nothing is added, whatever the step.
	a := int(min(attempt, contract.MaxAssigned))
	return slices.Clone(s.Ranking[:min(s.nodes+a*s.step, len(s.Ranking))])
}

// Attempts returns how many attempts there are: the last one is the first that
// assigns the whole ranking.
func (s *Schedule) Attempts() uint64 {
	if len(s.Ranking) <= s.nodes || s.step == 0 {
		return 1
	}
	return uint64(1 + (len(s.Ranking)-s.nodes+s.step-1)/s.step)
}

// FirstAttempt returns the first attempt that assigns a node, or false if none does.
func (s *Schedule) FirstAttempt(node string) (uint64, bool) {
	rank := slices.Index(s.Ranking, node)
	switch {
	case rank < 0:
		return 0, false
	case rank < s.nodes:
		return 0, true
	case s.step == 0:
		return 0, false
	}
	return uint64(1 + (rank-s.nodes)/s.step), true
}

// Hash returns the cluster schedule hash, which binds the execution, the
// membership and the assignment of attempt 0 in its order.
func (s *Schedule) Hash() digest.Digest {
	return digest.New("tallystick/v1/schedule").
		Digest(s.execution).
		Digest(s.hash).
		Texts(s.Assigned(0)).
		Sum()
}

// A ranking collects the first ranks of an execution. It belongs to one call.
type ranking struct {
	nodes []*member // ascending by id
	score *scorer
	// best are the first ranks so far, at most most of them. Once they are as many
	// they are a heap, the last rank first: most nodes are compared with it alone.
	best []ranked
	most int
}

// ranked is a node by the first eight bytes of its score, big-endian: nearly
// always enough to tell which of two comes first, and small enough to be moved
// about for every node that enters the ranking.
type ranked struct {
	prefix uint64
	node   int // place among the nodes
}

func newRanking(nodes []*member, executionID digest.Digest, most int) *ranking {
	return &ranking{nodes: nodes, score: newScorer(executionID), best: make([]ranked, 0, min(most, len(nodes))), most: most}
}

// consider enters node i if its rank is among the first.
func (r *ranking) consider(i int) {
	r.score.compute(r.nodes[i].ID)
	this := ranked{prefix: binary.BigEndian.Uint64(r.score.sum[:]), node: i}
	if len(r.best) < r.most {
		if r.best = append(r.best, this); len(r.best) == r.most {
			for root := r.most/2 - 1; root >= 0; root-- {
				r.sink(root)
			}
		}
		return
	}
	// Most nodes end at the first comparison; before is asked about the others.
	if this.prefix <= r.best[0].prefix && r.before(this, r.best[0]) {
		r.best[0] = this
		r.sink(0)
	}
}

// sink moves what is at root down to where it belongs in the heap.
func (r *ranking) sink(root int) {
	for {
		last := 2*root + 1 // of the two children, the one that ranks last
		if last >= len(r.best) {
			return
		}
		if other := last + 1; other < len(r.best) && r.before(r.best[last], r.best[other]) {
			last = other
		}
		if r.before(r.best[last], r.best[root]) {
			return
		}
		r.best[root], r.best[last] = r.best[last], r.best[root]
		root = last
	}
}

// inOrder returns the first ranks in order, and ends the ranking.
func (r *ranking) inOrder() []ranked {
	slices.SortFunc(r.best, func(a, b ranked) int {
		if r.before(a, b) {
			return -1
		}
		return 1 // never equal: a node is considered once
	})
	return r.best
}

// before reports whether a has a better rank than b, another node: a smaller
// score, or the same score and a smaller id.
func (r *ranking) before(a, b ranked) bool {
	if a.prefix != b.prefix {
		return a.prefix < b.prefix
	}
	x, y := r.score.of(r.nodes[a.node].ID), r.score.of(r.nodes[b.node].ID)
	return cmp.Or(bytes.Compare(x[:], y[:]), cmp.Compare(a.node, b.node)) < 0
}
