// Command verifier checks what a tallystick cluster did without trusting it.
//
//	verifier proof BUNDLE --policy audit.policy --membership-policy membership.policy --genesis genesis.json
//	verifier replay BUNDLE --blob module.wasm --blob input … (and the flags of proof)
//	verifier replay --all URL|DIRECTORY --openings FILE --blobs DIRECTORY … (and the flags of proof)
//	verifier member PRINCIPAL@EPOCH FILE --membership-policy membership.policy --genesis genesis.json
//	verifier log URL|DIRECTORY --policy audit.policy
//	verifier compare URL --policy audit.policy
//	verifier evidence FILE --policy audit.policy
//
// proof checks one execution from one file and makes no network connection.
// member does so for who was a member at an epoch.
// replay does what proof does, then runs the module again and compares the outcome
// bit for bit; with --all it does so for every execution of a log. log downloads a
// whole log, recomputes its tree, and compares it with what it remembers of the last
// time.
//
// The policies and the genesis decide what is believed: get them from people,
// not from the cluster's server, and keep them like keys.
//
// # Exit codes
//
//	 0  verified
//	 1  a file cannot be read or written, or an internal error
//	 2  wrong usage
//	 3  malformed input: bundle, proof, evidence, policy, genesis, state, tile
//	 4  a checkpoint is not signed and cosigned as the policy asks
//	 5  an inclusion or consistency proof fails, or entries do not make the root
//	 6  the membership does not follow from the pinned genesis
//	 7  the records do not make an execution by the rules, or nodes do not agree
//	 8  the replay has another outcome
//	 9  the log cannot be read, or too few show it to compare
//	10  the bundle leaves out the membership log, and it was not given
//	11  the file is of another execution, principal, epoch, cluster or log
//	12  the log went back or has forked
//	13  the replay could not run to an outcome
//	14  the evidence does not prove anything against the log
//	15  views of the log could not be compared: nobody serves the tree of the larger one
//	16  the principal is no member at that epoch (or with --absent: is one)
//	17  proven: the execution ended without a result (diverged, cancelled or expired)
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/sandbox"
)

func main() {
	if sandbox.IsWorker() {
		sandbox.WorkerMain()
	}
	if _, err := wiring.Execute(rootCommand()); err != nil {
		os.Exit(complain(os.Stderr, err))
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "verifier",
		Short: "Check executions and logs without trusting the cluster",
		Long: `verifier checks what a tallystick cluster did without trusting it.

The policies and the genesis decide what is believed: get them from people,
not from the cluster's server, and keep them like keys.

` + exitTable(),
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(proofCommand(), replayCommand(), memberCommand(), logCommand(), compareCommand(), evidenceCommand())
	return root
}
