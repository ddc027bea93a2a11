//go:build unix

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// TestMain lets this test binary be its own worker, and, under other names,
// workers that misbehave.
func TestMain(m *testing.M) {
	if IsWorker() {
		WorkerMain()
	}
	if behaviour, ok := strings.CutPrefix(os.Args[0], badWorkerName); ok {
		badWorkers[behaviour]()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const badWorkerName = "bad-worker:"

// forever does not return, and is not taken for a deadlock: in a program without
// cgo the runtime ends a process whose goroutines all wait for nothing.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// answerThen greets properly, reads a request, and then misbehaves.
func answerThen(f func()) func() {
	return func() {
		readFrame(os.Stdin)
		writeFrame(os.Stdout, frameGreeting, Enforcement{}.pack())
		readFrame(os.Stdin)
		f()
	}
}

var badWorkers = map[string]func(){
	"silent":    func() { forever() },
	"dies":      func() { os.Exit(9) },
	"no frames": func() { os.Stdout.Write([]byte("GET / HTTP/1.1\r\n\r\n")) },
	"old": func() {
		readFrame(os.Stdin)
		writeFrame(os.Stdout, frameGreeting, append([]byte{0, 0, 0, 9}, Enforcement{}.pack()[4:]...))
	},
	"garbage": answerThen(func() { os.Stdout.Write(bytes.Repeat([]byte{0xaa}, 1<<20)) }),
	"flood":   answerThen(func() { os.Stdout.Write([]byte{byte(frameResult), 0xff, 0xff, 0xff, 0xff}) }),
	"runs for ever": answerThen(func() {
		writeFrame(os.Stdout, frameRunning, nil)
		forever()
	}),
	"dies in run": answerThen(func() {
		writeFrame(os.Stdout, frameRunning, nil)
		fmt.Fprintln(os.Stderr, "fatal error: out of memory")
	}),
	"needs twice": answerThen(func() {
		writeFrame(os.Stdout, frameNeed, nil)
		readFrame(os.Stdin)
		writeFrame(os.Stdout, frameNeed, nil)
		forever()
	}),
	"needs whole": answerThen(func() {
		writeFrame(os.Stdout, frameNeedWhole, nil)
		forever()
	}),
	"needs whole twice": answerThen(func() {
		writeFrame(os.Stdout, frameNeed, nil)
		for range 2 {
			readFrame(os.Stdin)
			writeFrame(os.Stdout, frameNeedWhole, nil)
		}
		forever()
	}),
	"no running": answerThen(func() { writeFrame(os.Stdout, frameResult, packResult(goodResult())); forever() }),
	"runs twice": answerThen(func() {
		writeFrame(os.Stdout, frameRunning, nil)
		writeFrame(os.Stdout, frameRunning, nil)
		forever()
	}),
	"lies about output": answerThen(func() {
		r := goodResult()
		r.Output = make([]byte, 65)
		writeFrame(os.Stdout, frameRunning, nil)
		writeFrame(os.Stdout, frameResult, packResult(r))
		forever()
	}),
	"lies about kind": answerThen(func() {
		r := goodResult()
		r.Outcome.Kind = KindBudgetExhausted
		writeFrame(os.Stdout, frameRunning, nil)
		writeFrame(os.Stdout, frameResult, packResult(r))
		forever()
	}),
	"unknown failure": answerThen(func() { writeFrame(os.Stdout, frameFailure, []byte{77, 0, 0, 0, 0}); forever() }),
	"lies about gas": answerThen(func() {
		r := goodResult()
		gas := uint64(1)
		r.Outcome.Gas = &gas
		writeFrame(os.Stdout, frameRunning, nil)
		writeFrame(os.Stdout, frameResult, packResult(r))
		forever()
	}),
	"refuses": answerThen(func() {
		writeFrame(os.Stdout, frameFailure, packFailure(refuse(RefusedMemory, "", "too little of it")))
		forever()
	}),
	"calls the job invalid": answerThen(func() {
		writeFrame(os.Stdout, frameFailure, packFailure(invalidJob("it is of a stranger")))
		forever()
	}),
	"short failure": answerThen(func() { writeFrame(os.Stdout, frameFailure, nil); forever() }),
}

// badCommand starts this binary as a bad worker. Those that start are good
// compilers.
func badCommand(behaviour string) func(name, dir string) (*exec.Cmd, error) {
	return func(name, dir string) (*exec.Cmd, error) {
		if name == compilerName {
			return workerCommand(name, dir)
		}
		exe, err := os.Executable()
		return &exec.Cmd{Path: exe, Args: []string{badWorkerName + behaviour}, Dir: dir}, err
	}
}

func testPool(t *testing.T, config PoolConfig) *Pool {
	t.Helper()
	if config.Workers == 0 {
		config.Workers = 1
	}
	p, err := NewPool(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(p.dir.path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("workers' directory after Close: %v", err)
		}
	})
	return p
}

// pids returns the idle workers' processes.
func (p *Pool) pids() (list []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		list = append(list, c.cmd.Process.Pid)
	}
	return list
}

