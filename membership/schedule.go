package membership

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
	"sort"

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
	want := newConstraint(minTrust, labels)
	for _, m := range s.attesters() {
		if want.admits(m) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// A constraint is what makes a node eligible. Its labels are a list because
// every node of the state is held against them.
type constraint struct {
	minTrust uint64
	labels   [][2]string
}

func newConstraint(minTrust uint64, labels map[string]string) constraint {
	c := constraint{minTrust: minTrust}
	for key, value := range labels {
		c.labels = append(c.labels, [2]string{key, value})
	}
	return c
}

func (c constraint) admits(m *member) bool {
	if m.TrustLevel < c.minTrust {
		return false
	}
	for _, label := range c.labels {
		if have, ok := m.Labels[label[0]]; !ok || have != label[1] {
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
	nodes, want := s.attesters(), newConstraint(req.MinTrust, req.Labels)
	first := newRanking(nodes, executionID, int(req.MaxAssigned))
	eligible := 0
	for i, m := range nodes {
		if want.admits(m) {
			eligible++
			first.consider(i)
		}
	}
	if uint64(eligible) < req.Nodes {
		return nil, fmt.Errorf("%w: %d of %d at epoch %d", ErrTooFewEligible, eligible, req.Nodes, s.epoch)
	}
	sch := &Schedule{
		Ranking:   make([]string, len(first.best)),
		Eligible:  eligible,
		execution: executionID,
		hash:      s.hash,
		nodes:     int(req.Nodes),
		step:      int(min(req.Step, contract.MaxAssigned)), // one such step assigns all
	}
	for i, r := range first.best {
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
	best  []ranked // the first ranks so far, in order, at most most of them
	most  int
}

// ranked is a node by the first eight bytes of its score, big-endian: nearly
// always enough to tell which of two comes first, and small enough to be moved
// about for every node that enters the ranking.
type ranked struct {
	prefix uint64
	node   int // place among the nodes
}

func newRanking(nodes []*member, executionID digest.Digest, most int) *ranking {
	return &ranking{nodes: nodes, score: newScorer(executionID), best: make([]ranked, 0, most+1), most: most}
}

// consider enters node i if its rank is among the first.
func (r *ranking) consider(i int) {
	r.score.compute(r.nodes[i].ID)
	this := ranked{prefix: binary.BigEndian.Uint64(r.score.sum[:]), node: i}
	if last := len(r.best) - 1; last == r.most-1 {
		// Most nodes end here; before is asked about the others only.
		if this.prefix > r.best[last].prefix || !r.before(this, r.best[last]) {
			return
		}
		r.best = r.best[:last]
	}
	at := sort.Search(len(r.best), func(j int) bool { return r.before(this, r.best[j]) })
	r.best = slices.Insert(r.best, at, this)
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

const scoreDomain = "tallystick/v1/schedule-score"

// A scorer computes H(scoreDomain, execution id, node id) as package digest
// does. Domain and execution id fill more than one block of SHA-256, so its
// state after that block is kept and every node costs one block: a schedule is
// one hash for each eligible node, and submissions wait for it.
type scorer struct {
	hash   hash.Hash
	block  []byte // state of hash after the first block
	rest   []byte // what follows it up to the node id, with space for the id
	prefix int    // length of rest without the id
	sum    digest.Digest
}

func newScorer(executionID digest.Digest) *scorer {
	input := lengthPrefixed(nil, len(scoreDomain))
	input = append(input, scoreDomain...)
	input = lengthPrefixed(input, digest.Size)
	input = append(input, executionID[:]...)

	s := &scorer{hash: sha256.New(), rest: bytes.Clone(input[sha256.BlockSize:])}
	s.prefix = len(s.rest)
	s.hash.Write(input[:sha256.BlockSize])
	// Saving and restoring the state of crypto/sha256 cannot fail.
	s.block, _ = s.hash.(encoding.BinaryMarshaler).MarshalBinary()
	return s
}

// of returns the score of a node.
func (s *scorer) of(node string) digest.Digest {
	s.compute(node)
	return s.sum
}

// compute leaves the score of a node in sum.
func (s *scorer) compute(node string) {
	s.rest = append(lengthPrefixed(s.rest[:s.prefix], len(node)), node...)
	_ = s.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.block)
	s.hash.Write(s.rest)
	s.hash.Sum(s.sum[:0])
}

func lengthPrefixed(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }
