package logserver

import (
	"errors"
	"math"
)

// Status is what an operator wants to know at a glance. Everything in it is
// public except that strangers need not be told how full a machine is.
type Status struct {
	Origin      string `json:"origin"`
	Vkey        string `json:"vkey"`
	ReceiptVkey string `json:"receipt_vkey,omitempty"`

	// Keys lists every key of the log: those that sign, then the retired ones.
	Keys []KeyInfo `json:"keys"`
	// Successor is the origin of the log that goes on after this one; "" unless
	// it has ended.
	Successor string `json:"successor,omitempty"`

	// Ready says that the log accepts entries. Otherwise NotReady is why not:
	// the start-up head check, or a failure.
	Ready    bool   `json:"ready"`
	NotReady string `json:"not_ready,omitempty"`
	// Healthy says that it also publishes what it accepts; otherwise Reasons
	// are why not.
	Healthy bool     `json:"healthy"`
	Reasons []string `json:"reasons,omitempty"`

	// Tree sizes, in entries: Published ≤ Signed ≤ Integrated.
	Integrated int64 `json:"integrated_size"`
	Signed     int64 `json:"signed_size"`
	Published  int64 `json:"published_size"`
	// Witnessed is the size of the newest published checkpoint that satisfied the
	// policy; below Published only if the log fails open.
	Witnessed int64 `json:"witnessed_size"`
	// CosignedAge is how old the cosignatures are that make up its quorum, in
	// seconds; nil without witnesses.
	CosignedAge *float64 `json:"cosigned_age_seconds,omitempty"`
	// Behind is how long a witnessed checkpoint has been due, in seconds; 0 if
	// none is.
	Behind float64 `json:"behind_seconds"`

	// Quorum says which cosignatures publication asks for: "none", a witness,
	// or "k of a, b, c". With "none" nobody but this store stands against a
	// second history.
	Quorum string `json:"quorum"`
	// Publication is "fail-closed", or "fail-open" if checkpoints are published
	// though the quorum is missing.
	Publication string `json:"publication"`

	// Entries and bytes that wait for the next commit, and their bounds.
	QueuedEntries    int `json:"queued_entries"`
	QueuedBytes      int `json:"queued_bytes"`
	MaxQueuedEntries int `json:"max_queued_entries"`
	MaxQueuedBytes   int `json:"max_queued_bytes"`

	// Memory is what the HTTP interface and the deduplication keys may hold; zero
	// for a stopped log.
	Memory MemoryStatus `json:"memory,omitzero"`

	// ScanningKeys says that the log has not gone through the deduplication keys
	// of its store since it was opened. Until then fresh keys cost more time.
	ScanningKeys bool `json:"scanning_dedup_keys,omitempty"`

	// DiskFree is what the log may still fill and DiskReserve below what free
	// space appends are refused, both in bytes; DiskFree is nil if the file
	// system does not say.
	DiskFree    *uint64 `json:"disk_free_bytes,omitempty"`
	DiskReserve uint64  `json:"disk_reserve_bytes"`

	// Copy is the static copy that is kept up to date, or nil.
	Copy *CopyStatus `json:"copy,omitempty"`
}

// MemoryStatus says how much of its bounds is in use, in bytes: see Options.
type MemoryStatus struct {
	Bodies         int64 `json:"body_bytes"`
	MaxBodies      int64 `json:"max_body_bytes"`
	Replies        int64 `json:"reply_bytes"`
	MaxReplies     int64 `json:"max_reply_bytes"`
	TileCache      int64 `json:"tile_cache_bytes"`
	MaxTileCache   int64 `json:"max_tile_cache_bytes"` // 0: nothing is kept
	MaxDedupFilter int64 `json:"max_dedup_filter_bytes"`
}

func (l *Log) memory() MemoryStatus {
	return MemoryStatus{
		Bodies: l.bodies.held(), MaxBodies: l.bodies.total,
		Replies: l.replies.held(), MaxReplies: l.replies.total,
		TileCache: int64(l.tiles.size()), MaxTileCache: max(int64(l.opts.TileCacheBytes), 0),
		MaxDedupFilter: int64(l.opts.DedupFilterBytes),
	}
}

// Status describes the log now. It asks nobody but the file system.
func (l *Log) Status() Status {
	entries, bytes := l.queue.fill()
	// Read in this order the sizes cannot contradict each other.
	witnessed, published, signed := l.Witnessed().Size, l.Published().Size, l.Signed().Size
	s := Status{
		Origin: l.opts.Origin, Vkey: l.Vkey(), ReceiptVkey: l.ReceiptVkey(), Keys: l.Keys(),
		Integrated: l.Size(), Signed: signed, Published: published, Witnessed: witnessed,
		Behind:        l.behind().Seconds(),
		Quorum:        "none",
		Publication:   "fail-closed",
		QueuedEntries: entries, QueuedBytes: bytes,
		MaxQueuedEntries: l.opts.QueueEntries, MaxQueuedBytes: l.opts.QueueBytes,
		Memory:       l.memory(),
		ScanningKeys: l.scanning.Load(),
		DiskReserve:  l.space.reserve,
		Copy:         l.copyStatus(),
	}
	if age, ok := l.cosignedAge(); ok {
		seconds := age.Seconds()
		s.CosignedAge = &seconds
	}
	if free := l.space.free(); free != math.MaxUint64 {
		s.DiskFree = &free
	}
	if l.publisher.policy.Load() != nil {
		s.Quorum = l.publisher.policy.Load().Quorum()
	}
	if l.opts.FailOpen {
		s.Publication = "fail-open"
	}
	if next := new(SucceededError); errors.As(l.suspended, &next) {
		s.Successor = next.Origin
	}
	if err := l.refusal(); err != nil {
		s.NotReady = err.Error()
	}
	s.Ready = s.NotReady == ""
	for _, err := range l.unhealthy() {
		s.Reasons = append(s.Reasons, err.Error())
	}
	s.Healthy = len(s.Reasons) == 0
	return s
}

// refusal is why the log accepts no entries, or nil.
func (l *Log) refusal() error {
	if err := l.failed(); err != nil {
		return err
	}
	if err := l.space.refusal(); err != nil {
		return err
	}
	return l.publisher.appendable()
}

// fill returns the entries and bytes that wait for the sequencer.
func (q *queue) fill() (entries, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.mu.gathering.entries), q.mu.gathering.bytes
}
