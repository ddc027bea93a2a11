package orchestrator

import (
	"context"
	"errors"

	"golang.org/x/mod/sumdb/tlog"
)

// The outcomes of a Log that this package tells apart with errors.Is. Any other
// error of an append means that its outcome is unknown, and makes the
// orchestrator refuse everything until it is opened again.
var (
	// ErrGuard: a register does not hold the value that the entry asked for.
	// Nothing was sequenced and no deduplication key consumed.
	ErrGuard = errors.New("guard does not hold")
	// ErrPushback: the log's queue is full, or its disk is. Nothing was accepted.
	ErrPushback = errors.New("log is busy")
	// ErrNotYet: no published checkpoint covers the index yet.
	ErrNotYet = errors.New("not published yet")
)

// LogEntry is what a Log is asked to sequence. The log copies what it keeps.
type LogEntry struct {
	// Data is the public entry: a commitment in the audit log, a change in the
	// membership log.
	Data []byte
	// Opening is its private counterpart, stored in the same commit; nil in the
	// membership log.
	Opening []byte
	// Dedup, if not empty, makes this entry the only one of its key: a later one
	// is answered with this one's index.
	Dedup []byte
	// Guards must all hold when the entry is sequenced, entries ahead of it in
	// the same commit included. An unset register holds 0.
	Guards []Register
	// Sets are the registers that take a new value in the same commit.
	Sets []Register
}

// Register is a named number that the log keeps beside its entries.
type Register struct {
	Key   string // 1 to 128 bytes
	Value uint64
}

// LogResult is the outcome of one entry.
type LogResult struct {
	Index     int64 // -1 if Err is set
	Duplicate bool  // an earlier entry with the same key has Index
	Err       error // nil or wraps ErrGuard
}

// Head is the tree after a commit, signed by the log's receipt key. No witness
// has seen it.
type Head struct {
	Size int64
	Note []byte // signed note; nil if the log has no receipt key
}

// Appender sequences entries durably: when Append returns, the entries that got
// an index are integrated and survive any crash.
type Appender interface {
	// Append decides every entry by itself, in order, and returns one result for
	// each with a head that covers them all, duplicates included. An error
	// concerns all of them.
	Append(ctx context.Context, entries ...LogEntry) ([]LogResult, Head, error)
	// Register returns the value of a register, 0 if it is unset.
	Register(key string) (uint64, error)
}

// Reader reads what is integrated.
type Reader interface {
	// Size is the number of integrated entries. It never falls.
	Size() int64
	// Entries calls visit for start ≤ index < end ≤ Size in order. The slices are
	// valid during the call only.
	Entries(ctx context.Context, start, end int64, visit func(index int64, data, opening []byte) error) error
	// InclusionProof is the RFC 6962 proof of the entry at index in the tree of
	// the given size.
	InclusionProof(index, size int64) ([]tlog.Hash, error)
	// ConsistencyProof is the RFC 6962 proof between two tree sizes.
	ConsistencyProof(old, size int64) ([]tlog.Hash, error)
}

// Publisher knows the checkpoints that satisfied the witness policy. They are
// signed notes, cosignatures included, and are kept for ever.
type Publisher interface {
	// Published returns the newest one, with cosignatures as fresh as the last
	// round; ErrNotYet if there is none.
	Published() ([]byte, error)
	// FirstPublishedCovering returns the first one ever published whose size is
	// above index, always the same bytes; ErrNotYet if there is none yet.
	FirstPublishedCovering(index int64) ([]byte, error)
	// WaitPublished blocks until a checkpoint of at least the given size is
	// published and returns the newest one.
	WaitPublished(ctx context.Context, size int64) ([]byte, error)
	// AllowWitness lets tree sizes up to size go to witnesses. A log that is
	// held back starts with none allowed; one that is not ignores it.
	AllowWitness(size int64)
}

// Log is one of the control plane's two logs. Only the orchestrator appends to
// it while it is open.
type Log interface {
	Appender
	Reader
	Publisher
}
