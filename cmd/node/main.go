// Command node works for a cluster: it takes assignments, verifies them, runs
// them in worker processes, and attests to the outcomes.
//
//	node init --dir D
//	node serve --dir D --server https://control.example:8443 --id node-1 \
//	    --genesis genesis.json --policy audit.policy --membership-policy membership.policy
//
// See package github.com/tallystick/tallystick/node for what it verifies and
// what it never does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/node"
	"github.com/tallystick/tallystick/sandbox"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func main() {
	if sandbox.IsWorker() {
		sandbox.WorkerMain()
	}
	wiring.Main(rootCommand(), hint)
}

// rootCommand builds the command line.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "node",
		Short: "Verify, run and attest the work of a cluster",
		Long: `Take assignments of a control plane, verify them, run them in worker processes,
and attest to the outcomes.

Exit codes: 0 done; 1 failed; 2 wrong usage.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(initCommand(), serveCommand())
	return root
}

const (
	attestationName = "attestation"
	tokenName       = "token"
)

func keyPath(dir, name string) string { return filepath.Join(dir, "keys", name+".pem") }

func publicPath(dir, name string) string { return filepath.Join(dir, "keys", name+".pub") }

func initCommand() *cobra.Command {
	var dir, passphraseFile string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Create a node's two keys",
		Long: `Create a directory with a node's attestation key, which signs its statements, and
its token key, by which it authenticates. Standard output receives the paths of
the two public keys, for "tally member propose add node". An interrupted init
can be run again: keys that exist are kept.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
				return err
			}
			for _, name := range []string{attestationName, tokenName} {
				if err := createKey(dir, name, wiring.Passphrase(passphraseFile)); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s=%s\n", name, publicPath(dir, name))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "`directory` to create")
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "`file` with the passphrase to encrypt the keys with (default: not encrypted)")
	cmd.MarkFlagRequired("dir")
	return cmd
}

// createKey makes a key and its public half, keeping what an earlier call made.
func createKey(dir, name string, pass keyfile.Passphrase) error {
	path := keyPath(dir, name)
	if _, err := os.Stat(path); os.IsNotExist(err) {
		if _, err := keyfile.CreateEd25519(path, pass); err != nil {
			return err
		}
	}
	if _, err := os.Stat(publicPath(dir, name)); err == nil {
		return nil
	}
	key, err := keyfile.LoadEd25519(path, pass)
	if err != nil {
		return err
	}
	return keyfile.WritePublic(publicPath(dir, name), publicKey(key))
}

// serveConfig is what the flags of serve say.
type serveConfig struct {
	dir, server, id                string
	genesis, audit, membership     string
	attestationKey, tokenKey, pass string
	caFile, limitsFile             string
	capacity, keep                 int
	listen, addrFile               string
	maxAge, drain, runTimeout      time.Duration
	unmetered                      bool
}

func serveCommand() *cobra.Command {
	var c serveConfig
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Work for a control plane until stopped",
		Long: `Hold the assignment stream of a control plane, verify what it assigns against the
witnessed logs under the two policies and the pinned genesis, run it in worker
processes that hold no keys, and attest.

SIGTERM and SIGINT drain: what was not begun is given back, so that others are
asked at once, nothing new is taken, and runs in progress get --drain-timeout to
end before they are given back too. A second signal ends the process at once; what
it has attested is kept, and it is safe at any time.

With --listen, /healthz answers 200 while all is well and 503 with the reasons
otherwise, and /metrics counts for Prometheus. Both are for the operator's network:
reasons name executions and files. The log, one JSON object a line, goes to
standard error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkpoint.CheckMaxAge(c.maxAge); err != nil {
				return wiring.Usage(cmd, fmt.Errorf("--max-age: %w", err))
			}
			if err := c.check(); err != nil {
				return wiring.Usage(cmd, err)
			}
			if !cmd.Flags().Changed("run-timeout") {
				c.runTimeout = 0 // the default of each kind of contract
			}
			logger := wiring.Logger(cmd.ErrOrStderr(), false)
			// The next signal has its usual effect.
			defer context.AfterFunc(cmd.Context(), func() { signal.Reset(os.Interrupt, syscall.SIGTERM) })()
			return serve(cmd.Context(), c, logger, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.dir, "dir", "", "the node's own `directory`: what it has seen and attested")
	f.StringVar(&c.server, "server", "", "`URL` of the control plane; plain http for loopback only")
	f.StringVar(&c.id, "id", "", "the node's `principal` id")
	f.StringVar(&c.genesis, "genesis", "", "`file` with the genesis envelope to trust")
	f.StringVar(&c.audit, "policy", "", "c2sp.org/tlog-policy `file` for the audit log")
	f.StringVar(&c.membership, "membership-policy", "", "c2sp.org/tlog-policy `file` for the membership log")
	f.StringVar(&c.attestationKey, "attestation-key", "", "PEM `file` (default DIR/keys/attestation.pem)")
	f.StringVar(&c.tokenKey, "token-key", "", "PEM `file` (default DIR/keys/token.pem)")
	f.StringVar(&c.pass, "passphrase-file", "", "`file` with the passphrase of both keys (default: they are not encrypted)")
	f.StringVar(&c.caFile, "ca", "", "PEM `file` with the authorities to trust for TLS (default: the system's)")
	f.StringVar(&c.limitsFile, "limits", "", `JSON `+"`file`"+` with the most this node takes, in the form of the cluster's "limits"`)
	f.IntVar(&c.capacity, "capacity", 0, "modules to run at a time, each in a process of its own (default: the number of processors)")
	f.DurationVar(&c.maxAge, "max-age", node.DefaultMaxAge, "how old the cosignatures of the membership log may be, 10s to 24h; at least twice the control plane's refresh interval")
	f.IntVar(&c.keep, "keep-attestations", node.DefaultKeepAttestations, "attestations to keep, some 4 KiB each; what was requested before the oldest of them is not attested any more")
	f.StringVar(&c.listen, "listen", "", "`address` to serve /healthz and /metrics at, HOST:PORT (default: none)")
	f.StringVar(&c.addrFile, "addr-file", "", "`file` to write the listening address to, once listening")
	f.DurationVar(&c.drain, "drain-timeout", time.Minute, "time that runs in progress get when the node is stopped")
	f.DurationVar(&c.runTimeout, "run-timeout", node.DefaultRunTimeout, "guard by the clock against runs that take longer, which then have no outcome; the default cluster's largest gas limit takes up to 46s of a processor that the run has for itself. Not given, runs of rewriter 0 get "+node.DefaultUnmeteredTimeout.String())
	f.BoolVar(&c.unmetered, "allow-unmetered", false, "run contracts of rewriter 0, whose modules run as they are; for development, since such runs need not agree")
	for _, name := range []string{"dir", "server", "id", "genesis", "policy", "membership-policy"} {
		cmd.MarkFlagRequired(name)
	}
	return cmd
}

