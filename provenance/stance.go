package provenance

import (
	"slices"

	"github.com/tallystick/tallystick/internal/digest"
)

// Stance is how an attestation stands to what its execution came to. It is for
// people and for the policies that they make: no rule of the fold rests on it.
type Stance string

// The stances. The set is closed.
const (
	StanceUndecided  Stance = "undecided"  // there is nothing to compare with: open, cancelled or expired
	StanceAgrees     Stance = "agrees"     // part of the agreement
	StanceLate       Stance = "late"       // as agreed, and said after the others had agreed
	StanceDiffers    Stance = "differs"    // another result than agreed
	StanceCheckpoint Stance = "checkpoint" // the agreed result, on another request checkpoint
	StanceDisputed   Stance = "disputed"   // the execution failed as diverged: somebody is wrong
	StanceVoid       Stance = "void"       // the node has said two different things
)

// Divergent reports whether the node may be to blame: what it said cannot be true
// together with what others, or it itself, said.
func (s Stance) Divergent() bool {
	switch s {
	case StanceDiffers, StanceCheckpoint, StanceDisputed, StanceVoid:
		return true
	}
	return false
}

// Stance returns how one of the execution's attestations stands.
func (e Execution) Stance(a Attestation) Stance {
	switch {
	case a.Void:
		return StanceVoid
	case a.Agrees:
		return StanceAgrees
	case e.State == StateDiverged:
		return StanceDisputed
	case e.State != StateComplete:
		return StanceUndecided
	}
	p := e.Provenance()
	if !equal(p.GetResultDigest(), a.Statement.Outcome.ResultDigest()) {
		return StanceDiffers
	}
	root := p.GetAuditRoot()
	agreed := CheckpointRef{Origin: root.GetOrigin(), Size: int64(root.GetSize()), RootHash: digest.Digest(root.GetRootHash())}
	if a.Statement.RequestCheckpoint != agreed {
		return StanceCheckpoint
	}
	return StanceLate
}

// Divergence returns the stance of each node whose stance is divergent, nil if
// there is none.
func (e Execution) Divergence() map[string]Stance {
	var nodes map[string]Stance
	for _, a := range e.Attestations {
		if s := e.Stance(a); s.Divergent() {
			if nodes == nil {
				nodes = map[string]Stance{}
			}
			nodes[a.Node] = s
		}
	}
	return nodes
}

// PassedOver returns the nodes, in rank order, that an attempt before the last one
// assigned and of which no attestation is in the log before the execution was
// decided: they were away, or what they said was dropped. Only a node that holds a
// receipt for its attestation can prove the latter.
func (e Execution) PassedOver() []string {
	if e.Attempt == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.Schedule.Assigned(e.Attempt-1)), func(node string) bool {
		return slices.ContainsFunc(e.Attestations, func(a Attestation) bool { return a.Node == node && !a.Evidence })
	})
}
