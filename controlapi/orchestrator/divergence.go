package orchestrator

import "github.com/tallystick/tallystick/provenance"

// What nodes said that others, or they themselves, contradict. It follows from
// the log, is counted by node for whoever governs the membership, and decides
// nothing: no rule of the fold and no schedule rests on it
// (docs/design/049-nodes-that-diverge.md).

// divergences counts the executions of one node.
type divergences struct {
	differed uint64 // about which it said something else than was agreed, or two things
	disputed uint64 // that it attested and that failed as diverged
}

// blame brings the counts up to what is known of an execution after a record. The
// caller holds the write lock.
func (v *view) blame(x *tracked) {
	ex, ok := v.fold.Execution(x.id)
	if !ok {
		return
	}
	now := ex.Divergence()
	for node, stance := range x.divergent {
		if now[node] != stance {
			v.countDivergence(node, stance, false)
		}
	}
	for node, stance := range now {
		if x.divergent[node] != stance {
			v.countDivergence(node, stance, true)
		}
	}
	x.divergent = now
}

// countDivergence adds an execution to the counts of a node, or takes it away.
func (v *view) countDivergence(node string, s provenance.Stance, add bool) {
	d := v.divergences[node]
	n := &d.differed
	if s == provenance.StanceDisputed {
		n = &d.disputed
	}
	if add {
		*n++
	} else {
		*n--
	}
	v.divergences[node] = d
}
