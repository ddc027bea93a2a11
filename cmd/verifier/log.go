package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// requestTimeout bounds one request, its body included: 16 MiB over a slow line.
const requestTimeout = 2 * time.Minute

// logFlags are the flags of verifier log.
type logFlags struct {
	vkey, policy, state string
	workers             int
	json, quiet         bool
}

// logReport is what log --json prints.
type logReport struct {
	*tiles.Report
	Cosignatures []verifier.Cosignature `json:"cosignatures,omitempty"`
	State        string                 `json:"state"` // file that remembers the checkpoint
}

func logCommand() *cobra.Command {
	var f logFlags
	cmd := &cobra.Command{
		Use:   "log URL|DIRECTORY",
		Short: "Download a log, recompute its tree, compare it with the last time",
		Long: `Download every entry of a c2sp.org/tlog-tiles log from its monitoring prefix,
recompute the tree, and compare it with the log's checkpoint, its tiles, and the
tree that was verified the last time. Only what is new since then is downloaded.
An interrupted run goes on where it stopped. In place of the URL it takes a
directory with a static copy, such as an export or a mirror makes. A copy that is
behind what was verified before is reported as a log that went back: remember
copies in a state file of their own.

What was verified is kept in a state file, by default below the user's
configuration folder. It is trusted: keep it where nobody else can write.

` + exitTable(),
		Example: "  verifier log https://control.example/audit --policy audit.policy\n" +
			"  verifier log http://127.0.0.1:8400 --vkey example.com/log+1234abcd+AQ…\n" +
			"  verifier log /srv/www/log --vkey example.com/log+1234abcd+AQ… --state copy.state",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runLog(cmd, f, args[0]) },
	}
	cmd.Flags().StringVar(&f.vkey, "vkey", "", "verifier `KEY` of the log; its cosignatures are not looked at")
	cmd.Flags().StringVar(&f.policy, "policy", "", "trust policy `FILE` of the log, instead of --vkey")
	cmd.Flags().StringVar(&f.state, "state", "", "`FILE` that remembers what was verified (default below the user's configuration folder)")
	cmd.Flags().IntVar(&f.workers, "workers", tiles.DefaultWorkers, "parallel downloads, 1 to 64")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the report as JSON")
	cmd.Flags().BoolVar(&f.quiet, "quiet", false, "do not show progress")
	return cmd
}

func runLog(cmd *cobra.Command, f logFlags, place string) error {
	policy, err := f.readPolicy(cmd)
	if err != nil {
		return err
	}
	origin, err := policy.Origin()
	if err != nil {
		return fail(exitMalformed, "name one log in the policy", "policy: %w", err)
	}
	if f.workers < 1 || f.workers > 64 {
		return wiring.Usage(cmd, fmt.Errorf("--workers %d: want 1 to 64", f.workers))
	}
	fetch, err := tiles.Locate(&http.Client{Timeout: requestTimeout}, place)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(exitNetwork, "name a URL or a directory with a copy of the log", "reading the log: %w", err)
	}
	if err != nil {
		return wiring.Usage(cmd, err)
	}
	if f.state == "" {
		if f.state, err = defaultState(origin); err != nil {
			return err
		}
	}
	remembered, err := readState(f.state)
	if err != nil {
		return err
	}

	audit := tiles.Audit{Fetch: fetch, Policy: policy, Workers: f.workers}
	progress := newProgress(cmd.ErrOrStderr(), f.quiet)
	audit.Progress = progress.show
	report, state, err := audit.Run(cmd.Context(), remembered)
	progress.clear()
	if err != nil && anotherLog(err, policy, origin, remembered) {
		return fail(exitOther, "another log of the same name wants a state file of its own: name one with --state; if the log's key was replaced, name the old key in the policy too, and this is proof of what the log did",
			"state file %q remembers a checkpoint of %q that is signed by no key of the policy, and this log does not extend it", f.state, origin)
	}
	var fork *tiles.ForkError
	if errors.As(err, &fork) {
		if saved := saveEvidence(f.state+".evidence", policy, fork); saved != nil {
			return errors.Join(err, saved)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "verifier: evidence of the fork is in %q\n", f.state+".evidence")
	}
	if state != nil {
		if saved := saveState(f.state, state); saved != nil {
			return errors.Join(err, saved)
		}
	}
	if err != nil {
		return err
	}
	out := logReport{Report: report, State: f.state}
	for _, c := range report.Cosignatures {
		out.Cosignatures = append(out.Cosignatures, verifier.Cosignature(c))
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), out)
	}
	printLog(cmd.OutOrStdout(), out)
	return nil
}

// anotherLog reports whether what contradicts the log was remembered of a log
// that the policy does not name, though it has the same origin: that says nothing
// against this one.
func anotherLog(err error, policy *checkpoint.Policy, origin string, remembered *tiles.State) bool {
	if remembered == nil || !errors.Is(err, tiles.ErrFork) && !errors.Is(err, tiles.ErrRollback) {
		return false
	}
	_, err = checkpoint.Open(remembered.Checkpoint, origin, policy.LogKeys(origin))
	return errors.Is(err, checkpoint.ErrLogSignature)
}

// readPolicy reads the policy, or makes one of the key.
func (f *logFlags) readPolicy(cmd *cobra.Command) (*checkpoint.Policy, error) {
	if (f.vkey == "") == (f.policy == "") {
		return nil, wiring.Usage(cmd, errors.New("one of --vkey and --policy is required: it says which log is believed"))
	}
	if f.policy != "" {
		return readPolicy("policy", f.policy)
	}
	p, err := checkpoint.ParsePolicy([]byte("log " + f.vkey + "\nquorum none\n"))
	if err != nil {
		return nil, wiring.Usage(cmd, fmt.Errorf("--vkey %q: %w", f.vkey, err))
	}
	return p, nil
}

// defaultState is the state file of a log, one for each origin.
func defaultState(origin string) (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fail(exitFailed, "name a state file with --state", "%w", err)
	}
	return filepath.Join(dir, "tallystick", "verifier", fmt.Sprintf("%x.json", sha256.Sum256([]byte(origin)))), nil
}

func readState(name string) (*tiles.State, error) {
	b, err := readFile("state", name, tiles.MaxStateSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	state, err := tiles.ParseState(b)
	if err != nil {
		return nil, fmt.Errorf("state file %q: %w", name, err)
	}
	return state, nil
}

func saveState(name string, state *tiles.State) error {
	b, err := state.Marshal()
	if err != nil {
		return err
	}
	return writeFile(name, append(b, '\n'))
}

// saveEvidence keeps both checkpoints of a fork.
func saveEvidence(name string, policy *checkpoint.Policy, fork *tiles.ForkError) error {
	b, err := fork.Evidence(policy).Format()
	if err != nil {
		return err
	}
	return writeFile(name, b)
}

func printLog(w io.Writer, r logReport) {
	fmt.Fprintf(w, "VERIFIED\n\n")
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("log", "%s", r.Origin)
	row("size", "%d", r.Size)
	row("root hash", "%s", r.RootHash)
	for _, c := range r.Cosignatures {
		row("cosigned by", "%s at %s", c.Witness, time.Unix(c.Timestamp, 0).UTC().Format(time.RFC3339))
	}
	if r.Remembered > 0 {
		row("extends", "the tree of size %d that was verified before", r.Remembered)
	}
	row("checked", "%s and %s", wiring.Count(r.Entries, "entry"), wiring.Count(r.Tiles, "tile"))
	row("remembered in", "%s", r.State)
}
