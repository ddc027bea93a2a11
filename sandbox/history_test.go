//go:build unix

package sandbox

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// oneAnswer is a command that ends with what a host function answers, with a
// memory of so many pages.
func oneAnswer(pages int64, name string) []byte {
	b := new(wasmtest.Builder).Memory(pages, -1).Export("memory", 2, 0)
	f, exit := b.Import(wasmtest.WASI, name, "ii:i"), b.Import(wasmtest.WASI, "proc_exit", "i:")
	b.Start("", wasmtest.Call(f, 0, 0), wasmtest.U32([]byte{0x10}, exit))
	return b.Bytes()
}

// TestNoBytesOfNoMemory asks the host to move no bytes at the end of a memory
// without pages: that succeeds, whatever ran before, in both modes and through a
// pool.
func TestNoBytesOfNoMemory(t *testing.T) {
	large := command(func(b *wasmtest.Builder) {
		b.Start("", wasmtest.I32Const(maxSpare/pageSize), wasmtest.Op(0x40, 0, 0x1a))
	})
	jobs := map[string]Job{}
	for _, name := range []string{"random_get", "args_get", "environ_get"} {
		job := meteredJob(oneAnswer(0, name))
		job.Args, job.Env = nil, nil
		jobs[name] = job
	}
	after := []Job{meteredJob(oneAnswer(1, "random_get")), metered(newJob(large), 100_000_000, 10)}
	after[1].Limits.MemoryPages = 2 * maxSpare / pageSize
	p := testPool(t, PoolConfig{})
	runners := map[string]func(Job) (*Result, error){
		"pool": func(job Job) (*Result, error) { return p.Run(t.Context(), job) },
	}
	for _, interpreter := range []bool{false, true} {
		e := NewEngine(EngineConfig{Interpreter: interpreter})
		defer e.Close()
		runners[modeOf(interpreter)] = func(job Job) (*Result, error) { return e.Run(t.Context(), job) }
	}
	for runner, run := range runners {
		for before := range len(after) + 1 {
			if before > 0 {
				if _, err := run(after[before-1]); err != nil {
					t.Fatal(err)
				}
			}
			for name, job := range jobs {
				r, err := run(job)
				if err != nil {
					t.Fatal(err)
				}
				if r.Outcome.Kind != KindOK {
					t.Errorf("%s, %d runs of others before: %s answers with %v", runner, before, name, r.Outcome)
				}
			}
		}
	}
}

// edges are numbers at which hosts and engines go wrong.
var edges = []int32{0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 8, 64, pageSize - 1, pageSize, pageSize + 1, 2 * pageSize, -1}

// edgy makes a command that asks every host function, and its memory and table,
// which may have no pages and no entries, for what lies at their edges, and ends
// with a sum of all answers.
func edgy(r *rand.Rand) []byte {
	b := new(wasmtest.Builder).Export("memory", 2, 0)
	low := int64(max(0, r.IntN(4)-1))
	high := int64(-1)
	if r.IntN(2) == 0 {
		high = low + int64(r.IntN(3))
	}
	b.Memory(low, high)
	var asks [][]byte // each leaves an i32
	edge := func() []byte { return wasmtest.I32Const(edges[r.IntN(len(edges))]) }
	ask := func(operands int, op ...byte) {
		var code []byte
		for range operands {
			code = append(code, edge()...)
		}
		asks = append(asks, append(code, op...))
	}
	exit := uint32(0)
	for i := range hostFuncs {
		f := &hostFuncs[i]
		sig := f.params + ":"
		if f.returns() {
			sig += "i"
		}
		index := b.Import(wasmtest.WASI, f.name, sig)
		if !f.returns() {
			exit = index
			continue
		}
		var code []byte
		for _, p := range f.params {
			if p == 'I' {
				code = append(code, wasmtest.I64Const(int64(edges[r.IntN(len(edges))]))...)
			} else {
				code = append(code, edge()...)
			}
		}
		asks = append(asks, wasmtest.U32(append(code, 0x10), index))
		if f.params == "ii" { // a pointer and a length, or two pointers
			asks = append(asks, wasmtest.Call(index, 0, 0))
		}
	}
	ask(1, 0x40, 0)                 // memory.grow
	ask(0, 0x3f, 0)                 // memory.size
	ask(3, 0xfc, 11, 0, 0x3f, 0)    // memory.fill
	ask(3, 0xfc, 10, 0, 0, 0x3f, 0) // memory.copy
	ask(1, 0x2d, 0, 0)              // i32.load8_u
	if low := int64(r.IntN(2)); r.IntN(2) == 0 {
		b.Table(low, low+int64(r.IntN(3)))
		ask(0, 0xfc, 16, 0)                                                                     // table.size
		asks = append(asks, wasmtest.Cat(wasmtest.Op(0xd0, 0x70), edge(), []byte{0xfc, 15, 0})) // table.grow
		ask(3, 0xfc, 14, 0, 0, 0xfc, 16, 0)                                                     // table.copy
	}
	var code []byte
	for range 4 + r.IntN(30) {
		code = wasmtest.Cat(code, wasmtest.Op(0x20, 0), wasmtest.I32Const(31), wasmtest.Op(0x6c), // 31 times the sum
			asks[r.IntN(len(asks))], wasmtest.Op(0x6a, 0x21, 0))
	}
	b.Start("i", code, wasmtest.U32([]byte{0x20, 0, 0x10}, exit))
	return b.Bytes()
}

// TestHistoryIsForgotten runs random modules, those above and those of wasmtest,
// one after the other on an engine, in both modes, and each on one that has run
// nothing before: the outcomes are the same.
func TestHistoryIsForgotten(t *testing.T) { historyIsForgotten(t, 60) }

func historyIsForgotten(t *testing.T, runs uint64) {
	used := []*Engine{NewEngine(EngineConfig{CachedModules: 3}), NewEngine(EngineConfig{CachedModules: 3, Interpreter: true})}
	for _, e := range used {
		defer e.Close()
	}
	kinds := map[Kind]int{}
	var jobs []Job
	for seed := range runs {
		r := rand.New(rand.NewPCG(seed, 3))
		job := meteredJob(edgy(r))
		switch r.IntN(6) {
		case 0:
			job = meteredJob(wasmtest.Random(r, wasmtest.RandomConfig{Start: true}).Bytes)
		case 1: // one that ran before
			if len(jobs) > 0 {
				job = jobs[r.IntN(len(jobs))]
			}
		}
		if r.IntN(2) == 0 {
			job.Args, job.Env, job.Input = nil, nil, nil
		}
		jobs = append(jobs, job)
		outcomes := make([]string, 0, 4)
		for _, e := range used {
			fresh := NewEngine(e.config)
			for _, e := range []*Engine{fresh, e} {
				result, err := e.Run(t.Context(), job)
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				kinds[result.Outcome.Kind]++
				outcomes = append(outcomes, fmt.Sprintf("%v %x %x", result.Outcome, result.Output, result.Diagnostics))
			}
			fresh.Close()
		}
		if len(slices.Compact(slices.Clone(outcomes))) != 1 {
			t.Errorf("seed %d: outcomes of a fresh and a used engine, compiler and interpreter:\n%s\n%s\n%s\n%s",
				seed, outcomes[0], outcomes[1], outcomes[2], outcomes[3])
		}
	}
	for _, kind := range []Kind{KindExit, KindTrap} {
		if kinds[kind] < int(runs)/2 {
			t.Errorf("%d of %d runs ended with %v: not what is tested", kinds[kind], 4*runs, kind)
		}
	}
}
