package logserver

import (
	"context"
	"encoding/binary"
	"runtime"
	"testing"
)

// BenchmarkAppend measures durable, integrated single appends of 256 bytes from
// 4096 callers on the disk of the temporary directory.
func BenchmarkAppend(b *testing.B) {
	tl := newTestLog(b, benchOptions(b))
	b.SetParallelism(4096 / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		data := make([]byte, 256)
		for i := uint64(0); pb.Next(); i++ {
			binary.BigEndian.PutUint64(data, i)
			if _, _, err := tl.Append(context.Background(), Entry{Data: data}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkAppendBatch measures batches of 256 entries of 256 bytes from 16
// callers.
func BenchmarkAppendBatch(b *testing.B) {
	tl := newTestLog(b, benchOptions(b))
	const n = 256
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		batch := make([]Entry, n)
		for i := range batch {
			batch[i].Data = make([]byte, 256)
		}
		for i := uint64(0); pb.Next(); i++ {
			for j := range batch {
				binary.BigEndian.PutUint64(batch[j].Data, i*n+uint64(j))
			}
			if _, _, err := tl.AppendBatch(context.Background(), batch); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "entries/s")
}

func benchOptions(b *testing.B) Options {
	opts := testOptions(nil)
	opts.Dir, opts.MinInterval = b.TempDir(), DefaultMinInterval
	return opts
}
