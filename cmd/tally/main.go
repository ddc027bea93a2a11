// Command tally is the user's command line: it starts a cluster on this
// machine, registers contracts, submits work, fetches proofs and governs
// membership.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &app{}
	code := 0
	if cmd, err := rootCommand(a).ExecuteContextC(ctx); err != nil {
		if !a.running {
			// Whatever fails before a command runs is about the command line.
			err = usage(cmd, err)
		}
		code = report(os.Stderr, err)
	}
	stop()
	os.Exit(code)
}

// app is what every command shares: the profile and how to print.
type app struct {
	profilePath string
	maxAge      time.Duration // of the membership's cosignatures
	printer     printer
	running     bool // the command line was right, and the command has begun
}

func rootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "tally",
		Short: "Run work that can be proven, and check the proof",
		Long: `tally talks to a tallystick control plane as one principal, which a profile
describes: a JSON file with the server's address, the principal's id, its key
files, and the genesis and policies that it trusts.

Start with "tally dev": it brings up a whole cluster on this machine and
writes profiles for a tenant, an admin and an auditor.

Exit codes: 0 done; 1 failed or refused; 2 wrong usage; 3 the execution ended
but is not complete.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			a.printer.out = cmd.OutOrStdout()
		},
	}
	root.PersistentFlags().StringVar(&a.profilePath, "profile", "", "profile file (default $TALLY_PROFILE, tally.json or tally-dev/tenant.json)")
	root.PersistentFlags().DurationVar(&a.maxAge, "max-age", checkpoint.DefaultMaxAge, "how old the cosignatures of the membership may be, 10s to 24h: an older view may hide a revocation")
	root.PersistentFlags().BoolVar(&a.printer.json, "json", false, "print JSON")
	root.AddCommand(
		devCommand(a), clusterCommand(a),
		contractCommand(a), submitCommand(a), statusCommand(a), executionsCommand(a), scheduleCommand(a), cancelCommand(a),
		proofCommand(a), provenanceCommand(a), lineageCommand(a), blobCommand(a),
		nodesCommand(a), rootHashCommand(a), memberCommand(a), tokenCommand(a), logCommand(a), auditCommand(a),
	)
	a.mark(root)
	return root
}

// mark makes every command say that it has begun, and refuse what is no command
// of a group: cobra would print the group's help and report success.
func (a *app) mark(cmd *cobra.Command) {
	if cmd.RunE == nil && cmd.HasParent() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return usage(c, fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath()))
		}
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			a.running = true
			return run(c, args)
		}
	}
	for _, sub := range cmd.Commands() {
		a.mark(sub)
	}
}

func usage(cmd *cobra.Command, err error) error {
	return &codeError{withHint(err, "see `"+strings.TrimSpace(cmd.CommandPath())+" --help`"), exitUsage}
}

// client loads the profile and returns a client for it.
func (a *app) client() (*profile, *client.Client, error) {
	p, err := loadProfile(a.profilePath)
	if err != nil {
		return nil, nil, err
	}
	if a.maxAge != 0 {
		if err := checkpoint.CheckMaxAge(a.maxAge); err != nil {
			return nil, nil, err
		}
	}
	p.maxAge = a.maxAge
	key, err := p.key("token")
	if err != nil {
		return nil, nil, err
	}
	c, err := client.New(client.Config{Server: p.Server, Cluster: p.Cluster, Principal: p.Principal, TokenKey: key})
	if err != nil {
		return nil, nil, err
	}
	return p, c, nil
}
