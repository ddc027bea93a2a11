package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/internal/printable"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/wholelog"
)

// What an audit reads of the control plane. Errors that show it to be false, and
// those that only leave the audit blind, have exit codes of their own.

// falsehood is an error that shows an answer or the log to be false: no fault of
// the network or of a witness explains it.
func falsehood(format string, args ...any) error {
	return &codeError{fmt.Errorf(format, args...), exitFalse}
}

// blind makes an error one that says nothing about the log, since too little was
// seen of it.
func blind(err error) error { return &codeError{err, exitBlind} }

// seenTree is the tree of a checkpoint that the profile's policy accepts.
type seenTree struct {
	tlog.Tree
	// asOf is the latest time for which a quorum of witnesses vouches; zero under a
	// policy without a quorum.
	asOf time.Time
}

// laterTree returns the tree of a verified checkpoint that was signed after the
// call began. Rounds follow one another and publish what they signed, so the
// second that is published from now on was begun later; asking is an operation
// that the log records, so there is always something to sign. It gives up after
// the profile's patience, also on a control plane that begins answers and does not
// end them.
//
// A server may show checkpoints that it has kept back. The cosignatures must be as
// recent as those of the membership; the rest is left to the witnesses' clocks,
// and the report says so.
func laterTree(ctx context.Context, p *profile, c *client.Client, patience time.Duration) (seenTree, error) {
	policy, err := p.policy(p.AuditPolicy)
	if err != nil {
		return seenTree{}, err
	}
	last, err := secondGrowth(ctx, patience, func(ctx context.Context) (*checkpoint.Verified, error) { return published(ctx, p, c) })
	if gaveUp := (*notLater)(nil); errors.As(err, &gaveUp) {
		newest := "none has been shown at all"
		if gaveUp.last != nil {
			tree := treeOf(policy, gaveUp.last)
			newest = fmt.Sprintf("the newest has size %d, %s", tree.N, tree.age(time.Now()))
		}
		if gaveUp.refusal != "" {
			newest += "; the last refusal was: " + gaveUp.refusal
		}
		return seenTree{}, blind(withHint(fmt.Errorf("no checkpoint that was signed since has been shown for %v: %s", patience, newest),
			"are the witnesses away, or is the control plane keeping its checkpoints back? --wait waits for longer"))
	}
	if err != nil {
		return seenTree{}, err
	}
	tree := treeOf(policy, last)
	maxAge := cmp.Or(p.maxAge, checkpoint.DefaultMaxAge)
	if now := time.Now(); !tree.asOf.IsZero() && now.Sub(tree.asOf) > maxAge {
		return seenTree{}, blind(withHint(fmt.Errorf("audit checkpoint: %w: size %d, %s; what was recorded since is not seen", checkpoint.ErrStale, tree.N, tree.age(now)),
			"the control plane shows an old checkpoint as a new one, or the clocks differ by more than --max-age"))
	}
	return tree, nil
}

// notLater is the error that patience has ended.
type notLater struct {
	last    *checkpoint.Verified // the newest that was shown, nil if none
	refusal string               // the last answer of a control plane that was busy, if any
}

func (*notLater) Error() string { return "no later checkpoint" }

// secondGrowth asks for checkpoints until it has seen the second that is larger
// than the first. When patience ends before, the error is a *notLater.
func secondGrowth(ctx context.Context, patience time.Duration, ask func(context.Context) (*checkpoint.Verified, error)) (*checkpoint.Verified, error) {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var so notLater
	for grown := -1; ; {
		now, err := ask(waiting)
		wait := 5 * startPoll
		var answer *connect.Error
		switch asked, again := client.RetryAfter(err); {
		case err == nil && (so.last == nil || now.Checkpoint.Size > so.last.Checkpoint.Size):
			so.last = now
			if grown++; grown == 2 {
				return now, nil
			}
		case err == nil, connect.CodeOf(err) == connect.CodeDeadlineExceeded:
		case again && connect.IsWireError(err) && errors.As(err, &answer): // it is busy, or this caller over a quota
			wait, so.refusal = max(time.Second, asked), printable.Text(answer.Message())
		default:
			return nil, err
		}
		if pause(waiting, wait) != nil {
			return nil, cmp.Or[error](ctx.Err(), &so)
		}
	}
}

func treeOf(policy *checkpoint.Policy, v *checkpoint.Verified) seenTree {
	asOf, _ := policy.AsOf(v)
	return seenTree{v.Checkpoint.Tree(), asOf}
}

