//go:build unix

package sandbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// meteredJob is a small job with little gas.
func meteredJob(module []byte) Job {
	job := newJob(module)
	job.Limits.Gas, job.Limits.Frames = 3_000_000, 500
	return job
}

// TestBombs runs modules that are made to take more than their share. Each has
// an outcome of its own, the same in both modes.
func TestBombs(t *testing.T) {
	endless := func(body ...[]byte) func(b *wasmtest.Builder) {
		return func(b *wasmtest.Builder) { b.Start("i", wasmtest.Loop(body...)) }
	}
	host := func(name, sig string, body func(f uint32) []byte) func(b *wasmtest.Builder) {
		return func(b *wasmtest.Builder) {
			f := b.Import(wasmtest.WASI, name, sig)
			b.Start("i", wasmtest.Loop(body(f), wasmtest.Drop))
		}
	}
	calls := func(arguments ...int32) func(uint32) []byte {
		return func(f uint32) []byte { return wasmtest.Call(f, arguments...) }
	}
	const far, pages = -1, 65536
	tests := []struct {
		name string
		kind Kind
		make func(b *wasmtest.Builder)
	}{
		{"empty loop", KindBudgetExhausted, endless()},
		{"loop of a br_table", KindBudgetExhausted, func(b *wasmtest.Builder) {
			b.Start("", []byte{0x03, 0x40, 0x41, 7, 0x0e, 2, 0, 0, 0, 0x0b})
		}},
		{"loop in a start function", KindBudgetExhausted, func(b *wasmtest.Builder) {
			b.StartSection(b.Func(":", "", wasmtest.Loop()))
			b.Start("")
		}},
		{"memory.grow without end", KindBudgetExhausted, endless([]byte{0x41, 1, 0x40, 0, 0x1a})},
		{"memory.grow too far", KindBudgetExhausted, endless(wasmtest.I32Const(pages), []byte{0x40, 0, 0x1a})},
		{"table.grow without end", KindBudgetExhausted, func(b *wasmtest.Builder) {
			b.Table(0, MaxTableEntries)
			b.Start("", wasmtest.Loop([]byte{0xd0, 0x70, 0x41, 1, 0xfc, 15, 0, 0x1a}))
		}},
		{"memory.fill of all", KindBudgetExhausted, endless(wasmtest.I32Const(0), wasmtest.I32Const(1), wasmtest.I32Const(pages), []byte{0xfc, 11, 0})},
		{"memory.copy of 4 GiB", KindBudgetExhausted, endless(wasmtest.I32Const(0), wasmtest.I32Const(1), wasmtest.I32Const(far), []byte{0xfc, 10, 0, 0})},
		{"table.fill of 4 G entries", KindTrap, func(b *wasmtest.Builder) {
			b.Table(1, 1)
			b.Start("", wasmtest.I32Const(0), []byte{0xd0, 0x70}, wasmtest.I32Const(far), []byte{0xfc, 17, 0})
		}},

		{"recursion", KindStackExhausted, func(b *wasmtest.Builder) { b.Start("", wasmtest.Call(0)) }},
		{"recursion of two", KindStackExhausted, func(b *wasmtest.Builder) {
			b.Func(":", "", wasmtest.Call(1))
			b.Export("_start", 0, b.Func(":", "", wasmtest.Call(0)))
		}},
		{"recursion by way of a table", KindStackExhausted, func(b *wasmtest.Builder) {
			b.Type(":")
			b.Table(1, 1).Elem(0, 0)
			b.Start("", []byte{0x41, 0, 0x11, 0, 0})
		}},
		{"recursion with a thousand locals", KindStackExhausted, func(b *wasmtest.Builder) {
			b.Export("_start", 0, b.FuncRaw(":", slices.Concat([]byte{1, 0xe8, 0x07, 0x7e}, wasmtest.Call(0), []byte{0x0b})))
		}},
		{"recursion in a start function", KindStackExhausted, func(b *wasmtest.Builder) {
			b.StartSection(b.Func(":", "", wasmtest.Call(0)))
			b.Start("")
		}},

		{"output", KindOutputTooLarge, host("fd_write", "iiii:i", func(f uint32) []byte { return write(f, 1, 0, 999)[:len(write(f, 1, 0, 999))-1] })},
		{"output of nothing", KindBudgetExhausted, host("fd_write", "iiii:i", calls(1, 0, 0, 8))},
		{"output of a thousand nothings", KindBudgetExhausted, host("fd_write", "iiii:i", calls(1, 64, 1000, 8))},
		{"output from outside after a thousand nothings", KindBudgetExhausted, func(b *wasmtest.Builder) {
			// The last of the list is no buffer, so nothing is written.
			f := b.Import(wasmtest.WASI, "fd_write", "iiii:i")
			b.Start("", wasmtest.I32Const(8056), wasmtest.I32Const(far), []byte{0x36, 2, 0}, wasmtest.Loop(wasmtest.Call(f, 1, 64, 1000, 8), wasmtest.Drop))
		}},
		{"diagnostics", KindBudgetExhausted, host("fd_write", "iiii:i", func(f uint32) []byte { return write(f, 2, 0, 999)[:len(write(f, 2, 0, 999))-1] })},
		{"random bytes", KindBudgetExhausted, host("random_get", "ii:i", calls(0, pages))},
		{"clock", KindBudgetExhausted, host("clock_res_get", "ii:i", calls(0, 8))},
		{"waiting for a thousand clocks", KindBudgetExhausted, host("poll_oneoff", "iiii:i", calls(0, 0, 1000, 60000))},
		{"yielding", KindBudgetExhausted, host("sched_yield", ":i", calls())},
		{"reading nothing", KindBudgetExhausted, host("fd_read", "iiii:i", calls(0, 64, 1, 8))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := wasmtest.Command()
			test.make(b)
			job := meteredJob(b.Bytes())
			r := runModes(t, job, EngineConfig{}, EngineConfig{Slice: 1000}, EngineConfig{Interpreter: true})
			if o := r.Outcome; o.Kind != test.kind || *o.Gas > job.Limits.Gas {
				t.Errorf("outcome is %v, want %v", o, test.kind)
			}
			if n := len(r.Output); n > int(job.Limits.OutputBytes) {
				t.Errorf("%d bytes of output, the limit is %d", n, job.Limits.OutputBytes)
			}
			if n := len(r.Diagnostics); n > int(job.Limits.DiagnosticsBytes) {
				t.Errorf("%d bytes of diagnostics, the limit is %d", n, job.Limits.DiagnosticsBytes)
			}
		})
	}
}

