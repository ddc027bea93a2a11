package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/witness"
)

// serveConfig is what the flags of serve say.
type serveConfig struct {
	keys                     keyFlags
	listen, addrFile         string
	policy                   string
	lawfulLog, lawfulGenesis string
	tlsCert, tlsKey          string
	plainHTTP                bool
	verbose                  bool
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
/<origin hash>/checkpoint. /healthz says whether the witness can cosign, /metrics
counts for Prometheus.

With --lawful-log and --lawful-genesis this is a cosigner of lawful membership:
for the one membership log in the policy it reads the changes that a checkpoint
covers from that address, and cosigns only if the rules of membership allow each
of them. Otherwise it answers 422 and leaves evidence. Its directory is never an
ordinary witness's, as its keys stand for another statement.

A hangup signal (SIGHUP) has the policy and the TLS certificate read again. If
one is not valid the process says so and goes on with what it had.

Outside loopback it takes --tls-cert and --tls-key, or --plain-http if a proxy
in front of it does TLS.

The log, one JSON object a line, goes to standard error, after a line
"listening addr=HOST:PORT" once requests are answered.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.check(); err != nil {
				return wiring.Usage(cmd, err)
			}
			return serve(cmd.Context(), config, cmd.ErrOrStderr())
		},
	}
	config.keys.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&config.listen, "listen", "", "`address` to listen on, HOST:PORT; port 0 takes a free one")
	flags.StringVar(&config.policy, "policy", "", "c2sp.org/tlog-policy `file` with the logs")
	flags.StringVar(&config.lawfulLog, "lawful-log", "", "`URL` of the membership log to look into: its monitoring prefix")
	flags.StringVar(&config.lawfulGenesis, "lawful-genesis", "", "`file` with the genesis of that membership")
	flags.StringVar(&config.tlsCert, "tls-cert", "", "PEM `file` with the certificate chain")
	flags.StringVar(&config.tlsKey, "tls-key", "", "PEM `file` with the certificate's private key")
	flags.BoolVar(&config.plainHTTP, "plain-http", false, "answer strangers without TLS, because a proxy in front does it")
	flags.StringVar(&config.addrFile, "addr-file", "", "`file` to write the listening address to, once listening")
	flags.BoolVar(&config.verbose, "verbose", false, "log every request, also those of strangers")
	cmd.MarkFlagRequired("listen")
	cmd.MarkFlagRequired("policy")
	cmd.MarkFlagsRequiredTogether("lawful-log", "lawful-genesis")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	cmd.MarkFlagsMutuallyExclusive("tls-cert", "plain-http")
	return cmd
}

// serve runs a witness until ctx ends.
func serve(ctx context.Context, config serveConfig, stderr io.Writer) (err error) {
	logger := wiring.Logger(stderr, config.verbose)
	w, err := openWitness(config, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	certificate, err := config.transport()
	if err != nil {
		return err
	}
	ln, err := wiring.Listen(config.listen, config.addrFile, stderr)
	if err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	ended := make(chan struct{})
	reloading, stop := context.WithCancel(ctx)
	defer func() { stop(); <-ended }()
	go func() {
		defer close(ended)
		defer signal.Stop(hangup)
		for {
			select {
			case <-hangup:
				reload(w, config, certificate, logger)
			case <-reloading.Done():
				return
			}
		}
	}()
	return witness.Server{Handler: w.Handler(), TLS: certificate.config(), Logger: logger}.Serve(ctx, ln)
}

// openWitness puts the witness together.
func openWitness(config serveConfig, logger *slog.Logger) (*witness.Witness, error) {
	policy, err := wiring.ReadPolicy(config.policy)
	if err != nil {
		return nil, err
	}
	keys, err := witness.LoadKeys(config.keys.dir, config.keys.passphrase())
	if err != nil {
		return nil, err
	}
	made := witness.Config{Dir: config.keys.dir, Keys: keys, Policy: policy, Logger: logger}
	if config.lawfulLog != "" {
		made.Lawful = &witness.LawfulConfig{}
		if made.Lawful.Genesis, err = wiring.ReadFile(config.lawfulGenesis, membership.MaxChangeEnvelope); err != nil {
			return nil, fmt.Errorf("genesis: %w", err)
		}
		if made.Lawful.Fetch, err = witness.LogReader(config.lawfulLog); err != nil {
			return nil, fmt.Errorf("--lawful-log: %w", err)
		}
	}
	return witness.Open(made)
}

// reload reads again what can change while serving. Each file is taken or not by
// itself.
func reload(w *witness.Witness, config serveConfig, c *certificate, logger *slog.Logger) {
	policy, err := wiring.ReadPolicy(config.policy)
	if err == nil {
		err = w.SetPolicy(policy)
	}
	w.Reloaded(err)
	if err != nil {
		logger.Error("policy not taken: the one before stays", "file", config.policy, "error", err)
	} else {
		logger.Info("policy taken", "file", config.policy)
	}
	if c == nil {
		return
	}
	if err := c.load(); err != nil {
		logger.Error("certificate not taken: the one before stays", "file", config.tlsCert, "error", err)
	} else {
		logger.Info("certificate taken", "file", config.tlsCert)
	}
}

// check refuses to serve strangers in the clear unless it is told to.
func (config serveConfig) check() error {
	loopback, err := wiring.CheckAddress(config.listen)
	if err == nil && !loopback && config.tlsCert == "" && !config.plainHTTP {
		err = fmt.Errorf("listening on %q needs TLS: give --tls-cert and --tls-key, or --plain-http if a proxy in front does it, or listen on 127.0.0.1", config.listen)
	}
	return err
}

// transport returns the certificate to serve with, nil for none.
func (config serveConfig) transport() (*certificate, error) {
	if config.tlsCert == "" {
		return nil, nil
	}
	c := &certificate{cert: config.tlsCert, key: config.tlsKey}
	return c, c.load()
}

// certificate is a TLS certificate that can be replaced while it is in use.
type certificate struct {
	cert, key string // files
	current   atomic.Pointer[tls.Certificate]
}

// load reads the files; when it fails the certificate before stays.
func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("certificate %q and its key %q: %w", c.cert, c.key, err)
	}
	c.current.Store(&pair)
	return nil
}

// config returns how to serve with the certificate; nil means in the clear.
func (c *certificate) config() *tls.Config {
	if c == nil {
		return nil
	}
	return &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"http/1.1"},
	}
}
