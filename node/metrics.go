package node

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Collector shows a node's counts and how it is to Prometheus. Its labels take
// values from closed sets, the refusal codes, the problems and the two logs, so
// their number is bounded whatever a control plane sends.
type Collector struct{ node *Node }

// NewCollector returns the metrics of a node.
func NewCollector(n *Node) Collector { return Collector{n} }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tallystick_node_"+name, help, labels, nil)
}

var (
	descAssignments = describe("assignments_total", "Assignments taken from a stream and begun.")
	descAttested    = describe("attested_total", "Attestations made.")
	descResent      = describe("resent_total", "Kept attestations handed in again.")
	descRejected    = describe("rejected_total", "Attestations that the control plane refused.")
	descRetries     = describe("retries_total", "Further tries after something was not available.")
	descAbandoned   = describe("abandoned_total", "Assignments given up without a refusal.")
	descRefused     = describe("refused_total", "Assignments refused, by code.", "code")
	descConnections = describe("connections_total", "Assignment streams opened.")
	descQueued      = describe("queued", "Assignments that wait for their first turn.")
	descWaiting     = describe("waiting", "Assignments that wait for another try.")
	descRunning     = describe("running", "Modules that run.")
	descCapacity    = describe("capacity", "Modules that may run at a time.")
	descKept        = describe("kept_attestations", "Attestations in the directory.")
	descSeen        = describe("seen_size", "Size of the largest checkpoint accepted, by log.", "log")
	descProblem     = describe("problem", "1 if this is wrong with the node now.", "problem")
	descHealthy     = describe("healthy", "1 if nothing is wrong and the node is not being stopped.")
)

// Describe implements prometheus.Collector.
func (c Collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	s := c.node.Status()
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	count(descAssignments, s.Assignments)
	count(descAttested, s.Attested)
	count(descResent, s.Resent)
	count(descRejected, s.Rejected)
	count(descRetries, s.Retries)
	count(descAbandoned, s.Abandoned)
	count(descConnections, s.Connections)
	for code := range refusals {
		count(descRefused, s.Refused[code], string(code))
	}
	gauge(descQueued, int64(s.Queued))
	gauge(descWaiting, int64(s.Waiting))
	gauge(descRunning, int64(s.Running))
	gauge(descCapacity, int64(s.Capacity))
	gauge(descKept, int64(s.Kept))
	for _, seen := range s.Seen {
		gauge(descSeen, seen.Size, string(seen.Log))
	}
	for _, p := range Problems {
		_, on := s.Problems[p]
		gauge(descProblem, int64(truth(on)), string(p))
	}
	gauge(descHealthy, int64(truth(s.Healthy())))
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
