package logserver

import (
	"errors"
	"math"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what the log does. Labels are bounded: outcomes are a closed
// set, and witnesses those of the policy.
type metrics struct {
	entries  prometheus.Counter
	groups   prometheus.Histogram
	refusals *prometheus.CounterVec
	rounds   *prometheus.CounterVec
	answers  *prometheus.CounterVec
	*httpMetrics
	collector []prometheus.Collector
}

func newMetrics(l *Log) *metrics {
	labels := prometheus.Labels{"log": l.opts.Origin}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "tallystick", Subsystem: "log", Name: name, Help: help, ConstLabels: labels}
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "tallystick", Subsystem: "log", Name: name, Help: help, ConstLabels: labels}, value)
	}
	m := &metrics{
		httpMetrics: newHTTPMetrics(labels),
		entries:     prometheus.NewCounter(counter("entries_total", "Entries sequenced since the log was opened.")),
		refusals:    prometheus.NewCounterVec(counter("refusals_total", "Entries and calls that were refused."), []string{"outcome"}),
		rounds:      prometheus.NewCounterVec(counter("rounds_total", "Rounds, by whether the policy was satisfied."), []string{"outcome"}),
		answers:     prometheus.NewCounterVec(counter("witness_answers_total", "Submissions to witnesses."), []string{"witness", "outcome"}),
		groups: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "tallystick", Subsystem: "log", Name: "group_entries", ConstLabels: labels,
			Help:    "Entries in a commit group.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}),
	}
	m.collector = []prometheus.Collector{
		newCopyMetrics(l, labels),
		m.entries, m.refusals, m.rounds, m.answers, m.groups, m.requests, m.seconds,
		gauge("integrated_size", "Tree size that is durable.", func() float64 { return float64(l.Size()) }),
		gauge("signed_size", "Tree size of the last checkpoint that the log key signed.", func() float64 { return float64(l.Signed().Size) }),
		gauge("published_size", "Tree size of the published checkpoint.", func() float64 { return float64(l.Published().Size) }),
		gauge("witnessed_size", "Tree size of the newest published checkpoint that satisfied the witness policy.", func() float64 { return float64(l.Witnessed().Size) }),
		gauge("cosigned_age_seconds", "Age of the cosignatures that make up the quorum of that checkpoint, NaN without witnesses.", func() float64 {
			age, ok := l.cosignedAge()
			if !ok {
				return math.NaN()
			}
			return age.Seconds()
		}),
		gauge("fail_open", "1 if checkpoints are published although the witness policy is not satisfied.", func() float64 { return boolMetric(l.opts.FailOpen) }),
		gauge("quorum_none", "1 if the log asks for no cosignature.", func() float64 { return boolMetric(l.publisher.policy.Load() == nil) }),
		gauge("disk_free_bytes", "Bytes that the log may still fill, +Inf if the file system does not say.", l.space.freeMetric),
		prometheus.NewCounterFunc(counter("background_errors_total", "Flushes and compactions of the store that failed since the log was opened."),
			func() float64 { return float64(l.store.faults.background.Load()) }),
		gauge("behind_seconds", "How long a witnessed checkpoint has been due.", func() float64 { return l.behind().Seconds() }),
		gauge("queued_entries", "Entries that wait for the next commit.", func() float64 { entries, _ := l.queue.fill(); return float64(entries) }),
		gauge("queued_bytes", "Bytes of entries and openings that wait for the next commit.", func() float64 { _, bytes := l.queue.fill(); return float64(bytes) }),
		gauge("body_bytes", "Memory held by request bodies that are being read.", func() float64 { return float64(l.bodies.held()) }),
		gauge("reply_bytes", "Bytes of large replies that are being sent.", func() float64 { return float64(l.replies.held()) }),
		gauge("tile_cache_bytes", "Memory held by the tile cache.", func() float64 { return float64(l.tiles.size()) }),
		gauge("append_streams", "Open append streams.", func() float64 { return float64(l.streams.Load()) }),
		gauge("healthy", "1 if the log accepts entries and publishes.", func() float64 { return boolMetric(l.Health() == nil) }),
	}
	return m
}

func boolMetric(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collector {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collector {
		c.Collect(ch)
	}
}

// Metrics returns the log's metrics, all with the label log=<origin>, for the
// embedder's registry.
func (l *Log) Metrics() prometheus.Collector { return l.metrics }

// group counts a commit group that has been answered.
func (m *metrics) group(a *answer) {
	if a.err != nil {
		m.refused(a.err)
		return
	}
	fresh := a.entries
	for i := range a.results {
		switch r := &a.results[i]; {
		case r.Err != nil:
			m.refused(r.Err)
			fresh--
		case r.Duplicate:
			fresh--
		}
	}
	m.entries.Add(float64(fresh))
	m.groups.Observe(float64(a.entries))
}

func (m *metrics) refused(err error) { m.refusals.WithLabelValues(outcomeOf(err).code).Inc() }

func (m *metrics) round(satisfied bool) {
	outcome := "witnessed"
	if !satisfied {
		outcome = "unsatisfied"
	}
	m.rounds.WithLabelValues(outcome).Inc()
}

func (m *metrics) answer(a witnessAnswer) {
	outcome := "cosigned"
	switch {
	case errors.Is(a.err, ErrForked):
		outcome = "conflict"
	case a.err != nil:
		outcome = "failed"
	}
	for _, w := range a.client.witnesses {
		m.answers.WithLabelValues(w.Name, outcome).Inc()
	}
}
