package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/sandbox"
)

// rerun is what is needed to run an execution again and to compare.
type rerun struct {
	contract *contract.Contract
	input    digest.Digest // of the submission's own input
	parents  []parentOutput
	attested contract.Outcome
	result   digest.Digest // the attested result digest
	// rewritten is the digest of what each agreeing node ran, by node; none under
	// rewriter 0. It is no part of the outcome.
	rewritten map[string]digest.Digest
}

type parentOutput struct{ id, output digest.Digest }

// machine runs jobs.
type machine interface {
	Run(ctx context.Context, job sandbox.Job) (*sandbox.Result, error)
}

// newMachine makes a machine for as many runs at a time. Modules are strangers',
// so they run in confined worker processes, and never in this one, which reads
// what the auditor trusts: interpreted too, since an interpreter has faults as
// well.
func newMachine(interpreter bool, jobs int) (*sandbox.Pool, error) {
	pool, err := sandbox.NewPool(sandbox.PoolConfig{Workers: jobs, Interpreter: interpreter})
	if err != nil {
		return nil, fail(exitNoOutcome, "modules run in processes of their own only: see that this machine can start them", "starting the sandbox: %w", err)
	}
	return pool, nil
}

// isolation says what confined the runs of a replay, in the words of "tally nodes".
type isolation struct {
	Enforced []string `json:"enforced"`
	// Missing says why something is not enforced, if anything is not.
	Missing string `json:"missing,omitempty"`
}

func isolationOf(m *sandbox.Pool) *isolation {
	e := m.Enforcement()
	return &isolation{e.Names(), e.Note}
}

// String is one line.
func (i *isolation) String() string {
	s := "worker processes with " + strings.Join(i.Enforced, ", ")
	if i.Missing != "" {
		s += "; missing: " + i.Missing
	}
	return s
}

// replayed is what a replay found.
type replayed struct {
	outcome   contract.Outcome
	rewritten *digest.Digest // nil under rewriter 0
}

// run fetches the payloads and runs the execution on a machine. An error means
// that there is no outcome to compare; it has the exit code for that.
func (r *rerun) run(ctx context.Context, m machine, from *blobs, timeout time.Duration) (*replayed, error) {
	if err := sandbox.Supports(r.contract.Versions); err != nil {
		return nil, fail(exitNoOutcome, "use a release that has them", "the contract is for %w", err)
	}
	find := func(what string, d digest.Digest) ([]byte, error) {
		data, err := from.get(ctx, d)
		if errors.Is(err, errNoBlob) {
			return nil, fail(exitNoOutcome, "name a file with it by --blob, or a place that has it by --blobs", "%w is the %s with digest %s", errNoBlob, what, d)
		}
		if err != nil {
			return nil, fail(exitNoOutcome, "", "the %s with digest %s: %w", what, d, err)
		}
		return data, nil
	}
	module, err := find("module", r.contract.Module)
	if err != nil {
		return nil, err
	}
	var input []byte
	limit := min(r.contract.Limits.InputBytes, sandbox.MaxInputBytes)
	join := func(what string, d digest.Digest) error {
		data, err := find(what, d)
		if err != nil {
			return err
		}
		if n := uint64(len(input)) + uint64(len(data)); n > limit {
			return fail(exitNoOutcome, "", "the input has %d bytes or more with the %s, and may have %d", n, what, limit)
		}
		input = append(input, data...)
		return nil
	}
	for _, p := range r.parents {
		if err := join("output of parent "+p.id.String(), p.output); err != nil {
			return nil, err
		}
	}
	if err := join("input", r.input); err != nil {
		return nil, err
	}
	job := sandbox.JobOf(r.contract, module, input)
	job.Limits.WallClock = timeout
	job.MemoryDigest = r.attested.MemoryDigest != nil
	result, err := m.Run(ctx, job)
	var refusal *sandbox.Refusal
	switch {
	case errors.As(err, &refusal), errors.Is(err, sandbox.ErrInvalidJob):
		return nil, fail(exitNoOutcome, "", "this release does not run the module: %w", err)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, sandbox.ErrStopped):
		return nil, fail(exitNoOutcome, "a longer --timeout may help", "the module did not end: %w", err)
	case err != nil:
		return nil, fail(exitNoOutcome, "", "running the module: %w", err)
	}
	out := &replayed{outcome: result.Outcome.Attested()}
	if result.RewrittenModule != nil {
		d := digest.Digest(*result.RewrittenModule)
		out.rewritten = &d
	}
	return out, nil
}

// compared is one member of an outcome as it was attested and as the replay has it.
type compared struct {
	Field    string `json:"field"`
	Attested string `json:"attested"`
	Replayed string `json:"replayed"`
	Same     bool   `json:"same"`
}

// compare holds every member of the replay's outcome against the attested one,
// the result digest, which covers all of them, and the digest of the module as it
// ran against what each node says. Contract, module and inputs are those whose
// digests were attested, since they are found by them.
func (r *rerun) compare(found *replayed) []compared {
	a, replayed := r.attested, found.outcome
	out := []compared{
		compareField("kind", a.Kind, replayed.Kind),
		compareField("exit_code", a.ExitCode, replayed.ExitCode),
		compareField("gas", optional(a.Gas), optional(replayed.Gas)),
		compareField("peak_pages", a.PeakPages, replayed.PeakPages),
		compareField("output_length", a.OutputLength, replayed.OutputLength),
		compareField("output_digest", a.OutputDigest, replayed.OutputDigest),
		compareField("diagnostics_length", a.DiagnosticsLength, replayed.DiagnosticsLength),
		compareField("diagnostics_digest", a.DiagnosticsDigest, replayed.DiagnosticsDigest),
		compareField("memory_digest", optional(a.MemoryDigest), optional(replayed.MemoryDigest)),
	}
	out = append(out, compareField("result_digest", r.result, replayed.ResultDigest()))
	for _, node := range slices.Sorted(maps.Keys(r.rewritten)) {
		out = append(out, compareField("rewritten_module of "+node, r.rewritten[node].String(), optional(found.rewritten)))
	}
	return out
}

func compareField[T comparable](name string, attested, replayed T) compared {
	return compared{name, fmt.Sprint(attested), fmt.Sprint(replayed), attested == replayed}
}

// optional is the text of a member that may be absent.
func optional[T any](v *T) string {
	if v == nil {
		return "absent"
	}
	return fmt.Sprint(*v)
}

// firstDifference says in words in which member two outcomes differ first, "" if
// they are the same bit for bit.
func firstDifference(list []compared) string {
	for _, c := range list {
		if !c.Same {
			return fmt.Sprintf("%s: attested %s, replayed %s", c.Field, c.Attested, c.Replayed)
		}
	}
	return ""
}
