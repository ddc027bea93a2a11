package witness

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics counts what the witness does. Labels are bounded: submission prefixes,
// outcomes and findings are closed sets, and no label holds what a client sent.
type metrics struct {
	requests *prometheus.CounterVec
	evidence *prometheus.CounterVec
	reloads  *prometheus.CounterVec
	batches  prometheus.Histogram
	seconds  *prometheus.HistogramVec
	changes  atomic.Int64
	registry *prometheus.Registry
}

func newMetrics(w *Witness) *metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "tallystick", Subsystem: "witness", Name: name, Help: help}
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "tallystick", Subsystem: "witness", Name: name, Help: help}, value)
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(counter("requests_total", "Requests to add-checkpoint, by submission prefix and outcome."), []string{"prefix", "outcome"}),
		evidence: prometheus.NewCounterVec(counter("evidence_total", "Evidence files written, by finding."), []string{"finding"}),
		reloads:  prometheus.NewCounterVec(counter("policy_reloads_total", "Policies read while serving, by whether they were taken."), []string{"outcome"}),
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "tallystick", Subsystem: "witness", Name: "batch_heads",
			Help: "Heads made durable by one sync.", Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "tallystick", Subsystem: "witness", Name: "write_seconds",
			Help: "Time to make a batch of heads durable, by outcome.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"outcome"}),
		registry: prometheus.NewRegistry(),
	}
	m.registry.MustRegister(m.requests, m.evidence, m.reloads, m.batches, m.seconds,
		gauge("logs", "Logs that the policy names.", func() float64 {
			if set := w.policy.Load(); set != nil {
				return float64(len(*set))
			}
			return 0
		}),
		gauge("heads", "Logs that were cosigned at least once, also those that the policy names no more.", func() float64 { return float64(len(w.store.heads())) }),
		gauge("changes", "Lawful changes that a cosigner of lawful membership knows; 0 in an ordinary witness.", func() float64 { return float64(m.changes.Load()) }),
		gauge("healthy", "1 if heads can be written.", func() float64 {
			if w.store.broken.Load() {
				return 0
			}
			return 1
		}),
	)
	return m
}

// handler serves the metrics of this witness and nothing of the process.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// batch counts a group of heads that was written, or not.
func (m *metrics) batch(heads int, took time.Duration, err error) {
	outcome := "stored"
	if err != nil {
		outcome = "failed"
	}
	m.seconds.WithLabelValues(outcome).Observe(took.Seconds())
	if err == nil {
		m.batches.Observe(float64(heads))
	}
}

// known says how many changes a cosigner of lawful membership knows.
func (m *metrics) known(changes uint64) { m.changes.Store(int64(changes)) }

// Reloaded counts a policy that was read while serving, and was taken or not.
func (w *Witness) Reloaded(err error) {
	outcome := "taken"
	if err != nil {
		outcome = "refused"
	}
	w.metrics.reloads.WithLabelValues(outcome).Inc()
}
