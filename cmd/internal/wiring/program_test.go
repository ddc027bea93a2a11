package wiring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/keyfile"
)

func TestComplaint(t *testing.T) {
	failing := errors.New("no such log")
	child := &cobra.Command{Use: "serve", RunE: func(*cobra.Command, []string) error { return failing }}
	root := &cobra.Command{Use: "program", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(child)
	for _, test := range []struct {
		args   []string
		hint   func(*cobra.Command, error) string
		status int
		want   string
	}{
		{[]string{"serve"}, nil, StatusFailed, "program: error: no such log\n"},
		{[]string{"serve"}, func(*cobra.Command, error) string { return "" }, StatusFailed, "program: error: no such log\n"},
		{[]string{"serve"}, func(c *cobra.Command, err error) string {
			if c != child || err != failing {
				t.Errorf("the hint is asked about %q and %v", c.Name(), err)
			}
			return "make one"
		}, StatusFailed, "program: error: no such log\nprogram: hint: make one\n"},
		{[]string{"serve", "--fast"}, func(*cobra.Command, error) string { return "make one" }, StatusUsage,
			"program: error: unknown flag: --fast\nprogram: hint: see \"program serve --help\"\n"},
		{[]string{"help", "fast"}, nil, StatusUsage,
			"program: error: no help for \"fast\": no such command\nprogram: hint: see \"program --help\"\n"},
	} {
		root.SetArgs(test.args)
		cmd, err := Execute(root)
		var stderr bytes.Buffer
		if status := complain(&stderr, cmd, err, test.hint); status != test.status || stderr.String() != test.want {
			t.Errorf("%q: status %d, standard error %q, want %d and %q", test.args, status, &stderr, test.status, test.want)
		}
	}
}

func TestLogger(t *testing.T) {
	for _, verbose := range []bool{false, true} {
		var out bytes.Buffer
		logger := Logger(&out, verbose)
		logger.Debug("a detail")
		if shown := out.Len() > 0; shown != verbose {
			t.Errorf("verbose %v: a detail is shown: %v", verbose, shown)
		}
		out.Reset()
		logger.Info("an event")
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "an event" {
			t.Errorf("a line is %q (%v)", &out, err)
		}
	}
}

// What is wrong with a command line is told from what a command fails with.
func TestExecuteTellsWrongUsage(t *testing.T) {
	failing := errors.New("no such log")
	for _, test := range []struct {
		args  string
		err   string // "" for none
		usage bool
	}{
		{"", "", false},
		{"--version", "", false},
		{"rotate-key", "", false},
		{"rotate-key begin", "", false},
		{"rotate-key frobnicate", `unknown command "frobnicate" for "program rotate-key"`, true},
		{"frobnicate", `unknown command "frobnicate" for "program"`, true},
		{"rotate-key begin now", `unexpected argument "now": "program rotate-key begin" takes none`, true},
		{"proof", "missing argument: want program proof EXECUTION", true},
		{"proof a b", `the arguments ["a" "b"]: want program proof EXECUTION`, true},
		{"submit a", `unexpected argument "a": "program submit" takes none`, true},
		{"help", "", false},
		{"help serve", "", false},
		{"help rotate-key begin", "", false},
		{"help frobnicate", `no help for "frobnicate": no such command`, true},
		{"help rotate-key frobnicate", `no help for "rotate-key frobnicate": no such command`, true},
		{"completion bash", "", false},
		{"completion klingon", `unknown command "klingon" for "program completion"`, true},
		{"--fast", "unknown flag: --fast", true},
		{"serve", `required flag(s) "dir" not set`, true},
		{"serve --dir", "flag needs an argument: --dir", true},
		{"serve --dir d", "no such log", false},
		{"serve --dir bad", "a bad folder", true},
	} {
		group := &cobra.Command{Use: "rotate-key", Short: "Replace a key"}
		group.AddCommand(&cobra.Command{Use: "begin", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return nil }})
		var dir string
		serve := &cobra.Command{Use: "serve", RunE: func(c *cobra.Command, _ []string) error {
			if dir == "bad" {
				return fmt.Errorf("serving: %w", Usage(c, errors.New("a bad folder")))
			}
			return failing
		}}
		serve.Flags().StringVar(&dir, "dir", "", "folder")
		serve.MarkFlagRequired("dir")
		root := &cobra.Command{Use: "program", SilenceErrors: true, SilenceUsage: true}
		none := func(*cobra.Command, []string) error { return nil }
		proof := &cobra.Command{Use: "proof EXECUTION", Args: cobra.ExactArgs(1), RunE: none}
		submit := &cobra.Command{Use: "submit --input FILE", Args: cobra.NoArgs, RunE: none}
		root.AddCommand(group, serve, proof, submit)
		root.SetOut(io.Discard)
		root.SetArgs(strings.Fields(test.args))
		_, err := Execute(root)
		if test.err == "" {
			if err != nil {
				t.Errorf("%q: %v", test.args, err)
			}
			continue
		}
		var usage *UsageError
		if err == nil || !strings.HasSuffix(err.Error(), test.err) || errors.As(err, &usage) != test.usage {
			t.Errorf("%q: %v, wrong usage %v, want %q and %v", test.args, err, usage != nil, test.err, test.usage)
		}
	}
}

