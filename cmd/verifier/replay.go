package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox"
	"github.com/tallystick/tallystick/verifier"
)

// maxBlob bounds a payload: the largest module and the largest input that the
// sandbox takes are both as large.
const maxBlob = max(sandbox.MaxModuleBytes, sandbox.MaxInputBytes)

// replayReport is what replay --json prints.
type replayReport struct {
	Report *verifier.Report `json:"report"`
	// Same says that the outcome of the replay is the attested one.
	Same bool `json:"same"`
	// Difference names the first member of the outcome that differs.
	Difference string            `json:"difference,omitempty"`
	Outcome    *contract.Outcome `json:"outcome,omitempty"` // of the replay
}

func replayCommand() *cobra.Command {
	var f trustFlags
	var blobs []string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "replay BUNDLE",
		Short: "Check a proof bundle, run its module again, and compare the outcome",
		Long: `Check a proof bundle as "verifier proof" does, then run the module again on this
machine, in a process of its own, and compare every member of the outcome with
the attested one.

The payloads are named by --blob: the module, the submission's input (not needed
when it is empty), and the outputs of the parents. They are recognised by their
digests, so their order does not matter.

` + exitTable(),
		Example: "  verifier replay run.tallyproof --policy audit.policy --membership-policy membership.policy \\\n" +
			"      --genesis genesis.json --blob inventory.wasm --blob go.sum",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := f.verify(cmd, args[0])
			if report == nil {
				return err
			}
			w := cmd.OutOrStdout()
			if !f.json {
				printSteps(w, report.Steps)
			}
			out := replayReport{Report: report}
			if err == nil {
				out.Outcome, err = replay(cmd.Context(), report.Execution, blobs, timeout)
			}
			if err == nil {
				out.Difference = difference(report.Execution.Outcome, *out.Outcome)
				out.Same = out.Difference == ""
			}
			if f.json {
				err = firstError(err, printJSON(w, out))
			}
			if err == nil && !out.Same {
				err = fail(exitDiffers, "if your blobs and release are right, the attested outcome is not what the contract and input make; keep the bundle",
					"the replay differs in %s", out.Difference)
			}
			if err == nil && !f.json {
				fmt.Fprintf(w, "8. %-12s %-6s  %s\n", "replay", "ok", "running the module again has the same outcome, bit for bit")
				fmt.Fprintf(w, "                        result digest %s\n", out.Outcome.ResultDigest())
				printSummary(w, report)
			}
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVar(&blobs, "blob", nil, "`FILE` with a payload: module, input or a parent's output; repeat for each")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "give up after this time")
	return cmd
}

// replay runs the execution again.
func replay(ctx context.Context, e *verifier.Execution, blobs []string, timeout time.Duration) (*contract.Outcome, error) {
	c := e.Contract
	if err := sandbox.Supports(c.Versions); err != nil {
		return nil, fail(exitNoOutcome, "use a release that has them", "the contract is for %w", err)
	}
	byDigest := map[string][]byte{digest.Of(nil).String(): nil}
	for _, name := range blobs {
		b, err := readFile("blob", name, int64(maxBlob))
		if err != nil {
			return nil, err
		}
		byDigest[digest.Of(b).String()] = b
	}
	find := func(what, sum string) ([]byte, error) {
		b, ok := byDigest[sum]
		if !ok {
			return nil, fail(exitNoOutcome, "name a file with it by --blob", "no blob is the %s with digest %s", what, sum)
		}
		return b, nil
	}
	module, err := find("module", e.ModuleDigest)
	if err != nil {
		return nil, err
	}
	var input []byte
	for _, p := range e.Parents {
		b, err := find("output of parent "+p.ID, p.OutputDigest)
		if err != nil {
			return nil, err
		}
		input = append(input, b...)
	}
	own, err := find("input", e.InputDigest)
	if err != nil {
		return nil, err
	}
	job := sandbox.JobOf(c, module, append(input, own...))
	job.Limits.WallClock = timeout
	job.MemoryDigest = e.Outcome.MemoryDigest != nil
	return run(ctx, job)
}

// run runs a job in a worker process: the module is a stranger's.
func run(ctx context.Context, job sandbox.Job) (*contract.Outcome, error) {
	pool, err := sandbox.NewPool(sandbox.PoolConfig{Workers: 1})
	if err != nil {
		return nil, fail(exitNoOutcome, "", "starting the sandbox: %w", err)
	}
	defer pool.Close()
	result, err := pool.Run(ctx, job)
	var refusal *sandbox.Refusal
	switch {
	case errors.As(err, &refusal), errors.Is(err, sandbox.ErrInvalidJob):
		return nil, fail(exitNoOutcome, "", "this release does not run the module: %w", err)
	case errors.Is(err, sandbox.ErrStopped):
		return nil, fail(exitNoOutcome, "a longer --timeout may help", "the module did not end: %w", err)
	case err != nil:
		return nil, fail(exitNoOutcome, "", "running the module: %w", err)
	}
	o := result.Outcome.Attested()
	return &o, nil
}

// difference names the first member in which two outcomes differ and both its
// values, "" if they are the same bit for bit.
func difference(attested, replayed contract.Outcome) string {
	optional := func(n *uint64) any {
		if n == nil {
			return "absent"
		}
		return *n
	}
	memory := func(d *digest.Digest) any {
		if d == nil {
			return "absent"
		}
		return *d
	}
	for _, f := range []struct {
		name string
		a, r any
	}{
		{"kind", attested.Kind, replayed.Kind},
		{"exit_code", attested.ExitCode, replayed.ExitCode},
		{"gas", optional(attested.Gas), optional(replayed.Gas)},
		{"output_length", attested.OutputLength, replayed.OutputLength},
		{"output_digest", attested.OutputDigest, replayed.OutputDigest},
		{"diagnostics_length", attested.DiagnosticsLength, replayed.DiagnosticsLength},
		{"diagnostics_digest", attested.DiagnosticsDigest, replayed.DiagnosticsDigest},
		{"peak_pages", attested.PeakPages, replayed.PeakPages},
		{"memory_digest", memory(attested.MemoryDigest), memory(replayed.MemoryDigest)},
	} {
		if f.a != f.r {
			return fmt.Sprintf("%s: attested %v, replayed %v", f.name, f.a, f.r)
		}
	}
	return ""
}
