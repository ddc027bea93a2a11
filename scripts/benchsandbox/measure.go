package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/sandbox"
)

// A bench measures by the least of several interleaved rounds: other work on
// the machine only ever adds.
type bench struct {
	rounds  int
	span    int           // runs of a small module in a row at least, for the slowest module a tenth
	window  time.Duration // that such runs in a row take at least
	modules map[string][]byte
	rows    []row
}

func (b *bench) add(name string, module []byte) {
	if b.modules == nil {
		b.modules = map[string][]byte{}
	}
	b.modules[name] = module
}

// job is a run of a guest with plenty of gas, or unmetered.
func (b *bench) job(guest string, args, input string, metered bool) sandbox.Job {
	module := b.modules[guest]
	j := sandbox.Job{
		Module: module, ModuleDigest: sha256.Sum256(module), Input: []byte(input),
		Args:         append([]string{guest}, strings.Fields(args)...),
		Capabilities: []string{"args", "clock", "random"},
		Limits:       sandbox.DefaultLimits(),
	}
	j.Limits.Gas, j.Limits.InputBytes, j.Limits.OutputBytes = 20_000_000_000, 16<<20, 16<<20
	if !metered {
		j.Limits.Gas, j.Limits.Frames = 0, 0
	}
	return j
}

// ended runs a job and wants it to have ended well.
func ended(ctx context.Context, runner interface {
	Run(context.Context, sandbox.Job) (*sandbox.Result, error)
}, job sandbox.Job) (*sandbox.Result, error) {
	r, err := runner.Run(ctx, job)
	if err == nil && r.Outcome.Kind != sandbox.KindOK {
		err = fmt.Errorf("%s ended as %v: %s", job.Args[0], r.Outcome, r.Diagnostics)
	}
	return r, err
}

// turns is how often a round of metering takes turns. Short turns find the moments
// in which nothing else is on the machine; long ones, a tenth of a second or more,
// may find none on a virtual one.
const turns = 10

// metering compares the same work metered and not, in one engine, in turns.
func (b *bench) metering(ctx context.Context) error {
	e := sandbox.NewEngine(sandbox.EngineConfig{})
	defer e.Close()
	for _, m := range []struct {
		name, guest, args, input string
		bound                    float64
	}{
		{"metering: Go, JSON and SHA-256", "go", "normalise", document(600), 1.35},
		{"metering: Rust, word count and SHA-256", "rust", "", words(1 << 18), 1.35},
		{"metering: C, floating-point mean", "c", "", words(1 << 19), 0},
	} {
		least := [2]time.Duration{1 << 62, 1 << 62}
		for range b.rounds*turns + 1 { // the first compiles
			for i, metered := range []bool{true, false} {
				r, err := ended(ctx, e, b.job(m.guest, m.args, m.input, metered))
				if err != nil {
					return err
				}
				least[i] = min(least[i], r.Engine.WallTime)
			}
		}
		name := fmt.Sprintf("%s, %d KiB", m.name, len(m.input)>>10)
		b.rows = append(b.rows, compared(name, ms(least[0]), ms(least[1]), m.bound))
	}
	return nil
}

// rate is how many runs of a job a runner does in a second, in the best of the
// rounds. Each takes n runs and a window at least, so that what comes in between
// runs, as collecting does, is in every one.
func (b *bench) rate(ctx context.Context, runner interface {
	Run(context.Context, sandbox.Job) (*sandbox.Result, error)
}, job sandbox.Job, n int) (float64, error) {
	if _, err := ended(ctx, runner, job); err != nil { // compiles
		return 0, err
	}
	best := 0.0
	for range b.rounds {
		runs, start := 0, time.Now()
		for ; runs < n || time.Since(start) < b.window; runs++ {
			if _, err := ended(ctx, runner, job); err != nil {
				return 0, err
			}
		}
		best = max(best, float64(runs)/time.Since(start).Seconds())
	}
	return best, nil
}

// smallRuns counts warm runs inside a worker: the engine alone, on one core.
func (b *bench) smallRuns(ctx context.Context) error {
	e := sandbox.NewEngine(sandbox.EngineConfig{})
	defer e.Close()
	for _, m := range []struct {
		name, guest, args, input string
		n                        int
		bound                    float64
	}{
		{"warm small C contract, a core", "c", "", "a few words", b.span, 20_000},
		{"warm small Rust contract, a core", "rust", "", "a few words", b.span, 0},
		{"warm small Go contract, a core", "go", "normalise", `{"b":1,"a":2}`, max(b.span/10, 5), 400},
	} {
		rate, err := b.rate(ctx, e, b.job(m.guest, m.args, m.input, true), m.n)
		if err != nil {
			return err
		}
		b.rows = append(b.rows, absolute(m.name, rate, m.bound, "runs/s"))
	}
	return nil
}

