package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/net/netutil"

	"github.com/tallystick/tallystick/cmd/internal/control"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/controlapi"
	"github.com/tallystick/tallystick/controlapi/blobstore"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/sandbox"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/webui"
)

// Bounds of stopping: what is in progress, then a last round of both logs.
const (
	shutdownTimeout = 10 * time.Second
	closeTimeout    = 15 * time.Second
)

// Bounds of --refresh-interval: no more often than a timestamp can tell apart,
// and often enough for readers that allow the default age.
const (
	minRefresh = time.Second
	maxRefresh = checkpoint.DefaultMaxAge / 3
)

// serveConfig is what the flags of serve say.
type serveConfig struct {
	dir         directory
	listen      string
	tlsCert     string
	tlsKey      string
	addrFile    string
	deadline    time.Duration
	minInterval time.Duration
	refresh     time.Duration
	failOpen    bool
	quotas      string
	verbose     bool
}

func serveCommand() *cobra.Command {
	var config serveConfig
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the control plane",
		Long: `Serve the API over gRPC, gRPC-Web and Connect (plain JSON), the public trees
under /audit/ and /membership/, /genesis, /healthz, /metrics and the web page
from one address. TLS is required unless the address is loopback.

Before anything is signed or appended, the witnesses of both policies are asked
whether they know a head that the stores do not; until enough have answered, the
public trees are served and /healthz says what is awaited.

The log, one JSON object a line, goes to standard error, after a line
"listening addr=HOST:PORT". On SIGTERM calls in progress end, what was accepted
is published if the witnesses allow, and the stores are closed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.check(); err != nil {
				return wiring.Usage(cmd, err)
			}
			return serve(cmd.Context(), config, cmd.ErrOrStderr())
		},
	}
	config.dir.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&config.listen, "listen", "", "`address` to listen on, HOST:PORT; port 0 takes a free one")
	flags.StringVar(&config.tlsCert, "tls-cert", "", "PEM `file` with the certificate chain")
	flags.StringVar(&config.tlsKey, "tls-key", "", "PEM `file` with the certificate's private key")
	flags.StringVar(&config.addrFile, "addr-file", "", "`file` to write the listening address to, once operations are served")
	flags.DurationVar(&config.deadline, "attempt-deadline", orchestrator.DefaultAttemptDeadline, "how `long` the nodes of an attempt may stay away")
	flags.DurationVar(&config.minInterval, "min-interval", logserver.DefaultMinInterval, "shortest `time` between two checkpoints; use 1s or more with public witnesses")
	flags.DurationVar(&config.refresh, "refresh-interval", logserver.DefaultRefreshInterval, "how `often` witnesses are asked to cosign anew when nothing changes, 1s to 5m; readers refuse a membership that is older than a few times this")
	flags.BoolVar(&config.failOpen, "fail-open", false, "publish checkpoints also when the witnesses do not satisfy the policy; nodes run nothing that only such a checkpoint covers")
	flags.StringVar(&config.quotas, "quotas", "default", "`set` of quotas for every principal: default, or development, which leaves one tenant the whole machine")
	flags.BoolVar(&config.verbose, "verbose", false, "log every call, and what single witnesses did")
	cmd.MarkFlagRequired("listen")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	return cmd
}

// check refuses flags that have no such value, and to serve strangers in the
// clear.
func (config serveConfig) check() error {
	if config.refresh < minRefresh || config.refresh > maxRefresh {
		return fmt.Errorf("--refresh-interval %v: take %v to %v", config.refresh, minRefresh, maxRefresh)
	}
	if _, err := controlapi.NamedQuotas(config.quotas); err != nil {
		return fmt.Errorf("--quotas: %w", err)
	}
	loopback, err := wiring.CheckAddress(config.listen)
	if err == nil && !loopback && config.tlsCert == "" {
		err = fmt.Errorf("listening on %q needs TLS: give --tls-cert and --tls-key, or listen on 127.0.0.1", config.listen)
	}
	return err
}

// controlPlane is everything that runs, in the order in which it was opened.
// What is opened is closed in reverse.
type controlPlane struct {
	config  serveConfig
	stderr  io.Writer
	logger  *slog.Logger
	genesis []byte
	cluster string

	audit, members               *logserver.Log
	auditOptions, membersOptions logserver.Options
	pool                         *sandbox.Pool
	blobs                        *blobstore.Store
	core                         *orchestrator.Orchestrator
	edge                         *controlapi.Server

	// handler is what the listener serves now: the public trees at first, the
	// edge once operations can be served.
	handler atomic.Pointer[http.Handler]
	closers []func() error
}

// serve runs a control plane until ctx ends.
func serve(ctx context.Context, config serveConfig, stderr io.Writer) (err error) {
	p := &controlPlane{config: config, stderr: stderr, logger: wiring.Logger(stderr, config.verbose)}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.openStores(); err != nil {
		return err
	}
	ln, err := p.listen()
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "listening addr=%s\n", ln.Addr())
	server := controlapi.NewHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*p.handler.Load()).ServeHTTP(w, r)
	}), p.logger)
	p.show(p.waiting())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	p.closers = append(p.closers, func() error { return shutDown(server, served) })

	if err := p.openCore(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop while the witnesses kept silent
		}
		return err
	}
	p.show(p.edge)
	if config.addrFile != "" {
		if err := wiring.WriteFile(config.addrFile, []byte(ln.Addr().String()+"\n"), 0o644); err != nil {
			return err
		}
	}
	p.logger.Info("serving", "cluster", p.cluster, "addr", ln.Addr().String())
	select {
	case err := <-served:
		served <- err
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
		return nil
	}
}

func (p *controlPlane) show(h http.Handler) { p.handler.Store(&h) }

// openStores opens what is on disk: nothing here asks anybody.
func (p *controlPlane) openStores() error {
	var err error
	if p.genesis, err = p.config.dir.required(genesisFile, membership.MaxChangeEnvelope); err != nil {
		return err
	}
	state, _, err := membership.Genesis(p.genesis)
	if err != nil {
		return fmt.Errorf("%s: %w", p.config.dir.file(genesisFile), err)
	}
	p.cluster = state.Cluster()
	if p.audit, p.auditOptions, err = p.openLog(membership.LogAudit, false); err != nil {
		return err
	}
	if p.members, p.membersOptions, err = p.openLog(membership.LogMembership, true); err != nil {
		return err
	}
	if p.blobs, err = blobstore.Open(blobstore.Options{Dir: p.config.dir.file(blobsDir), KeyDir: p.config.dir.file(blobKeysDir)}); err != nil {
		return err
	}
	p.closers = append(p.closers, p.blobs.Close)
	return nil
}

func (p *controlPlane) openLog(name membership.LogName, hold bool) (*logserver.Log, logserver.Options, error) {
	o, err := p.config.dir.logOptions(name)
	if err != nil {
		return nil, o, err
	}
	o.HoldWitness, o.FailOpen, o.MinInterval, o.RefreshInterval, o.Logger = hold, p.config.failOpen, p.config.minInterval, p.config.refresh, p.logger
	o.Fatal = wiring.EndProcess("controlapi", p.stderr)
	log, err := logserver.Open(o)
	if err != nil {
		return nil, o, err
	}
	p.closers = append(p.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		return log.Close(ctx)
	})
	// logserver status, fsck and backup ask here.
	stop, err := (&control.Server{Log: log}).Start(o.Dir, p.logger)
	if err != nil {
		return nil, o, err
	}
	p.closers = append(p.closers, func() error {
		stop()
		return nil
	})
	return log, o, nil
}

// fileUsers is among how many users of files the process divides those that it may
// open beside connections: its two logs, and the blobs.
const fileUsers = 3

// fewConnections is what a limit of about 4,200 open files allows. A node takes one or two
// connections, and whoever watches an execution one; what waits has no answer to
// learn that from.
const fewConnections = 1024

// listen opens the listener. Connections beyond what the limit of open files allows
// wait: a log that cannot open a file stops for good.
func (p *controlPlane) listen() (net.Listener, error) {
	var config *tls.Config
	if p.config.tlsCert != "" {
		cert, err := tls.LoadX509KeyPair(p.config.tlsCert, p.config.tlsKey)
		if err != nil {
			return nil, fmt.Errorf("certificate %q and its key %q: %w", p.config.tlsCert, p.config.tlsKey, err)
		}
		config = &tls.Config{
			Certificates: []tls.Certificate{cert},
			MinVersion:   tls.VersionTLS13,
			NextProtos:   []string{"h2", "http/1.1"},
		}
	}
	ln, err := wiring.ListenTCP(p.config.listen)
	if err != nil {
		return nil, err
	}
	limit := logserver.ConnectionLimit(fileUsers)
	if limit < fewConnections {
		p.logger.Warn("few files may be open, and connections beyond what they allow wait: raise the limit of open files", "connections", limit)
	}
	ln = netutil.LimitListener(ln, limit)
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	return ln, nil
}

// waiting serves what witnesses and monitors need while the logs wait for the
// witnesses. Slow clients are bounded as by the edge.
func (p *controlPlane) waiting() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/audit/", http.StripPrefix("/audit", logserver.ReadHandler(p.audit)))
	mux.Handle("/membership/", http.StripPrefix("/membership", logserver.ReadHandler(p.members)))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "starting: waiting for the witnesses to confirm the last signed heads", http.StatusServiceUnavailable)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control, now := http.NewResponseController(w), time.Now()
		_ = control.SetReadDeadline(now.Add(controlapi.DefaultTimeout)) // writers that know no deadlines are tests'
		_ = control.SetWriteDeadline(now.Add(2 * controlapi.DefaultTimeout))
		mux.ServeHTTP(w, r)
	})
}

// openCore waits for the witnesses and starts the control plane proper.
func (p *controlPlane) openCore(ctx context.Context) error {
	for _, log := range []*logserver.Log{p.audit, p.members} {
		if err := log.Ready(ctx); err != nil {
			return fmt.Errorf("log %q: %w", log.Origin(), err)
		}
	}
	var err error
	if p.pool, err = sandbox.NewPool(sandbox.PoolConfig{Workers: 1, Logger: p.logger}); err != nil {
		return fmt.Errorf("starting the worker that checks modules: %w", err)
	}
	p.closers = append(p.closers, p.pool.Close)
	p.core, err = orchestrator.Open(ctx, orchestrator.Config{
		Cluster: p.cluster, Audit: controlLog{p.audit}, Membership: controlLog{p.members},
		AuditPolicy: p.auditOptions.Policy, MembershipPolicy: p.membersOptions.Policy,
		SigningKeys: map[membership.LogName][]string{membership.LogAudit: signingKeys(p.audit), membership.LogMembership: signingKeys(p.members)},
		Genesis:     p.genesis, Blobs: payloads{p.blobs}, Admitter: admission{p.pool},
		AttemptDeadline: p.config.deadline, Logger: p.logger,
	})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, p.core.Close)
	if p.edge, err = p.newEdge(); err != nil {
		return err
	}
	p.closers = append(p.closers, func() error {
		p.edge.StopAndWait()
		return nil
	})
	return nil
}

// signingKeys are the vkeys that sign checkpoints of a log.
func signingKeys(log *logserver.Log) []string {
	var vkeys []string
	for _, k := range log.Keys() {
		if k.Role == logserver.RoleLog && k.State != logserver.KeyRetired {
			vkeys = append(vkeys, k.Vkey)
		}
	}
	return vkeys
}

func (p *controlPlane) newEdge() (*controlapi.Server, error) {
	registry := prometheus.NewRegistry()
	for _, log := range []*logserver.Log{p.audit, p.members} {
		labelled := prometheus.WrapRegistererWith(prometheus.Labels{"origin": log.Origin()}, registry)
		if err := labelled.Register(log.Metrics()); err != nil {
			return nil, err
		}
	}
	auditPolicy, err := p.config.dir.required(policyFile(membership.LogAudit), checkpoint.MaxPolicySize)
	if err != nil {
		return nil, err
	}
	membershipPolicy, err := p.config.dir.required(policyFile(membership.LogMembership), checkpoint.MaxPolicySize)
	if err != nil {
		return nil, err
	}
	page, err := webui.New()
	if err != nil {
		return nil, err
	}
	quotas, err := controlapi.NamedQuotas(p.config.quotas)
	if err != nil {
		return nil, err
	}
	return controlapi.New(controlapi.Config{
		Quotas:     quotas,
		Cluster:    p.cluster,
		Core:       p.core,
		AuditTiles: logserver.ReadHandler(p.audit), MembershipTiles: logserver.ReadHandler(p.members),
		Genesis: p.genesis, AuditPolicy: auditPolicy, MembershipPolicy: membershipPolicy,
		Web:        page,
		Health:     p.health,
		Metrics:    promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		Registerer: registry,
		Logger:     p.logger,
	})
}

// health is nil when everything that operations need works.
func (p *controlPlane) health() error {
	return errors.Join(p.core.Err(), p.audit.Health(), p.members.Health())
}

// shutDown lets calls in progress end, within a bound.
func shutDown(server *http.Server, served chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("shutting down: %w", err), server.Close())
	}
	<-served // http.ErrServerClosed, unless it was what ended the run
	return err
}

// close closes what was opened, last first: the edge, so that streams end and
// their records are written; the core; the workers; the listener, which has
// nothing in progress any more; blobs and logs.
func (p *controlPlane) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	return errors.Join(errs...)
}
