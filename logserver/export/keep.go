package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tallystick/tallystick/logserver"
)

const (
	// DefaultInterval is the shortest time between two runs of a keeper when
	// nothing is said. Each leaves up to a partial tile a level and a partial
	// bundle behind, for readers of its checkpoint.
	DefaultInterval = 5 * time.Second
	// look is how often a keeper looks for a checkpoint that has changed though
	// the tree has not grown: cosignatures are refreshed every few minutes.
	look = time.Minute
	// staleRuns is after how many intervals, at least staleTime, without a
	// successful run, while one is due, a copy counts as stale.
	staleRuns = 10
	staleTime = time.Minute
)

// Published tells a keeper when there is something to do.
type Published interface {
	// Wait blocks until a published checkpoint covers the given tree size. It
	// fails when ctx ends, and when the log has stopped publishing.
	Wait(ctx context.Context, size int64) error
}

// Keeper keeps a copy up to date while its log runs. The log does not wait for
// it, and goes on when it fails.
type Keeper struct {
	exporter *Exporter
	log      Published
	interval time.Duration
	logger   *slog.Logger

	mu     sync.Mutex
	status logserver.CopyStatus
}

// NewKeeper returns a keeper that does nothing before Run. Interval is the
// shortest time between two runs, 0 means DefaultInterval.
func NewKeeper(e *Exporter, log Published, interval time.Duration, logger *slog.Logger) *Keeper {
	if interval <= 0 {
		interval = DefaultInterval
	}
	return &Keeper{exporter: e, log: log, interval: interval, logger: logger, status: logserver.CopyStatus{Target: e.name()}}
}

// CopyStatus returns how far the copy is.
func (k *Keeper) CopyStatus() logserver.CopyStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// Health returns nil unless the copy has been failing for so long that its
// readers notice.
func (k *Keeper) Health() error {
	s := k.CopyStatus()
	if s.Failing.IsZero() || time.Since(s.Failing) < max(staleRuns*k.interval, staleTime) {
		return nil
	}
	return fmt.Errorf("copy of the log at %q has not been updated since %s: %s",
		s.Target, s.Failing.UTC().Format(time.RFC3339), s.Reason)
}

// Run keeps the copy up to date until ctx ends or the log has stopped
// publishing. It brings the copy up at once, and then after each publication.
// What was there before it is read back beside that, once.
func (k *Keeper) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	pause, found := k.interval, false
	for {
		report, err := k.once(ctx)
		if err != nil {
			pause = min(2*pause, max(staleTime, k.interval))
		} else {
			pause = k.interval
		}
		if err == nil && !found {
			found = true
			if copied := k.exporter.copied; report.From > 0 {
				reading.Go(func() { k.readBack(ctx, copied) })
			}
		}
		if !sleep(ctx, pause) || err == nil && !k.await(ctx) {
			return
		}
	}
}

// readBack reads back the copy that the keeper has found, until that has
// succeeded or ctx ends.
func (k *Keeper) readBack(ctx context.Context, copied held) {
	var m mending
	for {
		err := k.exporter.readBack(ctx, copied, &m)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && m.mended > 0:
			k.logger.Warn("copy lacked objects, or had wrong ones, that are written again", "target", k.exporter.name(), "objects", m.mended)
			return
		case err == nil:
			return
		}
		k.logger.Warn("copy could not be read back, trying again", "target", k.exporter.name(), "err", err)
		if !sleep(ctx, staleTime) {
			return
		}
	}
}

// once does a run and remembers how it went.
func (k *Keeper) once(ctx context.Context) (*Report, error) {
	report, err := k.exporter.Run(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Runs++
	if err == nil {
		if !k.status.Failing.IsZero() {
			k.logger.Info("copy is up to date again", "target", k.status.Target, "size", report.Size)
		}
		k.status.Size, k.status.Updated, k.status.Failing, k.status.Reason = report.Size, time.Now(), time.Time{}, ""
		return report, nil
	}
	k.status.Failures++
	if k.status.Failing.IsZero() {
		k.status.Failing = time.Now()
		k.logger.Warn("copy could not be updated, trying again", "target", k.status.Target, "err", err)
	}
	k.status.Reason = err.Error()
	return nil, err
}

// await returns when the log has published something that the copy does not
// have; false when it will not any more.
func (k *Keeper) await(ctx context.Context) bool {
	for {
		wait, cancel := context.WithTimeout(ctx, look)
		err := k.log.Wait(wait, k.CopyStatus().Size+1)
		cancel()
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return false
		case !k.exporter.current(ctx):
			return true
		}
	}
}

// current reports whether the copy has the log's checkpoint, signatures included.
func (e *Exporter) current(ctx context.Context) bool {
	note, err := e.options.Fetch(ctx, checkpointName, maxResource)
	if err != nil || !bytes.Equal(note, e.copied.note) {
		return false
	}
	note, err = e.target.read(ctx, checkpointName, maxResource)
	return err == nil && bytes.Equal(note, e.copied.note)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
