package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/compare"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// minInterval is the shortest pause between two rounds: the sources are other
// people's servers.
const minInterval = time.Second

// compareFlags are the flags of verifier compare.
type compareFlags struct {
	trust              logFlags // only vkey and policy
	witnesses, mirrors []string
	notes              []string
	noPolicyWitnesses  bool
	state, evidence    string
	timeout, interval  time.Duration
	rounds, atLeast    int
	json               bool
}

// compareReport is what compare --json prints, one object a round.
type compareReport struct {
	Time string `json:"time"` // RFC 3339, UTC, when the round ended
	*compare.Report
	State string `json:"state"` // file that remembers what was seen
}

func compareCommand() *cobra.Command {
	var f compareFlags
	cmd := &cobra.Command{
		Use:   "compare URL...",
		Short: "Compare what a log shows to you, its mirrors and its witnesses",
		Long: `Ask the log for its checkpoint at each of the URLs, and ask mirrors and witnesses
for theirs, at the same time. Each that the log signed has to be a beginning of the
newest one, which the tiles (c2sp.org/tlog-tiles) of whoever has them show. Two that
are not are a split view: evidence of it is written to a file that anybody can check
with "verifier evidence".

Witnesses are those of the policy that have a URL, asked below their submission
prefix; --witness NAME=URL names another monitoring prefix, --witness URL one that
is not in the policy. What earlier runs have seen is compared too: a source that
shows less than before has gone back. A source that is behind is no split, and one
that does not answer does not stop the others.

With --interval the command goes on until it is interrupted, a split is found, or a
source has gone back.

` + exitTable(),
		Example: "  verifier compare https://control.example/audit --policy audit.policy -o evidence.json\n" +
			"  verifier compare https://log.example https://cdn.example/log --vkey KEY --witness https://witness.example --interval 1m",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runCompare(cmd, f, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.trust.vkey, "vkey", "", "verifier `KEY` of the log")
	flags.StringVar(&f.trust.policy, "policy", "", "trust policy `FILE` of the log, instead of --vkey; its witnesses are asked")
	flags.StringArrayVar(&f.witnesses, "witness", nil, "`[NAME=]URL`: monitoring prefix of a witness, by its name in the policy if it has one")
	flags.StringArrayVar(&f.mirrors, "mirror", nil, "`URL` or directory with a copy of the log")
	flags.StringArrayVar(&f.notes, "note", nil, "`FILE` with a signed checkpoint that somebody was shown, or with evidence that leaves a question open")
	flags.BoolVar(&f.noPolicyWitnesses, "no-policy-witnesses", false, "ask only the witnesses that --witness names")
	flags.StringVar(&f.state, "state", "", "`FILE` that remembers what was seen (default below the user's configuration folder)")
	flags.StringVarP(&f.evidence, "evidence", "o", "", "`FILE` for evidence of a split (default: the state file's name and .evidence)")
	flags.DurationVar(&f.timeout, "timeout", compare.DefaultTimeout, "how long one source may take, 10ms to 10m")
	flags.DurationVar(&f.interval, "interval", 0, "compare again after this time, at least 1s; 0 compares once")
	flags.IntVar(&f.rounds, "rounds", 0, "with --interval: end after so many rounds; 0 means never")
	flags.IntVar(&f.atLeast, "at-least", compare.DefaultAtLeast, "how many must show the log for a comparison to mean something")
	flags.BoolVar(&f.json, "json", false, "print the report as JSON, an object a round")
	return cmd
}

func (f *compareFlags) check(cmd *cobra.Command) error {
	switch {
	case f.timeout < 10*time.Millisecond || f.timeout > 10*time.Minute:
		return wiring.Usage(cmd, fmt.Errorf("--timeout %v: want 10ms to 10m", f.timeout))
	case f.interval != 0 && f.interval < minInterval:
		return wiring.Usage(cmd, fmt.Errorf("--interval %v: want %v or more, or 0", f.interval, minInterval))
	case f.rounds < 0 || f.rounds > 0 && f.interval == 0:
		return wiring.Usage(cmd, fmt.Errorf("--rounds %d: want a positive number, with --interval", f.rounds))
	case f.atLeast < 1 || f.atLeast > compare.MaxSources:
		return wiring.Usage(cmd, fmt.Errorf("--at-least %d: want 1 to %d", f.atLeast, compare.MaxSources))
	}
	return nil
}

func runCompare(cmd *cobra.Command, f compareFlags, urls []string) error {
	if err := f.check(cmd); err != nil {
		return err
	}
	policy, err := f.trust.readPolicy(cmd)
	if err != nil {
		return err
	}
	origin, err := policy.Origin()
	if err != nil {
		return fail(exitMalformed, "name one log in the policy", "policy: %w", err)
	}
	sources, err := f.sources(cmd, policy, urls)
	if err != nil {
		return err
	}
	if f.state == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return fail(exitFailed, "name a state file with --state", "%w", err)
		}
		f.state = filepath.Join(dir, "tallystick", "verifier", fmt.Sprintf("%x.compare.json", sha256.Sum256([]byte(origin))))
	}
	if f.evidence == "" {
		f.evidence = f.state + ".evidence"
	}
	state, err := readSeen(f.state)
	if err != nil {
		return err
	}
	c := &compare.Comparison{Policy: policy, Sources: sources, Timeout: f.timeout, AtLeast: f.atLeast}
	return f.loop(cmd, c, state)
}

