// Command witness cosigns the checkpoints of transparency logs, according to
// c2sp.org/tlog-witness.
//
//	witness init --dir D --name example.com/witness
//	witness serve --dir D --listen 127.0.0.1:8401 --policy logs.policy
//	witness serve --dir D --listen 127.0.0.1:8402 --policy membership.policy \
//	    --lawful-genesis genesis.json --lawful-log https://control.example.org/membership
//
// The last one is a cosigner of lawful membership.
//
// See package github.com/tallystick/tallystick/witness for what it promises and
// for the HTTP endpoints.
package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/witness"
)

func main() {
	wiring.Main(rootCommand(), nil)
}

// rootCommand builds the command line.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "witness",
		Short: "Cosign the checkpoints of transparency logs (c2sp.org/tlog-witness)",
		Long: `Cosign the checkpoints of transparency logs, according to c2sp.org/tlog-witness.

Exit codes: 0 done; 1 failed; 2 wrong usage.`,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(initCommand(), serveCommand())
	return root
}

// keyFlags are the flags that say where the keys are.
type keyFlags struct {
	dir            string
	passphraseFile string
}

func (f *keyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "dir", "", "the witness's `directory`: keys, heads, evidence")
	cmd.Flags().StringVar(&f.passphraseFile, "passphrase-file", "", "`file` with the passphrase of the private keys (default: they are not encrypted)")
	cmd.MarkFlagRequired("dir")
}

func (f *keyFlags) passphrase() keyfile.Passphrase {
	return wiring.Passphrase(f.passphraseFile)
}

func initCommand() *cobra.Command {
	var keys keyFlags
	var name string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Create a witness's keys and print its verifier keys",
		Long: `Create a directory with an Ed25519 and an ML-DSA-44 key.

Standard output receives the two verifier keys, one a line, Ed25519 first; they
are what a trust policy names on its witness lines. A policy that counts
witnesses should name one of them, or put both into a group.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			made, err := witness.Init(keys.dir, name, keys.passphrase())
			if err != nil {
				return err
			}
			for _, vkey := range made.Vkeys() {
				fmt.Fprintln(cmd.OutOrStdout(), vkey)
			}
			return nil
		},
	}
	keys.register(cmd)
	cmd.Flags().StringVar(&name, "name", "", "key `name`, a URL without schema such as example.com/witness")
	cmd.MarkFlagRequired("name")
	return cmd
}
