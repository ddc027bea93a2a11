package logserver

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// faults receives what the store cannot return to a caller, and decides what
// it means for the log. A commit or a manifest whose outcome is unknown ends
// the process: only opening the store again finds out what is in it. Corruption
// stops signing and appending, and reads go on where they can. Failures of
// flushes and compactions lose nothing, since the write-ahead log still holds
// what they were about: they are counted, shown by Health, and tried again by
// Pebble. Its methods are called on any goroutine, some with Pebble's locks
// held: they call nothing of the store.
type faults struct {
	logger *slog.Logger
	// fatal must not return, corrupted must not block. They are set before the
	// store is opened and not changed.
	fatal     func(error)
	corrupted func(error)
	// running is set between Open and Close, which have an error to return:
	// before and after, a fault goes to opening, from which during takes it.
	running atomic.Bool
	opening chan error
	// broken is set with the first fault: Pebble must not be called any more.
	broken atomic.Bool
	// background counts failed flushes and compactions; lastBackground is when
	// the newest was, and loggedBackground when one was last logged, both as
	// uptime in nanoseconds; 0 if there was none.
	background       atomic.Int64
	lastBackground   atomic.Int64
	loggedBackground atomic.Int64
	// failing has a token when a flush or compaction has failed since store.flush
	// last took it.
	failing chan struct{}
}

func newFaults(logger *slog.Logger, fatal, corrupted func(error)) *faults {
	return &faults{logger: logger, fatal: fatal, corrupted: corrupted, opening: make(chan error, 1), failing: make(chan struct{}, 1)}
}

// backgroundLogInterval keeps a flush that fails again and again from filling
// what is left of the disk with messages about it.
const backgroundLogInterval = 10 * time.Second

// Infof implements pebble.Logger.
func (f *faults) Infof(format string, args ...any) {
	f.logger.Debug("pebble", "message", fmt.Sprintf(format, args...))
}

// Errorf implements pebble.Logger.
func (f *faults) Errorf(format string, args ...any) {
	f.logger.Error("pebble", "message", fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger: the outcome of a write is unknown and must
// not be answered.
func (f *faults) Fatalf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	err := errors.New(text)
	for _, a := range args {
		if cause, ok := a.(error); ok {
			err = fmt.Errorf("%w (%s)", cause, text)
		}
	}
	f.end(err)
}

// end does not return. While the log is being opened or closed its goroutine
// stops here for good, since Pebble's locks may be in any state: the caller
// learns why, and is expected to end the process.
func (f *faults) end(err error) {
	err = storeError(err)
	f.broken.Store(true)
	if f.running.Load() {
		f.fatal(err)
	}
	select {
	case f.opening <- err:
	default: // another goroutine has told already
	}
	select {}
}

// catchCommit is deferred around writes. Pebble panics when it has lost the
// write-ahead log; that is a commit of unknown outcome too.
func (f *faults) catchCommit() {
	if r := recover(); r != nil {
		f.logger.Debug("store panicked", "stack", string(debug.Stack()))
		f.end(asError(r))
	}
}

// during runs what Open, Create and Close do with the store while running is not
// set, and makes a fault of it an error.
func (f *faults) during(work func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				f.logger.Debug("store panicked", "stack", string(debug.Stack()))
				f.broken.Store(true)
				err := asError(r)
				if errno := syscall.Errno(0); !errors.As(err, &errno) {
					// Pebble panics on some manifests that do not add up.
					err = fmt.Errorf("%w: %w", ErrCorrupt, err)
				}
				done <- storeError(err)
			}
		}()
		done <- work()
	}()
	select {
	case err := <-done:
		return err
	case err := <-f.opening:
		return err
	}
}

func asError(r any) error {
	if err, ok := r.(error); ok {
		return err
	}
	return fmt.Errorf("%v", r)
}

// listener returns the events of Pebble that are faults.
func (f *faults) listener() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: f.backgroundError,
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			f.corrupted(corrupt("%s: %v; %s", info.Path, info.Details, repairHint))
		},
	}
}

func (f *faults) backgroundError(err error) {
	if pebble.IsCorruptionError(err) {
		f.corrupted(storeError(err))
		return
	}
	f.background.Add(1)
	select {
	case f.failing <- struct{}{}:
	default:
	}
	now := int64(uptime())
	f.lastBackground.Store(now)
	logged := f.loggedBackground.Load()
	if (logged == 0 || now-logged > int64(backgroundLogInterval)) && f.loggedBackground.CompareAndSwap(logged, now) {
		f.logger.Error("the store cannot flush or compact, it will try again", "err", err, "failures", f.background.Load())
	}
}

// staleBackground is for how long a background failure keeps the log unhealthy.
const staleBackground = time.Minute

// health reports background failures of late.
func (f *faults) health() error {
	last := f.lastBackground.Load()
	if last == 0 {
		return nil
	}
	ago := uptime() - time.Duration(last)
	if ago > staleBackground {
		return nil
	}
	return fmt.Errorf("store cannot flush or compact: %d failures, the last %v ago; look at the disk",
		f.background.Load(), ago.Round(time.Second))
}

// openError is storeError for what Pebble says when it does not open a store.
// It marks few of the contradictions between its files as corruption.
func openError(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) || strings.Contains(err.Error(), "format") {
		return storeError(err) // the disk, or a store of a later version
	}
	if errors.Is(storeError(err), ErrCorrupt) {
		return storeError(err)
	}
	return fmt.Errorf("%w: %w; %s", ErrCorrupt, err, repairHint)
}

// repairHint is what an operator does about files that rotted.
const repairHint = `"logserver restore --help" says how to go on from a backup and a replica`

// storeError adds to an error of Pebble what it means for the log.
func storeError(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrCorrupt), errors.Is(err, ErrDiskFull):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	case pebble.IsCorruptionError(err), errors.Is(err, fs.ErrNotExist):
		// A file of the store that is not there is as bad as one that rotted.
		return fmt.Errorf("%w: %w; %s", ErrCorrupt, err, repairHint)
	}
	return err
}
