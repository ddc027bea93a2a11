//go:build unix

package logserver

import (
	"syscall"
	"testing"
	"time"
)

// measureCPU makes a benchmark report the processor time of an operation, of
// all threads together: on a machine with other work, wall time says little.
// Call what it returns at the end.
func measureCPU(b *testing.B) func() {
	before := processorTime(b)
	return func() {
		b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
	}
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
