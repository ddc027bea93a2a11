package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/tallystick/tallystick/sandbox/rewrite"
	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// refusal returns the refusal of a module under the smallest grants, or nil.
func refusal(t *testing.T, module []byte) *Refusal {
	t.Helper()
	a, err := Admit(module, nil, newJob(nil).Limits)
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	if err != nil {
		t.Fatalf("error is not a refusal: %v", err)
	}
	if a == nil {
		t.Fatal("neither admitted nor refused")
	}
	return nil
}

// command is a module that would be admitted, with one thing changed.
func command(change func(b *wasmtest.Builder)) []byte {
	b := wasmtest.Command()
	change(b)
	return b.Bytes()
}

// body is a command whose _start is the given code.
func body(code ...byte) []byte {
	return command(func(b *wasmtest.Builder) { b.Start("iI", code) })
}

func imports(module, name, sig string) []byte {
	return command(func(b *wasmtest.Builder) {
		b.Import(module, name, sig)
		b.Start("")
	})
}

func TestRefusals(t *testing.T) {
	start := func(b *wasmtest.Builder) *wasmtest.Builder { return b.Start("") }
	many := func(n int, code ...byte) []byte { return slices.Concat(slices.Repeat([][]byte{code}, n)...) }
	tests := []struct {
		name   string
		module []byte
		code   RefusalCode
		item   string
		want   string // in the error's text
	}{
		{"empty", nil, RefusedMalformed, "", "not a WebAssembly binary"},
		{"text", []byte("(module)"), RefusedMalformed, "", "not a WebAssembly binary"},
		{"large", make([]byte, MaxModuleBytes+1), RefusedSize, "", "16777217 bytes"},

		{"simd", body(0xfd, 0x0c), RefusedFeature, "simd", "0xfd"},
		{"threads", body(0xfe, 0x00), RefusedFeature, "threads", "0xfe"},
		{"tail call", body(0x12, 0x00), RefusedFeature, "tail-call", "0x12"},
		{"exceptions", body(0x08, 0x00), RefusedFeature, "exception-handling", "0x8"},
		{"gc", body(0xfb, 0x00), RefusedFeature, "gc", "0xfb"},
		{"memory64", start(new(wasmtest.Builder).MemoryRaw(4, 1)).Bytes(), RefusedFeature, "memory64", "64-bit memory"},
		{"multi-memory", command(func(b *wasmtest.Builder) { start(b).Memory(1, -1) }), RefusedFeature, "multi-memory", "second memory"},

		{"clock", imports(wasmtest.WASI, "clock_time_get", "iIi:i"), RefusedImport, "wasi_snapshot_preview1.clock_time_get", `grant capability "clock"`},
		{"random", imports(wasmtest.WASI, "random_get", "ii:i"), RefusedImport, "wasi_snapshot_preview1.random_get", `grant capability "random"`},
		{"args", imports(wasmtest.WASI, "environ_get", "ii:i"), RefusedImport, "wasi_snapshot_preview1.environ_get", `grant capability "args"`},
		{"signature", imports(wasmtest.WASI, "fd_write", "iiii:"), RefusedImport, "wasi_snapshot_preview1.fd_write", "signature is (i32, i32, i32, i32), must be (i32, i32, i32, i32) i32"},
		{"unknown function", imports(wasmtest.WASI, "fd_frob", ":i"), RefusedImport, "wasi_snapshot_preview1.fd_frob", "host interface version 1"},
		{"unknown module", imports("env", "fd_write", "iiii:i"), RefusedImport, "env.fd_write", "host interface version 1"},
		{"imported memory", command(func(b *wasmtest.Builder) { start(b).ImportRaw("env", "m", 3, 0x7f, 0) }), RefusedImport, "env.m", "imported global"},

		{"no _start", wasmtest.Command().Bytes(), RefusedExport, "_start", "build a command"},
		{"_start takes", command(func(b *wasmtest.Builder) { b.Export("_start", 0, b.Func("i:", "")) }), RefusedExport, "_start", "(i32)"},
		{"_start is a memory", command(func(b *wasmtest.Builder) { b.Export("_start", 2, 0) }), RefusedExport, "_start", "not an exported function"},
		{"no memory", new(wasmtest.Builder).Start("").Bytes(), RefusedExport, "memory", "not an exported memory"},
		{"reserved", command(func(b *wasmtest.Builder) { start(b).Export("tallystick:gas", 0, 0) }), RefusedExport, "tallystick:gas", "reserved"},
		{"start section", command(func(b *wasmtest.Builder) { start(b).StartSection(0) }), RefusedStart, "", "function 0"},

		{"memory", new(wasmtest.Builder).Memory(17, -1).Export("memory", 2, 0).Start("").Bytes(), RefusedMemory, "", "needs 17 pages to start, the limit is 16"},
		{"table", command(func(b *wasmtest.Builder) { start(b).Table(MaxTableEntries, -1).Table(1, -1) }), RefusedTable, "", "65537 entries"},
		{"table.grow without a maximum", command(func(b *wasmtest.Builder) {
			start(b.Table(1, -1)).Func(":", "", []byte{0xd0, 0x70, 0x41, 1, 0xfc, 15, 0, 0x1a})
		}), RefusedTable, "", "declares no maximum"},
		{"table.grow with a large maximum", command(func(b *wasmtest.Builder) {
			start(b.Table(1, MaxTableEntries+1)).Func(":", "", []byte{0xd0, 0x70, 0x41, 1, 0xfc, 15, 0, 0x1a})
		}), RefusedTable, "", "maxima are 65537"},

		{"data outside", command(func(b *wasmtest.Builder) { start(b).Data(65535, "ab") }), RefusedSegment, "", "data segment 0"},
		{"data far outside", command(func(b *wasmtest.Builder) { start(b).Data(-1, "a") }), RefusedSegment, "", "data segment 0"},
		{"element outside", command(func(b *wasmtest.Builder) { start(b).Table(1, 1).Elem(1, 0) }), RefusedSegment, "", "element segment 0"},
		{"memory.init of an active segment", command(func(b *wasmtest.Builder) {
			b.Data(0, "x").DataCount().Start("", []byte{0x41, 0, 0x41, 0, 0x41, 1, 0xfc, 8, 0, 0})
		}), RefusedSegment, "", "data segment 0, which is not passive"},
		{"elem.drop of an active segment", command(func(b *wasmtest.Builder) {
			b.Table(1, 1).Elem(0, 0).Start("", []byte{0xfc, 13, 0})
		}), RefusedSegment, "", "element segment 0, which is not passive"},

		{"table.init of externref", command(func(b *wasmtest.Builder) {
			b.TableRaw(0x6f, 0, 1).ElemRaw(5, 0x6f, 1, 0xd0, 0x6f, 0x0b)
			b.Start("", []byte{0x41, 0, 0x41, 0, 0x41, 1, 0xfc, 12, 0, 0})
		}), RefusedSegment, "", "element segment 0, which is of externref"},

		{"locals", command(func(b *wasmtest.Builder) {
			b.FuncRaw(":", []byte{1, 0x81, 0x08, 0x7f, 0x0b}) // 1025 of i32
			start(b)
		}), RefusedLocals, "", "function 0 has 1025"},
		{"locals beyond 32 bits", command(func(b *wasmtest.Builder) {
			b.FuncRaw(":", []byte{2, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7e, 0x0b})
			start(b)
		}), RefusedLocals, "", "has 8589934590"},
		{"length", body(many(rewrite.MaxInstructions, 0x01)...), RefusedLength, "", "function 0 has more than 1048576 instructions"},
		{"control", body(many(MaxControl+1, 0x02, 0x40, 0x0b)...), RefusedControl, "", "16385 control instructions"},
		{"fills", body(many(MaxControl/fillBlocks+1, 0x20, 0, 0x20, 0, 0x20, 0, 0xfc, 11, 0)...), RefusedControl, "", "16388 control instructions"},
		{"function work", body(slices.Concat([]byte{0x41, 0}, many(MaxFunctionWork/5+1, 0x28, 2, 0), []byte{0x1a})...), RefusedWork, "", "estimate of 524293 for the instructions of function 0"},
		{"function work of calls and globals", command(func(b *wasmtest.Builder) {
			for range 1000 {
				b.Global('i', 0x41, 0)
			}
			b.Func(":", "")
			b.Start("", many(20_000, 0x10, 0))
		}), RefusedWork, "", "for the instructions of function 1"},
		{"function work of loads and blocks", body(slices.Concat([]byte{0x41, 0}, many(90_000, 0x28, 2, 0), []byte{0x21, 0},
			many(500, 0x02, 0x40, 0x20, 0, 0x0d, 0, 0x0b))...), RefusedWork, "", "for the instructions of function 0"},
		{"compile work of functions and globals", command(func(b *wasmtest.Builder) {
			for range 60_000 {
				b.GlobalRaw('i', false, 0x41, 0)
			}
			for range 50_000 {
				b.Func(":", "")
			}
			start(b)
		}), RefusedWork, "", "at most 16777216"},
		{"compile work of calls and imports", command(func(b *wasmtest.Builder) {
			for range 60_000 {
				b.Import(wasmtest.WASI, "sched_yield", ":i")
			}
			b.Start("", many(20_000, 0x10, 0, 0x1a))
		}), RefusedWork, "", "for the instructions of function 60000"},
		{"compile work", command(func(b *wasmtest.Builder) {
			for range 5 {
				b.Func(":", "", many(MaxControl, 0x02, 0x40, 0x0b))
			}
			start(b)
		}), RefusedWork, "", "at most 16777216"},
		{"compile work of locals", command(func(b *wasmtest.Builder) {
			b.FuncRaw(":", slices.Concat([]byte{1, 0x80, 0x08, 0x7f}, many(MaxControl, 0x02, 0x40, 0x0b), []byte{0x0b}))
			start(b)
		}), RefusedWork, "", "function 0"},
		{"compile work of results", command(func(b *wasmtest.Builder) {
			f := b.Func(":"+strings.Repeat("i", rewrite.MaxArity), "", []byte{0x00})
			for range 3 {
				b.Func(":", "", many(8000, 0x02, 0x40, 0x10, byte(f), 0x0c, 0, 0x0b))
			}
			start(b)
		}), RefusedWork, "", "estimate"},
		{"results", command(func(b *wasmtest.Builder) {
			b.Type(":" + strings.Repeat("i", rewrite.MaxArity+1))
			start(b)
		}), RefusedArity, "", "type 0 has 17 results"},
		{"parameters of a block", command(func(b *wasmtest.Builder) {
			t := b.Type(strings.Repeat("i", rewrite.MaxArity+1) + ":")
			b.Start("", []byte{0x00, 0x03, byte(t), 0x00, 0x0b})
		}), RefusedArity, "", "function 0 has a block with 17 parameters"},

		{"compile work of branch targets", command(func(b *wasmtest.Builder) {
			for range 3 {
				targets := slices.Concat(wasmtest.U32(nil, 16000), make([]byte, 16001))
				b.Func("i:", "", []byte{0x20, 0, 0x0e}, targets)
			}
			start(b)
		}), RefusedWork, "", "estimate"},
		{"compile work of operands at control instructions", command(func(b *wasmtest.Builder) {
			b.Func(":", "", many(5000, 0x41, 1), many(4000, 0x02, 0x40, 0x0b), many(5000, 0x1a))
			start(b)
		}), RefusedWork, "", "estimate"},
		{"compile work of operands", command(func(b *wasmtest.Builder) {
			b.Func(":", "", many(40000, 0x41, 1), many(40000, 0x1a))
			start(b)
		}), RefusedWork, "", "estimate"},
		{"operand missing", body(0x1a), RefusedInvalid, "", "operand missing"},

		{"truncated", body(0x01)[:40], RefusedMalformed, "", "malformed: "},
		{"bytes after", append(body(), 0), RefusedMalformed, "", "malformed: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := refusal(t, test.module)
			if r == nil {
				t.Fatal("admitted")
			}
			if r.Code != test.code || r.Item != test.item || !strings.Contains(r.Error(), test.want) || !strings.Contains(r.Error(), string(r.Code)) {
				t.Errorf("refusal is %q (code %s, item %q), want %s %q with %q", r, r.Code, r.Item, test.code, test.item, test.want)
			}
		})
	}
}

