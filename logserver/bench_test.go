//go:build unix

package logserver

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// BenchmarkAppend measures durable, integrated single appends of 256 bytes from
// 4096 callers on the disk of the temporary directory.
func BenchmarkAppend(b *testing.B) {
	appendSingles(b, func(rng *rand.ChaCha8, e *Entry) {
		e.Data = grow(e.Data, 256)
		rng.Read(e.Data[:16])
	})
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

// BenchmarkAppendDedup is BenchmarkAppend with a fresh deduplication key of 32
// bytes for every entry.
func BenchmarkAppendDedup(b *testing.B) {
	appendSingles(b, func(rng *rand.ChaCha8, e *Entry) {
		e.Data, e.Dedup = grow(e.Data, 256), grow(e.Dedup, 32)
		rng.Read(e.Dedup)
		copy(e.Data, e.Dedup)
	})
}

// BenchmarkAppendOpening appends what a control plane does: entries of 32 bytes
// with openings of 300 and a deduplication key each.
func BenchmarkAppendOpening(b *testing.B) {
	appendSingles(b, func(rng *rand.ChaCha8, e *Entry) {
		e.Data, e.Opening, e.Dedup = grow(e.Data, 32), grow(e.Opening, 300), grow(e.Dedup, 32)
		rng.Read(e.Data)
		copy(e.Opening, e.Data)
		copy(e.Dedup, e.Data)
	})
}

func grow(b []byte, n int) []byte { return slices.Grow(b[:0], n)[:n] }

// appendSingles measures single appends from 4096 callers, of what next makes.
func appendSingles(b *testing.B, next func(*rand.ChaCha8, *Entry)) {
	tl := newTestLog(b, benchOptions(b))
	var callers atomic.Uint64
	b.SetParallelism(4096 / runtime.GOMAXPROCS(0))
	defer measureCPU(b)()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var seed [32]byte
		binary.BigEndian.PutUint64(seed[:], callers.Add(1))
		rng, e := rand.NewChaCha8(seed), Entry{}
		for pb.Next() {
			next(rng, &e)
			if _, _, err := tl.Append(context.Background(), e); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
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

// BenchmarkLoneCaller measures one caller in an idle log, in turns with a bare
// synced commit of as many bytes to Pebble on the same disk.
func BenchmarkLoneCaller(b *testing.B) {
	tl := newTestLog(b, benchOptions(b))
	opts := benchOptions(b)
	opts.setDefaults()
	bare, err := openStore(&opts, &faults{logger: discard})
	if err != nil {
		b.Fatal(err)
	}
	defer bare.close()
	data := make([]byte, 256)
	value := make([]byte, 450) // what an append of 256 bytes commits
	ours, theirs := make([]time.Duration, 0, b.N), make([]time.Duration, 0, b.N)
	for i := 0; b.Loop(); i++ {
		binary.BigEndian.PutUint64(data, uint64(i))
		start := time.Now()
		if _, _, err := tl.Append(context.Background(), Entry{Data: data}); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if err := bare.db.Set(indexKey(kindEntry, int64(i)), value, pebble.Sync); err != nil {
			b.Fatal(err)
		}
		ours, theirs = append(ours, middle.Sub(start)), append(theirs, time.Since(middle))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	p50, bareP50 := ours[len(ours)/2], theirs[len(theirs)/2]
	b.ReportMetric(float64(p50.Microseconds()), "p50-us")
	b.ReportMetric(float64(bareP50.Microseconds()), "pebble-p50-us")
	b.ReportMetric(float64(p50)/float64(bareP50), "ratio")
}
