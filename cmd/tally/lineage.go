package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
)

// Bounds of a walk over ancestors. Each step fetches and verifies a bundle.
const (
	defaultLineageDepth, maxLineageDepth = 16, 256
	defaultLineageCount, maxLineageCount = 256, 10_000
)

// lineageBounds ends a walk early.
type lineageBounds struct {
	depth int // generations above the execution
	count int // executions in all
}

// A lineage is an execution with those that it descends from, each proven by its
// own bundle, and each parent's output the one that its child's nodes named.
type lineage struct {
	Root string `json:"execution"`
	// Executions are in the order in which they were reached, the execution first.
	Executions []*descent `json:"executions"`
	// Truncated says that the bounds ended the walk.
	Truncated bool `json:"truncated"`
}

// descent is one execution of a lineage.
type descent struct {
	ID       string           `json:"id"`
	State    provenance.State `json:"state"`
	Contract string           `json:"contract"` // name and version
	Tenant   string           `json:"tenant"`
	Outcome  string           `json:"outcome,omitempty"`
	Input    string           `json:"input_digest"`
	Output   string           `json:"output_digest,omitempty"`
	Nodes    []string         `json:"nodes,omitempty"` // that agree
	Depth    int              `json:"depth"`           // generations above the execution
	Parents  []string         `json:"parents,omitempty"`
	// Followed says that the parents are in the lineage too.
	Followed bool `json:"followed"`

	report *verifier.Execution
}

// errLineage says that a bundle is good and does not fit its child's.
var errLineage = errors.New("the lineage does not hold")

func lineageCommand(a *app) *cobra.Command {
	bounds := lineageBounds{}
	cmd := &cobra.Command{
		Use:   "lineage EXECUTION",
		Short: "Show and verify the executions that an execution descends from",
		Long: `Fetch the proof bundle of an execution, of its parents, of their parents and so
on, verify each with the profile's policies and genesis, and check that the output
of each parent is the one that its child's nodes say they read. Nothing is taken
on the server's word.

The outputs went to standard input in the order in which parents are listed, then
the submission's own input.`,
		Args: oneDigest("execution", "an id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if bounds.depth < 0 || bounds.depth > maxLineageDepth || bounds.count < 1 || bounds.count > maxLineageCount {
				return wiring.Usage(cmd, fmt.Errorf("--depth is 0 to %d, --most 1 to %d", maxLineageDepth, maxLineageCount))
			}
			id, err := digest.Parse(args[0])
			if err != nil {
				return err
			}
			p, c, err := a.client()
			if err != nil {
				return err
			}
			w, err := newLineageWalk(p, c)
			if err != nil {
				return err
			}
			w.bounds = bounds
			l, err := w.walk(cmd.Context(), id.String())
			if err != nil {
				return err
			}
			return a.printer.value(l, func(out io.Writer) { printLineage(out, l) })
		},
	}
	cmd.Flags().IntVar(&bounds.depth, "depth", defaultLineageDepth, "generations to follow")
	cmd.Flags().IntVar(&bounds.count, "most", defaultLineageCount, "executions to verify at most")
	return cmd
}

// lineageWalk verifies bundles from child to parent.
type lineageWalk struct {
	trust  verifier.Trust
	bounds lineageBounds
	// fetch returns the bundle of an execution.
	fetch func(ctx context.Context, id string) ([]byte, error)
	// changes returns the membership log, for a bundle that leaves it out.
	changes func(ctx context.Context) ([][]byte, error)
}

func newLineageWalk(p *profile, c *client.Client) (*lineageWalk, error) {
	w := &lineageWalk{
		fetch: func(ctx context.Context, id string) ([]byte, error) {
			res, err := c.Control.RetrieveExecutionProof(ctx, connect.NewRequest(&pb.RetrieveExecutionProofRequest{ExecutionId: id}))
			if err != nil {
				return nil, err
			}
			return res.Msg.Bundle, nil
		},
		changes: func(ctx context.Context) ([][]byte, error) {
			h, err := history(ctx, p, c)
			if err != nil {
				return nil, err
			}
			return changesOf(h)
		},
	}
	var err error
	if w.trust.AuditPolicy, err = p.policy(p.AuditPolicy); err != nil {
		return nil, err
	}
	if w.trust.MembershipPolicy, err = p.policy(p.MembershipPolicy); err != nil {
		return nil, err
	}
	if w.trust.Genesis, err = os.ReadFile(p.file(p.Genesis)); err != nil {
		return nil, fmt.Errorf("reading the genesis: %w", err)
	}
	return w, nil
}

// changesOf returns the entries of a membership log.
func changesOf(h *membership.History) ([][]byte, error) {
	var out [][]byte
	for epoch := uint64(1); epoch <= h.Size(); epoch++ {
		_, envelope, err := h.Change(epoch)
		if err != nil {
			return nil, err
		}
		out = append(out, envelope)
	}
	return out, nil
}

