package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/verifier/tiles"
)

const (
	// maxReplayState bounds a state file: a hundred thousand executions that are
	// not good.
	maxReplayState = 64 << 20
	replayFormat   = "tallystick-replay/1"
)

// The verdicts on executions that have ended.
const (
	verdictSame     = "same"
	verdictDiffers  = "differs"
	verdictNotRun   = "not_replayed"
	verdictNoResult = "no_result"
)

// verdict is what came of one execution.
type verdict struct {
	Execution digest.Digest `json:"execution"`
	DecidedAt int64         `json:"decided_at"` // index
	Verdict   string        `json:"verdict"`
	// Detail is the first difference, or why it was not replayed.
	Detail string `json:"detail,omitempty"`
}

// replayState remembers what was replayed of a log: everything that was decided
// before an index, and of that what is not good. The file is trusted.
type replayState struct {
	Format string `json:"format"`
	// Origin, Size and RootHash are the tree that was read. The next run must
	// extend it.
	Origin   string `json:"origin"`
	Size     int64  `json:"size"`
	RootHash string `json:"root_hash"` // base64
	// Through is the index before which every decision was looked at.
	Through  int64 `json:"through"`
	Same     int64 `json:"same"`
	NoResult int64 `json:"no_result"`
	// Differs stay; NotReplayed are tried again by the next run.
	Differs     []verdict `json:"differs,omitempty"`
	NotReplayed []verdict `json:"not_replayed,omitempty"`

	// pending are those of NotReplayed that this run has not tried again, in the
	// order of their decisions.
	pending []verdict
}

// readReplayState reads the state of an earlier run, a new one if there is none,
// and checks that the log extends the tree that it was about.
func readReplayState(ctx context.Context, name string, source *tiles.Source) (*replayState, error) {
	s := &replayState{Format: replayFormat, Origin: source.Checkpoint().Origin}
	b, err := readFile("state", name, maxReplayState)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	unusable := func(format string, args ...any) error {
		return fail(exitMalformed, "name another file with --state, or remove it to begin anew", "state file %q: %w", name, fmt.Errorf(format, args...))
	}
	if err := strictjson.Unmarshal(b, s, maxReplayState); err != nil {
		return nil, unusable("%w", err)
	}
	now := source.Checkpoint()
	switch {
	case s.Format != replayFormat:
		return nil, unusable("format %q, want %q", s.Format, replayFormat)
	case s.Origin != now.Origin:
		return nil, fail(exitOther, "name another file with --state", "state file %q is of log %q, this is %q", name, s.Origin, now.Origin)
	case s.Size < 0 || s.Through < 0 || s.Through > s.Size || s.Same < 0 || s.NoResult < 0:
		return nil, unusable("a number is out of its range")
	case now.Size < s.Size:
		return nil, fmt.Errorf("%w: it shows size %d and had shown %d", tiles.ErrRollback, now.Size, s.Size)
	}
	root, err := source.RootAt(ctx, s.Size)
	if err != nil {
		return nil, err
	}
	if s.Size > 0 && base64.StdEncoding.EncodeToString(root[:]) != s.RootHash {
		return nil, fail(exitFork, "keep the state file and the log as evidence, and run \"verifier log\" for proof of the fork; if it is another log of the same name, name another file with --state",
			"the log had root hash %s at size %d, and now has %s there", s.RootHash, s.Size, base64.StdEncoding.EncodeToString(root[:]))
	}
	return s, nil
}

// read says that a whole tree was read.
func (s *replayState) read(tree tlog.Tree) {
	s.Size, s.RootHash = tree.N, tree.Hash.String()
}

// add counts a verdict on an execution that was not looked at before, or that
// could not be replayed.
func (s *replayState) add(v verdict) {
	switch v.Verdict {
	case verdictSame:
		s.Same++
	case verdictNoResult:
		s.NoResult++
	case verdictDiffers:
		s.Differs = append(s.Differs, v)
	default:
		s.NotReplayed = append(s.NotReplayed, v)
	}
	// Nearly always it is the first, unless one before it is not in this fold.
	if i := slices.IndexFunc(s.pending, func(p verdict) bool { return p.Execution == v.Execution }); i >= 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
	}
	s.Through = max(s.Through, v.DecidedAt+1)
}

// retry makes all that was not replayed pending. It is tried again before what is
// new, since it was decided before.
func (s *replayState) retry() {
	s.pending, s.NotReplayed = s.NotReplayed, nil
	slices.SortFunc(s.pending, func(a, b verdict) int { return cmp.Compare(a.DecidedAt, b.DecidedAt) })
}

// notReplayed are all that were not replayed, by this run or, if it has not tried
// them, by the one before.
func (s *replayState) notReplayed() []verdict { return slices.Concat(s.NotReplayed, s.pending) }

// save replaces the state file.
func (s *replayState) save(name string) error {
	out := *s
	out.NotReplayed = s.notReplayed()
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	return writeFile(name, append(b, '\n'))
}
