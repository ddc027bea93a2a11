package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/wholelog"
)

// replayAllFlags are those of replay --all.
type replayAllFlags struct {
	all                            bool
	openings, membershipLog, state string
	jobs                           int
	quiet                          bool
}

// Saving: what the verdicts of the last saveAfter took is lost when the machine
// stops. A large state takes long to write, so at most every saveShare-th moment
// goes into that.
const (
	saveAfter = 2 * time.Second
	saveShare = 20
)

// replayAllReport is what replay --all --json prints.
type replayAllReport struct {
	Origin     string `json:"origin"`
	Size       int64  `json:"size"`  // entries that were read
	Shown      int64  `json:"shown"` // entries that the log has; there are no openings of the rest
	RootHash   string `json:"root_hash"`
	Executions int64  `json:"executions"` // in the log
	Open       int64  `json:"open"`       // not decided at that size
	Replayed   int64  `json:"replayed"`   // by this run
	// The rest is of all runs that the state file remembers.
	Same        int64           `json:"same"`
	NoResult    int64           `json:"no_result"`
	Differs     []verdict       `json:"differs"`
	NotReplayed []verdict       `json:"not_replayed"`
	Voids       []wholelog.Void `json:"void_records"`
	State       string          `json:"state"`
	Isolation   *isolation      `json:"isolation,omitempty"` // of this run, if it replayed any
}

// replayAll recomputes the state of every execution of an audit log and replays
// the complete ones.
func replayAll(cmd *cobra.Command, f *replayFlags, place string) error {
	if f.all.openings == "" || f.all.membershipLog == "" {
		return wiring.Usage(cmd, errors.New("--openings and --membership-log are required with --all"))
	}
	if f.all.jobs < 1 || f.all.jobs > 64 {
		return wiring.Usage(cmd, fmt.Errorf("--jobs %d: want 1 to 64", f.all.jobs))
	}
	if f.execution != "" || f.changes != "" {
		return wiring.Usage(cmd, errors.New("--execution and --changes are for bundles"))
	}
	trust, _, err := f.trust(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	history, err := readMembership(ctx, f.all.membershipLog, trust)
	if err != nil {
		return err
	}
	source, err := openSource(ctx, place, trust.AuditPolicy)
	if err != nil {
		return err
	}
	if err := verifier.CheckLogKey(history, membership.LogAudit, trust.AuditPolicy, source.Note()); err != nil {
		return err
	}
	c := source.Checkpoint()
	if f.all.state == "" {
		if f.all.state, err = defaultReplayState(c.Origin); err != nil {
			return err
		}
	}
	state, err := readReplayState(ctx, f.all.state, source)
	if err != nil {
		return err
	}
	bar := newProgress(cmd.ErrOrStderr(), f.all.quiet)
	log, err := readLog(ctx, source, f.all.openings, history, bar.show)
	bar.clear()
	if err != nil {
		return err
	}
	if log.Tree.N < state.Size {
		return fail(exitNoOutcome, "save the openings again", "%q ends before entry %d, and an earlier run has read %d", f.all.openings,
			log.Tree.N, state.Size)
	}
	state.read(log.Tree)
	report := &replayAllReport{Origin: c.Origin, Size: log.Tree.N, Shown: c.Size, RootHash: log.Tree.Hash.String(), Voids: log.Voids, State: f.all.state}
	err = f.replayDecided(ctx, log, state, report, bar)
	bar.clear()
	if saved := state.save(f.all.state); saved != nil {
		return errors.Join(err, saved)
	}
	if err != nil {
		return err
	}
	report.remembers(state)
	if f.json {
		if err := printJSON(cmd.OutOrStdout(), report); err != nil {
			return err
		}
	} else {
		printReplayAll(cmd.OutOrStdout(), report)
	}
	return report.verdict()
}

// remembers takes what all runs have found, this one and those before.
func (r *replayAllReport) remembers(s *replayState) {
	r.Same, r.NoResult, r.Differs, r.NotReplayed = s.Same, s.NoResult, s.Differs, s.notReplayed()
}

// verdict is the error of the worst that was found.
func (r *replayAllReport) verdict() error {
	if n := len(r.Differs); n > 0 {
		return fail(exitDiffers, "replay their bundles one by one; if your blobs and release are right, the attested outcomes are not what contracts and inputs make",
			"another outcome than the attested one: %s", wiring.Count(n, "execution"))
	}
	if len(r.Voids) > 0 {
		return fail(exitRules, "the outcomes do not rest on them; ask the operator why the control plane wrote them",
			"the log has %s: an honest control plane writes none", r.voids())
	}
	if n := len(r.NotReplayed); n > 0 {
		return fail(exitNoOutcome, "give what is missing and run the same command again: it tries these executions only",
			"not replayed: %s", wiring.Count(n, "execution"))
	}
	return nil
}

// voids counts the void records that were found, of which not all are listed.
func (r *replayAllReport) voids() string {
	found := wiring.Count(len(r.Voids), "void record")
	if len(r.Voids) == wholelog.MaxVoids {
		found += " or more"
	}
	return found
}

func defaultReplayState(origin string) (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fail(exitFailed, "name a state file with --state", "%w", err)
	}
	return filepath.Join(dir, "tallystick", "verifier", fmt.Sprintf("%x.replay.json", sha256.Sum256([]byte(origin)))), nil
}

