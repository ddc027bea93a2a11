package membership

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
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
	for _, m := range s.attesters() {
		if m.qualifies(minTrust, labels) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

func (m *member) qualifies(minTrust uint64, labels map[string]string) bool {
	if m.TrustLevel < minTrust {
		return false
	}
	for key, want := range labels {
		if have, ok := m.Labels[key]; !ok || have != want {
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
	best := make([]ranked, 0, req.MaxAssigned+1)
	score := newScorer(executionID)
	eligible := 0
	for _, m := range s.attesters() {
		if !m.qualifies(req.MinTrust, req.Labels) {
			continue
		}
		eligible++
		r := ranked{score: score.of(m.ID), id: m.ID}
		full := len(best) == int(req.MaxAssigned)
		if full && compareRanks(r, best[len(best)-1]) > 0 {
			continue
		}
		if full {
			best = best[:len(best)-1]
		}
		i, _ := slices.BinarySearchFunc(best, r, compareRanks)
		best = slices.Insert(best, i, r)
	}
	if uint64(eligible) < req.Nodes {
		return nil, fmt.Errorf("%w: %d of %d at epoch %d", ErrTooFewEligible, eligible, req.Nodes, s.epoch)
	}
	sch := &Schedule{
		Ranking:   make([]string, len(best)),
		Eligible:  eligible,
		execution: executionID,
		hash:      s.hash,
		nodes:     int(req.Nodes),
		step:      int(min(req.Step, contract.MaxAssigned)), // one such step assigns all
	}
	for i, r := range best {
		sch.Ranking[i] = r.id
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

// ranked is a node with its score; the smallest score comes first.
type ranked struct {
	score digest.Digest
	id    string
}

func compareRanks(a, b ranked) int {
	return cmp.Or(bytes.Compare(a.score[:], b.score[:]), cmp.Compare(a.id, b.id))
}

const scoreDomain = "tallystick/v1/schedule-score"

// A scorer computes H(scoreDomain, execution id, node id) as digest.New does,
// with the part that all nodes share encoded once: a schedule is one hash for
// each eligible node, and submissions wait for it.
type scorer struct {
	buf    [scorerPrefix + 63]byte // 63 bytes are the longest identifier
	prefix int
}

const scorerPrefix = 4 + len(scoreDomain) + 4 + digest.Size + 4

func newScorer(executionID digest.Digest) *scorer {
	s := new(scorer)
	b := append(s.buf[:0], 0, 0, 0, byte(len(scoreDomain)))
	b = append(b, scoreDomain...)
	b = append(b, 0, 0, 0, digest.Size)
	b = append(b, executionID[:]...)
	b = append(b, 0, 0, 0)
	s.prefix = len(b)
	return s
}

func (s *scorer) of(node string) digest.Digest {
	b := append(s.buf[:s.prefix], byte(len(node)))
	return sha256.Sum256(append(b, node...))
}