// border is what a run costs more in a process of its own.
func (b *bench) border(ctx context.Context) error {
	e := sandbox.NewEngine(sandbox.EngineConfig{})
	defer e.Close()
	pool, err := sandbox.NewPool(sandbox.PoolConfig{Workers: 1})
	if err != nil {
		return err
	}
	defer pool.Close()
	job := b.job("c", "", "a few words", true)
	inside, err := b.rate(ctx, e, job, b.span)
	if err != nil {
		return err
	}
	through, err := b.rate(ctx, pool, job, b.span)
	if err != nil {
		return err
	}
	b.rows = append(b.rows,
		absolute("small C contract through the process border, one at a time", through, 0, "runs/s"),
		absolute("process border, a run", 1e6/through-1e6/inside, 0, "µs (less is better)"))
	return nil
}

// loading measures the admission of a Go module, and what a worker needs to load
// it once it is compiled.
func (b *bench) loading(ctx context.Context) error {
	admission, load := time.Duration(1<<62), time.Duration(1<<62)
	for range min(b.rounds, 3) {
		dir, err := os.MkdirTemp("", "bench-sandbox")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		pool, err := sandbox.NewPool(sandbox.PoolConfig{Workers: 1, CacheDir: dir})
		if err != nil {
			return err
		}
		job := b.job("go", "normalise", "{}", true)
		start := time.Now()
		_, err = pool.Admit(ctx, job.Module, job.Capabilities, job.Limits)
		admission = min(admission, time.Since(start))
		pool.Close()
		if err != nil {
			return err
		}
		for range b.rounds {
			if pool, err = sandbox.NewPool(sandbox.PoolConfig{Workers: 1, CacheDir: dir}); err != nil {
				return err
			}
			r, err := ended(ctx, pool, job)
			pool.Close()
			if err != nil {
				return err
			}
			load = min(load, r.Engine.CompileTime)
		}
	}
	size := fmt.Sprintf("%.1f MB", float64(len(b.modules["go"]))/1e6)
	b.rows = append(b.rows,
		absolute("admission of a Go module of "+size, ms(admission), 3000, "ms (less is better)"),
		absolute("load of the same from the cache", ms(load), 60, "ms (less is better)"))
	return nil
}

// pauses measures how long this process stands still at most while a guest
// computes in a worker, with the collector at work here, and the same inside an
// engine, where only slices let the collector have its way.
func (b *bench) pauses(ctx context.Context) error {
	pool, err := sandbox.NewPool(sandbox.PoolConfig{Workers: 1})
	if err != nil {
		return err
	}
	defer pool.Close()
	e := sandbox.NewEngine(sandbox.EngineConfig{})
	defer e.Close()
	job := b.job("rust", "", words(4<<20), true)
	for _, m := range []struct {
		name   string
		runner interface {
			Run(context.Context, sandbox.Job) (*sandbox.Result, error)
		}
		bound float64
	}{{"longest pause of the host process while a guest computes", pool, 50}, {"longest pause beside a guest in one process", e, 0}} {
		if _, err := ended(ctx, m.runner, job); err != nil {
			return err
		}
		least := time.Duration(1 << 62)
		for range b.rounds {
			var longest time.Duration
			var failed error
			longest = watch(func() { _, failed = ended(ctx, m.runner, job) })
			if failed != nil {
				return failed
			}
			least = min(least, longest)
		}
		b.rows = append(b.rows, absolute(m.name, ms(least), m.bound, "ms (less is better)"))
	}
	return nil
}

// watch returns the longest time that this goroutine was held up, in excess of
// what it slept, while f ran.
func watch(f func()) time.Duration {
	const step = 500 * time.Microsecond
	var done atomic.Bool
	go func() {
		f()
		done.Store(true)
	}()
	longest := time.Duration(0)
	for n := 0; !done.Load(); n++ {
		start := time.Now()
		if n%20 == 0 {
			runtime.GC()
		} else {
			time.Sleep(step)
		}
		longest = max(longest, time.Since(start)-step)
	}
	return longest
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// words is n bytes of words and numbers.
func words(n int) string {
	var b strings.Builder
	for i := uint32(1); b.Len() < n; i = i*1664525 + 1013904223 {
		fmt.Fprintf(&b, "w%d ", i>>24%97)
	}
	return b.String()[:n]
}

// document is a JSON document with n members.
func document(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ",\n  \"key %d\": [%d, %g, \"text %d\", {\"b\": null, \"a\": true}]", n-i, i, float64(i)/7, i)
	}
	return "{" + b.String()[1:] + "}\n"
}