// due returns the executions to look at, in the order in which they were decided:
// those that could not be replayed before, and those that are new. It counts the
// executions of the log.
func due(log *wholelog.Log, state *replayState, report *replayAllReport) []digest.Digest {
	again := map[digest.Digest]bool{}
	for _, v := range state.NotReplayed {
		again[v.Execution] = true
	}
	type decision struct {
		id digest.Digest
		at int64
	}
	var list []decision
	for ex := range log.Fold.Executions() {
		report.Executions++
		switch {
		case ex.State == provenance.StateOpen:
			report.Open++
		case ex.DecidedAt >= state.Through || again[ex.ID]:
			list = append(list, decision{ex.ID, ex.DecidedAt})
		}
	}
	slices.SortFunc(list, func(a, b decision) int { return cmp.Compare(a.at, b.at) })
	ids := make([]digest.Digest, len(list))
	for i, d := range list {
		ids[i] = d.id
	}
	return ids
}

// replayDecided replays what is due, several at a time, and takes the verdicts in
// the order of the decisions, so that the state is complete up to an index
// whenever it is saved. It returns when all runs have ended.
func (f *replayFlags) replayDecided(ctx context.Context, log *wholelog.Log, state *replayState, report *replayAllReport, bar *progress) error {
	ids := due(log, state, report)
	state.retry()
	if len(ids) == 0 {
		return nil
	}
	from, err := openBlobs(f.blobs, f.places)
	if err != nil {
		return err
	}
	m, err := newMachine(f.interpreter, f.all.jobs)
	if err != nil {
		return err
	}
	defer m.Close()
	report.Isolation = isolationOf(m)
	ctx, cancel := context.WithCancel(ctx)
	// A verdict's channel is in the queue while its run goes on, so the queue's
	// capacity and the one that is waited for bound the runs and their payloads.
	type answer struct {
		verdict verdict
		err     error
	}
	queue := make(chan chan answer, f.all.jobs-1)
	go func() {
		defer close(queue)
		for _, id := range ids {
			done := make(chan answer, 1)
			select {
			case queue <- done:
			case <-ctx.Done():
				return
			}
			go func() {
				v, err := f.judge(ctx, log, m, from, id)
				done <- answer{v, err}
			}()
		}
	}()
	defer func() {
		cancel()
		for done := range queue {
			<-done
		}
	}()
	var next time.Time // of saving: the first verdict is saved at once, so that a state that cannot be is found out early
	for n := range ids {
		done, ok := <-queue
		if !ok {
			return ctx.Err()
		}
		a := <-done
		if a.err != nil {
			return a.err
		}
		state.add(a.verdict)
		report.Replayed++
		bar.showOf("replayed", int64(n+1), int64(len(ids)), "executions")
		if now := time.Now(); !now.Before(next) {
			if err := state.save(f.all.state); err != nil {
				return err
			}
			next = time.Now().Add(max(saveAfter, saveShare*time.Since(now)))
		}
	}
	return nil
}

