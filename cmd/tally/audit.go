package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/wholelog"
)

// defaultAuditWait is how long an audit waits for each of its two checkpoints:
// many rounds, also with public witnesses.
const defaultAuditWait = 2 * time.Minute

// An auditReport is what audit --json prints.
type auditReport struct {
	Size       int64  `json:"size"`        // of the checkpoint that was audited
	ListedSize int64  `json:"listed_size"` // of the earlier one, whose executions had all to be listed
	RootHash   string `json:"root_hash"`
	// CosignedAt is the latest time for which a quorum of witnesses vouches for the
	// checkpoint (RFC 3339), and AgeSeconds how long ago that was when the audit
	// ended. Both are absent under a policy without a quorum.
	CosignedAt *time.Time `json:"cosigned_at,omitempty"`
	AgeSeconds *int64     `json:"age_seconds,omitempty"`
	NotSeen    []string   `json:"not_seen"` // what this audit says nothing about, in words

	Executions  map[string]int          `json:"executions"`   // by state, as the log says
	Unrecorded  int                     `json:"unrecorded"`   // decided by attestations, and the log has no record yet that says so
	Compared    int                     `json:"compared"`     // answers about executions
	Voids       map[provenance.Code]int `json:"voids"`        // records without effect, by code
	VoidRecords []wholelog.Void         `json:"void_records"` // the first of them
	Divergent   map[string]int          `json:"divergent"`    // executions by node
	PassedOver  map[string]int          `json:"passed_over"`  // executions by node
	Differences []auditDifference       `json:"differences"`
}

// auditDifference is an answer that is not what the log says.
type auditDifference struct {
	Execution string `json:"execution"`
	Detail    string `json:"detail"`
}

