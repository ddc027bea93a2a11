package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

var allCapabilities = []string{"args", "clock", "random", "stdio"}

// newJob is a job for module with small limits and every capability.
func newJob(module []byte) Job {
	return Job{
		Module:       module,
		ModuleDigest: sha256.Sum256(module),
		Input:        []byte("input"),
		Args:         []string{"guest", "one"},
		Env:          [][2]string{{"KEY", "value"}},
		Seed:         [32]byte{1},
		Capabilities: allCapabilities,
		Limits:       Limits{MemoryPages: 16, InputBytes: 1 << 10, OutputBytes: 64, DiagnosticsBytes: 8},
		MemoryDigest: true,
	}
}

// write is the code of fd_write (function f) of one buffer; it uses the first
// 12 bytes of memory.
func write(f uint32, fd, at, size int32) []byte {
	return wasmtest.Cat(
		wasmtest.I32Const(0), wasmtest.I32Const(at), wasmtest.Op(0x36, 2, 0), // store the pointer
		wasmtest.I32Const(4), wasmtest.I32Const(size), wasmtest.Op(0x36, 2, 0), // store the length
		wasmtest.Call(f, fd, 0, 1, 8), wasmtest.Drop)
}

// printer is a command that begins with the given writes, then does the rest.
func printer(rest func(exit uint32) []byte) []byte {
	b := wasmtest.Command()
	fdWrite := b.Import(wasmtest.WASI, "fd_write", "iiii:i")
	exit := b.Import(wasmtest.WASI, "proc_exit", "i:")
	b.Data(16, "hello, diagnostics")
	b.Start("", write(fdWrite, 1, 16, 5), write(fdWrite, 2, 23, 11), rest(exit))
	return b.Bytes()
}

func TestOutcomes(t *testing.T) {
	flood := wasmtest.Command()
	fdWrite := flood.Import(wasmtest.WASI, "fd_write", "iiii:i")
	flood.Start("", wasmtest.Loop(write(fdWrite, 1, 100, 7)))

	calls := func(code ...byte) func(uint32) []byte { return func(uint32) []byte { return code } }
	tests := []struct {
		name   string
		module []byte
		kind   Kind
		code   uint32
		output string
		pages  uint32
	}{
		{"return", printer(calls()), KindOK, 0, "hello", 1},
		{"exit 0", printer(func(exit uint32) []byte { return wasmtest.Call(exit, 0) }), KindOK, 0, "hello", 1},
		{"exit 7", printer(func(exit uint32) []byte { return wasmtest.Call(exit, 7) }), KindExit, 7, "hello", 1},
		{"exit -1", printer(func(exit uint32) []byte { return wasmtest.Call(exit, -1) }), KindExit, 1<<32 - 1, "hello", 1},
		{"unreachable", printer(calls(0x00)), KindTrap, 0, "hello", 1},
		{"division by zero", printer(calls(0x41, 1, 0x41, 0, 0x6d, 0x1a)), KindTrap, 0, "hello", 1},
		{"division overflow", printer(calls(0x41, 0x80, 0x80, 0x80, 0x80, 0x78, 0x41, 0x7f, 0x6d, 0x1a)), KindTrap, 0, "hello", 1},
		{"out of bounds", printer(calls(0x41, 0x7f, 0x28, 2, 0, 0x1a)), KindTrap, 0, "hello", 1},
		{"conversion of NaN", printer(calls(0x43, 0, 0, 0xc0, 0x7f, 0xa8, 0x1a)), KindTrap, 0, "hello", 1},
		{"grow", printer(calls(0x41, 3, 0x40, 0, 0x1a)), KindOK, 0, "hello", 4},
		{"grow too far", printer(calls(0x41, 16, 0x40, 0, 0x41, 0x7f, 0x47, 0x04, 0x40, 0x00, 0x0b)), KindOK, 0, "hello", 1},
		{"flood", flood.Bytes(), KindOutputTooLarge, 0, strings.Repeat("\x00", 64), 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := runBothModes(t, newJob(test.module))
			o := r.Outcome
			if o.Kind != test.kind || o.ExitCode != test.code || o.PeakPages != test.pages {
				t.Errorf("outcome is %v with %d pages, want %v(%d) with %d", o, o.PeakPages, test.kind, test.code, test.pages)
			}
			if string(r.Output) != test.output || o.Output != DigestOf(r.Output) {
				t.Errorf("output is %q (%d bytes recorded), want %q", r.Output, o.Output.Length, test.output)
			}
			if test.output == "hello" && string(r.Diagnostics) != "diagnost" {
				t.Errorf("diagnostics are %q, want the first 8 bytes", r.Diagnostics)
			}
			if o.Diagnostics != DigestOf(r.Diagnostics) || o.Gas != nil || o.Memory == nil {
				t.Errorf("unexpected fields in %v", o)
			}
			if (test.kind == KindTrap) != (r.Engine.Trap != "") {
				t.Errorf("engine's trap text is %q", r.Engine.Trap)
			}
		})
	}
}

// runBothModes runs a job twice in each mode of the engine and demands equal
// outcomes.
func runBothModes(t *testing.T, job Job) *Result {
	t.Helper()
	return runModes(t, job, EngineConfig{}, EngineConfig{Interpreter: true})
}

func runModes(t *testing.T, job Job, configs ...EngineConfig) *Result {
	t.Helper()
	var first *Result
	for _, config := range configs {
		e := NewEngine(config)
		defer e.Close()
		for range 2 {
			r, err := e.Run(t.Context(), job)
			if err != nil {
				t.Fatalf("%+v: %v", config, err)
			}
			if first == nil {
				first = r
			}
			if r.Outcome.String() != first.Outcome.String() || !bytes.Equal(r.Output, first.Output) {
				t.Fatalf("%+v: outcome differs:\n%v\n%v", config, r.Outcome, first.Outcome)
			}
		}
	}
	return first
}

