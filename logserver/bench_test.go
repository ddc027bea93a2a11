//go:build unix

package logserver

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"
)

// BenchmarkAppend measures durable, integrated single appends of 256 bytes from
// 4096 callers on the disk of the temporary directory.
func BenchmarkAppend(b *testing.B) {
	tl := newTestLog(b, benchOptions(b))
	b.SetParallelism(4096 / runtime.GOMAXPROCS(0))
	defer measureCPU(b)()
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
	defer measureCPU(b)()
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

// BenchmarkInclusionProof measures proofs under one tree head: hot, of entries
// under a few tiles that are in memory, and of entries everywhere.
func BenchmarkInclusionProof(b *testing.B) {
	tl := newTestLog(b, benchOptions(b))
	const size = 2_000_000
	batch := make([]Entry, MaxBatch)
	for i := range batch {
		batch[i].Data = make([]byte, 32)
	}
	for n := 0; n < size; n += MaxBatch {
		for i := range batch {
			binary.BigEndian.PutUint64(batch[i].Data, uint64(n+i))
		}
		if _, _, err := tl.AppendBatch(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
	}
	head := tl.Size() - 77
	for name, index := range map[string]func() int64{
		"hot":    func() int64 { return head - 1 - rand.Int64N(4096) },
		"random": func() int64 { return rand.Int64N(head) },
	} {
		b.Run(name, func(b *testing.B) {
			defer measureCPU(b)()
			for b.Loop() {
				if _, err := tl.InclusionProof(index(), head); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proofs/s")
		})
	}
}
