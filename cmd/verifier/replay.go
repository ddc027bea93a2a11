package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/verifier"
)

// replayFlags are what replaying one execution and replaying all have in common.
type replayFlags struct {
	trustFlags
	blobs, places []string
	timeout       time.Duration
	interpreter   bool
	all           replayAllFlags
}

// replayReport is what replay --json prints.
type replayReport struct {
	Report *verifier.Report `json:"report"`
	// Same says that the outcome of the replay is the attested one.
	Same bool `json:"same"`
	// Difference names the first member of the outcome that differs.
	Difference string            `json:"difference,omitempty"`
	Compared   []compared        `json:"compared,omitempty"`
	Outcome    *contract.Outcome `json:"outcome,omitempty"` // of the replay
	Isolation  *isolation        `json:"isolation,omitempty"`
}

func replayCommand() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay BUNDLE | --all LOG",
		Short: "Run the module of an execution again, or of a whole log, and compare the outcomes",
		Long: `Check a proof bundle as "verifier proof" does, then run the module again on this
machine, in a confined process of its own, and compare every member of the outcome
with the attested one.

The payloads are the module, the submission's input (not needed when it is empty),
and the outputs of the parents. They are recognised by their digests: --blob names
a file with one, --blobs a folder or a URL that has them under their digests in
hexadecimal.

With --all the argument is the audit log, as a URL or a folder with a static copy.
Every entry of it is opened with the file of --openings, which an auditor saves with
"tally log openings", the state of every execution is recomputed, and every complete
one is run again. The membership log is read from the URL or folder that
--membership-log names. What cannot be replayed is named and never counted as good.
A run that is interrupted goes on where it was; a later run replays what is new.

` + exitTable(),
		Example: "  verifier replay run.tallyproof --policy audit.policy --membership-policy membership.policy \\\n" +
			"      --genesis genesis.json --blob inventory.wasm --blob go.sum\n" +
			"  verifier replay --all https://control.example/audit --membership-log https://control.example/membership \\\n" +
			"      --openings audit.openings --blobs payloads/ --policy audit.policy \\\n" +
			"      --membership-policy membership.policy --genesis genesis.json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.all.all {
				return replayAll(cmd, &f, args[0])
			}
			if f.all.openings != "" || f.all.membershipLog != "" {
				return wiring.Usage(cmd, errors.New("--openings and --membership-log are for --all"))
			}
			return replayBundle(cmd, &f, args[0])
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVar(&f.blobs, "blob", nil, "`FILE` with a payload: module, input or a parent's output; repeat for each")
	cmd.Flags().StringArrayVar(&f.places, "blobs", nil, "`FOLDER` or URL with payloads under their digests; repeat for each")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "give up on a run after this time")
	cmd.Flags().BoolVar(&f.interpreter, "interpreter", false, "run by the engine's interpreter, some hundred times slower, for a second opinion")
	cmd.Flags().BoolVar(&f.all.all, "all", false, "replay every execution of an audit log")
	cmd.Flags().StringVar(&f.all.openings, "openings", "", "`FILE` with the openings of the audit log, with --all")
	cmd.Flags().StringVar(&f.all.membershipLog, "membership-log", "", "`URL` or folder of the membership log, with --all")
	cmd.Flags().StringVar(&f.all.state, "state", "", "`FILE` that remembers what was replayed (default below the user's configuration folder), with --all")
	cmd.Flags().IntVar(&f.all.jobs, "jobs", runtime.GOMAXPROCS(0), "runs at a time, 1 to 64, with --all")
	cmd.Flags().BoolVar(&f.all.quiet, "quiet", false, "do not show progress, with --all")
	return cmd
}

// replayBundle verifies a bundle and replays its execution.
func replayBundle(cmd *cobra.Command, f *replayFlags, name string) error {
	report, err := f.verify(cmd, name)
	if report == nil {
		return err
	}
	w := cmd.OutOrStdout()
	if !f.json {
		printSteps(w, report.Steps)
	}
	out := replayReport{Report: report}
	if err == nil {
		err = f.replayOne(cmd.Context(), &out)
	}
	if f.json {
		err = firstError(err, printJSON(w, out))
	}
	if err == nil && !out.Same {
		err = fail(exitDiffers, "if your blobs and release are right, the attested outcome is not what the contract and input make; keep the bundle",
			"the replay differs in %s", out.Difference)
	}
	if err == nil && !f.json {
		fmt.Fprintf(w, "%d. %-12s %-6s  %s\n", len(report.Steps)+1, "replay", "ok", "running the module again has the same outcome, bit for bit")
		fmt.Fprintf(w, "                        %d members compared, result digest %s\n", len(out.Compared), out.Outcome.ResultDigest())
		fmt.Fprintf(w, "                        run in %s\n", out.Isolation)
		printSummary(w, report)
	}
	return err
}

// replayOne runs the execution of a verified bundle again.
func (f *replayFlags) replayOne(ctx context.Context, out *replayReport) error {
	r, err := rerunOf(out.Report.Execution)
	if err != nil {
		return err
	}
	from, err := openBlobs(f.blobs, f.places)
	if err != nil {
		return err
	}
	m, err := newMachine(f.interpreter, 1)
	if err != nil {
		return err
	}
	defer m.Close()
	out.Isolation = isolationOf(m)
	found, err := r.run(ctx, m, from, f.timeout)
	if err != nil {
		return err
	}
	out.Outcome, out.Compared = &found.outcome, r.compare(found)
	out.Difference = firstDifference(out.Compared)
	out.Same = out.Difference == ""
	return nil
}

// rerunOf reads from a verified bundle's execution what a replay takes.
func rerunOf(e *verifier.Execution) (*rerun, error) {
	r := &rerun{contract: e.Contract, attested: e.Outcome, rewritten: map[string]digest.Digest{}}
	var err error
	for _, n := range e.Nodes {
		if n.RewrittenModule == "" {
			continue
		}
		if r.rewritten[n.ID], err = digest.Parse(n.RewrittenModule); err != nil {
			return nil, err
		}
	}
	if r.input, err = digest.Parse(e.InputDigest); err != nil {
		return nil, err
	}
	if r.result, err = digest.Parse(e.ResultDigest); err != nil {
		return nil, err
	}
	for _, p := range e.Parents {
		var parent parentOutput
		if parent.id, err = digest.Parse(p.ID); err != nil {
			return nil, err
		}
		if parent.output, err = digest.Parse(p.OutputDigest); err != nil {
			return nil, err
		}
		r.parents = append(r.parents, parent)
	}
	return r, nil
}
