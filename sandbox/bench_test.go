//go:build unix

package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// benchJob is a warm run of the C guest: formatting, heap, clock, randomness.
func benchJob(b *testing.B) Job {
	module, err := os.ReadFile(filepath.Join(testdataDir, "guest-c.wasm"))
	if err != nil {
		b.Fatal(err)
	}
	job := newJob(module)
	job.Limits = DefaultLimits()
	job.MemoryDigest = false
	return job
}

func benchmark(b *testing.B, job Job, run func(context.Context, Job) (*Result, error)) {
	if _, err := run(b.Context(), job); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := run(b.Context(), job); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDirect(b *testing.B) {
	e := NewEngine(EngineConfig{})
	defer e.Close()
	benchmark(b, benchJob(b), e.Run)
}

// BenchmarkWorker is the same through the process border.
func BenchmarkWorker(b *testing.B) {
	p, err := NewPool(PoolConfig{Workers: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	benchmark(b, benchJob(b), p.Run)
}

func BenchmarkAdmit(b *testing.B) {
	job := benchJob(b)
	b.SetBytes(int64(len(job.Module)))
	for b.Loop() {
		if _, err := Admit(job.Module, job.Capabilities, job.Limits); err != nil {
			b.Fatal(err)
		}
	}
}
