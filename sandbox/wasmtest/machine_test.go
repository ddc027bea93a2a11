package wasmtest_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

const (
	features    = api.CoreFeaturesV2 &^ api.CoreFeatureSIMD
	memoryPages = 16 // the limit of every run, above what random modules declare
)

// A machine is the engine in one of its modes, with fakes of the functions that
// random modules import.
type machine struct {
	name    string
	runtime wazero.Runtime
	meter   *meter // of the run, nil if the module is not rewritten
}

func newMachines(t testing.TB) (compiler, interpreter *machine) {
	return newMachine(t, "compiler", wazero.NewRuntimeConfigCompiler()),
		newMachine(t, "interpreter", wazero.NewRuntimeConfigInterpreter())
}

func newMachine(t testing.TB, name string, config wazero.RuntimeConfig) *machine {
	t.Helper()
	ctx := context.Background()
	config = config.WithCoreFeatures(features).WithMemoryLimitPages(memoryPages).WithDebugInfoEnabled(false)
	m := &machine{name: name, runtime: wazero.NewRuntimeWithConfig(ctx, config)}
	t.Cleanup(func() { m.runtime.Close(ctx) })
	b := m.runtime.NewHostModuleBuilder(wasmtest.WASI)
	b.NewFunctionBuilder().WithFunc(func() uint32 { return 0 }).Export("sched_yield")
	b.NewFunctionBuilder().WithFunc(func(_ context.Context, m api.Module, _ uint32, _ uint64, p uint32) uint32 {
		m.Memory().WriteUint64Le(p, 1234567890123456789)
		return 0
	}).Export("clock_time_get")
	b.NewFunctionBuilder().WithFunc(func(_ context.Context, m api.Module, p, n uint32) uint32 {
		for i := range n {
			m.Memory().WriteByte(p+i, byte(i*37+11))
		}
		return 7
	}).Export("random_get")
	if _, err := b.Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	m.exportRefill(t)
	return m
}

// run calls every exported function of a module and returns all that can be
// seen: a line for each call, then the globals and the memory. The arguments
// come from seed.
func (m *machine) run(module *wasmtest.RandomModule, bytes []byte, seed uint64) (string, error) {
	ctx := context.Background()
	compiled, err := m.runtime.CompileModule(ctx, bytes)
	if err != nil {
		return "", fmt.Errorf("%s: compiling: %w", m.name, err)
	}
	defer compiled.Close(ctx)
	var s strings.Builder
	i, err := m.runtime.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil { // the start function trapped
		return "start: " + cause(err), nil
	}
	defer i.Close(ctx)
	if m.meter != nil && !m.start(i, &s) {
		return s.String(), nil
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for range 2 {
		for _, f := range module.Funcs {
			m.call(i, f, arguments(r, f.Params), &s)
		}
	}
	m.call(i, wasmtest.RandomFunc{Name: "_start"}, nil, &s)
	for _, g := range module.Globals {
		fmt.Fprintf(&s, "%s %x\n", g, i.ExportedGlobal(g).Get())
	}
	b, _ := i.Memory().Read(0, i.Memory().Size())
	fmt.Fprintf(&s, "memory %d %x\n", len(b), sha256.Sum256(b))
	return s.String(), nil
}

// call makes one call with fresh fuel and a full tank.
func (m *machine) call(i api.Module, f wasmtest.RandomFunc, args []uint64, s *strings.Builder) {
	i.ExportedGlobal(wasmtest.Fuel).(api.MutableGlobal).Set(wasmtest.RandomFuel)
	if m.meter != nil {
		m.meter.fill(i)
	}
	results, err := i.ExportedFunction(f.Name).Call(context.Background(), args...)
	fmt.Fprintf(s, "%s%x", f.Name, args)
	switch {
	case m.meter != nil && m.meter.exhausted() != "":
		fmt.Fprintf(s, " %s", m.meter.exhausted())
	case err != nil:
		fmt.Fprintf(s, " trap: %s", cause(err))
	default:
		for j, l := range f.Results {
			if l == 'i' || l == 'f' { // the engine leaves the upper half open
				results[j] = uint64(uint32(results[j]))
			}
		}
		fmt.Fprintf(s, " = %x", results)
	}
	if m.meter != nil {
		s.WriteString(m.meter.reading())
	}
	s.WriteByte('\n')
}

// cause is the innermost error, which names the trap.
func cause(err error) string {
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err.Error()
}

// arguments are numbers of the given types: small ones, and any bits.
func arguments(r *rand.Rand, letters string) []uint64 {
	list := make([]uint64, len(letters))
	for i, l := range letters {
		v := r.Uint64()
		if r.IntN(2) == 0 {
			v = uint64(r.IntN(20))
			switch l {
			case 'f':
				v = uint64(math.Float32bits(float32(v)))
			case 'F':
				v = math.Float64bits(float64(v))
			}
		}
		if l == 'i' || l == 'f' {
			v = uint64(uint32(v))
		}
		list[i] = v
	}
	return list
}
