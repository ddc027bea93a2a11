package sandbox

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// probe is a command that asks for everything a guest could see of a machine
// and writes the raw answers: arguments, environment, all clocks before and
// after sleeping, random bytes, the status of its streams, its input, the errno
// of a file that does not exist, and fresh memory.
func probe() []byte {
	b := wasmtest.Command()
	imported := func(name, sig string) uint32 { return b.Import(wasmtest.WASI, name, sig) }
	argsGet, environGet := imported("args_get", "ii:i"), imported("environ_get", "ii:i")
	clock, random := imported("clock_time_get", "iIi:i"), imported("random_get", "ii:i")
	poll, fdstat := imported("poll_oneoff", "iiii:i"), imported("fd_fdstat_get", "ii:i")
	filestat, read := imported("fd_filestat_get", "ii:i"), imported("fd_read", "iiii:i")
	open, output := imported("path_open", "iiiiiIIii:i"), imported("fd_write", "iiii:i")
	readClock := func(id, at int32) []byte {
		return wasmtest.Cat(wasmtest.I32Const(id), wasmtest.I64Const(1), wasmtest.I32Const(at), wasmtest.U32([]byte{0x10}, clock), wasmtest.Drop)
	}
	store := func(at, v int32) []byte {
		return wasmtest.Cat(wasmtest.I32Const(at), wasmtest.I32Const(v), wasmtest.Op(0x36, 2, 0))
	}
	call := func(f uint32, args ...int32) []byte { return wasmtest.Cat(wasmtest.Call(f, args...), wasmtest.Drop) }
	// 0x400: a subscription to the monotonic clock, three seconds from now.
	b.Data(0x400+24, "\x00\x5e\xd0\xb2\x00\x00\x00\x00").Data(0x410, "\x01")
	b.Start("",
		call(argsGet, 0x1000, 0x1100), call(environGet, 0x1200, 0x1300),
		readClock(0, 0x1400), readClock(1, 0x1408), readClock(2, 0x1410), readClock(3, 0x1418),
		call(poll, 0x400, 0x1500, 1, 0x1600),
		readClock(0, 0x1420), readClock(1, 0x1428),
		call(random, 0x1700, 256),
		call(fdstat, 0, 0x1800), call(fdstat, 1, 0x1820), call(filestat, 2, 0x1840),
		store(0x100, 0x1900), store(0x104, 256), call(read, 0, 0x100, 1, 0x1a00),
		wasmtest.I32Const(0x1a04), // where the errno of path_open goes
		wasmtest.I32Const(3), wasmtest.I32Const(0), wasmtest.I32Const(0x1100), wasmtest.I32Const(5), wasmtest.I32Const(0),
		wasmtest.I64Const(-1), wasmtest.I64Const(-1), wasmtest.I32Const(0), wasmtest.I32Const(0x1a08),
		wasmtest.U32([]byte{0x10}, open), wasmtest.Op(0x36, 2, 0),
		wasmtest.I32Const(2), wasmtest.Op(0x40, 0, 0x1a), // two more pages, which are zero
		store(0x100, 0x1000), store(0x104, 0x1000), store(0x108, 0x20000), store(0x10c, 64),
		call(output, 1, 0x100, 2, 0x200))
	return b.Bytes()
}

// everywhere runs a job in the compiler and the interpreter, twice each, and in
// a worker process, and demands one outcome. Worker and compiler share the
// compiled code in cacheDir.
func everywhere(t *testing.T, job Job, cacheDir string) *Result {
	t.Helper()
	direct := runModes(t, job, EngineConfig{CacheDir: cacheDir}, EngineConfig{Interpreter: true})
	p := testPool(t, PoolConfig{CacheDir: cacheDir})
	for range 2 {
		r, err := p.Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		if r.Outcome.String() != direct.Outcome.String() || string(r.Output) != string(direct.Output) {
			t.Fatalf("the worker's outcome differs:\n%v\n%v", r.Outcome, direct.Outcome)
		}
	}
	return direct
}

// TestProbe pins what a guest sees. The file holds on every machine, in every
// mode and run; a change to it is a new version of the host interface.
func TestProbe(t *testing.T) {
	job := newJob(probe())
	job.Limits.OutputBytes = 8 << 10
	cache := filepath.Join(t.TempDir(), "cache")
	r := everywhere(t, job, cache)
	golden(t, "probe.outcome", []byte(r.Outcome.String()+"\n"))

	for name, change := range map[string]func(*Job){
		"seed":        func(j *Job) { j.Seed[31] ^= 1 },
		"input":       func(j *Job) { j.Input = []byte("inpuT") },
		"arguments":   func(j *Job) { j.Args = j.Args[:1] },
		"environment": func(j *Job) { j.Env = nil },
	} {
		other := job
		change(&other)
		if got, err := RunDirect(t.Context(), other); err != nil || got.Outcome.Output == r.Outcome.Output {
			t.Errorf("another %s gives the same output, %v", name, err)
		}
	}
}

// TestGoGuest runs a Go program that shows what is different at every run
// elsewhere: time, sleep, map order, goroutine order, select, random numbers of
// both kinds, temporary names, hash seeds. Its outcome is not pinned, as
// another version of Go makes another module.
func TestGoGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a WebAssembly module")
	}
	module := buildGo(t)
	job := newJob(module)
	job.Limits = DefaultLimits()
	cache := filepath.Join(t.TempDir(), "cache")
	a, err := Admit(module, allCapabilities, job.Limits)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(a.Needs) != "[args clock random stdio]" || !a.Floats || a.CompileWork > MaxCompileWork/4 {
		t.Errorf("admission is %+v", a)
	}
	r := everywhere(t, job, cache)
	if r.Outcome.Kind != KindOK {
		t.Fatalf("outcome is %v, diagnostics %q", r.Outcome, r.Diagnostics)
	}
	out := string(r.Output)
	for _, want := range []string{"arguments [guest one]", "KEY=value", "slept 3.000", "read 5 bytes", "year 2001", "no file: open /etc/passwd"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	job.Seed[0]++
	e := NewEngine(EngineConfig{CacheDir: cache})
	defer e.Close()
	other, err := e.Run(t.Context(), job)
	if err != nil || string(other.Output) == out {
		t.Errorf("another seed gives the same output, %v", err)
	}
}

// buildGo builds the program of testdata/goguest for WASI.
func buildGo(t *testing.T) []byte {
	path := filepath.Join(t.TempDir(), "guest.wasm")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, ".")
	build.Dir = filepath.Join(testdataDir, "goguest")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	module, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return module
}

// TestForeignGuests runs the committed modules that other compilers made.
func TestForeignGuests(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(testdataDir, "guest-*.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".wasm")
		t.Run(name, func(t *testing.T) {
			module, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			job := newJob(module)
			job.Limits = DefaultLimits()
			job.Limits.MemoryPages = 64
			cache := filepath.Join(t.TempDir(), "cache")
			r := everywhere(t, job, cache)
			golden(t, name+".outcome", fmt.Appendf(nil, "%v\n%s", r.Outcome, r.Output))
			if r.Outcome.Kind != KindExit || r.Outcome.ExitCode != 3 || r.Outcome.Output.SHA256 != sha256.Sum256(r.Output) {
				t.Errorf("outcome is %v, diagnostics %q", r.Outcome, r.Diagnostics)
			}
		})
	}
}