func TestPoolRunsLikeDirect(t *testing.T) {
	p := testPool(t, PoolConfig{CacheDir: filepath.Join(t.TempDir(), "cache")})
	for name, rest := range map[string]func(uint32) []byte{
		"ok":   func(uint32) []byte { return nil },
		"exit": func(exit uint32) []byte { return wasmtest.Call(exit, 3) },
		"trap": func(uint32) []byte { return wasmtest.Unreachable },
	} {
		job := newJob(printer(rest))
		want, err := runDirect(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			got, err := p.Run(t.Context(), job)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got.Outcome.String() != want.Outcome.String() || !bytes.Equal(got.Output, want.Output) || !bytes.Equal(got.Diagnostics, want.Diagnostics) {
				t.Errorf("%s: worker and direct differ:\n%v\n%v", name, got.Outcome, want.Outcome)
			}
			if (got.Engine.CompileTime == 0) != (i == 1) {
				t.Errorf("%s: run %d took %v to compile", name, i, got.Engine.CompileTime)
			}
			if got.Engine.Trap != want.Engine.Trap {
				t.Errorf("%s: trap %q, direct %q", name, got.Engine.Trap, want.Engine.Trap)
			}
		}
	}
	if n := len(p.pids()); n != 1 {
		t.Errorf("%d workers", n)
	}
}

func TestPoolReportsRefusals(t *testing.T) {
	p := testPool(t, PoolConfig{})
	job := newJob(printer(func(uint32) []byte { return wasmtest.Op(0x43, 0, 0, 0, 0, 0x45, 0x1a) })) // i32.eqz of an f32
	before := p.pids()
	for range 2 {
		_, err := p.Run(t.Context(), job)
		if r := (*Refusal)(nil); !errors.As(err, &r) || r.Code != RefusedInvalid {
			t.Errorf("Run: %v, want a refusal as invalid", err)
		}
		_, err = p.Admit(t.Context(), job.Module, nil, job.Limits)
		if r := (*Refusal)(nil); !errors.As(err, &r) || r.Code != RefusedInvalid {
			t.Errorf("Admit: %v, want a refusal as invalid", err)
		}
	}
	job.ModuleDigest[0]++
	if _, err := p.Run(t.Context(), job); !errors.Is(err, ErrInvalidJob) || !strings.Contains(err.Error(), "the job names") {
		t.Errorf("wrong digest: %v", err)
	}
	if _, err := p.Admit(t.Context(), job.Module, []string{"x"}, job.Limits); !errors.Is(err, ErrInvalidJob) {
		t.Errorf("unknown capability: %v", err)
	}
	job.Module = make([]byte, MaxModuleBytes+1)
	if _, err := p.Run(t.Context(), job); err == nil || !strings.Contains(err.Error(), "module_too_large") {
		t.Errorf("large module: %v", err)
	}
	job = newJob(printer(func(uint32) []byte { return nil }))
	if a, err := p.Admit(t.Context(), job.Module, nil, job.Limits); err != nil || a.ModuleDigest != job.ModuleDigest {
		t.Errorf("Admit: %+v, %v", a, err)
	}
	if after := p.pids(); len(after) != 1 || after[0] != before[0] {
		t.Errorf("the worker was replaced: %v, %v", before, after)
	}
}

