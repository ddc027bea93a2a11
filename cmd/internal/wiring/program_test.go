package wiring

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/spf13/cobra"
)

func TestComplaint(t *testing.T) {
	failing := errors.New("no such log")
	child := &cobra.Command{Use: "serve", RunE: func(*cobra.Command, []string) error { return failing }}
	root := &cobra.Command{Use: "program", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(child)
	root.SetArgs([]string{"serve"})
	cmd, err := root.ExecuteC()
	for _, test := range []struct {
		hint func(*cobra.Command, error) string
		want string
	}{
		{nil, "program: error: no such log\n"},
		{func(*cobra.Command, error) string { return "" }, "program: error: no such log\n"},
		{func(c *cobra.Command, err error) string {
			if c != child || err != failing {
				t.Errorf("the hint is asked about %q and %v", c.Name(), err)
			}
			return "make one"
		}, "program: error: no such log\nprogram: hint: make one\n"},
	} {
		var stderr bytes.Buffer
		if status := complain(&stderr, cmd, err, test.hint); status != 1 || stderr.String() != test.want {
			t.Errorf("status %d, standard error %q, want 1 and %q", status, &stderr, test.want)
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

// What is no command of a group is an error, and the group alone shows its help.
func TestRefuseUnknown(t *testing.T) {
	for _, test := range []struct {
		args []string
		err  string
	}{
		{[]string{"rotate-key"}, ""},
		{[]string{"rotate-key", "begin"}, ""},
		{[]string{"rotate-key", "frobnicate"}, `unknown command "frobnicate" for "program rotate-key" (see "program rotate-key --help")`},
	} {
		group := &cobra.Command{Use: "rotate-key", Short: "Replace a key"}
		group.AddCommand(&cobra.Command{Use: "begin", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return nil }})
		root := &cobra.Command{Use: "program", SilenceErrors: true, SilenceUsage: true}
		root.AddCommand(group)
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(test.args)
		refuseUnknown(root)
		err := root.Execute()
		if err == nil && test.err != "" || err != nil && err.Error() != test.err {
			t.Errorf("%q: %v", test.args, err)
		}
	}
}
