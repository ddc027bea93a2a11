package logserver

import (
	"errors"
	"fmt"
)

// The outcomes a caller can tell apart with errors.Is. Every error of this
// package wraps exactly one of them, or is an I/O error of the store.
var (
	// ErrPushback means that the bounded queue is full: nothing was accepted.
	// Try again shortly; an HTTP server answers 503 with Retry-After.
	ErrPushback = errors.New("log is busy, try again")
	// ErrGuard means that a register does not hold the value that the entry
	// asked for. Nothing was sequenced and no deduplication key was consumed:
	// read the register again and re-pin. The error is a *GuardError.
	ErrGuard = errors.New("guard does not hold")
	// ErrInvalid means that an argument is out of its documented bounds.
	ErrInvalid = errors.New("invalid argument")
	// ErrNotFound means that the index, size or resource does not exist (yet).
	ErrNotFound = errors.New("not found")
	// ErrNotReady means that the start-up head check with the witnesses has
	// not ended: reads are served, appends and signatures are not.
	ErrNotReady = errors.New("waiting for the witnesses to confirm the last signed head")
	// ErrForked means that a witness knows a head that this store does not
	// lead to: the store is behind (restored, cloned) or forked.
	ErrForked = errors.New("a witness has seen a head that this store does not know: catch up (logserver restore --catch-up-from SOURCE), or end the log (logserver succeed)")
	// ErrCorrupt means that stored bytes contradict each other. Nothing is
	// signed or appended any more; restore the store from a replica or backup.
	ErrCorrupt = errors.New("store is corrupt")
	// ErrReload means that an earlier error left the outcome of a write
	// unknown: the log refuses everything until it has been opened again.
	ErrReload = errors.New("log must be reopened after a failed write")
	// ErrDiskFull means that the disk has no room beyond its reserve: nothing
	// was sequenced. Reads go on, and appends are accepted again as soon as
	// there is room; an HTTP server answers 503 with Retry-After.
	ErrDiskFull = errors.New("disk is full")
	// ErrLocked means that another process has the store open.
	ErrLocked = errors.New("store is in use by another process")
	// ErrExists means that Create found a log in the directory.
	ErrExists = errors.New("directory already holds a log")
	// ErrImporting means that the log is being filled with the entries of
	// another one, and cannot be used before that is complete.
	ErrImporting = errors.New("import is not complete")
	// ErrIdentity means that the origin or a key is not the one that the
	// store was created with.
	ErrIdentity = errors.New("store belongs to another log")
	// ErrRestored means that the store comes from a backup or is a copy: heads
	// that were signed since then may be unknown to it. Reads are served,
	// appends and signatures are not, until it has caught up: see CatchUp.
	ErrRestored = errors.New("log must catch up first (logserver restore --catch-up-from SOURCE), or end (logserver succeed)")
	// ErrSource means that a store cannot catch up from there: it cannot be
	// read, is behind, or has another history. Nothing has changed.
	ErrSource = errors.New("source is of no use to catch up from")
	// ErrSucceeded means that the log has ended for ever: a successor goes on.
	ErrSucceeded = errors.New("log has ended")
	// ErrClosed means that the log is shutting down or shut.
	ErrClosed = errors.New("log is closed")
)

// GuardError names the register that kept an entry from being sequenced.
type GuardError struct {
	Key  string
	Want uint64 // what the entry asked for
	Got  uint64 // what the register holds, entries ahead in the batch included
}

func (e *GuardError) Error() string {
	return fmt.Sprintf("%v: register %q holds %d, not %d", ErrGuard, e.Key, e.Got, e.Want)
}

// Unwrap makes errors.Is(err, ErrGuard) hold.
func (e *GuardError) Unwrap() error { return ErrGuard }

// corrupt describes a contradiction found in stored bytes.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// invalid describes an argument out of bounds.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