func TestPoolStopsGuests(t *testing.T) {
	p := testPool(t, PoolConfig{})
	job := newJob(spinner())
	job.Limits.WallClock = 50 * time.Millisecond
	first := p.pids()[0]
	if _, err := p.Run(t.Context(), job); !errors.Is(err, ErrStopped) || !strings.Contains(err.Error(), "wall-clock") {
		t.Errorf("guard: %v", err)
	}
	if err := syscall.Kill(first, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the worker is still there: %v", err)
	}
	job.Limits.WallClock = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Run(ctx, job); !errors.Is(err, ErrStopped) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Run(cancelled, job); !errors.Is(err, ErrStopped) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := p.Run(t.Context(), newJob(printer(func(uint32) []byte { return nil }))); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// runSpinner starts a run that does not end, and returns its worker's process
// once the guest has begun, and its error.
func runSpinner(t *testing.T, p *Pool) (pid int, result <-chan error) {
	t.Helper()
	pid, r := runSpinnerWith(t, p, func(*Job) {})
	return pid, r.err
}

// A spinning is a run that does not end unless cancelled.
type spinning struct {
	err    chan error
	cancel context.CancelFunc
}

func runSpinnerWith(t *testing.T, p *Pool, change func(*Job)) (pid int, result spinning) {
	t.Helper()
	c := p.idle[0]
	job := newJob(spinner())
	job.Limits.WallClock = time.Minute
	change(&job)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	errs := make(chan error, 1)
	go func() {
		_, err := p.Run(ctx, job)
		errs <- err
	}()
	for !c.heard.Load() {
		runtime.Gosched()
	}
	return c.cmd.Process.Pid, spinning{errs, cancel}
}

func TestWorkerKilledInMidRun(t *testing.T) {
	p := testPool(t, PoolConfig{})
	pid, result := runSpinner(t, p)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, ErrEngineFault) {
		t.Errorf("error is %v, want an engine fault", err)
	}
	if _, err := p.Run(t.Context(), newJob(printer(func(uint32) []byte { return nil }))); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestIdleWorkerKilled(t *testing.T) {
	p := testPool(t, PoolConfig{Workers: 2})
	for _, pid := range p.pids() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := p.Run(t.Context(), newJob(printer(func(uint32) []byte { return nil }))); err != nil {
			t.Errorf("run after idle workers died: %v", err)
		}
	}
}

func TestCloseStopsRuns(t *testing.T) {
	p := testPool(t, PoolConfig{})
	pid, result := runSpinner(t, p)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, ErrStopped) || !errors.Is(err, ErrClosed) {
		t.Errorf("error is %v", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the worker is still there: %v", err)
	}
	if _, err := p.Run(t.Context(), newJob(spinner())); !errors.Is(err, ErrClosed) {
		t.Errorf("Run after Close: %v", err)
	}
}

func TestPoolConcurrency(t *testing.T) {
	p := testPool(t, PoolConfig{Workers: 2})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			r, err := p.Run(t.Context(), newJob(printer(func(exit uint32) []byte { return wasmtest.Call(exit, int32(i%3)) })))
			if err != nil || r.Outcome.ExitCode != uint32(i%3) {
				t.Errorf("run %d: %v, %v", i, r, err)
			}
		})
	}
	wg.Wait()
	if n := len(p.pids()); n != 2 {
		t.Errorf("%d workers", n)
	}
}

func TestWorkersThatDoNotStart(t *testing.T) {
	for behaviour, want := range map[string]string{"dies": "EOF", "no frames": "unknown frame", "old": "restart after an upgrade"} {
		p, err := newPool(PoolConfig{Workers: 1}, badCommand(behaviour))
		if p != nil || !errors.Is(err, ErrEngineFault) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an engine fault with %q", behaviour, err, want)
		}
	}
	_, err := newPool(PoolConfig{}, func(string, string) (*exec.Cmd, error) { return &exec.Cmd{Path: "/nonexistent"}, nil })
	if !errors.Is(err, ErrEngineFault) {
		t.Errorf("no binary: %v", err)
	}
}

