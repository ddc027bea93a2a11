package logserver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Copy is a static copy of the log that something beside it keeps up to date,
// such as package export. The log does not wait for it; it only tells.
type Copy interface {
	CopyStatus() CopyStatus
	// Health returns nil, or why readers of the copy are served badly.
	Health() error
}

// CopyStatus says how far a copy is.
type CopyStatus struct {
	Target string `json:"target"`
	// Size is that of the copy, as far as this process has brought it; Updated is
	// when that last went well, the zero time if it never did.
	Size    int64     `json:"size"`
	Updated time.Time `json:"updated,omitzero"`
	// Failing is since when every attempt has failed, and Reason why the last one
	// did; zero if it did not.
	Failing time.Time `json:"failing,omitzero"`
	Reason  string    `json:"reason,omitempty"`
	// Runs and Failures count since the start.
	Runs     int64 `json:"runs"`
	Failures int64 `json:"failures"`
}

// ReportCopy makes Status, Health and the metrics include a copy, in place of
// any other.
func (l *Log) ReportCopy(c Copy) { l.copy.Store(&c) }

// copyStatus returns the status of the copy, or nil if there is none.
func (l *Log) copyStatus() *CopyStatus {
	c := l.copy.Load()
	if c == nil {
		return nil
	}
	s := (*c).CopyStatus()
	return &s
}

// copyHealth returns why the copy is not healthy, or nil.
func (l *Log) copyHealth() error {
	if c := l.copy.Load(); c != nil {
		return (*c).Health()
	}
	return nil
}

// copyMetrics are there when there is a copy.
type copyMetrics struct {
	log                           *Log
	size, failing, runs, failures *prometheus.Desc
}

func newCopyMetrics(l *Log, labels prometheus.Labels) *copyMetrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("tallystick_log_copy_"+name, help, nil, labels)
	}
	return &copyMetrics{log: l,
		size:     desc("size", "Tree size of the static copy."),
		failing:  desc("failing_seconds", "How long every attempt to update the static copy has failed."),
		runs:     desc("runs_total", "Attempts to update the static copy."),
		failures: desc("failures_total", "Attempts to update the static copy that failed."),
	}
}

// Describe implements prometheus.Collector.
func (m *copyMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.size, m.failing, m.runs, m.failures} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *copyMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.log.copyStatus()
	if s == nil {
		return
	}
	failing := 0.0
	if !s.Failing.IsZero() {
		failing = time.Since(s.Failing).Seconds()
	}
	ch <- prometheus.MustNewConstMetric(m.size, prometheus.GaugeValue, float64(s.Size))
	ch <- prometheus.MustNewConstMetric(m.failing, prometheus.GaugeValue, failing)
	ch <- prometheus.MustNewConstMetric(m.runs, prometheus.CounterValue, float64(s.Runs))
	ch <- prometheus.MustNewConstMetric(m.failures, prometheus.CounterValue, float64(s.Failures))
}