// check refuses numbers that cannot be meant, and addresses that are none.
func (c *serveConfig) check() error {
	switch {
	case c.capacity < 0:
		return fmt.Errorf("--capacity %d: want 1 or more, or 0 for the number of processors", c.capacity)
	case c.keep < 1:
		return fmt.Errorf("--keep-attestations %d: want 1 or more", c.keep)
	case c.runTimeout <= 0:
		return fmt.Errorf("--run-timeout %v: want more than 0s", c.runTimeout)
	case c.drain < 0:
		return fmt.Errorf("--drain-timeout %v: want 0s or more", c.drain)
	case c.listen != "":
		_, err := wiring.CheckAddress(c.listen)
		return err
	}
	return nil
}

// timing is what the flags say of how long the node waits. A drain of no time is
// meant, though a zero means the default to package node.
func (c *serveConfig) timing() node.Timing {
	return node.Timing{Drain: max(c.drain, 1)}
}

// hint says which command makes what a node lacks.
func hint(cmd *cobra.Command, err error) string {
	dir := cmd.Flags().Lookup("dir")
	if dir == nil || !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	var at *fs.PathError
	if errors.As(err, &at) && strings.HasPrefix(filepath.Clean(at.Path), filepath.Join(dir.Value.String(), "keys")+string(filepath.Separator)) {
		return fmt.Sprintf("\"node init --dir %s\" makes a node's keys; others are named by --attestation-key and --token-key", dir.Value)
	}
	return ""
}

// serve runs a node until ctx ends.
func serve(ctx context.Context, c serveConfig, logger *slog.Logger, stderr io.Writer) error {
	if c.attestationKey == "" {
		c.attestationKey = keyPath(c.dir, attestationName)
	}
	if c.tokenKey == "" {
		c.tokenKey = keyPath(c.dir, tokenName)
	}
	trust, err := readTrust(c)
	if err != nil {
		return err
	}
	limits, err := readLimits(c.limitsFile)
	if err != nil {
		return err
	}
	attestation, err := keyfile.LoadEd25519(c.attestationKey, wiring.Passphrase(c.pass))
	if err != nil {
		return err
	}
	plane, logs, err := connectTo(c, trust)
	if err != nil {
		return err
	}
	pool, err := sandbox.NewPool(sandbox.PoolConfig{
		Workers: c.capacity, CacheDir: filepath.Join(c.dir, "programs"), Logger: logger,
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	n, err := node.Open(node.Config{
		ID: c.id, Dir: c.dir, AttestationKey: attestation, Trust: trust, MaxAge: c.maxAge,
		ControlPlane: plane, Logs: logs, Runner: runner{pool, c.unmetered},
		Limits: limits, Capacity: c.capacity, KeepAttestations: c.keep, RunTimeout: c.runTimeout, Info: describe(pool), Timing: c.timing(), Logger: logger,
	})
	if err != nil {
		return err
	}
	defer n.Close()
	if c.listen != "" {
		stop, err := serveStatus(c, n, stderr)
		if err != nil {
			return err
		}
		defer stop()
	}
	logger.Info("node started", "id", c.id, "server", c.server, "version", wiring.Version(), "isolation", pool.Enforcement().Names())
	err = n.Run(ctx)
	logger.Info("node stopped", "stats", n.Stats())
	return err
}

func readTrust(c serveConfig) (verifier.Trust, error) {
	var trust verifier.Trust
	var err error
	if trust.Genesis, err = wiring.ReadFile(c.genesis, 1<<16); err != nil {
		return trust, err
	}
	if trust.AuditPolicy, err = wiring.ReadPolicy(c.audit); err != nil {
		return trust, err
	}
	trust.MembershipPolicy, err = wiring.ReadPolicy(c.membership)
	return trust, err
}

// readLimits reads what this node takes; no file means the defaults.
func readLimits(path string) (contract.ClusterLimits, error) {
	limits := contract.DefaultClusterLimits()
	if path == "" {
		return limits, nil
	}
	const most = 4096 // nine numbers
	text, err := wiring.ReadFile(path, most)
	if err == nil {
		err = strictjson.Unmarshal(text, &limits, most)
	}
	if err != nil {
		return limits, fmt.Errorf("%q: %w", path, err)
	}
	return limits, nil
}
