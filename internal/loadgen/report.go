package loadgen

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// maxLatency is the largest time that a histogram tells from larger ones.
const maxLatency = time.Hour

// newHistogram counts microseconds, to three digits.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency.Microseconds(), 3) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d, time.Microsecond), maxLatency).Microseconds()) // which is in range
}

// stats are the counters of a load, in entries unless they say otherwise.
type stats struct {
	begun, ended atomic.Int64 // nanoseconds since the epoch
	sent         atomic.Int64
	acknowledged atomic.Int64
	pushback     atomic.Int64
	refused      atomic.Int64
	unknown      atomic.Int64
	late         atomic.Int64 // messages
	faults       atomic.Int64
	refusals     codes

	mu        sync.Mutex
	lastError error
	lastFault error
}

// remember keeps the newest error.
func (s *stats) remember(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastError = err
}

// fault counts something that the log must not do.
func (s *stats) fault(err error) {
	s.faults.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastFault == nil {
		s.lastFault = err
	}
}

// codes counts refused entries by their code, or status where there is none.
type codes struct {
	mu sync.Mutex
	m  map[string]int64
}

// plainCode is what the code of a refusal looks like. What a log sends beyond that
// is not shown.
var plainCode = regexp.MustCompile(`^[a-z0-9_]{1,40}$`)

// maxCodes bounds what a log that makes codes up can make us remember.
const maxCodes = 64

func (c *codes) add(code string, status int, n int64) {
	if !plainCode.MatchString(code) {
		code = "status " + strconv.Itoa(status)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[string]int64)
	}
	if _, ok := c.m[code]; !ok && len(c.m) == maxCodes {
		code = "other"
	}
	c.m[code] += n
}

// Latency is a distribution of times, in milliseconds.
type Latency struct {
	Mean float64 `json:"mean_ms"`
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
	// Buckets counts the times, from the shortest to the longest, in steps of 1, 2,
	// 5, 10 and so on. They follow one another, empty ones in between included.
	Buckets []Bucket `json:"histogram"`
}

// Bucket counts the times longer than Over and at most To, in milliseconds.
type Bucket struct {
	Over  float64 `json:"over_ms"`
	To    float64 `json:"to_ms"`
	Count int64   `json:"count"`
}

func newLatency(h *hdrhistogram.Histogram) Latency {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Latency{Mean: h.Mean() / 1000, P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1000, Buckets: newBuckets(h)}
}

// newBuckets sums a histogram up.
func newBuckets(h *hdrhistogram.Histogram) []Bucket {
	buckets := []Bucket{}
	over, to := int64(0), int64(1) // microseconds, as in the histogram
	next := func() {
		over = to
		if strings.HasPrefix(strconv.FormatInt(to, 10), "2") {
			to = to / 2 * 5
		} else {
			to *= 2
		}
	}
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		for bar.From > to {
			next()
			if len(buckets) > 0 {
				buckets = append(buckets, newBucket(over, to))
			}
		}
		if len(buckets) == 0 {
			buckets = append(buckets, newBucket(over, to))
		}
		buckets[len(buckets)-1].Count += bar.Count
	}
	return buckets
}

func newBucket(over, to int64) Bucket {
	return Bucket{Over: float64(over) / 1000, To: float64(to) / 1000}
}

// Report is what a load has shown, so far or in the end. Counts are entries.
type Report struct {
	Mode        string  `json:"mode"`
	Connections int     `json:"connections"`
	EntrySize   int     `json:"entry_bytes"`
	BatchSize   int     `json:"batch"`
	Rate        float64 `json:"offered_rate,omitempty"` // entries a second; 0 is as fast as possible

	Seconds      float64 `json:"seconds"`
	Sent         int64   `json:"sent"`
	Acknowledged int64   `json:"acknowledged"`
	Throughput   float64 `json:"acknowledged_per_second"`
	// Pushback is what the log refused as busy, Refused what it refused for
	// another reason, by code in Refusals; Unknown had no answer.
	Pushback int64            `json:"pushback"`
	Refused  int64            `json:"refused"`
	Unknown  int64            `json:"unknown"`
	Refusals map[string]int64 `json:"refusals,omitempty"`
	// LateMessages were sent later than they were due, because every connection
	// was waiting. Latency counts that, Service does not.
	LateMessages int64   `json:"late_messages"`
	Latency      Latency `json:"latency"`
	Service      Latency `json:"service_time"`
	LastError    string  `json:"last_error,omitempty"`

	// Faults are proofs that did not verify; Verified is nil before Verify.
	Faults   int64         `json:"faults"`
	Fault    string        `json:"first_fault,omitempty"`
	Verified *Verification `json:"verified,omitempty"`
}

// Report returns what the load has shown so far.
func (l *Load) Report() *Report {
	o, s := &l.options, &l.stats
	r := &Report{Mode: o.Mode, Connections: o.Connections, EntrySize: o.EntrySize, BatchSize: o.BatchSize, Rate: o.Rate,
		Sent: s.sent.Load(), Acknowledged: s.acknowledged.Load(), Pushback: s.pushback.Load(), Refused: s.refused.Load(),
		Unknown: s.unknown.Load(), LateMessages: s.late.Load(), Faults: s.faults.Load(), Refusals: map[string]int64{}}
	if begun := s.begun.Load(); begun != 0 {
		ended := s.ended.Load()
		if ended == 0 {
			ended = time.Now().UnixNano()
		}
		r.Seconds = time.Duration(ended - begun).Seconds()
		r.Throughput = float64(r.Acknowledged) / max(r.Seconds, 1e-9)
	}
	latency, service := newHistogram(), newHistogram()
	for _, w := range l.workers {
		w.mu.Lock()
		latency.Merge(w.latency)
		service.Merge(w.service)
		w.mu.Unlock()
	}
	r.Latency, r.Service = newLatency(latency), newLatency(service)
	s.refusals.mu.Lock()
	for code, n := range s.refusals.m {
		r.Refusals[code] = n
	}
	s.refusals.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastError != nil {
		r.LastError = s.lastError.Error()
	}
	if s.lastFault != nil {
		r.Fault = s.lastFault.Error()
	}
	return r
}

// Err returns why the log did not keep what it promised, or nil.
func (r *Report) Err() error {
	switch {
	case r.Faults > 0:
		return fmt.Errorf("%d proofs do not verify, the first: %s", r.Faults, r.Fault)
	case r.Verified != nil && r.Verified.Missing > 0:
		return fmt.Errorf("%d of %d acknowledged entries are not in the log where it said, the first: %s",
			r.Verified.Missing, r.Acknowledged, r.Verified.First)
	}
	return nil
}
