// Command witness cosigns the checkpoints of transparency logs, according to
// c2sp.org/tlog-witness.
//
//	witness init --dir D --name example.com/witness
//	witness serve --dir D --listen 127.0.0.1:8401 --policy logs.policy
//
// See package github.com/tallystick/tallystick/witness for what it promises and
// for the HTTP endpoints.
package main

import (
	"context"
	"fmt"
	"io"

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
		Use:           "witness",
		Short:         "Cosign the checkpoints of transparency logs (c2sp.org/tlog-witness)",
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

// serveConfig is what the flags of serve say.
type serveConfig struct {
	keys     keyFlags
	listen   string
	policy   string
	addrFile string
	verbose  bool
}

func serveCommand() *cobra.Command {
	var config serveConfig
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Cosign for the logs that a policy file lists",
		Long: `Answer add-checkpoint requests for the logs that a c2sp.org/tlog-policy file
lists. Its witness, group and quorum lines have to be valid and mean nothing here.

Both cosignatures are given at /add-checkpoint, one each at
/ed25519/add-checkpoint and /mldsa/add-checkpoint; what was cosigned last is at
/<origin hash>/checkpoint, and /healthz says whether the witness can cosign.

The log, one JSON object a line, goes to standard error, after a line
"listening addr=HOST:PORT" once requests are answered.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), config, cmd.ErrOrStderr())
		},
	}
	config.keys.register(cmd)
	cmd.Flags().StringVar(&config.listen, "listen", "", "`address` to listen on, HOST:PORT; port 0 takes a free one")
	cmd.Flags().StringVar(&config.policy, "policy", "", "c2sp.org/tlog-policy `file` with the logs")
	cmd.Flags().StringVar(&config.addrFile, "addr-file", "", "`file` to write the listening address to, once listening")
	cmd.Flags().BoolVar(&config.verbose, "verbose", false, "log every request, also those of strangers")
	cmd.MarkFlagRequired("listen")
	cmd.MarkFlagRequired("policy")
	return cmd
}

// serve runs a witness until ctx ends.
func serve(ctx context.Context, config serveConfig, stderr io.Writer) error {
	policy, err := wiring.ReadPolicy(config.policy)
	if err != nil {
		return err
	}
	keys, err := witness.LoadKeys(config.keys.dir, config.keys.passphrase())
	if err != nil {
		return err
	}
	logger := wiring.Logger(stderr, config.verbose)
	w, err := witness.Open(witness.Config{Dir: config.keys.dir, Keys: keys, Policy: policy, Logger: logger})
	if err != nil {
		return err
	}
	defer w.Close()
	ln, err := wiring.Listen(config.listen, config.addrFile, stderr)
	if err != nil {
		return err
	}
	return witness.Serve(ctx, ln, w.Handler(), logger)
}