// full is an output without space.
type full struct{}

var errFull = errors.New("no space left on device")

func (full) Write([]byte) (int, error) { return 0, errFull }

// A script that keeps what a program prints must see that it was not kept.
func TestOutputThatCannotBeWritten(t *testing.T) {
	failing := errors.New("no such log")
	for _, test := range []struct {
		args   string
		status int
		want   string
	}{
		{"print", StatusFailed, "program: error: standard output: no space left on device\n"},
		{"print --fail", StatusFailed, "program: error: no such log\n"},
		{"silent", 0, ""},
		{"--help", StatusFailed, "program: error: standard output: no space left on device\n"},
		{"--version", StatusFailed, "program: error: standard output: no space left on device\n"},
		{"completion bash", StatusFailed, "program: error: standard output: no space left on device\n"},
	} {
		var fail bool
		print := &cobra.Command{Use: "print", RunE: func(c *cobra.Command, _ []string) error {
			fmt.Fprintln(c.OutOrStdout(), "a line")
			if fail {
				return failing
			}
			return nil
		}}
		print.Flags().BoolVar(&fail, "fail", false, "fail")
		silent := &cobra.Command{Use: "silent", RunE: func(*cobra.Command, []string) error { return nil }}
		root := &cobra.Command{Use: "program", SilenceErrors: true, SilenceUsage: true}
		root.AddCommand(print, silent)
		root.SetOut(full{})
		root.SetArgs(strings.Fields(test.args))
		var stderr bytes.Buffer
		status := 0
		if cmd, err := Execute(root); err != nil {
			status = complain(&stderr, cmd, err, nil)
		}
		if status != test.status || stderr.String() != test.want {
			t.Errorf("%q: status %d, standard error %q, want %d and %q", test.args, status, &stderr, test.status, test.want)
		}
	}
}

// The libraries speak of a passphrase; a program knows which flag brings it.
func TestPassphraseHint(t *testing.T) {
	missing := fmt.Errorf("%w: \"d/log.key\" is encrypted", keyfile.ErrPassphrase)
	for _, test := range []struct {
		flag bool
		want string
	}{
		{true, "program: hint: --passphrase-file names the file"},
		{false, ""},
	} {
		root := &cobra.Command{Use: "program", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return missing }}
		if test.flag {
			root.Flags().String("passphrase-file", "", "file")
		}
		root.SetArgs(nil)
		cmd, err := Execute(root)
		var stderr bytes.Buffer
		status := complain(&stderr, cmd, err, nil)
		if _, hint, _ := strings.Cut(stderr.String(), "\n"); status != StatusFailed || !strings.HasPrefix(hint, test.want) || (hint == "") != (test.want == "") {
			t.Errorf("with the flag %v: status %d, hint %q, want %q", test.flag, status, hint, test.want)
		}
	}
}

// TestInterrupt: a signal is all that is said of a command that it ended, unless
// something else went wrong as well.
func TestInterrupt(t *testing.T) {
	lost := errors.New("the disk is gone")
	canceled := fmt.Errorf("fetching: %w", context.Canceled)
	for _, c := range []struct {
		err  error
		want string
		lost bool
	}{
		{context.Canceled, "interrupted", false},
		{canceled, "interrupted", false},
		{errors.Join(canceled, fmt.Errorf("closing: %w", context.Canceled)), "interrupted", false},
		{fmt.Errorf("%w: %w", lost, context.Canceled), "interrupted", false},
		{fmt.Errorf("catching up: %w", fmt.Errorf("%w: %q: %w", lost, "tile/0/000", canceled)), "interrupted", false},
		{errors.Join(fmt.Errorf("%w: %w", lost, context.Canceled), canceled), "interrupted", false},
		{errors.Join(fmt.Errorf("%w: %w", lost, errors.ErrUnsupported), canceled), "interrupted: the disk is gone: unsupported operation\nfetching: context canceled", true},
		{fmt.Errorf("running: %w", errors.Join(canceled, lost)), "interrupted: running: fetching: context canceled\nthe disk is gone", true},
	} {
		err := interrupt(c.err)
		if err.Error() != c.want || errors.Is(err, lost) != c.lost || !errors.Is(err, context.Canceled) {
			t.Errorf("%v: %v", c.err, err)
		}
	}
}
