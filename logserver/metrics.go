package logserver

import "sync/atomic"

type metrics struct{ failed atomic.Int64 }

func newMetrics(*Log) *metrics { return &metrics{} }

func (m *metrics) group(*batch, *answer) {}
func (m *metrics) refused(error)         {}
func (m *metrics) round(ok bool) {
	if !ok {
		m.failed.Add(1)
	}
}
func (m *metrics) answer(witnessAnswer) {}
func (m *metrics) failedRounds() int64  { return m.failed.Load() }