// loop compares once, or again and again.
func (f *compareFlags) loop(cmd *cobra.Command, c *compare.Comparison, state *compare.State) error {
	ctx := cmd.Context()
	show := newTable(cmd.OutOrStdout(), f.interval != 0)
	var verdict error // of the last round
	for round := 1; ; round++ {
		report, next, err := c.Run(ctx, state)
		if ctx.Err() != nil && round > 1 {
			return verdict // to interrupt it is how it ends
		}
		if errors.Is(err, compare.ErrSources) {
			return wiring.Usage(cmd, err)
		}
		if err != nil {
			return classifyCompare(err)
		}
		if state = next; state != nil {
			if err := saveSeen(f.state, state); err != nil {
				return err
			}
		}
		if err := f.keepEvidence(report); err != nil {
			return err
		}
		out := compareReport{Time: time.Now().UTC().Format(time.RFC3339), Report: report, State: f.state}
		if f.json {
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetEscapeHTML(false)
			if err := enc.Encode(out); err != nil {
				return err
			}
		} else {
			show.print(out)
		}
		verdict = compareVerdict(report)
		final := report.Verdict == compare.VerdictSplit || report.Verdict == compare.VerdictWentBack
		if f.interval == 0 || final || round == f.rounds {
			return verdict
		}
		select {
		case <-time.After(f.interval):
		case <-ctx.Done():
			return verdict
		}
	}
}

// sources lists who is asked: the log at its URLs, mirrors, witnesses, files.
func (f *compareFlags) sources(cmd *cobra.Command, policy *checkpoint.Policy, urls []string) ([]compare.Source, error) {
	client := &http.Client{Timeout: f.timeout}
	var out []compare.Source
	add := func(kind compare.Kind, name, witness, place string) error {
		fetch, err := tiles.Locate(client, place)
		if err != nil {
			return wiring.Usage(cmd, fmt.Errorf("%s %w", kind, err))
		}
		out = append(out, compare.Source{Name: name, Kind: kind, Fetch: fetch, Witness: witness})
		return nil
	}
	for _, url := range urls {
		if err := add(compare.KindLog, url, "", url); err != nil {
			return nil, err
		}
	}
	for _, place := range f.mirrors {
		if err := add(compare.KindMirror, place, "", place); err != nil {
			return nil, err
		}
	}
	witnesses, err := f.witnessPlaces(policy)
	if err != nil {
		return nil, wiring.Usage(cmd, err)
	}
	for _, w := range witnesses {
		name := w.name
		if name == "" {
			name = w.url
		}
		if err := add(compare.KindWitness, name, w.name, w.url); err != nil {
			return nil, err
		}
	}
	for _, name := range f.notes {
		notes, err := readNotes(name)
		if err != nil {
			return nil, err
		}
		out = append(out, notes...)
	}
	return out, nil
}

// witnessPlace is where a witness is asked; name is "" if the policy has none.
type witnessPlace struct{ name, url string }

// witnessPlaces lists the witnesses of the flags, then those of the policy that
// have a URL and are not named by a flag.
func (f *compareFlags) witnessPlaces(policy *checkpoint.Policy) (places []witnessPlace, err error) {
	known, named := map[string]bool{}, map[string]bool{}
	for _, w := range policy.Witnesses() {
		known[w.Name] = true
	}
	for _, flag := range f.witnesses {
		place := witnessPlace{url: flag}
		// A URL may have an equals sign in its path, a name never a colon before it.
		if name, url, ok := strings.Cut(flag, "="); ok && !strings.Contains(name, ":") {
			if place = (witnessPlace{name, url}); !known[name] {
				return nil, fmt.Errorf("--witness %q: the policy has no witness %q", flag, name)
			}
			named[name] = true
		}
		places = append(places, place)
	}
	if f.noPolicyWitnesses {
		return places, nil
	}
	for _, w := range policy.Witnesses() {
		if w.URL != "" && !named[w.Name] {
			places = append(places, witnessPlace{w.Name, w.URL})
		}
	}
	return places, nil
}

// readNotes reads a signed checkpoint, or the two of an evidence file.
func readNotes(name string) ([]compare.Source, error) {
	b, err := readFile("note", name, checkpoint.MaxEvidenceSize)
	if err != nil {
		return nil, err
	}
	source := func(name string, signed []byte) compare.Source {
		return compare.Source{Name: name, Kind: compare.KindNote, Fetch: func(context.Context, string, int64) ([]byte, error) { return signed, nil }}
	}
	if !bytes.HasPrefix(b, []byte("{")) {
		return []compare.Source{source(name, b)}, nil
	}
	e, err := checkpoint.ParseEvidence(b)
	if err != nil {
		return nil, fail(exitMalformed, "", "note %q: %w", name, err)
	}
	return []compare.Source{source(name+" known", e.Known), source(name+" submitted", e.Submitted)}, nil
}

