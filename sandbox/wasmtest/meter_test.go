package wasmtest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/api"

	"github.com/tallystick/tallystick/sandbox/rewrite"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// A meter is the host's side of the counters of a rewritten module.
type meter struct {
	budget int64 // gas of each call
	slice  int64 // handed out at a time; 0: all at once
	frames int32 // of each call

	module api.Module
	tank   int64 // gas not yet handed out
}

var errEmpty = errors.New("the tank is empty")

// exportRefill defines the function that rewritten modules import.
func (m *machine) exportRefill(t testing.TB) {
	b := m.runtime.NewHostModuleBuilder(rewrite.ImportModule)
	b.NewFunctionBuilder().WithFunc(func() { m.meter.refill() }).Export(rewrite.RefillImport)
	if _, err := b.Instantiate(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (m *meter) gas() api.MutableGlobal {
	return m.module.ExportedGlobal(rewrite.GasGlobal).(api.MutableGlobal)
}

func (m *meter) framesLeft() api.MutableGlobal {
	return m.module.ExportedGlobal(rewrite.FramesGlobal).(api.MutableGlobal)
}

// fill sets the counters of a fresh call.
func (m *meter) fill(i api.Module) {
	first := m.budget
	if m.slice > 0 {
		first = min(first, m.slice)
	}
	m.module, m.tank = i, m.budget-first
	m.gas().Set(uint64(first))
	m.framesLeft().Set(api.EncodeI32(m.frames))
}

func (m *meter) refill() {
	g := m.gas()
	for int64(g.Get()) < 0 {
		if m.tank == 0 {
			panic(errEmpty)
		}
		add := m.tank
		if m.slice > 0 {
			add = min(add, m.slice)
		}
		m.tank -= add
		g.Set(g.Get() + uint64(add))
	}
}

// left is the gas left, in the module and in the tank.
func (m *meter) left() int64 { return int64(m.gas().Get()) + m.tank }

// exhausted says which limit ended the call, from the counters alone.
func (m *meter) exhausted() string {
	switch {
	case m.left() < 0:
		return "budget_exhausted"
	case int32(m.framesLeft().Get()) < 0:
		return "stack_exhausted"
	}
	return ""
}

// reading is the gas used and the frames left.
func (m *meter) reading() string {
	return fmt.Sprintf("%s%d, frames %d", gasWord, min(m.budget-m.left(), m.budget), int32(m.framesLeft().Get()))
}

// gasWord begins a reading.
const gasWord = " # gas "

// unmetered is a trace without the readings of the meter.
func unmetered(trace string) string {
	lines := strings.Split(trace, "\n")
	for i, l := range lines {
		lines[i], _, _ = strings.Cut(l, gasWord)
	}
	return strings.Join(lines, "\n")
}

// start calls the start function of a rewritten module, if it has one. It
// reports whether the run goes on.
func (m *machine) start(i api.Module, s *strings.Builder) bool {
	f := i.ExportedFunction(rewrite.StartExport)
	if f == nil {
		return true
	}
	m.meter.fill(i)
	_, err := f.Call(context.Background())
	switch {
	case m.meter.exhausted() != "":
		fmt.Fprintf(s, "start: %s", m.meter.exhausted())
	case err != nil:
		fmt.Fprintf(s, "start: %s", cause(err))
	default:
		return true
	}
	s.WriteString(m.meter.reading())
	return false
}

// rewritten rewrites a module as the sandbox does.
func rewritten(t testing.TB, m *wasmtest.RandomModule) []byte {
	t.Helper()
	r, err := rewrite.Rewrite(m.Bytes, rewrite.Config{MemoryPages: memoryPages})
	if err != nil {
		t.Fatalf("rewriting: %v\n%x", err, m.Bytes)
	}
	return r.Bytes
}
