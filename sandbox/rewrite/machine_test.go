package rewrite

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// features is what the sandbox's engine accepts.
const features = api.CoreFeaturesV2 &^ api.CoreFeatureSIMD

// An engine compiles and runs modules; it has the refill import, and a host
// function "env.log" (i32) that notes its argument.
type engine struct {
	name     string
	r        wazero.Runtime
	compiled map[string]wazero.CompiledModule // by the module's bytes
}

// compile compiles a module that must be valid, or returns what it compiled
// before.
func (e *engine) compile(t testing.TB, module []byte) wazero.CompiledModule {
	t.Helper()
	c := e.compiled[string(module)]
	if c == nil {
		var err error
		if c, err = e.r.CompileModule(context.Background(), module); err != nil {
			t.Fatalf("%s: rewritten module: %v", e.name, err)
		}
		e.compiled[string(module)] = c
	}
	return c
}

// engines returns the compiler and the interpreter.
func engines(t testing.TB) []*engine {
	t.Helper()
	return []*engine{newEngine(t, "compiler", wazero.NewRuntimeConfigCompiler()), newEngine(t, "interpreter", wazero.NewRuntimeConfigInterpreter())}
}

// hostKey is where host functions find the run they belong to.
type hostKey struct{}

// A tank is the host's side of a run.
type tank struct {
	m         api.Module
	left      int64 // gas held back
	slice     int64
	refills   int
	exhausted bool
	log       []uint32
}

var errExhausted = errors.New("budget exhausted")

// refill adds slices while the counter is negative and ends the run when the
// tank is empty.
func (k *tank) refill() {
	g := k.m.ExportedGlobal(GasGlobal).(api.MutableGlobal)
	k.refills++
	for int64(g.Get()) < 0 {
		add := k.left
		if k.slice > 0 {
			add = min(add, k.slice)
		}
		if add == 0 {
			k.exhausted = true
			panic(errExhausted)
		}
		k.left -= add
		g.Set(g.Get() + uint64(add))
	}
}

func newEngine(t testing.TB, name string, config wazero.RuntimeConfig) *engine {
	t.Helper()
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, config.WithCoreFeatures(features).WithMemoryLimitPages(1024))
	t.Cleanup(func() { r.Close(ctx) })
	_, err := r.NewHostModuleBuilder(ImportModule).NewFunctionBuilder().
		WithFunc(func(ctx context.Context) { ctx.Value(hostKey{}).(*tank).refill() }).Export(RefillImport).Instantiate(ctx)
	if err == nil {
		_, err = r.NewHostModuleBuilder("env").NewFunctionBuilder().WithFunc(func(ctx context.Context, v uint32) {
			k := ctx.Value(hostKey{}).(*tank)
			k.log = append(k.log, v)
		}).Export("log").Instantiate(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &engine{name, r, make(map[string]wazero.CompiledModule)}
}

// A limit is what a run may use.
type limit struct {
	gas, slice int64 // slice 0: all of the gas at once; negative: start with none
	frames     int32
}

// A report is all that can be seen of a run.
type report struct {
	outcome string // ok, trap, budget_exhausted, stack_exhausted
	values  string
	gas     int64
	frames  int32 // left
	log     string
	memory  string
}

// run rewrites nothing: it instantiates a rewritten module, sets its counters,
// calls its start function and then the named one.
func (e *engine) run(t testing.TB, module []byte, l limit, name string, args ...uint64) report {
	t.Helper()
	ctx := context.Background()
	m, err := e.r.InstantiateModule(ctx, e.compile(t, module), wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		t.Fatalf("%s: %v", e.name, err)
	}
	defer m.Close(ctx)
	k := &tank{m: m, left: l.gas, slice: max(l.slice, 0)}
	gas, frames := m.ExportedGlobal(GasGlobal).(api.MutableGlobal), m.ExportedGlobal(FramesGlobal).(api.MutableGlobal)
	first := l.gas
	if l.slice != 0 {
		first = min(first, max(l.slice, 0))
	}
	k.left -= first
	gas.Set(uint64(first))
	frames.Set(uint64(uint32(l.frames)))
	ctx = context.WithValue(ctx, hostKey{}, k)
	if start := m.ExportedFunction(StartExport); start != nil {
		_, err = start.Call(ctx)
	}
	var values []uint64
	if err == nil {
		values, err = m.ExportedFunction(name).Call(ctx, args...)
	}
	total := int64(gas.Get()) + k.left
	rep := report{outcome: "ok", gas: l.gas - total, frames: int32(uint32(frames.Get())), log: fmt.Sprint(k.log)}
	switch {
	case total < 0:
		rep.outcome, rep.gas = "budget_exhausted", l.gas
	case rep.frames < 0:
		rep.outcome = "stack_exhausted"
	case err != nil:
		rep.outcome = "trap"
	default:
		rep.values = fmt.Sprintf("%x", values)
	}
	if k.exhausted != (total < 0 && errors.Is(err, errExhausted)) {
		t.Errorf("%s: unwound %v with a total of %d and error %v", e.name, k.exhausted, total, err)
	}
	if memory := m.Memory(); m.ExportedMemory("memory") != nil {
		b, _ := memory.Read(0, memory.Size())
		sum := sha256.Sum256(b)
		rep.memory = fmt.Sprintf("%d bytes %x", len(b), sum[:8])
	}
	return rep
}

// rewritten rewrites a module that must be accepted.
func rewritten(t testing.TB, module []byte) *Rewritten {
	t.Helper()
	r, err := Rewrite(module, Config{MemoryPages: 100})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