// recursion is a command that calls itself for ever.
func recursion() []byte {
	b := wasmtest.Command()
	b.Start("", wasmtest.Call(0))
	return b.Bytes()
}

func TestStackOverflowIsEngineFault(t *testing.T) {
	e := NewEngine(EngineConfig{Interpreter: true})
	defer e.Close()
	r, err := e.Run(t.Context(), newJob(recursion()))
	if !errors.Is(err, ErrEngineFault) || !strings.Contains(err.Error(), "native stack") {
		t.Fatalf("result %v, error %v; want an engine fault that names the stack", r, err)
	}
}

func TestStopped(t *testing.T) {
	spin := wasmtest.Command()
	spin.Start("", wasmtest.Loop())
	yield := wasmtest.Command()
	f := yield.Import(wasmtest.WASI, "sched_yield", ":i")
	yield.Start("", wasmtest.Loop(wasmtest.Call(f), wasmtest.Drop))

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name   string
		ctx    context.Context
		module []byte
		config EngineConfig
		cause  error
	}{
		{"cancelled before", cancelled, spin.Bytes(), EngineConfig{}, context.Canceled},
		{"guard at a host call", t.Context(), yield.Bytes(), EngineConfig{}, context.DeadlineExceeded},
		{"guard in a loop", t.Context(), spin.Bytes(), EngineConfig{Interruptible: true}, context.DeadlineExceeded},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := NewEngine(test.config)
			defer e.Close()
			job := newJob(test.module)
			job.Limits.WallClock = 20e6
			r, err := e.Run(test.ctx, job)
			if r != nil || !errors.Is(err, ErrStopped) || !errors.Is(err, test.cause) {
				t.Fatalf("result %v, error %v; want ErrStopped with %v", r, err, test.cause)
			}
		})
	}
}

func TestInvalidJobs(t *testing.T) {
	tests := map[string]struct {
		change func(*Job)
		want   string
	}{
		"digest":          {func(j *Job) { j.ModuleDigest[0] ^= 1 }, "the job names"},
		"no memory":       {func(j *Job) { j.Limits.MemoryPages = 0 }, "memory limit"},
		"much memory":     {func(j *Job) { j.Limits.MemoryPages = MaxMemoryPages + 1 }, "memory limit"},
		"input limit":     {func(j *Job) { j.Limits.InputBytes = MaxInputBytes + 1 }, "input limit"},
		"output limit":    {func(j *Job) { j.Limits.OutputBytes = -1 }, "output limit"},
		"diag limit":      {func(j *Job) { j.Limits.DiagnosticsBytes = MaxDiagnosticsBytes + 1 }, "diagnostics limit"},
		"guard":           {func(j *Job) { j.Limits.WallClock = -1 }, "wall-clock"},
		"input":           {func(j *Job) { j.Limits.InputBytes = 4 }, "input of 5 bytes"},
		"argument count":  {func(j *Job) { j.Args = make([]string, MaxStrings+1) }, "257 arguments"},
		"argument bytes":  {func(j *Job) { j.Args = []string{strings.Repeat("x", MaxStringBytes)} }, "arguments of 65537 bytes"},
		"zero byte":       {func(j *Job) { j.Args = []string{"a\x00b"} }, "zero byte"},
		"no name":         {func(j *Job) { j.Env = [][2]string{{"", "v"}} }, "environment name"},
		"name with =":     {func(j *Job) { j.Env = [][2]string{{"a=b", "v"}} }, "environment name"},
		"repeated name":   {func(j *Job) { j.Env = [][2]string{{"a", "v"}, {"a", "w"}} }, "repeated"},
		"zero in value":   {func(j *Job) { j.Env = [][2]string{{"a", "\x00"}} }, "zero byte"},
		"no capability":   {func(j *Job) { j.Capabilities = []string{"network"} }, `unknown capability "network"`},
		"capability dup.": {func(j *Job) { j.Capabilities = []string{"args", "args"} }, "repeated"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			job := newJob(printer(func(uint32) []byte { return nil }))
			test.change(&job)
			_, err := runDirect(t.Context(), job)
			if !errors.Is(err, ErrInvalidJob) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want ErrInvalidJob with %q", err, test.want)
			}
		})
	}
}

func TestEngineEvictsAndCloses(t *testing.T) {
	e := NewEngine(EngineConfig{CachedModules: 1})
	ok := newJob(printer(func(uint32) []byte { return nil }))
	trap := newJob(printer(func(uint32) []byte { return wasmtest.Unreachable }))
	for i, job := range []Job{ok, trap, ok, ok} {
		if _, err := e.Run(t.Context(), job); err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
		if len(e.programs) != 1 || !e.warm(job.key()) {
			t.Fatalf("run %d: %d programs kept, last warm: %v", i, len(e.programs), e.warm(job.key()))
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Run(t.Context(), ok); !errors.Is(err, ErrClosed) {
		t.Errorf("error after Close is %v", err)
	}
}

func TestKindWords(t *testing.T) {
	for k := KindOK; k <= KindOutputTooLarge; k++ {
		if !k.Valid() || k.String() == "" {
			t.Errorf("kind %d has no word", k)
		}
	}
	if Kind(0).Valid() || Kind(7).Valid() || Kind(7).String() != "kind(7)" {
		t.Error("kinds outside the set are valid")
	}
}

// spinner is a command that writes "hello" and computes for ever.
func spinner() []byte {
	return printer(func(uint32) []byte { return wasmtest.Loop() })
}
