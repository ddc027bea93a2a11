// Costgen measures what instructions cost on this machine, in nanoseconds and
// in nanoseconds per gas, in the engine's compiler and after rewriting. It is
// how version 1 of the cost table was found (docs/design/053-same-bits.md), and how
// a new version would be judged:
//
//	go run ./sandbox/rewrite/costgen [-only WORD]
//
// Each kernel runs one instruction many times, each on the result of the one
// before, so that nothing is hidden. A table is good if the last column stays
// within a few times that of an addition for every kernel. Run it on an idle
// machine: each figure is the least of five.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/tallystick/tallystick/sandbox/rewrite"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

func main() {
	only := flag.String("only", "", "measure kernels whose class or name contains this")
	flag.Parse()
	if err := run(os.Stdout, *only); err != nil {
		fmt.Fprintln(os.Stderr, "costgen:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, only string) error {
	r, err := newRuntime()
	if err != nil {
		return err
	}
	defer r.Close(context.Background())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "class\tkernel\tns\trewritten ns\tgas\tns/gas")
	worst := map[string]float64{}
	for _, k := range kernels() {
		if !strings.Contains(k.class+" "+k.name, only) {
			continue
		}
		plain, err := measure(r, k, k.code)
		if err != nil {
			return fmt.Errorf("kernel %q: %w", k.name, err)
		}
		code, err := rewrite.Rewrite(k.code, rewrite.Config{})
		if err != nil {
			return fmt.Errorf("kernel %q: %w", k.name, err)
		}
		m, err := measure(r, k, code.Bytes)
		if err != nil {
			return fmt.Errorf("kernel %q, rewritten: %w", k.name, err)
		}
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%.2f\t%.1f\t%.2f\n", k.class, k.name, plain.ns, m.ns, m.gas, m.ns/m.gas)
		worst[k.class] = max(worst[k.class], m.ns/m.gas)
	}
	fmt.Fprintln(w, "\nclass\tworst ns/gas")
	for _, class := range slices.Sorted(maps.Keys(worst)) {
		fmt.Fprintf(w, "%s\t%.2f\n", class, worst[class])
	}
	return nil
}

func newRuntime() (wazero.Runtime, error) {
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().WithDebugInfoEnabled(false))
	b := r.NewHostModuleBuilder(wasmtest.WASI)
	b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(hostCall), nil, []api.ValueType{api.ValueTypeI32}).Export("sched_yield")
	if _, err := b.Instantiate(ctx); err != nil {
		return nil, err
	}
	b = r.NewHostModuleBuilder(rewrite.ImportModule)
	b.NewFunctionBuilder().WithFunc(func() { panic("the tank is empty") }).Export(rewrite.RefillImport)
	if _, err := b.Instantiate(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// hostCall does nothing and charges for it as the sandbox does.
func hostCall(_ context.Context, m api.Module, stack []uint64) {
	if g, ok := m.ExportedGlobal(rewrite.GasGlobal).(api.MutableGlobal); ok {
		g.Set(g.Get() - rewrite.HostCallCost)
	}
	stack[0] = 0
}

// A measurement is for one operation; gas is 0 if the module is not metered.
type measurement struct{ ns, gas float64 }

// The least time that a try takes, and how many there are.
const (
	leastTry = 10 * time.Millisecond
	tries    = 5
)

func measure(r wazero.Runtime, k kernel, code []byte) (measurement, error) {
	ctx := context.Background()
	c, err := r.CompileModule(ctx, code)
	if err != nil {
		return measurement{}, err
	}
	defer c.Close(ctx)
	m, err := r.InstantiateModule(ctx, c, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return measurement{}, err
	}
	defer m.Close(ctx)
	gas, metered := m.ExportedGlobal(rewrite.GasGlobal).(api.MutableGlobal)
	if metered {
		gas.Set(1 << 60)
		m.ExportedGlobal(rewrite.FramesGlobal).(api.MutableGlobal).Set(1000)
	}
	if f := m.ExportedFunction("prepare"); f != nil {
		if _, err := f.Call(ctx); err != nil {
			return measurement{}, err
		}
	}
	f, best := m.ExportedFunction("run"), measurement{}
	for try, rounds := 0, uint64(1); try < tries; {
		before := uint64(0)
		if metered {
			before = gas.Get()
		}
		start := time.Now()
		if _, err := f.Call(ctx, rounds); err != nil {
			return measurement{}, err
		}
		took := time.Since(start)
		if took < leastTry {
			rounds *= 2
			continue
		}
		n := float64(rounds) * float64(k.ops)
		if ns := float64(took) / n; try == 0 || ns < best.ns {
			best.ns = ns
		}
		if metered {
			best.gas = float64(before-gas.Get()) / n
		}
		try++
	}
	return best, nil
}
