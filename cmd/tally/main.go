// Command tally is the user's command line: it starts a cluster on this
// machine, registers contracts, submits work, fetches proofs and governs
// membership.
package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/tallystick/tallystick/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := 0
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		code = report(os.Stderr, err)
	}
	stop()
	os.Exit(code)
}

// app is what every command shares: the profile and how to print.
type app struct {
	profilePath string
	printer     printer
}

func rootCommand() *cobra.Command {
	a := &app{}
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
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	root.PersistentFlags().StringVar(&a.profilePath, "profile", "", "profile file (default $TALLY_PROFILE, tally.json or tally-dev/tenant.json)")
	root.PersistentFlags().BoolVar(&a.printer.json, "json", false, "print JSON")
	root.AddCommand(
		devCommand(a), clusterCommand(a),
		contractCommand(a), submitCommand(a), statusCommand(a), executionsCommand(a), cancelCommand(a),
		proofCommand(a), provenanceCommand(a), blobCommand(a),
		nodesCommand(a), rootHashCommand(a), memberCommand(a), tokenCommand(a), logCommand(a),
	)
	usageErrors(root)
	return root
}

// usageErrors makes every complaint about arguments a usage error.
func usageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage(c, err)
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		usageErrors(sub)
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