// TestEveryFunctionIsGrantable checks, for every function of the interface,
// that its capability admits it and that no other set does.
func TestEveryFunctionIsGrantable(t *testing.T) {
	letters := strings.NewReplacer("i32", "i", "i64", "I", "(", "", ")", ":", ", ", "", " ", "")
	for _, f := range Capabilities() {
		module := imports(f.Module, f.Name, letters.Replace(f.Signature))
		a, err := Admit(module, []string{f.Capability}, DefaultLimits())
		if err != nil {
			t.Errorf("%s with %q: %v", f.Name, f.Capability, err)
			continue
		}
		needs := []string{"stdio"}
		if f.Capability != "stdio" {
			needs = []string{f.Capability, "stdio"}
			slices.Sort(needs)
		}
		if !slices.Equal(a.Imports, []HostFunction{f}) || !slices.Equal(a.Needs, needs) {
			t.Errorf("%s: admission has %v and needs %v", f.Name, a.Imports, a.Needs)
		}
		others := slices.DeleteFunc(slices.Clone(allCapabilities), func(c string) bool { return c == f.Capability })
		if _, err := Admit(module, others, DefaultLimits()); (err == nil) != (f.Capability == "stdio") {
			t.Errorf("%s with %v: %v", f.Name, others, err)
		}
		// What is admitted also instantiates, with only that capability defined.
		e := NewEngine(EngineConfig{Interpreter: true})
		job := newJob(module)
		job.Capabilities = []string{f.Capability}
		if r, err := e.Run(t.Context(), job); err != nil || r.Outcome.Kind != KindOK {
			t.Errorf("%s: %v, %v", f.Name, r, err)
		}
		e.Close()
	}
}