// age says in words how old a tree is.
func (t seenTree) age(now time.Time) string {
	if t.asOf.IsZero() {
		return "of an age that nobody vouches for: the policy asks for no witness"
	}
	return fmt.Sprintf("cosigned by the quorum at %s, %v ago", t.asOf.UTC().Format(time.RFC3339), now.Sub(t.asOf).Round(time.Second))
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
		bar.show(fmt.Sprintf("asked about %s", count(len(answers), "execution")))
		res, err := patiently(ctx, pause, func(ctx context.Context) (*connect.Response[pb.ListExecutionsResponse], error) {
			return c.Control.ListExecutions(ctx, connect.NewRequest(req))
		})
		if err != nil {
			return nil, err
		}
		for _, s := range res.Msg.Executions {
			if n := len(answers); n > 0 && s.RequestIndex >= answers[n-1].RequestIndex {
				return nil, falsehood("the control plane lists execution %.64q with request index %d after one with %d: they are not newest first, or one is there twice",
					s.ExecutionId, s.RequestIndex, answers[n-1].RequestIndex)
			}
			answers = append(answers, s)
		}
		if int64(len(answers)) > limit {
			return nil, falsehood("the control plane lists more than %d executions: its log has not as many records", limit)
		}
		if req.PageToken = res.Msg.NextPageToken; req.PageToken == "" {
			return answers, nil
		}
		if len(res.Msg.Executions) == 0 {
			return nil, falsehood("the control plane lists no execution and says that there are more")
		}
	}
}

// checkSeesAll refuses to hold a control plane to records that it may not show the
// profile's principal.
func checkSeesAll(p *profile, members *membership.History) error {
	principal, _ := members.Current().Principal(p.Principal)
	if principal.Kind == membership.KindAuditor || principal.Kind == membership.KindAdmin {
		return nil
	}
	return withHint(fmt.Errorf("%q is not an auditor or admin of the cluster, and others do not see all records", p.Principal), "use the profile of one")
}

// foldLog folds the records that a tree covers. The principal must be one that sees
// all (checkSeesAll). An error says that they are not the tree's, or not all of them.
func foldLog(ctx context.Context, c *client.Client, members *membership.History, tree tlog.Tree, bar *progress) (*wholelog.Log, error) {
	log, err := wholelog.Read(shownRecords(ctx, c, tree.N), members, func(index int64) {
		if index%10_000 == 0 { // where there is no terminal, each is a line
			bar.show(fmt.Sprintf("folding record %d of %d", index, tree.N))
		}
	})
	if errors.Is(err, wholelog.ErrMembershipBehind) {
		return nil, withHint(err, "run it again: if that does not help, the control plane shows an old copy")
	}
	if err != nil {
		return nil, err
	}
	if log.Tree.Hash != tree.Hash {
		return nil, falsehood("the records are not those that the checkpoint commits to: the control plane has shown others")
	}
	return log, nil
}

// shownRecords iterates over the first size entries of the audit log, as the
// openings that the control plane shows make them: whether they are the log's, the
// root hash says at the end.
func shownRecords(ctx context.Context, c *client.Client, size int64) iter.Seq2[wholelog.Entry, error] {
	return func(yield func(wholelog.Entry, error) bool) {
		fail := func(err error) { yield(wholelog.Entry{}, err) }
		for next := int64(0); next < size; {
			res, err := patiently(ctx, pause, func(ctx context.Context) (*connect.Response[pb.ListRecordsResponse], error) {
				return c.Log.ListRecords(ctx, connect.NewRequest(&pb.ListRecordsRequest{Start: uint64(next), PageSize: 1000}))
			})
			if err != nil {
				fail(err)
				return
			}
			if len(res.Msg.Records) == 0 {
				fail(falsehood("the control plane shows %d records, its checkpoint covers %d", next, size))
				return
			}
			for _, r := range res.Msg.Records[:min(size-next, int64(len(res.Msg.Records)))] {
				if r.Index != uint64(next) {
					fail(falsehood("the control plane shows record %d where record %d is due", r.Index, next))
					return
				}
				opening, err := record.ParseOpening(r.Opening)
				if err != nil {
					fail(falsehood("record %d: %w", next, err))
					return
				}
				entry := opening.Entry()
				if !yield(wholelog.Entry{Data: entry[:], Opening: r.Opening}, nil) {
					return
				}
				next++
			}
		}
	}
}
