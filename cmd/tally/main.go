// Command tally is the user's command line: it starts a cluster on this
// machine, registers contracts, submits work, fetches proofs and governs
// membership.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func main() {
	a := new(app)
	if _, err := wiring.Execute(rootCommand(a)); err != nil {
		os.Exit(report(os.Stderr, unreached(err, a.server)))
	}
}

// app is what every command shares: the profile and how to print.
type app struct {
	profilePath string
	server      string        // that the command talks to, once it does
	maxAge      time.Duration // of the membership's cosignatures
	printer     printer
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
but is not complete; 4 an audit found something false; 5 an audit saw too little.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.printer.out = cmd.OutOrStdout()
			if err := checkpoint.CheckMaxAge(a.maxAge); err != nil {
				return fmt.Errorf("--max-age: %w", err)
			}
			return nil
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
	return root
}

// client loads the profile and returns a client for it.
func (a *app) client() (*profile, *client.Client, error) {
	p, err := loadProfile(a.profilePath)
	if err != nil {
		return nil, nil, err
	}
	p.maxAge, a.server = a.maxAge, p.Server
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