func TestAdmission(t *testing.T) {
	module := command(func(b *wasmtest.Builder) {
		b.Import(wasmtest.WASI, "sched_yield", ":i")
		b.Table(2, 9).Elem(0, 1, 0).Global('i', 0x41, 0).PassiveData("xyz").Data(65533, "end")
		b.Func(":", "iF", []byte{0x41, 0, 0x41, 0, 0x41, 1, 0xfc, 8, 0, 0, 0xfc, 9, 0}) // memory.init, data.drop
		b.Start("F", []byte{0xd0, 0x70, 0x41, 1, 0xfc, 15, 0, 0x1a, 0x20, 0, 0x9f, 0x1a}, wasmtest.Loop(wasmtest.Unreachable))
	})
	a, err := Admit(module, []string{"stdio"}, newJob(nil).Limits)
	if err != nil {
		t.Fatal(err)
	}
	if a.Functions != 2 || a.Instructions != 18 || !a.Floats || a.MinMemoryPages != 1 || a.MaxMemoryPages != 16 ||
		a.HostInterface != 1 || a.Rewriter != 0 || a.ModuleBytes != int64(len(module)) {
		t.Errorf("admission is %+v", a)
	}
	// Two functions, 2 and 1 locals, 0 and 2 control instructions, 18 in all, of
	// which memory.init, data.drop, table.grow and sqrt weigh more than 1; no
	// operands are alive at control instructions, and few elsewhere.
	if want := uint64(2*functionWork + 2*1 + 1*3 + 18 + 19 + 3 + 4 + 4); a.CompileWork != want {
		t.Errorf("work is %d, want %d", a.CompileWork, want)
	}
	e := NewEngine(EngineConfig{})
	defer e.Close()
	if _, err := e.Admit(t.Context(), module, nil, newJob(nil).Limits); err != nil {
		t.Errorf("the engine does not compile it: %v", err)
	}
	capped := new(wasmtest.Builder).Memory(1, 4).Export("memory", 2, 0).Start("")
	if a, err := Admit(capped.Bytes(), nil, newJob(nil).Limits); err != nil || a.MaxMemoryPages != 4 {
		t.Errorf("declared maximum: %+v, %v", a, err)
	}
	if _, err := Admit(module, []string{"gpu"}, DefaultLimits()); !errors.Is(err, ErrInvalidJob) {
		t.Errorf("unknown capability: %v", err)
	}
	if _, err := Admit(module, nil, Limits{}); !errors.Is(err, ErrInvalidJob) {
		t.Errorf("no limits: %v", err)
	}
}

