package wholelog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// Entries iterates over the entries of a log in order, each proven to be there. It
// ends after the first error.
func Entries(ctx context.Context, source *tiles.Source) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for bundle, err := range source.Bundles(ctx, 0) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, entry := range bundle.Entries(0) {
				if !yield(entry, nil) {
					return
				}
			}
		}
	}
}

// Opened iterates over the entries of an audit log with the openings that next
// returns in turn. It ends where next ends with io.EOF, as [provenance.OpeningReader]
// does: a log that runs grows while its openings are saved.
func Opened(ctx context.Context, source *tiles.Source, next func() ([]byte, error)) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for data, err := range Entries(ctx, source) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			opening, err := next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !yield(Entry{data, opening}, nil) {
				return
			}
		}
	}
}

// CheckOpenings checks that a file of openings is of the log that a source reads:
// that it names its origin, and the tree that it had when they were saved. The
// error is [ErrOtherLog] or [ErrOtherTree], or one of the source. A source that is
// behind the file says nothing about the tree.
func CheckOpenings(ctx context.Context, source *tiles.Source, openings *provenance.OpeningReader) error {
	c, then := source.Checkpoint(), openings.Tree()
	if openings.Origin() != c.Origin {
		return fmt.Errorf("%w: they are of %q, this is %q", ErrOtherLog, openings.Origin(), c.Origin)
	}
	if then.N > c.Size {
		return nil
	}
	root, err := source.RootAt(ctx, then.N)
	if err != nil {
		return err
	}
	if root != then.Hash {
		return fmt.Errorf("%w: the file says that the log had root hash %s at size %d, and it has %s there", ErrOtherTree, then.Hash, then.N, root)
	}
	return nil
}

// Membership replays a membership log from the pinned genesis. The errors are
// [ErrGenesis], [ErrChange] and [ErrNoMembership], and those of the log.
func Membership(changes iter.Seq2[[]byte, error], genesis []byte) (*membership.History, error) {
	history := membership.NewHistory()
	for change, err := range changes {
		if err != nil {
			return nil, err
		}
		if history.Size() == 0 && !bytes.Equal(change, genesis) {
			return nil, ErrGenesis
		}
		if _, err := history.Append(bytes.Clone(change)); err != nil {
			return nil, fmt.Errorf("%w: entry %d: %w", ErrChange, history.Size(), err)
		}
	}
	if history.Size() == 0 {
		return nil, ErrNoMembership
	}
	return history, nil
}
