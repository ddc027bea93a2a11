package logserver

import (
	"crypto"
	"log/slog"
	"net/http"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Defaults of Options.
const (
	// DefaultQueueEntries and DefaultQueueBytes bound what waits for the next
	// commit: some thousands of callers with an entry each, and the memory of
	// a thousand of the largest entries.
	DefaultQueueEntries = 16384
	DefaultQueueBytes   = 64 << 20
	// DefaultBodyBytes bounds what requests that append hold in memory: ten
	// thousand small ones, or eight of the largest batches at once.
	DefaultBodyBytes = 64 << 20
	// DefaultReplyBytes bounds the large replies that clients are slow to
	// take: a thousand usual bundles.
	DefaultReplyBytes = 128 << 20
	// DefaultTileCacheBytes keeps the full tiles of two million entries, or
	// the bundles of two hundred thousand small ones.
	DefaultTileCacheBytes = 64 << 20
	// DefaultDedupFilterBytes is good for 44 million deduplication keys; a log
	// with fewer takes less.
	DefaultDedupFilterBytes = 64 << 20
	// DefaultMinInterval is the shortest time between the starts of two
	// rounds. With public witnesses, use a second or more.
	DefaultMinInterval = 100 * time.Millisecond
	// DefaultRefreshInterval is how often an unchanged checkpoint is cosigned
	// afresh.
	DefaultRefreshInterval = 5 * time.Minute
	// DefaultWitnessTimeout bounds one request to a witness, and a round.
	DefaultWitnessTimeout = 10 * time.Second
)

// Options configure a log. Origin and Key are required; the zero value of
// every other field is useful.
type Options struct {
	// Dir holds the store. It is created by Create.
	Dir string
	// Origin is the log's unique name, a schema-less URL, and its key name.
	Origin string
	// Key is the log's Ed25519 key: it signs once a round.
	Key crypto.Signer
	// ReceiptKey, if set, is the Ed25519 key that may sign the head of every
	// commit group, under the key name Origin + "/receipt".
	ReceiptKey crypto.Signer
	// NextKey and NextReceiptKey are the keys of a rotation that may have begun
	// or ended: see BeginRotation. The store says which of the keys is in use,
	// so either may be given in the place of the other.
	NextKey        crypto.Signer
	NextReceiptKey crypto.Signer

	// Policy says when a checkpoint is witnessed, and where its witnesses are.
	// Nil, like a policy with quorum none, publishes every signed checkpoint.
	Policy *checkpoint.Policy
	// FailOpen publishes a signed checkpoint at the end of its round even if
	// the policy is not satisfied. Clients with the same policy refuse such a
	// checkpoint. The default keeps serving the last one that satisfied it.
	FailOpen bool
	// HoldWitness makes the log sign and submit no tree larger than the last
	// signed one until AllowWitness raises the limit.
	HoldWitness bool
	// Transport reaches the witnesses; nil means a transport of the log's own.
	Transport http.RoundTripper

	MinInterval     time.Duration // default DefaultMinInterval
	RefreshInterval time.Duration // default DefaultRefreshInterval
	WitnessTimeout  time.Duration // default DefaultWitnessTimeout
	QueueEntries    int           // default DefaultQueueEntries
	QueueBytes      int           // default DefaultQueueBytes

	// DedupFilterBytes bounds the memory that tells fresh deduplication keys
	// from those that must be looked up. Beyond 12 bits a key it is right less
	// often, which costs time only. The default is DefaultDedupFilterBytes.
	DedupFilterBytes int

	// Memory of the HTTP interface, in bytes. Requests beyond the first two
	// are answered 503 with Retry-After.
	BodyBytes      int // default DefaultBodyBytes
	ReplyBytes     int // default DefaultReplyBytes
	TileCacheBytes int // default DefaultTileCacheBytes; negative keeps nothing

	// ImportFrom, if set, is the verifier key of another log: Create makes a log
	// to be filled with its entries, and Open lets that be done. See
	// FinishImport. Policy is not looked at meanwhile.
	ImportFrom string

	// DiskReserve is the free space, in bytes, below which appends are refused
	// with ErrDiskFull. 0 means a tenth of the file system, at most
	// DefaultDiskReserve; a negative value watches nothing.
	DiskReserve int64
	// ReadWhenFull has Open serve reads only when the disk has no room to open
	// the store for writing, where it would be ErrDiskFull. The log is unhealthy
	// and refuses appends with ErrDiskFull, and Log.Reopen says when there is
	// room. Nothing is written meanwhile.
	ReadWhenFull bool

	// Logger receives what an operator should know; nil discards it. It never
	// receives entries, openings or keys.
	Logger *slog.Logger
	// Fatal is called when the outcome of a write is unknown, or the log can
	// otherwise not go on: it must end the process, which opens the log again
	// when it is restarted. It may be called on any goroutine, with locks held,
	// and must not call the log or return. Nil panics with the error.
	Fatal func(error)

	// firstEntry is what Create makes entry 0, unless it is nil.
	firstEntry []byte
	// fs replaces the file system in tests, tune changes how Pebble uses it, and
	// diskPoll is how often the disk is looked at. durable is called when a group
	// is durable, before it is shown; its error is one of the group. overlap
	// replaces largeBatchEntries. locked is called by openStore when nobody else
	// has the store.
	fs       vfs.FS
	tune     func(*pebble.Options)
	diskPoll time.Duration
	durable  func() error
	overlap  int
	locked   func(*Options) error
}

// freshFor is how old cosignatures may be before the log counts them as stale:
// three refresh rounds, which is what readers of a membership log allow.
func (o *Options) freshFor() time.Duration { return 3 * o.RefreshInterval }

func (o *Options) setDefaults() {
	setDefault(&o.MinInterval, DefaultMinInterval)
	setDefault(&o.RefreshInterval, DefaultRefreshInterval)
	setDefault(&o.WitnessTimeout, DefaultWitnessTimeout)
	setDefault(&o.QueueEntries, DefaultQueueEntries)
	setDefault(&o.QueueBytes, DefaultQueueBytes)
	setDefault(&o.overlap, largeBatchEntries)
	setDefault(&o.DedupFilterBytes, DefaultDedupFilterBytes)
	setDefault(&o.BodyBytes, DefaultBodyBytes)
	setDefault(&o.ReplyBytes, DefaultReplyBytes)
	setDefault(&o.TileCacheBytes, DefaultTileCacheBytes)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
