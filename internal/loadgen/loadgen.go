// Package loadgen puts load on a log over HTTP, measures how long the log takes
// to answer, and then verifies that everything it was promised is in the log.
//
// # What is measured
//
// With a rate the load is open-loop: message k is due k/rate after the start,
// whether or not the log has answered the ones before, and its latency counts
// from when it was due. So a log that stalls is charged for what would have
// arrived meanwhile, also when every connection is waiting for it (no coordinated
// omission). The time from sending to the answer is kept apart, as service time.
// Without a rate each connection sends its next message when the last one has
// been answered, and the two are the same.
//
// A message that the log refuses as busy (503 or 429) is counted and not sent
// again; it has no latency. Without a rate its connection pauses for as long as
// the log asks. An error after which nobody knows whether the message was added
// is counted as unknown.
//
// # What is verified
//
// Every entry is unlike any other and can be made again from its number. After
// the load, the log is read up to a checkpoint that covers it, verified bundle by
// bundle under the caller's policy. Each acknowledged entry must be there, at the
// index that was answered and with its bytes. Entries of refused messages that
// are in the log nevertheless are counted.
package loadgen

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/logclient"
)

// Modes are how entries are sent.
const (
	Single = "single" // POST /add, an entry a request
	Batch  = "batch"  // POST /add-batch
	Stream = "stream" // POST /add-stream, some messages on the way at a time
)

// Bounds of the options.
const (
	MinEntrySize   = headerSize
	MaxEntrySize   = logclient.MaxEntrySize
	MaxConnections = 4096
	MaxBatch       = 4096
	// maxMessageBytes is what a log takes in one batch or message.
	maxMessageBytes = 8 << 20
	// maxAnswerHeader is what a log can make each connection hold, in bytes.
	maxAnswerHeader = 64 << 10
)

// Options say what load to make. URL, Mode, Connections, EntrySize and one of
// Duration and Entries are required.
type Options struct {
	URL  string // of the log
	Mode string // Single, Batch or Stream
	// Rate is in entries a second, 0 for as fast as the log answers.
	Rate        float64
	Connections int
	EntrySize   int // bytes, MinEntrySize to MaxEntrySize
	BatchSize   int // entries a message in the modes Batch and Stream
	InFlight    int // messages on the way in a stream
	// Duration is for how long to send, Entries at most how many; 0 means that
	// the other one says.
	Duration time.Duration
	Entries  int64
	// Timeout bounds one request and how long answers are waited for at the end.
	Timeout time.Duration
	// Receipt, if not nil, is the log's receipt key: each entry is then added
	// with a proof under it, which is verified at once. Only in the mode Single.
	Receipt note.Verifier
}

func (o *Options) check() error {
	switch {
	case o.Mode != Single && o.Mode != Batch && o.Mode != Stream:
		return fmt.Errorf("mode %q is not one of %q, %q and %q", o.Mode, Single, Batch, Stream)
	case o.Rate < 0 || o.Rate > 1e8:
		return fmt.Errorf("rate of %g entries/s, 0 to 1e8 are possible", o.Rate)
	case o.Connections < 1 || o.Connections > MaxConnections:
		return fmt.Errorf("%d connections, 1 to %d are possible", o.Connections, MaxConnections)
	case o.EntrySize < MinEntrySize || o.EntrySize > MaxEntrySize:
		return fmt.Errorf("entries of %d bytes, %d to %d are possible", o.EntrySize, MinEntrySize, MaxEntrySize)
	case o.Duration <= 0 && o.Entries <= 0:
		return errors.New("neither a duration nor a number of entries to stop at")
	case o.Receipt != nil && o.Mode != Single:
		return fmt.Errorf("receipts are there in the mode %q only", Single)
	case o.Mode == Single:
		o.BatchSize = 1
	case o.BatchSize < 1 || o.BatchSize > MaxBatch || o.BatchSize*(o.EntrySize+2) > maxMessageBytes:
		return fmt.Errorf("messages of %d entries of %d bytes, at most %d and together %d bytes are possible",
			o.BatchSize, o.EntrySize, MaxBatch, maxMessageBytes)
	}
	if o.InFlight < 1 {
		o.InFlight = 1
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	return nil
}

// Load is one run. Its counters can be read while it goes on.
type Load struct {
	options Options
	client  *logclient.Client
	run     [runSize]byte // tells this run's entries from all others
	begun   time.Time
	ends    time.Time    // zero if only the number of entries ends it
	next    atomic.Int64 // number of the next entry
	claims  claims

	stats   stats
	workers []*worker
}

// New validates the options.
func New(o Options) (*Load, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost, transport.MaxIdleConns = o.Connections, o.Connections
	transport.DisableCompression = true
	transport.MaxResponseHeaderBytes = maxAnswerHeader
	l := &Load{options: o, client: &logclient.Client{URL: o.URL, HTTP: &http.Client{Transport: transport}}}
	rand.Read(l.run[:])
	for range o.Connections {
		l.workers = append(l.workers, newWorker(l))
	}
	return l, nil
}

// Run makes the load and returns when every answer is there or was given up.
// When ctx ends nothing more is sent.
func (l *Load) Run(ctx context.Context) {
	l.begun = time.Now()
	if l.options.Duration > 0 {
		l.ends = l.begun.Add(l.options.Duration)
	}
	l.stats.begun.Store(l.begun.UnixNano())
	var group sync.WaitGroup
	for _, w := range l.workers {
		group.Go(func() {
			if l.options.Mode == Stream {
				w.stream(ctx)
			} else {
				w.requests(ctx)
			}
		})
	}
	group.Wait()
	l.stats.ended.Store(time.Now().UnixNano())
	l.client.HTTP.CloseIdleConnections()
}

// message is a run of entries that are sent together.
type message struct {
	first int64 // number of the first entry
	count int
	due   time.Time
	sent  time.Time
}

// take waits until the next message is due and returns it; false when there is
// none any more.
func (l *Load) take(ctx context.Context, timer *time.Timer) (message, bool) {
	count := int64(l.options.BatchSize)
	first := l.next.Add(count) - count
	if l.options.Entries > 0 {
		if first >= l.options.Entries {
			return message{}, false
		}
		count = min(count, l.options.Entries-first)
	}
	now := time.Now()
	m := message{first: first, count: int(count), due: now}
	if l.options.Rate > 0 {
		m.due = l.begun.Add(time.Duration(float64(first) / l.options.Rate * float64(time.Second)))
	}
	if !l.ends.IsZero() && !m.due.Before(l.ends) || ctx.Err() != nil {
		return message{}, false
	}
	if wait := m.due.Sub(now); wait > 0 {
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return message{}, false
		}
	} else if wait < -lateAfter {
		l.stats.late.Add(1)
	}
	l.stats.sent.Add(count)
	m.sent = time.Now()
	return m, true
}

// lateAfter is from when on a message counts as sent late: the connections were
// all busy, or this process was not given the CPU.
const lateAfter = time.Millisecond