// FuzzAdmit compares with the engine's validator: what it accepts is never
// refused as malformed, and what is admitted and validates also instantiates.
func FuzzAdmit(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join(testdataDir, "*.wasm"))
	if err != nil || len(paths) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if len(b) < 1<<10 { // larger ones are slow to mutate; package wasm has them
			f.Add(b)
		}
	}
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features).WithMemoryLimitPages(16))
	if err := exportHost(r, 1<<len(capNames)-1); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, module []byte) {
		_, err := Admit(module, allCapabilities, newJob(nil).Limits)
		compiled, invalid := r.CompileModule(ctx, module)
		if invalid != nil {
			return
		}
		defer compiled.Close(ctx)
		if refused := (*Refusal)(nil); errors.As(err, &refused) {
			if refused.Code == RefusedMalformed {
				t.Fatalf("the engine takes it, but: %v", err)
			}
			return
		}
		m, err := r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
		if err != nil {
			t.Fatalf("admitted and valid, but: %v", err)
		}
		m.Close(ctx)
	})
}

// weightsDigest tells weights from others.
func weightsDigest() string {
	sum := sha256.Sum256(append(weights[:], prefixedWeights[:]...))
	return fmt.Sprintf("%x", sum[:4])
}

// TestWeights: every instruction has one.
func TestWeights(t *testing.T) {
	for op := range wasm.Opcode(0xffff) {
		if wasm.Known(op) && weightOf(op) == 0 {
			t.Errorf("%#x has no weight", op)
		}
	}
}

// TestAdmissionRules: who changes a bound raises admissionRules too, or programs
// that were kept under the other bound would go on running.
func TestAdmissionRules(t *testing.T) {
	got := fmt.Sprint(admissionRules, ":", MaxModuleBytes, MaxLocals, MaxControl, MaxCompileWork, MaxFunctionWork, functionWork, MaxTableEntries,
		mergeOps, fillBlocks, accessesPerUnit, loopBlocks, fillsBlocks, reloadsPerUnit, passedPerUnit, addedGlobals, " ", weightsDigest(), " ", rewrite.MaxArity, rewrite.MaxInstructions)
	if want := "7:16777216 1024 16384 16777216 524288 32 65536 96 4 8 4 4 6 64 2 9718f798 16 1048576"; got != want {
		t.Errorf("rules are %q, want %q", got, want)
	}
	// A program's file is named by the rules it was admitted under.
	text := programText(programKey{})
	if want := fmt.Sprintf(" admission %d ", admissionRules); !strings.Contains(text, want) {
		t.Errorf("%q does not name the rules", text)
	}
}