// TestTruncatedAnywhere refuses every beginning of a module by name, but for
// one that ends with its code section or one behind it, which is a module too.
func TestTruncatedAnywhere(t *testing.T) { truncatedAnywhere(t, 13) }

// truncatedAnywhere takes steps of that many bytes in the largest module.
func truncatedAnywhere(t *testing.T, largest int) {
	for _, name := range []string{"trap divide", "NaNs", "mean"} {
		module := guestModule(t, name)
		limits := meteredJob(module).Limits
		if _, err := Admit(module, allCapabilities, limits); err != nil {
			t.Fatalf("%s, whole: %v", name, err)
		}
		whole := endsFromCode(module)
		step := 1
		if name == "mean" {
			step = largest
		}
		for n := 0; n < len(module); n += step {
			a, err := Admit(module[:n:n], allCapabilities, limits)
			if err == nil && whole[n] {
				continue
			}
			if r := (*Refusal)(nil); a != nil || !errors.As(err, &r) {
				t.Fatalf("%s, %d of %d bytes: %+v, %v", name, n, len(module), a, err)
			}
		}
	}
}

// endsFromCode are the places where the code section and those behind it end.
func endsFromCode(module []byte) map[int]bool {
	ends := map[int]bool{}
	for at, code := 8, false; at < len(module); {
		id := module[at]
		size, n := binary.Uvarint(module[at+1:])
		at += 1 + n + int(size)
		code = code || id == 10
		if code {
			ends[at] = true
		}
	}
	return ends
}

// TestEveryByteChanged changes each byte of a module. What is left is refused
// or has one outcome in both modes.
func TestEveryByteChanged(t *testing.T) { everyByteChanged(t, 0x01) }

func everyByteChanged(t *testing.T, flips ...byte) {
	compiler, interpreter := NewEngine(EngineConfig{CachedModules: 1}), NewEngine(EngineConfig{Interpreter: true, CachedModules: 1})
	defer compiler.Close()
	defer interpreter.Close()
	module := assembled["trap table.copy"]()
	ran, refused := 0, 0
	for i := range module {
		for _, flip := range flips {
			changed := bytes.Clone(module)
			changed[i] ^= flip
			job := meteredJob(changed)
			a, err := compiler.Run(t.Context(), job)
			b, err2 := interpreter.Run(t.Context(), job)
			r := (*Refusal)(nil)
			switch {
			case err == nil && err2 == nil && a.Outcome.String() == b.Outcome.String():
				ran++
			case errors.As(err, &r) && err2 != nil && err.Error() == err2.Error():
				refused++
			default:
				t.Fatalf("byte %d ^ %#x: compiler %+v, %v; interpreter %+v, %v", i, flip, a, err, b, err2)
			}
		}
	}
	if ran < 20 || refused < 20 {
		t.Errorf("%d modules ran, %d were refused: not what is tested", ran, refused)
	}
}
