package compare

import (
	"fmt"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Verdict is the outcome of a run, one of a closed set.
type Verdict string

// The verdicts, the worst first: a report has the worst that applies.
const (
	VerdictSplit       Verdict = "split"        // the log has signed two histories
	VerdictWentBack    Verdict = "went_back"    // a source shows less than it has shown before
	VerdictInvalid     Verdict = "invalid"      // a source shows what the log did not sign, or a witness what it did not cosign
	VerdictNotCompared Verdict = "not_compared" // views could not be compared: nobody serves the tree of the newer one
	VerdictTooFew      Verdict = "too_few"      // too few sources show anything
	VerdictConsistent  Verdict = "consistent"   // one history
)

// Status is what became of one view, one of a closed set.
type Status string

const (
	StatusAgrees      Status = "agrees"       // the newest view
	StatusBehind      Status = "behind"       // a prefix of the newest view
	StatusDiffers     Status = "differs"      // provably not a prefix of the newest view
	StatusWentBack    Status = "went_back"    // smaller than what this source has shown before
	StatusNotCompared Status = "not_compared" // neither of them could be shown
	StatusInvalid     Status = "invalid"      // not what this source must show
	StatusUnreachable Status = "unreachable"  // no answer
	StatusNothing     Status = "nothing"      // a witness that has never cosigned the log
)

// memoryName is the source of what an earlier run has seen.
const memoryName = "(remembered)"

// Report says what a run has found.
type Report struct {
	Origin  string  `json:"origin"`
	Verdict Verdict `json:"verdict"`
	// Compared is how many sources showed a checkpoint that the log signed.
	Compared int `json:"compared"`
	// Views are in the order of the sources, then what an earlier run has seen.
	Views  []View  `json:"views"`
	Splits []Split `json:"splits,omitempty"`
}

// View is what one source shows. Of one that shows nothing usable there are
// Source, Kind, Status and Problem.
type View struct {
	Source string `json:"source"`
	Kind   Kind   `json:"kind"`
	Status Status `json:"status"`
	// History tells histories apart: 1 is that of the newest view. Views of one
	// history extend each other. 0 if there is no view.
	History  int      `json:"history,omitempty"`
	Size     int64    `json:"size"`
	RootHash string   `json:"root_hash,omitempty"` // base64, as in the checkpoint
	Behind   int64    `json:"behind"`              // entries less than the newest view of its history
	Cosigned []string `json:"cosigned_by,omitempty"`
	Quorum   bool     `json:"quorum"` // whether these satisfy the policy
	Problem  string   `json:"problem,omitempty"`
}

// Split is two views of which neither extends the other.
type Split struct {
	Sources    [2]string `json:"sources"`
	Sizes      [2]int64  `json:"sizes"`
	RootHashes [2]string `json:"root_hashes"`
	// Evidence proves it to a third party; nil if the policy's keys do not, which
	// Problem explains.
	Evidence *checkpoint.Evidence `json:"-"`
	Problem  string               `json:"problem,omitempty"`
	// File is for whoever writes the evidence to say where.
	File string `json:"evidence_file,omitempty"`
}

// report draws the conclusions. It marks views that have gone back.
func (r *round) report(remembered *State) *Report {
	out := &Report{Origin: r.origin, Splits: r.splits, Views: make([]View, len(r.views))}
	found := map[Status]bool{}
	for i, v := range r.views {
		if v.signed != nil && v.source.Kind != KindMemory {
			out.Compared++
			if seen, ok := remembered.seen(v.source); ok && v.checkpoint.Size < seen && v.status == "" {
				v.status = StatusWentBack
				v.problem = fmt.Sprintf("it has shown size %d before", seen)
			}
		}
		out.Views[i] = r.describe(v)
		found[out.Views[i].Status] = true
	}
	switch {
	case len(r.splits) > 0:
		out.Verdict = VerdictSplit
	case found[StatusWentBack]:
		out.Verdict = VerdictWentBack
	case found[StatusInvalid]:
		out.Verdict = VerdictInvalid
	case found[StatusNotCompared]:
		out.Verdict = VerdictNotCompared
	case out.Compared < r.comparison.atLeast():
		out.Verdict = VerdictTooFew
	default:
		out.Verdict = VerdictConsistent
	}
	return out
}

// describe turns a view into what a report says of it.
func (r *round) describe(v *view) View {
	out := View{Source: v.source.Name, Kind: v.source.Kind, Status: v.status, Problem: v.problem}
	if v.signed == nil {
		return out
	}
	b := v.branch
	for i := range r.branches {
		if r.branches[i] == b {
			out.History = i + 1
		}
	}
	out.Size, out.RootHash = v.checkpoint.Size, v.checkpoint.Root.String()
	out.Behind = b.head.checkpoint.Size - v.checkpoint.Size
	out.Cosigned, out.Quorum = v.cosigned, v.quorum
	if out.Status != "" {
		return out
	}
	switch {
	case out.History == 1 && out.Behind == 0:
		out.Status = StatusAgrees
	case out.History == 1:
		out.Status = StatusBehind
	case b.split:
		out.Status = StatusDiffers
	default:
		out.Status, out.Problem = StatusNotCompared, b.doubt
	}
	return out
}
