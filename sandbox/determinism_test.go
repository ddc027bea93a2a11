//go:build unix

package sandbox

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// direct runs a job in the compiler and the interpreter, twice each, and
// demands one outcome. Compiled code goes to cacheDir.
func direct(t *testing.T, job Job, cacheDir string) *Result {
	t.Helper()
	return runModes(t, job, EngineConfig{CacheDir: cacheDir}, EngineConfig{Interpreter: true})
}

// sameInWorker runs a job twice in a worker process, which takes the compiled
// code from cacheDir, and demands the outcome of want.
func sameInWorker(t *testing.T, job Job, want *Result, cacheDir string) {
	t.Helper()
	p := testPool(t, PoolConfig{CacheDir: cacheDir})
	for range 2 {
		r, err := p.Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		if r.Outcome.String() != want.Outcome.String() || string(r.Output) != string(want.Output) {
			t.Fatalf("the worker's outcome differs:\n%v\n%v", r.Outcome, want.Outcome)
		}
	}
}

// TestProbe pins what a guest sees. The file holds on every machine, in every
// mode and run; a change to it is a new version of the host interface.
func TestProbe(t *testing.T) {
	job := newJob(probe())
	job.Limits.OutputBytes = 8 << 10
	cache := filepath.Join(t.TempDir(), "cache")
	r := direct(t, job, cache)
	golden(t, "probe.outcome", []byte(r.Outcome.String()+"\n"))
	sameInWorker(t, job, r, cache)

	for name, change := range map[string]func(*Job){
		"seed":        func(j *Job) { j.Seed[31] ^= 1 },
		"input":       func(j *Job) { j.Input = []byte("inpuT") },
		"arguments":   func(j *Job) { j.Args = j.Args[:1] },
		"environment": func(j *Job) { j.Env = nil },
	} {
		other := job
		change(&other)
		if got, err := runDirect(t.Context(), other); err != nil || got.Outcome.Output == r.Outcome.Output {
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
	if fmt.Sprint(a.Needs) != "[args clock random stdio]" || !a.Floats || a.CompileWork > MaxCompileWork/2 {
		t.Errorf("admission is %+v", a)
	}
	r := direct(t, job, cache)
	if r.Outcome.Kind != KindOK {
		t.Fatalf("outcome is %v, diagnostics %q", r.Outcome, r.Diagnostics)
	}
	sameInWorker(t, job, r, cache)
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
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
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
			job.Limits.Gas, job.Limits.Frames = 0, 0 // the gas is pinned with the cost table
			job.Limits.MemoryPages = 64
			cache := filepath.Join(t.TempDir(), "cache")
			r := direct(t, job, cache)
			golden(t, name+".outcome", fmt.Appendf(nil, "%v\n%s", r.Outcome, r.Output))
			if r.Outcome.Kind != KindExit || r.Outcome.ExitCode != 3 || r.Outcome.Output.SHA256 != sha256.Sum256(r.Output) {
				t.Errorf("outcome is %v, diagnostics %q", r.Outcome, r.Diagnostics)
			}
			sameInWorker(t, job, r, cache)
		})
	}
}
