// Package tiles audits a whole transparency log through its public read path,
// c2sp.org/tlog-tiles: it downloads every entry, recomputes the tree, and holds
// it against the log's checkpoint, its published tiles, and the tree that it
// showed the last time.
//
// [Audit.Run] does it once. What it verified is a [State], which the caller
// keeps: the next run downloads only what is new and finds out if the log has
// changed its past. An interrupted run returns a State too, and goes on from it.
//
// [Source] reads a log up to one checkpoint and hands out bundles that are
// verified already, for whoever copies a log or catches up with one, and makes
// consistency proofs, for whoever compares what a log has shown to others.
//
// # Trust
//
// The [checkpoint.Policy] and a State of one's own are trusted; what is fetched
// is suspect until the recomputed root hash equals that of a checkpoint that
// satisfies the policy. Entries that were added since then by a log that lies
// are found, whoever the liar is: log, cache or network.
//
// # Concurrency
//
// Run, like Source.Bundles, downloads in parallel with a bounded number of
// goroutines, all of which have ended when it returns. A State must not be used by two runs at a time.
package tiles

import (
	"context"
	"errors"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// The outcomes of an audit. Every error of Run matches one of them with
// errors.Is, or is that of the context.
var (
	// ErrFetch: a resource could not be read.
	ErrFetch = errors.New("log cannot be read")
	// ErrNotFound: the log has no such resource. A [Fetch] returns it; Run wraps
	// it in ErrFetch.
	ErrNotFound = errors.New("not found")
	// ErrMalformed: a resource is not of the form that tlog-tiles gives.
	ErrMalformed = errors.New("malformed resource")
	// ErrCheckpoint: the checkpoint is not acceptable under the policy.
	ErrCheckpoint = errors.New("checkpoint not acceptable")
	// ErrTile: a published tile differs from what the entries make.
	ErrTile = errors.New("tile differs from the entries")
	// ErrRoot: the entries do not make the checkpoint's root hash.
	ErrRoot = errors.New("entries do not make the checkpoint's root hash")
	// ErrRollback: the checkpoint is older than one that was shown before, or than
	// what is asked for.
	ErrRollback = errors.New("log went back")
	// ErrFork: the log has shown two trees of which neither extends the other.
	// The error is a *ForkError.
	ErrFork = errors.New("log has forked")
	// ErrState: the remembered state is damaged or of another log.
	ErrState = errors.New("unusable state")
)

// Fetch reads one resource of a log by its path below the monitoring prefix,
// for example "checkpoint" or "tile/entries/x001/234.p/56". It fails if there
// are more than limit bytes, with ErrNotFound if there is no such resource, and
// otherwise repeats what is worth repeating. It is called by several goroutines
// at a time.
type Fetch func(ctx context.Context, path string, limit int64) ([]byte, error)

// ForkError holds what proves a fork: two signed notes and, if they are of
// different sizes, that the larger tree had another root hash at the smaller size.
type ForkError struct {
	Known []byte // remembered from an earlier run
	Shown []byte // by this run
	// RootAt is the root hash of the tree of Shown at the size of Known, and Proof
	// the consistency proof from there to Shown. RootAt is nil if the sizes are
	// equal, or if the log did not serve what the proof takes.
	RootAt *tlog.Hash
	Proof  []tlog.Hash
}

// Error says what to do with the two checkpoints.
func (e *ForkError) Error() string {
	return ErrFork.Error() + ": keep both checkpoints as evidence, and tell whoever relies on the log"
}

// Evidence returns the fork as evidence against the log of a policy.
func (e *ForkError) Evidence(policy *checkpoint.Policy) *checkpoint.Evidence {
	out := &checkpoint.Evidence{Known: e.Known, Submitted: e.Shown, RootAt: e.RootAt, Hashes: e.Proof}
	for _, key := range policy.Logs() {
		out.Vkeys = append(out.Vkeys, key.Vkey)
	}
	return out
}

// Unwrap makes a ForkError match ErrFork.
func (e *ForkError) Unwrap() error { return ErrFork }