// walk goes up breadth first, so that bounds cut the furthest ancestors. Parents
// are decided before their children are requested, which is checked, so it ends.
func (w *lineageWalk) walk(ctx context.Context, id string) (*lineage, error) {
	first, err := w.verify(ctx, id, 0)
	if err != nil {
		return nil, err
	}
	l := &lineage{Root: id, Executions: []*descent{first}}
	seen := map[string]*descent{id: first}
	for next := 0; next < len(l.Executions); next++ {
		child := l.Executions[next]
		fresh := 0
		for _, parent := range child.Parents {
			if seen[parent] == nil {
				fresh++
			}
		}
		if fresh > 0 && (child.Depth == w.bounds.depth || len(l.Executions)+fresh > w.bounds.count) {
			l.Truncated = true
			continue
		}
		child.Followed = true
		for _, named := range child.report.Parents {
			parent := seen[named.ID]
			if parent == nil {
				if parent, err = w.verify(ctx, named.ID, child.Depth+1); err != nil {
					return nil, fmt.Errorf("parent of %s: %w", short(child.ID), err)
				}
				seen[named.ID] = parent
				l.Executions = append(l.Executions, parent)
			}
			if err := checkDescent(child.report, named, parent.report); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

// verify fetches and verifies one bundle. An execution that ended without a
// result has its place at the end of a lineage, as the one that is asked for.
func (w *lineageWalk) verify(ctx context.Context, id string, depth int) (*descent, error) {
	file, err := w.fetch(ctx, id)
	if err != nil {
		return nil, err
	}
	opts := verifier.Options{Execution: id}
	report, err := verifier.VerifyBundle(file, w.trust, opts)
	if errors.Is(err, verifier.CodeExternalMembership) {
		if opts.Changes, err = w.changes(ctx); err != nil {
			return nil, err
		}
		report, err = verifier.VerifyBundle(file, w.trust, opts)
	}
	if err != nil && !errors.Is(err, verifier.CodeNoResult) {
		var refused *verifier.Error
		if errors.As(err, &refused) {
			return nil, withHint(fmt.Errorf("the proof of %s does not verify: %w", short(id), err), refused.Hint())
		}
		return nil, err
	}
	e := report.Execution
	d := &descent{ID: e.ID, State: e.State, Contract: e.ContractName + " " + e.ContractVersion, Tenant: e.Tenant, Input: e.InputDigest,
		Depth: depth, report: e}
	if e.State == provenance.StateComplete {
		d.Outcome, d.Output = string(e.Outcome.Kind), e.Outcome.OutputDigest.String()
	}
	for _, n := range e.Nodes {
		d.Nodes = append(d.Nodes, n.ID)
	}
	for _, parent := range e.Parents {
		d.Parents = append(d.Parents, parent.ID)
	}
	return d, nil
}

// checkDescent holds a parent against what its child's bundle says of it
// (docs/formats/bundle.md, "Ancestors").
func checkDescent(child *verifier.Execution, named verifier.Parent, parent *verifier.Execution) error {
	var what string
	switch {
	case parent.State != provenance.StateComplete || parent.Outcome.Kind != contract.OutcomeOK:
		what = fmt.Sprintf("it ended as %s, outcome %q", parent.State, parent.Outcome.Kind)
	case parent.Tenant != child.Tenant:
		what = fmt.Sprintf("it is of tenant %q, its child of %q", parent.Tenant, child.Tenant)
	case parent.CompletedAt >= child.RequestIndex:
		what = fmt.Sprintf("it was complete at index %d only, its child requested at %d", parent.CompletedAt, child.RequestIndex)
	case named.OutputDigest != "" && named.OutputDigest != parent.Outcome.OutputDigest.String():
		what = fmt.Sprintf("its output is %s, and its child's nodes read %s", parent.Outcome.OutputDigest, named.OutputDigest)
	default:
		return nil
	}
	return withHint(fmt.Errorf("%w: parent %s of %s: %s", errLineage, parent.ID, child.ID, what), "keep both bundles as evidence against the control plane")
}

// printLineage prints a tree. An execution that several others read is drawn
// where it comes first and named where it comes again.
func printLineage(w io.Writer, l *lineage) {
	byID := map[string]*descent{}
	for _, d := range l.Executions {
		byID[d.ID] = d
	}
	drawn := map[string]bool{}
	var draw func(id, lead, next string)
	draw = func(id, lead, next string) {
		d := byID[id]
		if d == nil {
			fmt.Fprintf(w, "%s%s  not followed\n", lead, short(id))
			return
		}
		if drawn[id] {
			fmt.Fprintf(w, "%s%s  (shown above)\n", lead, short(id))
			return
		}
		drawn[id] = true
		result := string(d.State)
		if d.Outcome != "" {
			result = fmt.Sprintf("%s, output %s, by %s", d.Outcome, short(d.Output), strings.Join(d.Nodes, ", "))
		}
		fmt.Fprintf(w, "%s%s  %s: %s\n", lead, short(id), d.Contract, result)
		for i, parent := range d.Parents {
			if i == len(d.Parents)-1 {
				draw(parent, next+"└─ ", next+"   ")
			} else {
				draw(parent, next+"├─ ", next+"│  ")
			}
		}
	}
	draw(l.Root, "", "")
	fmt.Fprintf(w, "\n%s verified, each from its own proof bundle", count(len(l.Executions), "execution"))
	if len(l.Executions) > 1 {
		fmt.Fprint(w, "; the outputs of parents are those that their children read")
	}
	fmt.Fprintln(w)
	if l.Truncated {
		fmt.Fprintln(w, "there are more ancestors: raise --depth or --most")
	}
}