func auditCommand(a *app) *cobra.Command {
	wait := defaultAuditWait
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Fold the whole audit log here and compare what the control plane says with it",
		Long: `Take a checkpoint that satisfies the profile's policy, ask the control plane about
every execution, then read the whole audit log up to a later checkpoint, hold its
records to both root hashes, recompute the state of every execution under the
membership that is replayed from the genesis, and compare. Every execution that the
first checkpoint covers must be listed, and no record may be void: an honest control
plane writes none. It takes the profile of an auditor, who sees all records, and
memory for the whole fold.

The report says how old the checkpoint is that it is about, and what it says nothing
about. A control plane can keep back what happened within --max-age.

Exit codes: 0 nothing is wrong with what was seen; 1 failed here, or refused; 2 wrong
usage; 4 an answer differs from the log, or the log is false or shows a false record;
5 too little was seen to say either: the control plane was away, or showed nothing
that is new enough. docs/runbooks/audit-regularly.md says what to do about each.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait <= 0 {
				return wiring.Usage(cmd, fmt.Errorf("--wait %v: want more than 0", wait))
			}
			p, c, err := a.client()
			if err != nil {
				return err
			}
			bar := newProgress()
			r, err := audit(cmd.Context(), p, c, wait, bar)
			bar.done()
			if err != nil {
				return auditCode(err)
			}
			if err := a.printer.value(r, func(w io.Writer) { printAudit(w, r) }); err != nil {
				return err
			}
			return r.verdict()
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", defaultAuditWait, "how long to wait for each of two checkpoints that are signed from now on")
	return cmd
}

// auditCode gives an error that has no exit code of its own one: what nobody
// answered, what is too old to say anything, and a membership or a checkpoint that
// cannot be.
func auditCode(err error) error {
	var coded *codeError
	var answer *connect.Error
	switch {
	case errors.As(err, &coded), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &answer):
		switch answer.Code() {
		case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeInvalidArgument, connect.CodeUnimplemented:
			return err // it was asked, and refused
		}
		return blind(err)
	case errors.Is(err, checkpoint.ErrStale), errors.Is(err, checkpoint.ErrQuorum):
		return blind(err)
	case errors.Is(err, client.ErrMembership), errors.Is(err, checkpoint.ErrLogSignature), errors.Is(err, checkpoint.ErrCosignature),
		errors.Is(err, checkpoint.ErrOrigin), errors.Is(err, checkpoint.ErrMalformed):
		return &codeError{withHint(err, "check that the profile's genesis and policies are this cluster's; if they are, keep what was shown as evidence"), exitFalse}
	}
	return err
}

// verdict is the error of what was found, nil if that is nothing.
func (r *auditReport) verdict() error {
	voids := 0
	for _, n := range r.Voids {
		voids += n
	}
	switch differ := len(r.Differences); {
	case differ > 0:
		return falsehood("the log contradicts %s of the control plane", count(differ, "answer"))
	case voids > 0:
		return falsehood("the log has %s: an honest control plane writes none", count(voids, "void record"))
	}
	return nil
}

// audit takes a checkpoint, asks, and reads the log afterwards: an answer may tell
// an earlier moment, but not earlier than the checkpoint, and nothing that the log
// does not have.
func audit(ctx context.Context, p *profile, c *client.Client, wait time.Duration, bar *progress) (*auditReport, error) {
	bar.show("waiting for a checkpoint")
	first, err := laterTree(ctx, p, c, wait)
	if err != nil {
		return nil, err
	}
	answers, err := listExecutions(ctx, c, first.N+maxNewer, bar)
	if err != nil {
		return nil, err
	}
	tree, err := laterTree(ctx, p, c, wait)
	if err != nil {
		return nil, err
	}
	if tree.N < first.N {
		return nil, blind(withHint(fmt.Errorf("the control plane shows a checkpoint of size %d after one of size %d", tree.N, first.N), "it keeps newer ones back, or several servers answer for it and one is behind: run it again"))
	}
	members, err := patiently(ctx, pause, func(ctx context.Context) (*membership.History, error) { return history(ctx, p, c) })
	if err != nil {
		return nil, err
	}
	if err := checkSeesAll(p, members); err != nil {
		return nil, err
	}
	log, err := foldLog(ctx, c, members, tree.Tree, bar)
	if errors.Is(err, wholelog.ErrMembershipBehind) {
		return nil, blind(err)
	}
	if err != nil {
		return nil, err
	}
	root, err := log.Root(first.N)
	if err != nil {
		return nil, err
	}
	if root != first.Hash {
		return nil, falsehood("the control plane has shown two histories of the audit log: at size %d root hash %s, and later %s", first.N, first.Hash, root)
	}
	r := &auditReport{Size: tree.N, ListedSize: first.N, RootHash: tree.Hash.String(), Compared: len(answers), Executions: map[string]int{},
		Voids: log.VoidCounts, VoidRecords: log.Voids, Divergent: map[string]int{}, PassedOver: map[string]int{}}
	r.compare(log.Fold, first.N, answers)
	r.limits(tree, cmp.Or(p.maxAge, checkpoint.DefaultMaxAge), time.Now())
	return r, nil
}

// compare holds the answers against the fold, which must have been listed up to an
// index, and counts what the log says.
func (r *auditReport) compare(fold *provenance.Fold, mustList int64, answers []*pb.ExecutionStatus) {
	listed := map[digest.Digest]bool{}
	for _, s := range answers {
		if id, err := digest.Parse(s.ExecutionId); err == nil {
			listed[id] = true
		}
	}
	for ex := range fold.Executions() {
		if ex.RequestIndex < mustList && !listed[ex.ID] {
			r.Differences = append(r.Differences, auditDifference{fmt.Sprintf("%q", ex.ID), fmt.Sprintf("it is not listed, the log has its request at index %d", ex.RequestIndex)})
		}
		r.Executions[string(ex.State)]++
		if ex.Derived != nil && !ex.Recorded {
			r.Unrecorded++
		}
		for node := range ex.Divergence() {
			r.Divergent[node]++
		}
		for _, node := range ex.PassedOver() {
			r.PassedOver[node]++
		}
	}
	for _, s := range answers {
		detail := "the log does not have it"
		id, err := digest.Parse(s.ExecutionId)
		if ex, ok := fold.Execution(id); ok && err == nil {
			detail = ex.CompareStatus(s)
		}
		if detail != "" {
			r.Differences = append(r.Differences, auditDifference{fmt.Sprintf("%.64q", s.ExecutionId), detail})
		}
	}
}

// limits says how old the audited checkpoint is, and what the audit could not see.
func (r *auditReport) limits(tree seenTree, maxAge time.Duration, now time.Time) {
	r.NotSeen = []string{fmt.Sprintf("what was recorded from index %d on", tree.N)}
	if tree.asOf.IsZero() {
		r.NotSeen = append(r.NotSeen, "how old the checkpoint is: the policy asks for no witness, so it is as old as the control plane likes")
	} else {
		at, age := tree.asOf.UTC(), int64(now.Sub(tree.asOf).Round(time.Second)/time.Second)
		r.CosignedAt, r.AgeSeconds = &at, &age
		r.NotSeen = append(r.NotSeen, fmt.Sprintf("whether the control plane keeps back newer checkpoints: it could show one as old as --max-age, %v", maxAge))
	}
	r.NotSeen = append(r.NotSeen, "whether the attested outcomes are right: `verifier replay --all` runs them again",
		"whether others are shown the same log: `verifier compare` asks the witnesses")
}

func printAudit(w io.Writer, r *auditReport) {
	fmt.Fprintf(w, "audit log       size %d, root hash %s\n", r.Size, r.RootHash)
	if r.CosignedAt != nil {
		fmt.Fprintf(w, "newest          cosigned by the quorum at %s, %v ago\n", r.CosignedAt.Format(time.RFC3339), time.Duration(*r.AgeSeconds)*time.Second)
	}
	for _, state := range slices.Sorted(maps.Keys(r.Executions)) {
		fmt.Fprintf(w, "%-15s %d executions\n", state, r.Executions[state])
	}
	for _, code := range slices.Sorted(maps.Keys(r.Voids)) {
		fmt.Fprintf(w, "void records    %d of code %s\n", r.Voids[code], code)
	}
	for _, v := range r.VoidRecords {
		fmt.Fprintf(w, "  record %d (%s): %s: %s\n", v.Index, v.Kind, v.Code, v.Detail)
	}
	if r.Unrecorded > 0 {
		fmt.Fprintf(w, "unrecorded      %d executions are decided, and the log has no provenance or divergence record of them yet\n", r.Unrecorded)
	}
	for _, node := range slices.Sorted(maps.Keys(r.PassedOver)) {
		fmt.Fprintf(w, "passed over     %s in %d executions: a later attempt began, and no attestation of it counted\n", node, r.PassedOver[node])
	}
	for _, node := range slices.Sorted(maps.Keys(r.Divergent)) {
		fmt.Fprintf(w, "divergent       %s in %d executions: `tally executions --divergent %s`\n", node, r.Divergent[node], node)
	}
	fmt.Fprintf(w, "complete        every execution of the log's first %d records has to be among the answers\n", r.ListedSize)
	fmt.Fprintf(w, "compared        %d answers of the control plane, %d differ\n", r.Compared, len(r.Differences))
	for _, d := range r.Differences {
		fmt.Fprintf(w, "  %s: %s\n", d.Execution, d.Detail)
	}
	for _, what := range r.NotSeen {
		fmt.Fprintf(w, "not seen        %s\n", what)
	}
}
