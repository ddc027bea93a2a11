package wasmtest_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// seeds is the number of random modules that each test tries; the slow ones try
// moreSeeds.
const seeds, moreSeeds = 60, 1000

// ample is a meter that no bounded random module empties, though it may ask
// for 4 GiB to be copied.
var ample = meter{budget: 1 << 40, frames: 1 << 20}

// sameMeaning holds a rewritten module against its original. The original
// canonicalises its NaNs itself and runs in the compiler. The rewritten form of
// the original that does not must do the same in either mode, and use the same
// gas however it is handed out.
func sameMeaning(t *testing.T, compiler, interpreter *machine, source func() rand.Source, seed uint64) {
	t.Helper()
	reference := wasmtest.Random(source(), wasmtest.RandomConfig{Canonical: true, Start: true})
	m := wasmtest.Random(source(), wasmtest.RandomConfig{Start: true})
	compiler.meter = nil
	want, err := compiler.run(reference, reference.Bytes, seed)
	if err != nil {
		t.Fatal(err)
	}
	code := rewritten(t, m)
	first := ""
	for _, try := range []struct {
		machine *machine
		slice   int64
	}{{compiler, 0}, {compiler, 777}, {interpreter, 10_000}} {
		meter := ample
		meter.slice = try.slice
		try.machine.meter = &meter
		got, err := try.machine.run(m, code, seed)
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = got
		}
		if unmetered(got) != want {
			t.Fatalf("seed %d: the original does\n%s, rewritten, in the %s, it does\n%s", seed, want, try.machine.name, got)
		}
		if got != first {
			t.Fatalf("seed %d: with all gas at once the module does\n%s, with slices of %d in the %s\n%s",
				seed, first, try.slice, try.machine.name, got)
		}
	}
}

// TestRewrittenMeansTheSame tries sameMeaning on random modules.
func TestRewrittenMeansTheSame(t *testing.T) { sameMeanings(t, seeds) }

func sameMeanings(t *testing.T, seeds uint64) {
	compiler, interpreter := newMachines(t)
	for seed := range seeds {
		sameMeaning(t, compiler, interpreter, func() rand.Source { return rand.NewPCG(seed, 0) }, seed)
	}
}

// sameEnd runs a module whose loops and recursion do not end under limits drawn
// from seed: both modes must stop at the same point, however the gas is handed
// out. It counts how calls ended.
func sameEnd(t *testing.T, compiler, interpreter *machine, source rand.Source, seed uint64) string {
	t.Helper()
	m := wasmtest.Random(source, wasmtest.RandomConfig{Unbounded: true, Start: true})
	code := rewritten(t, m)
	r := rand.New(rand.NewPCG(seed, 2))
	limits := meter{budget: r.Int64N(3000), frames: r.Int32N(300)}
	if r.IntN(3) == 0 { // deep recursion before the budget ends
		limits.budget = 200_000
	}
	traces := make([]string, 2)
	for i, machine := range []*machine{compiler, interpreter} {
		meter := limits
		meter.slice = int64(r.IntN(2000))
		machine.meter = &meter
		trace, err := machine.run(m, code, seed)
		if err != nil {
			t.Fatal(err)
		}
		traces[i] = trace
	}
	if traces[0] != traces[1] {
		t.Fatalf("seed %d: with a budget of %d and %d frames the compiler does\n%sthe interpreter\n%s",
			seed, limits.budget, limits.frames, traces[0], traces[1])
	}
	return traces[0]
}

// TestLimitsEndRunsAtOnePoint tries sameEnd on random modules.
func TestLimitsEndRunsAtOnePoint(t *testing.T) { sameEnds(t, seeds) }

func sameEnds(t *testing.T, seeds uint64) {
	compiler, interpreter := newMachines(t)
	var all strings.Builder
	for seed := range seeds {
		all.WriteString(sameEnd(t, compiler, interpreter, rand.NewPCG(seed, 0), seed))
	}
	for _, end := range []string{"budget_exhausted", "stack_exhausted", "trap", " = "} {
		if n := strings.Count(all.String(), end); uint64(n) < seeds/10 {
			t.Errorf("only %d calls ended with %q: the limits are not what is tested", n, end)
		}
	}
}

// FuzzRewriting makes modules out of the fuzzer's bytes and tries both.
func FuzzRewriting(f *testing.F) {
	compiler, interpreter := newMachines(f)
	f.Add([]byte{}, uint64(0))
	f.Add([]byte("\x00\xff\x80\x40 any bytes at all make a module"), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		sameMeaning(t, compiler, interpreter, func() rand.Source { return wasmtest.ByteSource(b) }, seed)
		sameEnd(t, compiler, interpreter, wasmtest.ByteSource(b), seed)
	})
}
