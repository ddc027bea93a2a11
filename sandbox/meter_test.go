package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// metered gives a job a budget.
func metered(job Job, gas, frames uint64) Job {
	job.Limits.Gas, job.Limits.Frames = gas, frames
	return job
}

// counter counts down from n in a loop and then goes on with rest.
func counter(n int32, rest ...byte) []byte {
	return printer(func(uint32) []byte {
		return wasmtest.Cat(
			wasmtest.Op(0x03, 0x40),                                                                                                      // loop
			wasmtest.I32Const(256), wasmtest.I32Const(256), wasmtest.Op(0x28, 2, 0), wasmtest.I32Const(1), wasmtest.Op(0x6a, 0x36, 2, 0), // one more at 256
			wasmtest.I32Const(256), wasmtest.Op(0x28, 2, 0), wasmtest.I32Const(n), wasmtest.Op(0x49, 0x0d, 0, 0x0b), // again while it is less than n
			rest)
	})
}

// meteredModules are programs that end in each way.
func meteredModules() map[string][]byte {
	flood := wasmtest.Command()
	fdWrite := flood.Import(wasmtest.WASI, "fd_write", "iiii:i")
	flood.Start("", wasmtest.Loop(write(fdWrite, 1, 100, 7)))
	start := wasmtest.Command()
	early := start.Func(":", "", wasmtest.I32Const(64), wasmtest.I32Const(7), wasmtest.Op(0x36, 2, 0))
	start.Start("")
	start.StartSection(early)
	return map[string][]byte{
		"ok":            counter(1000),
		"trap":          counter(1000, wasmtest.Unreachable...),
		"exit":          counter(1000, wasmtest.Call(1, 7)...),
		"grow and fill": counter(10, wasmtest.Cat(wasmtest.I32Const(2), wasmtest.Op(0x40, 0, 0x1a), wasmtest.I32Const(0), wasmtest.I32Const(9), wasmtest.I32Const(100_000), wasmtest.Op(0xfc, 0x0b, 0))...),
		"spin":          spinner(),
		"recursion":     recursion(),
		"flood":         flood.Bytes(),
		"start section": start.Bytes(),
	}
}

// TestBudgets runs each program with budgets from nothing to plenty. However
// the gas is handed out, and in both modes of the engine, it ends in the same
// way, with the same gas, output and memory.
func TestBudgets(t *testing.T) {
	const plenty = 200_000
	slices := []uint64{1, 77, 77_777, MaxGas}
	engines := make([]*Engine, 0, 2*len(slices))
	for _, slice := range slices {
		for _, interpreter := range []bool{false, true} {
			e := NewEngine(EngineConfig{Interpreter: interpreter, Slice: slice})
			defer e.Close()
			engines = append(engines, e)
		}
	}
	for name, module := range meteredModules() {
		t.Run(name, func(t *testing.T) {
			full, err := engines[0].Run(t.Context(), metered(newJob(module), plenty, 100))
			if err != nil {
				t.Fatal(err)
			}
			whole := *full.Outcome.Gas
			for i := range uint64(13) {
				budget := max(whole*i/11, 1) // the last two are enough
				want := ""
				for _, e := range engines {
					r, err := e.Run(t.Context(), metered(newJob(module), budget, 100))
					if err != nil {
						t.Fatal(err)
					}
					if got := r.Outcome.String(); want == "" {
						want = got
					} else if got != want {
						t.Fatalf("budget %d, %+v:\n%s\nwant\n%s", budget, e.config, got, want)
					}
					exhausted := r.Outcome.Kind == KindBudgetExhausted
					if *r.Outcome.Gas > budget || exhausted != (budget < whole || full.Outcome.Kind == KindBudgetExhausted) || exhausted && *r.Outcome.Gas != budget {
						t.Fatalf("budget %d of %d: %v", budget, whole, r.Outcome)
					}
				}
			}
		})
	}
}

// TestMeteredOutcomes pins how each program ends when nothing is short.
func TestMeteredOutcomes(t *testing.T) {
	for name, want := range map[string]Kind{
		"ok": KindOK, "trap": KindTrap, "exit": KindExit, "grow and fill": KindOK, "spin": KindBudgetExhausted,
		"recursion": KindStackExhausted, "flood": KindOutputTooLarge, "start section": KindOK,
	} {
		job := metered(newJob(meteredModules()[name]), 1_000_000, MaxFrames)
		r := runBothModes(t, job)
		a, err := Admit(job.Module, job.Capabilities, job.Limits)
		if err != nil {
			t.Fatal(err)
		}
		if r.Outcome.Kind != want || r.RewrittenModule == nil || *r.RewrittenModule != *a.RewrittenModule || a.Rewriter != Rewriter {
			t.Errorf("%s: %v of %x, want %v of %x", name, r.Outcome, r.RewrittenModule, want, a.RewrittenModule)
		}
	}
	if _, err := Admit(meteredModules()["start section"], nil, newJob(nil).Limits); err == nil {
		t.Error("an unmetered module has a start section")
	}
}

