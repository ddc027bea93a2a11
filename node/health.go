package node

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// A Problem says why a node is not well. The set is closed; a code never changes
// its meaning.
type Problem string

// The problems. The first two last until a person has looked into them and moved
// the files away that the detail names; the others pass by themselves or with a
// restart.
const (
	// ProblemFork: evidence of two histories of a log is kept.
	ProblemFork Problem = "fork"
	// ProblemContradiction: a second run of an execution found another result. The
	// machine, or its sandbox, is faulty.
	ProblemContradiction Problem = "contradiction"
	// ProblemDirectory: a write to the directory failed, so nothing is done any more;
	// or old attestations in it cannot be read or removed, so it grows.
	ProblemDirectory Problem = "directory"
	// ProblemNotMember: the newest membership does not list this node's key.
	ProblemNotMember Problem = "not_member"
	// ProblemWithheld: a log does not serve the tree of the largest checkpoint that
	// this node has accepted. It may have been rolled back, or have forked below.
	ProblemWithheld Problem = "withheld"
	// ProblemRunner: the last runs failed, each for a fault of the runner.
	ProblemRunner Problem = "runner"
	// ProblemDisconnected: there is no assignment stream.
	ProblemDisconnected Problem = "disconnected"
)

// Problems are all that there are, in the order in which they are shown.
var Problems = []Problem{ProblemFork, ProblemContradiction, ProblemWithheld, ProblemDirectory, ProblemNotMember, ProblemRunner, ProblemDisconnected}

// manyFaults is how many runs in a row have to fail, not all of one execution,
// before the runner is the problem: a worker that was killed from outside is none.
const manyFaults = 3

// A Seen is a checkpoint that the node has accepted and keeps: no smaller or
// contradicting one of its origin will ever be accepted in its place.
type Seen struct {
	Log    membership.LogName
	Origin string
	Size   int64
	Root   tlog.Hash
}

// Status is how a node is.
type Status struct {
	Stats
	Capacity int
	Draining bool   // finishes what it runs and takes nothing new
	Seen     []Seen // of each log, if any: audit, then membership
	// Problems is what is wrong, with details for the operator. A node without
	// problems that is not draining is healthy.
	Problems map[Problem]string
	Working  []string // executions whose module is compiled or run, sorted
}

// Healthy reports whether the node can do its work and nothing needs a person.
func (s *Status) Healthy() bool { return len(s.Problems) == 0 && !s.Draining }

// Codes returns the problems in their order.
func (s *Status) Codes() []Problem {
	var list []Problem
	for _, p := range Problems {
		if _, ok := s.Problems[p]; ok {
			list = append(list, p)
		}
	}
	return list
}

// health is what is wrong with a node, and what it has seen. It is safe for
// concurrent use.
type health struct {
	changed chan struct{} // holds a token after something got worse or better

	mu       sync.Mutex
	problems map[Problem]string          // guarded by mu
	seen     map[membership.LogName]Seen // guarded by mu
	faults   int                         // guarded by mu: runs that failed since the last that did not
	faulted  digest.Digest               // guarded by mu: the execution of the first of them
	several  bool                        // guarded by mu: another's failed too
	working  map[string]int              // guarded by mu: executions whose module runs
}

func newHealth() *health {
	return &health{
		changed:  make(chan struct{}, 1),
		problems: map[Problem]string{ProblemDisconnected: "no assignment stream yet"},
		seen:     make(map[membership.LogName]Seen),
		working:  make(map[string]int),
	}
}

// set notes a problem.
func (h *health) set(p Problem, detail string) {
	h.mu.Lock()
	_, known := h.problems[p]
	h.problems[p] = detail
	h.mu.Unlock()
	if !known {
		h.wake()
	}
}

// clear ends a problem.
func (h *health) clear(p Problem) {
	h.mu.Lock()
	_, known := h.problems[p]
	delete(h.problems, p)
	h.mu.Unlock()
	if known {
		h.wake()
	}
}

func (h *health) wake() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// saw notes the checkpoint that is kept of a log.
func (h *health) saw(log membership.LogName, c checkpoint.Checkpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen[log] = Seen{log, c.Origin, c.Size, c.Root}
}

// size is that of the kept checkpoint of a log, 0 if there is none.
func (h *health) size(log membership.LogName) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[log].Size
}

// begin and end frame the run of an execution's module.
func (h *health) begin(execution string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.working[execution]++
}

func (h *health) end(execution string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.working[execution]--; h.working[execution] == 0 {
		delete(h.working, execution)
	}
}

// ran notes how a run of an execution ended: with fault nil, or by a fault of the
// runner.
func (h *health) ran(execution digest.Digest, fault error) {
	h.mu.Lock()
	switch {
	case fault == nil:
		h.faults, h.several = 0, false
	case h.faults == 0:
		h.faults, h.faulted = 1, execution
	default:
		h.faults++
		h.several = h.several || execution != h.faulted
	}
	many := h.faults >= manyFaults && h.several
	h.mu.Unlock()
	if many {
		h.set(ProblemRunner, fault.Error())
	} else if fault == nil {
		h.clear(ProblemRunner)
	}
}

// fill adds to a status what the health knows.
func (h *health) fill(s *Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Problems = maps.Clone(h.problems)
	for _, log := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		if seen, ok := h.seen[log]; ok {
			s.Seen = append(s.Seen, seen)
		}
	}
	s.Working = slices.Sorted(maps.Keys(h.working))
}

// look finds the problems that are files: they last until somebody has moved the
// files away.
func (n *Node) look() {
	for problem, dir := range map[Problem]string{ProblemFork: "evidence", ProblemContradiction: "contradictions"} {
		files, err := os.ReadDir(filepath.Join(n.store.dir, dir))
		files = slices.DeleteFunc(files, func(e os.DirEntry) bool { return filepath.Ext(e.Name()) != ".json" })
		switch {
		case err != nil:
			n.health.set(problem, err.Error())
		case len(files) > 0:
			n.health.set(problem, fmt.Sprintf("%d files in %q; look into them, then move them away", len(files), filepath.Join(n.store.dir, dir)))
		default:
			n.health.clear(problem)
		}
	}
}

// Status returns how the node is.
func (n *Node) Status() Status {
	n.look()
	s := Status{Stats: n.Stats(), Capacity: n.config.Capacity, Draining: n.stopping.Err() != nil}
	n.health.fill(&s)
	if s.Draining {
		delete(s.Problems, ProblemDisconnected) // on purpose
	}
	if err := n.store.failed(); err != nil {
		s.Problems[ProblemDirectory] = err.Error()
	}
	return s
}