func TestMisbehavingWorkers(t *testing.T) {
	for behaviour, want := range map[string]string{
		"garbage":           "unknown frame",
		"flood":             "4294967295 bytes",
		"dies in run":       "fatal error: out of memory",
		"needs twice":       "unexpected frame",
		"needs whole":       "unexpected frame",
		"needs whole twice": "unexpected frame",
		"no running":        "unexpected frame",
		"runs twice":        "unexpected frame",
		"lies about output": "output of 65",
		"lies about kind":   "budget_exhausted",
		"lies about gas":    "gas is present",
		"unknown failure":   "failure class 77",
		"short failure":     "payload ends early",

		"refuses":               "a job that was admitted is refused",
		"calls the job invalid": "a job that was admitted is refused",
	} {
		t.Run(behaviour, func(t *testing.T) {
			p, err := newPool(PoolConfig{Workers: 1}, badCommand(behaviour))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			pid := p.pids()[0]
			r, err := p.Run(t.Context(), newJob(printer(func(uint32) []byte { return nil })))
			refusal := (*Refusal)(nil)
			if errors.As(err, &refusal) || errors.Is(err, ErrInvalidJob) {
				t.Errorf("the worker is believed: %v", err)
			}
			if r != nil || !errors.Is(err, ErrEngineFault) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, %v; want an engine fault with %q", r, err, want)
			}
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the worker is still there: %v", err)
			}
		})
	}
}

func TestCacheDirMustBePrivate(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPool(PoolConfig{CacheDir: dir}); !errors.Is(err, ErrEngineFault) || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("error is %v", err)
	}
	if _, err := NewPool(PoolConfig{CacheDir: "/dev/null/cache"}); !errors.Is(err, ErrEngineFault) {
		t.Errorf("error is %v", err)
	}
}

// TestBackoff starts workers that die at every job: each job fails, ever more
// slowly, and a caller that gives up does not wait.
func TestBackoff(t *testing.T) {
	p, err := newPool(PoolConfig{Workers: 1}, badCommand("dies in run"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	job := newJob(printer(func(uint32) []byte { return nil }))
	for range faultsTolerated + 1 {
		if _, err := p.Run(t.Context(), job); !errors.Is(err, ErrEngineFault) {
			t.Fatalf("error is %v", err)
		}
	}
	p.mu.Lock()
	later := p.notBefore.After(time.Now().Add(-maxBackoff)) && p.faults > faultsTolerated
	p.notBefore = time.Now().Add(time.Hour)
	p.mu.Unlock()
	if !later {
		t.Errorf("after %d faults the next start is not put off", p.faults)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.start(ctx, runnerName); !errors.Is(err, ErrStopped) {
		t.Errorf("waiting without patience: %v", err)
	}
	p.mu.Lock()
	p.notBefore = time.Time{}
	p.mu.Unlock()
}

// TestDeafWorker cancels a metered run whose worker does not listen: it is
// killed after the grace.
func TestDeafWorker(t *testing.T) {
	p, err := newPool(PoolConfig{Workers: 1}, badCommand("runs for ever"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	pid, result := runSpinnerWith(t, p, func(job *Job) { *job = metered(*job, MaxGas, 10) })
	result.cancel()
	if err := <-result.err; !errors.Is(err, ErrStopped) {
		t.Errorf("error is %v", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the worker is still there: %v", err)
	}
}

// TestWorkersRetire replaces a worker that has served long enough.
func TestWorkersRetire(t *testing.T) {
	p := testPool(t, PoolConfig{})
	before := p.pids()
	p.idle[0].busy = retireAfter
	for range 2 {
		if _, err := p.Run(t.Context(), newJob(printer(func(uint32) []byte { return nil }))); err != nil {
			t.Fatal(err)
		}
	}
	if after := p.pids(); len(after) != 1 || after[0] == before[0] {
		t.Errorf("workers were %v and are %v", before, after)
	}
}