// TestEverythingAtOnce runs a program whose budget is used up between two looks
// at it, and which then traps, exits, floods or calls too deep: the counters
// say how it ended.
func TestEverythingAtOnce(t *testing.T) {
	straight := make([]byte, 0, 400)
	for range 200 {
		straight = append(straight, 0x41, 1, 0x1a) // i32.const 1, drop
	}
	for name, rest := range map[string][]byte{
		"trap": wasmtest.Unreachable,
		"exit": wasmtest.Call(1, 7),
		"ok":   nil,
	} {
		job := metered(newJob(printer(func(uint32) []byte { return wasmtest.Cat(straight, rest) })), MaxGas, MaxFrames)
		full := runBothModes(t, job)
		job.Limits.Gas = *full.Outcome.Gas - 1
		if r := runBothModes(t, job); r.Outcome.Kind != KindBudgetExhausted {
			t.Errorf("%s: %v", name, r.Outcome)
		}
	}
	job := metered(newJob(recursion()), MaxGas, 10)
	full := runBothModes(t, job)
	if full.Outcome.Kind != KindStackExhausted {
		t.Fatalf("recursion: %v", full.Outcome)
	}
	job.Limits.Gas = *full.Outcome.Gas - 1
	if r := runBothModes(t, job); r.Outcome.Kind != KindBudgetExhausted {
		t.Errorf("stack and budget: %v", r.Outcome)
	}
}

// TestHostCallsCost checks that a call of the host costs by what it moves, and
// that one the budget does not cover has no effect.
func TestHostCallsCost(t *testing.T) {
	program := func(n int32) []byte {
		b := wasmtest.Command()
		random := b.Import(wasmtest.WASI, "random_get", "ii:i")
		b.Start("", wasmtest.Call(random, 1024, n), wasmtest.Drop)
		return b.Bytes()
	}
	used := func(n int32) uint64 {
		return *runBothModes(t, metered(newJob(program(n)), 1_000_000, 10)).Outcome.Gas
	}
	if none, some := used(7), used(4096+7); none < 100 || some != none+512 {
		t.Errorf("7 bytes cost %d, 4,103 cost %d", none, some)
	}
	job := metered(newJob(program(4096)), used(4096)-1, 10)
	r := runBothModes(t, job)
	untouched := runBothModes(t, metered(newJob(program(0)), 1_000_000, 10))
	if r.Outcome.Kind != KindBudgetExhausted || *r.Outcome.Memory != *untouched.Outcome.Memory {
		t.Errorf("a call beyond the budget: %v", r.Outcome)
	}
}

// TestLimitsOfMetering checks the bounds of gas and frames.
func TestLimitsOfMetering(t *testing.T) {
	for _, l := range [][2]uint64{{1, 0}, {0, 1}, {MaxGas + 1, 1}, {1, MaxFrames + 1}} {
		if _, err := runDirect(t.Context(), metered(newJob(spinner()), l[0], l[1])); !errors.Is(err, ErrInvalidJob) {
			t.Errorf("gas %d, frames %d: %v", l[0], l[1], err)
		}
	}
}

// TestMeteredRunIsCancelled ends the context of a guest that never calls the
// host: it is noticed between two slices.
func TestMeteredRunIsCancelled(t *testing.T) {
	for _, interpreter := range []bool{false, true} {
		e := NewEngine(EngineConfig{Interpreter: interpreter})
		defer e.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if r, err := e.Run(ctx, metered(newJob(spinner()), MaxGas, 10)); !errors.Is(err, ErrStopped) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("interpreter %t: %v, %v", interpreter, r, err)
		}
	}
}

// TestLargeFrames calls a function with many values alive as deep as it goes:
// the frames run out before the native stack does, in both modes.
func TestLargeFrames(t *testing.T) {
	b := wasmtest.Command()
	var body []byte
	const values = 4000
	for i := range int32(values) {
		body = append(body, wasmtest.Cat(wasmtest.I32Const(i), wasmtest.Op(0x28, 2, 0))...) // loaded, so that none is a constant
	}
	body = append(body, wasmtest.Call(0)...)
	for range values - 1 {
		body = append(body, 0x6a)
	}
	b.Func(":", "", body, wasmtest.Drop)
	b.Start("", wasmtest.Call(0))
	r := runBothModes(t, metered(newJob(b.Bytes()), MaxGas, MaxFrames))
	if r.Outcome.Kind != KindStackExhausted {
		t.Errorf("outcome is %v", r.Outcome)
	}
}

// stopAfter is a context that is over once it has been asked n times.
type stopAfter struct {
	context.Context
	n atomic.Int64
}

func (c *stopAfter) Err() error {
	if c.n.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestCancelBetweenSlices stops a guest after each number of slices: it is
// never an outcome, and nothing of it stays in the engine.
func TestCancelBetweenSlices(t *testing.T) {
	e := NewEngine(EngineConfig{Slice: 100})
	defer e.Close()
	job := metered(newJob(counter(100)), MaxGas, 10)
	want, err := e.Run(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(8) {
		p, err := e.load(t.Context(), job.Module, job.key())
		if err != nil {
			t.Fatal(err)
		}
		ctx := &stopAfter{Context: t.Context()}
		ctx.n.Store(n)
		if r, err := e.run(ctx, p, &job); err == nil || !errors.Is(err, ErrStopped) {
			t.Errorf("stopped after %d questions: %v, %v", n, r, err)
		}
	}
	got, err := e.Run(t.Context(), job)
	if err != nil || fmt.Sprint(got.Outcome) != fmt.Sprint(want.Outcome) {
		t.Errorf("after that: %v, %v", got, err)
	}
}
