package logserver

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// A suspended log can be read and does nothing else: it neither appends nor
// signs, and its health is red. One with a successor serves the checkpoint that it
// published last, whatever the witness policy is now; one that can go on, like any
// that fails closed, only one that satisfies it. What suspends it is in the store,
// so that it holds whoever opens it:
//
//   - a successor (Succeed): for ever;
//   - a restore mark (Restore), another place than the store remembers, or a
//     signed head that it does not reach: until CatchUp has brought it to the
//     newest head that somebody else holds.
//
// A disk without room to open the store for writing suspends the log too, until
// it is opened again: see fullopen.go.

// SucceededError says which log goes on. It matches ErrSucceeded.
type SucceededError struct{ Origin string }

func (e *SucceededError) Error() string {
	return fmt.Sprintf("%v: it goes on as %q", ErrSucceeded, e.Origin)
}

// Unwrap makes errors.Is(err, ErrSucceeded) hold.
func (e *SucceededError) Unwrap() error { return ErrSucceeded }

// suspension returns why the log may neither append nor sign, or nil.
func (r reader) suspension(place string) error {
	switch entry, err := r.get(metaSuccessor); {
	case err == nil:
		next, err := checkpoint.ParseSuccessor(entry)
		if err != nil {
			return corrupt("the successor that the log names: %v", err)
		}
		return &SucceededError{Origin: next.Origin}
	case !errors.Is(err, ErrNotFound):
		return err
	}
	switch mark, err := r.get(metaRestored); {
	case err == nil:
		return fmt.Errorf("%w: it comes from %s", ErrRestored, mark)
	case !errors.Is(err, ErrNotFound):
		return err
	}
	switch _, err := r.get(metaCatchUp); {
	case err == nil:
		return fmt.Errorf("%w: it has begun to and is not done", ErrRestored)
	case !errors.Is(err, ErrNotFound):
		return err
	}
	switch stored, err := r.get(metaPlace); {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case place != unknownPlace && !samePlace(string(stored), place):
		return fmt.Errorf("%w: it was copied or moved here from another place", ErrRestored)
	}
	return nil
}

// suspended returns why the store may neither append nor sign, or
// nil: what it holds itself, where it is, or that it is older than it was.
func (s *store) suspended(place string, signed *signedFile) error {
	if err := s.suspension(place); err != nil {
		return err
	}
	raw, err := s.get(metaHead)
	if err != nil {
		return fmt.Errorf("reading the head: %w", lost(err))
	}
	size, _, err := decodeHead(raw)
	if err != nil {
		return err
	}
	return signed.reaches(size)
}

// checkSuspension finds out whether the log may append and sign. A store that
// knows no place is given the one where it is.
func (l *Log) checkSuspension() error {
	place, err := readPlace(l.opts.Dir, l.opts.fs)
	if err != nil {
		return err
	}
	if l.signedFile, err = readSignedFile(l.space.wrap(), l.opts.Dir); err != nil {
		return err
	}
	err = l.store.suspended(place, l.signedFile)
	if errors.Is(err, ErrRestored) || errors.Is(err, ErrSucceeded) {
		l.suspended = err
		l.opts.Logger.Error("log is suspended: it can be read, and neither appends nor signs", "origin", l.opts.Origin, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	if l.readOnly {
		l.suspended = errReadOnly
		return nil
	}
	if _, err := l.store.get(metaPlace); !errors.Is(err, ErrNotFound) {
		return err
	}
	if place, err = makePlace(l.opts.Dir, l.opts.fs); err != nil || place == unknownPlace {
		return err
	}
	return l.store.db.Set(metaPlace, []byte(place), pebble.Sync)
}
