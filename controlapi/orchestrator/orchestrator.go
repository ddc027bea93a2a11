package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/membership"
)

// Orchestrator is the running core. Open makes one.
type Orchestrator struct {
	cfg Config
	log *slog.Logger

	// ctx ends when Close begins, or with a failure; goroutines counts what must end before Close
	// returns. starting is held while one is started, and while ctx is ended:
	// afterwards none starts.
	ctx        context.Context
	stop       context.CancelFunc
	starting   sync.Mutex
	goroutines sync.WaitGroup

	// failure is why everything is refused. The first reason stays.
	failure atomic.Pointer[error]
	// What nodes need and may not have for a time that is not theirs; see hindered.
	refusing outage // of appends to the audit log
	blobs    *watchedBlobs

	// history has every change that the membership log holds. It may be an epoch
	// ahead of the view while a change is being applied.
	history *membership.History
	// changes is held while a change is applied, so that entries of the
	// membership log and epoch records come in order.
	changes sync.Mutex

	view      *view
	applied   *progress // number of audit entries that the view covers
	published *progress // size of the newest witnessed audit checkpoint

	grown    chan struct{} // holds a token when the audit log may have grown
	news     *broadcast    // rings when either log has published, or an epoch began
	deriver  *deriver
	streams  *streams
	watchers *watchers
	bundles  *bundleCache
}

// Open recovers the state from the logs and starts working: epoch records that
// are missing are appended before anything else, the fold runs to the end of
// the audit log, membership checkpoints up to the current epoch are allowed to
// go to witnesses, and derived records that are missing are appended. The logs
// and the blob store stay the caller's to close, after Close.
func Open(ctx context.Context, cfg Config) (*Orchestrator, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	history := membership.NewHistory()
	o := &Orchestrator{
		cfg: cfg, log: cfg.Logger,
		history:   history,
		view:      newView(cfg.Cluster, history),
		applied:   newProgress(),
		published: newProgress(),
		grown:     make(chan struct{}, 1),
		news:      newBroadcast(),
		deriver:   newDeriver(),
		streams:   newStreams(),
		watchers:  newWatchers(),
		bundles:   newBundleCache(),
		blobs:     &watchedBlobs{Blobs: cfg.Blobs, now: cfg.Now, deadline: cfg.AttemptDeadline},
	}
	o.ctx, o.stop = context.WithCancel(context.Background())
	if err := o.recover(ctx); err != nil {
		o.stop()
		return nil, fmt.Errorf("recovering the control plane: %w", err)
	}
	o.start(o.apply)
	o.start(o.followAudit)
	o.start(o.followMembership)
	o.start(o.derive)
	return o, nil
}

// recover brings memory and logs to where they would be had nothing stopped
// the last run. Every step is what steady state does, and may be repeated.
func (o *Orchestrator) recover(ctx context.Context) error {
	// 1. The changes. Genesis goes into an empty log.
	// Crash here: the membership log has its genesis, the audit log nothing.
	if err := o.loadChanges(ctx); err != nil {
		return err
	}
	// 2. Epoch records that a crash kept from the audit log come before any
	// other record, so that entry 0 is one and none states a stale epoch.
	// Crash here: the next start appends the rest.
	if err := o.mirrorEpochs(ctx, nil); err != nil {
		return err
	}
	// 3. The fold, to the end.
	if err := o.catchUp(ctx); err != nil {
		return err
	}
	// 4. Every change is mirrored: witnesses may see them all.
	o.cfg.Membership.AllowWitness(int64(o.history.Size()))
	return nil
}

// Close stops all goroutines and waits for them. Operations under way answer
// CodeUnavailable, streams end.
func (o *Orchestrator) Close() error {
	o.starting.Lock()
	o.stop()
	o.starting.Unlock()
	o.goroutines.Wait()
	o.view.mu.Lock()
	defer o.view.mu.Unlock()
	for _, x := range o.view.open {
		if x.deadline != nil {
			x.deadline.Stop()
		}
	}
	return nil
}

// Err returns why the orchestrator refuses everything, nil while it works. An
// orchestrator that has failed stays so until it is opened again.
func (o *Orchestrator) Err() error {
	if p := o.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes every operation from now on answer CodeUnavailable. It is called
// after an error that leaves memory and logs apart: what is right can only be
// learned by opening them again.
func (o *Orchestrator) fail(err error) {
	if o.ctx.Err() == nil && o.failure.CompareAndSwap(nil, &err) {
		o.log.Error("control plane stopped, restart it", "err", err)
		o.stop() // whoever waits, or holds a stream, is told
	}
}

// usable is the first thing that every operation asks.
func (o *Orchestrator) usable() error {
	if err := o.Err(); err != nil {
		return refuseCause(CodeUnavailable, err, "the control plane has stopped after a fault: its operator must restart it")
	}
	if o.ctx.Err() != nil {
		return refuse(CodeUnavailable, "the control plane is stopping: try again shortly")
	}
	return nil
}

// start runs a goroutine that Close waits for; it must end with o.ctx. It
// reports false, and starts nothing, when the orchestrator is being closed.
func (o *Orchestrator) start(run func()) bool {
	o.starting.Lock()
	defer o.starting.Unlock()
	if o.ctx.Err() != nil {
		return false
	}
	o.goroutines.Go(run)
	return true
}

// complete checks what is required and fills in defaults.
func (c *Config) complete() error {
	switch {
	case c.Audit == nil || c.Membership == nil || c.Blobs == nil || c.Admitter == nil:
		return errors.New("orchestrator: logs, blobs and admitter are required")
	case c.AuditPolicy == nil || c.MembershipPolicy == nil:
		return errors.New("orchestrator: both policies are required")
	case c.AttemptDeadline < 0:
		return errors.New("orchestrator: negative attempt deadline")
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = DefaultMaxPayload
	}
	if c.AttemptDeadline == 0 {
		c.AttemptDeadline = DefaultAttemptDeadline
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}
