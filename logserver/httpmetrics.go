package logserver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// codeOK is the label of requests that were not refused.
const codeOK = "ok"

// httpMetrics counts requests by route and outcome. Both are closed sets.
type httpMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	// What every request needs is looked up once.
	ok       [numRoutes]prometheus.Counter
	duration [numRoutes]prometheus.Observer
}

func newHTTPMetrics(labels prometheus.Labels) *httpMetrics {
	m := &httpMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tallystick", Subsystem: "log_http", Name: "requests_total", ConstLabels: labels,
			Help: "Requests by route and by code: ok, or why they were refused.",
		}, []string{"route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "tallystick", Subsystem: "log_http", Name: "request_duration_seconds", ConstLabels: labels,
			Help:    "Time from the headers of a request to the end of its answer; of add_stream, the whole stream.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
		}, []string{"route"}),
	}
	for r := range numRoutes {
		m.ok[r] = m.requests.WithLabelValues(routeNames[r], codeOK)
		m.duration[r] = m.seconds.WithLabelValues(routeNames[r])
	}
	return m
}

// request counts one that has been answered.
func (m *httpMetrics) request(r route, code string, took time.Duration) {
	if code == codeOK {
		m.ok[r].Inc()
	} else {
		m.requests.WithLabelValues(routeNames[r], code).Inc()
	}
	m.duration[r].Observe(took.Seconds())
}
