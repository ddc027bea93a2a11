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
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// An auditReport is what audit --json prints.
type auditReport struct {
	Size        int64             `json:"size"`        // of the checkpoint that was audited
	ListedSize  int64             `json:"listed_size"` // of the earlier one, whose executions had all to be listed
	RootHash    string            `json:"root_hash"`
	Executions  map[string]int    `json:"executions"` // by state, as the log says
	Compared    int               `json:"compared"`   // answers about executions
	Voids       map[string]int    `json:"voids"`      // records without effect, by code
	Divergent   map[string]int    `json:"divergent"`  // executions by node
	Differences []auditDifference `json:"differences"`
}

// auditDifference is an answer that is not what the log says.
type auditDifference struct {
	Execution string `json:"execution"`
	Detail    string `json:"detail"`
}

func auditCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "audit",
		Short: "Fold the whole audit log here and compare what the control plane says with it",
		Long: `Take a checkpoint that satisfies the profile's policy, ask the control plane about
every execution, then read the whole audit log up to a later checkpoint, hold its
records to both root hashes, recompute the state of every execution under the
membership that is replayed from the genesis, and compare. Every execution that the
first checkpoint covers must be listed. It takes the profile of an auditor, who sees
all records, and memory for the whole fold. Exit code 1 says that an answer differs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, c, err := a.client()
			if err != nil {
				return err
			}
			bar := newProgress()
			r, err := audit(cmd.Context(), p, c, bar)
			bar.done()
			if err != nil {
				return err
			}
			if err := a.printer.value(r, func(w io.Writer) { printAudit(w, r) }); err != nil {
				return err
			}
			if n := len(r.Differences); n > 0 {
				return fmt.Errorf("%d answers of the control plane are not what the log says", n)
			}
			return nil
		},
	}
}

// audit takes a checkpoint, asks, and reads the log afterwards: an answer may tell
// an earlier moment, but not earlier than the checkpoint, and nothing that the log
// does not have.
func audit(ctx context.Context, p *profile, c *client.Client, bar *progress) (*auditReport, error) {
	bar.show("waiting for a checkpoint")
	first, err := laterTree(ctx, p, c)
	if err != nil {
		return nil, err
	}
	answers, err := listExecutions(ctx, c, first.N+maxNewer, bar)
	if err != nil {
		return nil, err
	}
	tree, err := laterTree(ctx, p, c)
	if err != nil {
		return nil, err
	}
	members, err := history(ctx, p, c)
	if err != nil {
		return nil, err
	}
	fold := provenance.NewFold(p.Cluster, members)
	r := &auditReport{Size: tree.N, ListedSize: first.N, RootHash: tree.Hash.String(), Compared: len(answers), Executions: map[string]int{}, Voids: map[string]int{}, Divergent: map[string]int{}}
	hashes, err := foldLog(ctx, c, fold, tree, func(index int64, e provenance.Effect, _ *pb.Record) error {
		if index%10_000 == 0 { // where there is no terminal, each is a line
			bar.show(fmt.Sprintf("folding record %d of %d", index, tree.N))
		}
		// The executions of that epoch and of later ones would be void, and so be
		// missing from the fold without a word.
		if e.Code == provenance.CodeEpochUnknown {
			return withHint(fmt.Errorf("the membership log is behind the audit log: record %d: %s", index, e.Detail), "fetch a newer copy: the control plane shows an old one")
		}
		if e.Void {
			r.Voids[string(e.Code)]++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if root, err := tlog.TreeHash(first.N, hashes); err != nil || root != first.Hash {
		return nil, errors.Join(fmt.Errorf("the control plane has shown two histories of the audit log: at size %d root hash %s, and later %s",
			first.N, first.Hash, root), err)
	}
	listed := map[digest.Digest]bool{}
	for _, s := range answers {
		if id, err := digest.Parse(s.ExecutionId); err == nil {
			listed[id] = true
		}
	}
	for ex := range fold.Executions() {
		if ex.RequestIndex < first.N && !listed[ex.ID] {
			r.Differences = append(r.Differences, auditDifference{fmt.Sprintf("%q", ex.ID), fmt.Sprintf("it is not listed, the log has its request at index %d", ex.RequestIndex)})
		}
		r.Executions[string(ex.State)]++
		for node := range ex.Divergence() {
			r.Divergent[node]++
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
	return r, nil
}

// laterTree returns the tree of a verified checkpoint that was signed after the
// call began. Rounds follow one another and publish what they signed, so the
// second that is published from now on was begun later; asking is an operation
// that the log records, so there is always something to sign.
//
// A server may show checkpoints that it has kept back. The cosignatures must be as
// recent as those of the membership; the rest is left to the witnesses' clocks.
func laterTree(ctx context.Context, p *profile, c *client.Client) (tlog.Tree, error) {
	var last *checkpoint.Verified
	for grown := -1; grown < 2; {
		now, err := published(ctx, p, c)
		if err != nil {
			return tlog.Tree{}, err
		}
		if last == nil || now.Checkpoint.Size > last.Checkpoint.Size {
			last = now
			grown++
		}
		select {
		case <-ctx.Done():
			return tlog.Tree{}, ctx.Err()
		case <-time.After(5 * startPoll):
		}
	}
	policy, err := p.policy(p.AuditPolicy)
	if err != nil {
		return tlog.Tree{}, err
	}
	maxAge := cmp.Or(p.maxAge, checkpoint.DefaultMaxAge)
	if at, ok := policy.AsOf(last); ok && time.Since(at) > maxAge {
		return tlog.Tree{}, withHint(fmt.Errorf("audit checkpoint: %w: the quorum's is of %s", checkpoint.ErrStale, at.UTC().Format(time.RFC3339)),
			"the control plane shows an old checkpoint as a new one, or the clocks differ by more than --max-age")
	}
	return last.Checkpoint.Tree(), nil
}

// published returns the published checkpoint of the audit log, which satisfies the
// profile's policy.
func published(ctx context.Context, p *profile, c *client.Client) (*checkpoint.Verified, error) {
	res, err := c.Log.GetCheckpoint(ctx, connect.NewRequest(&pb.GetCheckpointRequest{Log: pb.LogName_LOG_NAME_AUDIT}))
	if err != nil {
		return nil, err
	}
	verified, err := p.verify(p.AuditPolicy, res.Msg.Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("audit checkpoint: %w", err)
	}
	return verified, nil
}

// maxNewer bounds how many executions may be requested between a checkpoint and
// the listing that follows it, which takes a moment.
const maxNewer = 1 << 20

// listExecutions returns what the control plane says about each execution, newest
// first. It refuses more than limit of them, and what has no end or says one twice.
func listExecutions(ctx context.Context, c *client.Client, limit int64, bar *progress) ([]*pb.ExecutionStatus, error) {
	var answers []*pb.ExecutionStatus
	for req := (&pb.ListExecutionsRequest{PageSize: 200}); ; {
		bar.show(fmt.Sprintf("asked about %d executions", len(answers)))
		res, err := c.Control.ListExecutions(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		for _, s := range res.Msg.Executions {
			if n := len(answers); n > 0 && s.RequestIndex >= answers[n-1].RequestIndex {
				return nil, fmt.Errorf("the control plane lists execution %.64q with request index %d after one with %d: they are not newest first, or one is there twice",
					s.ExecutionId, s.RequestIndex, answers[n-1].RequestIndex)
			}
			answers = append(answers, s)
		}
		if int64(len(answers)) > limit {
			return nil, fmt.Errorf("the control plane lists more than %d executions: its log has not as many records", limit)
		}
		if req.PageToken = res.Msg.NextPageToken; req.PageToken == "" {
			return answers, nil
		}
		if len(res.Msg.Executions) == 0 {
			return nil, errors.New("the control plane lists no execution and says that there are more")
		}
	}
}

// foldLog folds the records that a tree covers, and returns the hashes of the log.
// An error says that they are not the tree's, or not all of them.
func foldLog(ctx context.Context, c *client.Client, fold *provenance.Fold, tree tlog.Tree, visit func(index int64, e provenance.Effect, r *pb.Record) error) (tlog.HashReader, error) {
	var hashes []tlog.Hash // as tlog stores them
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = hashes[index]
		}
		return out, nil
	})
	for fold.Size() < tree.N {
		res, err := c.Log.ListRecords(ctx, connect.NewRequest(&pb.ListRecordsRequest{Start: uint64(fold.Size()), PageSize: 1000}))
		if err != nil {
			return nil, err
		}
		before := fold.Size()
		for _, r := range res.Msg.Records {
			index := fold.Size()
			if index == tree.N {
				break
			}
			if r.Index != uint64(index) {
				return nil, withHint(fmt.Errorf("the control plane shows record %d after record %d", r.Index, index-1), "only auditors and admins see all records: use the profile of one")
			}
			opening, err := record.ParseOpening(r.Opening)
			if err != nil {
				return nil, fmt.Errorf("record %d: %w", index, err)
			}
			entry := opening.Entry() // whether it is the log's, the root hash says at the end
			more, err := tlog.StoredHashes(index, entry[:], reader)
			if err != nil {
				return nil, err
			}
			hashes = append(hashes, more...)
			effect, body, err := fold.Read(index, entry[:], r.Opening)
			if err != nil {
				return nil, err
			}
			if err := visit(index, effect, body); err != nil {
				return nil, err
			}
		}
		if fold.Size() == before {
			return nil, fmt.Errorf("the control plane shows %d records, its checkpoint covers %d", before, tree.N)
		}
	}
	root, err := tlog.TreeHash(tree.N, reader)
	if err != nil {
		return nil, err
	}
	if root != tree.Hash {
		return nil, errors.New("the records are not those that the checkpoint commits to: the control plane has shown others")
	}
	return reader, nil
}

func printAudit(w io.Writer, r *auditReport) {
	fmt.Fprintf(w, "audit log       size %d, root hash %s\n", r.Size, r.RootHash)
	for _, state := range slices.Sorted(maps.Keys(r.Executions)) {
		fmt.Fprintf(w, "%-15s %d executions\n", state, r.Executions[state])
	}
	for _, code := range slices.Sorted(maps.Keys(r.Voids)) {
		fmt.Fprintf(w, "void records    %d of code %s\n", r.Voids[code], code)
	}
	for _, node := range slices.Sorted(maps.Keys(r.Divergent)) {
		fmt.Fprintf(w, "divergent       %s in %d executions: `tally executions --divergent %s`\n", node, r.Divergent[node], node)
	}
	fmt.Fprintf(w, "complete        every execution of the log's first %d records has to be among the answers\n", r.ListedSize)
	fmt.Fprintf(w, "compared        %d answers of the control plane, %d differ\n", r.Compared, len(r.Differences))
	for _, d := range r.Differences {
		fmt.Fprintf(w, "  %s: %s\n", d.Execution, d.Detail)
	}
}