// judge replays one execution. An error means that nothing was found out, since
// the context has ended.
func (f *replayFlags) judge(ctx context.Context, log *wholelog.Log, m machine, from *blobs, id digest.Digest) (verdict, error) {
	ex, _ := log.Fold.Execution(id)
	v := verdict{Execution: id, DecidedAt: ex.DecidedAt, Verdict: verdictNoResult}
	if ex.State != provenance.StateComplete {
		return v, nil
	}
	r := &rerun{contract: ex.Contract, input: ex.Submission.Input, attested: *ex.Outcome, result: digest.Digest(ex.Provenance().GetResultDigest()),
		rewritten: map[string]digest.Digest{}}
	for _, a := range ex.Attestations {
		if a.Agrees && a.Statement.RewrittenModule != nil {
			r.rewritten[a.Node] = *a.Statement.RewrittenModule
		}
	}
	for i, parent := range ex.Submission.Parents {
		r.parents = append(r.parents, parentOutput{parent, ex.ParentOutputs[i]})
	}
	found, err := r.run(ctx, m, from, f.timeout)
	switch {
	case ctx.Err() != nil:
		return v, ctx.Err()
	case err != nil:
		v.Verdict, v.Detail = verdictNotRun, err.Error()
		for _, d := range ex.Payloads() {
			if why := erasureOf(log, ex, d); why != "" && errors.Is(err, errNoBlob) {
				v.Detail += "; " + why
			}
		}
		return v, nil
	}
	v.Verdict = verdictSame
	if v.Detail = firstDifference(r.compare(found)); v.Detail != "" {
		v.Verdict = verdictDiffers
	}
	return v, nil
}

func printReplayAll(w io.Writer, r *replayAllReport) {
	verdict := "VERIFIED"
	switch {
	case len(r.Differs) > 0:
		verdict = "DIFFERENT"
	case len(r.Voids) > 0:
		verdict = "VOID RECORDS"
	case len(r.NotReplayed) > 0:
		verdict = "NOT ALL REPLAYED"
	}
	if r.Size < r.Shown {
		verdict += fmt.Sprintf(" UP TO ENTRY %d OF %d: there are no openings of the last %d", r.Size, r.Shown, r.Shown-r.Size)
	}
	fmt.Fprintf(w, "%s\n\n", verdict)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("log", "%s, size %d, root hash %s", r.Origin, r.Size, r.RootHash)
	if r.Size < r.Shown {
		row("", "the log has grown to %d entries: save the openings again for the rest", r.Shown)
	}
	row("executions", "%d in the log, %d of them open; %d looked at by this run", r.Executions, r.Open, r.Replayed)
	row("same", "%d have the attested outcome, bit for bit", r.Same)
	row("no result", "%d diverged, were cancelled or expired: recomputed, nothing to replay", r.NoResult)
	row("differs", "%d", len(r.Differs))
	for _, v := range r.Differs {
		row("", "%s: %s", v.Execution, v.Detail)
	}
	row("not replayed", "%d", len(r.NotReplayed))
	for _, v := range r.NotReplayed {
		row("", "%s: %s", v.Execution, v.Detail)
	}
	if len(r.Voids) > 0 {
		row("void records", "%s, without effect: an honest control plane writes none", r.voids())
		for _, v := range r.Voids {
			row("", "record %d (%s): %s: %s", v.Index, v.Kind, v.Code, v.Detail)
		}
	}
	if r.Isolation != nil {
		row("run in", "%s", r.Isolation)
	}
	row("remembered in", "%s", r.State)
}