// readSeen reads what earlier runs have seen, nil if there were none.
func readSeen(name string) (*compare.State, error) {
	b, err := readFile("state", name, compare.MaxStateSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	state, err := compare.ParseState(b)
	if err != nil {
		return nil, fmt.Errorf("state file %q: %w", name, classifyCompare(err))
	}
	return state, nil
}

func saveSeen(name string, state *compare.State) error {
	b, err := state.Marshal()
	if err != nil {
		return err
	}
	return writeFile(name, b)
}

// keepEvidence writes an evidence file for each split, numbered from the second
// on, and says in the report where it is.
func (f *compareFlags) keepEvidence(r *compare.Report) error {
	for i := range r.Splits {
		split := &r.Splits[i]
		if split.Evidence == nil {
			continue
		}
		split.File = f.evidence
		if i > 0 {
			split.File += fmt.Sprintf(".%d", i+1)
		}
		b, err := split.Evidence.Format()
		if err != nil {
			return err
		}
		if err := writeFile(split.File, b); err != nil {
			return err
		}
	}
	return nil
}

func classifyCompare(err error) error {
	if errors.Is(err, compare.ErrState) {
		return &cliError{exitMalformed, "the state file is not of this log; name another one with --state, or remove it to begin anew", err}
	}
	return err
}

// compareVerdict is the error that a verdict is, nil for the one that is none.
func compareVerdict(r *compare.Report) error {
	switch r.Verdict {
	case compare.VerdictSplit:
		return fail(exitFork, "keep the evidence, give it to whoever relies on the log, and rely on it no longer", "split view: the log %q has signed two histories", r.Origin)
	case compare.VerdictWentBack:
		return fail(exitFork, "if a cache may be old, try again later; a witness may never go back", "the log %q, or somebody who shows it, has gone back", r.Origin)
	case compare.VerdictInvalid:
		return fail(exitPolicy, "check the URL and the key; otherwise the source is faulty or somebody pretends to be it", "a source shows what it should not")
	case compare.VerdictNotCompared:
		return fail(exitApart, "the log signed this tree, so it must serve its tiles: try again soon, and be suspicious if it stays like this", "some views could not be compared")
	case compare.VerdictTooFew:
		return fail(exitNetwork, "a comparison takes at least two: name witnesses or mirrors, or see --at-least", "only %d of the sources showed the log", r.Compared)
	}
	return nil
}

// table prints reports; on a terminal each takes the place of the one before.
type table struct {
	w    io.Writer
	live bool
}

func newTable(w io.Writer, again bool) *table {
	return &table{w: w, live: again && onTerminal(w)}
}

func (t *table) print(r compareReport) {
	var b bytes.Buffer
	if t.live {
		b.WriteString("\x1b[H\x1b[J") // to the top, and clear what is below
	}
	printCompare(&b, r)
	_, _ = b.WriteTo(t.w)
}

// headlines are what a report begins with.
var headlines = map[compare.Verdict]string{
	compare.VerdictConsistent:  "CONSISTENT",
	compare.VerdictSplit:       "SPLIT VIEW",
	compare.VerdictWentBack:    "WENT BACK",
	compare.VerdictInvalid:     "INVALID VIEW",
	compare.VerdictNotCompared: "NOT COMPARED",
	compare.VerdictTooFew:      "TOO FEW VIEWS",
}

func printCompare(w io.Writer, r compareReport) {
	fmt.Fprintf(w, "%s  %s  %s\n\n", headlines[r.Verdict], r.Origin, r.Time)
	nameWidth := 0
	for _, v := range r.Views {
		nameWidth = max(nameWidth, len(v.Source))
	}
	for _, v := range r.Views {
		fmt.Fprintf(w, "%-8s %-*s  %-12s", v.Kind, nameWidth, v.Source, v.Status)
		if v.RootHash != "" {
			fmt.Fprintf(w, "  history %d  size %d  root hash %s", v.History, v.Size, v.RootHash)
		}
		if v.Behind > 0 {
			fmt.Fprintf(w, "  %d behind", v.Behind)
		}
		if len(v.Cosigned) > 0 {
			fmt.Fprintf(w, "  cosigned by %s", strings.Join(v.Cosigned, ", "))
		}
		if v.Problem != "" {
			fmt.Fprintf(w, "  (%s)", v.Problem)
		}
		fmt.Fprintln(w)
	}
	for _, s := range r.Splits {
		fmt.Fprintf(w, "\n%q and %q show two histories: size %d with root hash %s, size %d with root hash %s\n",
			s.Sources[0], s.Sources[1], s.Sizes[0], s.RootHashes[0], s.Sizes[1], s.RootHashes[1])
		if s.Evidence == nil {
			fmt.Fprintf(w, "%s\n", s.Problem)
			continue
		}
		fmt.Fprintf(w, "evidence is in %q: check it with verifier evidence\n", s.File)
	}
}
