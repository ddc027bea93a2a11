// Command controlapi runs the control plane of a cluster: its two logs, the
// admission of contracts and submissions, scheduling, proofs, and the API.
//
//	controlapi init --dir D --cluster example
//	controlapi serve --dir D --listen 127.0.0.1:8420
//	controlapi rotate-key begin --dir D --log audit
//
// docs/architecture.md says what the directory holds and what is served where.
package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/sandbox"
)

func main() {
	// Workers that check modules are this binary: before anything else is
	// opened or read.
	if sandbox.IsWorker() {
		sandbox.WorkerMain()
	}
	wiring.Main(rootCommand(), nil)
}

// rootCommand builds the command line.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "controlapi",
		Short: "Run the control plane of a cluster",
		Long: `Run the control plane of a cluster: its two logs, the admission of contracts and
submissions, scheduling, proofs, the API and the web page.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 a write to a store has an unknown
outcome: start the program again, which finds out.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(initCommand(), serveCommand(), rotateCommand())
	return root
}

func initCommand() *cobra.Command {
	var dir directory
	var cluster string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the keys and stores of a cluster's logs",
		Long: `Make the keys and the empty stores of the audit and the membership log, and
write logs.json, the object "logs" of the genesis. Then make the genesis with
"tally cluster init", start the witnesses, and put genesis.json, audit.policy and
membership.policy into the directory. An interrupted init can be run again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !contract.ValidIdentifier(cluster) {
				return wiring.Usage(cmd, fmt.Errorf("%q is no cluster id: want 1 to 63 of a-z, 0-9, '.', '_', '-', first and last a letter or digit", cluster))
			}
			if err := dir.create(cluster); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), dir.file(logsFile))
			return nil
		},
	}
	dir.register(cmd)
	cmd.Flags().StringVar(&cluster, "cluster", "", "the cluster's `id`: 1 to 63 of a-z, 0-9, '.', '_', '-'")
	cmd.MarkFlagRequired("cluster")
	return cmd
}
