package controlapi

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the edge. Labels take values from the method table and the closed
// set of codes only, so their number is bounded whatever clients send.
type metrics struct {
	calls           *prometheus.CounterVec   // method, code
	seconds         *prometheus.HistogramVec // method
	unauthenticated *prometheus.CounterVec   // code
	unrecorded      prometheus.Counter
	batchItems      prometheus.Histogram
	nodes           prometheus.Gauge
}

// newMetrics makes the metrics and registers them unless r is nil.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	const namespace, subsystem = "tallystick", "api"
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}
	}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, Buckets: buckets}
	}
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts(
			opts("calls_total", "Authenticated calls by method and outcome.")), []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(
			histogram("call_seconds", "Duration of calls that are no streams, their record included.",
				prometheus.ExponentialBuckets(0.0005, 2, 16)), []string{"method"}),
		unauthenticated: prometheus.NewCounterVec(prometheus.CounterOpts(
			opts("unauthenticated_total", "Calls without a valid token.")), []string{"code"}),
		unrecorded: prometheus.NewCounter(prometheus.CounterOpts(
			opts("unrecorded_total", "Calls that got no answer because they could not be recorded."))),
		batchItems: prometheus.NewHistogram(
			histogram("batch_items", "Items in each operation batch record.", prometheus.ExponentialBuckets(1, 2, 10))),
		nodes: prometheus.NewGauge(prometheus.GaugeOpts(
			opts("connected_nodes", "Nodes that hold an assignment stream."))),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.calls, m.seconds, m.unauthenticated, m.unrecorded, m.batchItems, m.nodes} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
