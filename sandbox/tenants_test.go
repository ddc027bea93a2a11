//go:build unix

package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

func init() {
	// A worker that a guest has taken over: it speaks the protocol, and whatever it
	// is to run ends with exit code 66, which any job can.
	badWorkers["taken over"] = func() {
		readFrame(os.Stdin)
		writeFrame(os.Stdout, frameGreeting, Enforcement{}.pack())
		for {
			if _, _, err := readFrame(os.Stdin); err != nil {
				return
			}
			r := goodResult()
			r.Outcome.Kind, r.Outcome.ExitCode = KindExit, 66
			r.Output, r.Diagnostics = nil, nil
			writeFrame(os.Stdout, frameRunning, nil)
			writeFrame(os.Stdout, frameResult, packResult(r))
		}
	}
}

// exitsWith is a job of a tenant that ends with an exit code.
func exitsWith(tenant string, code int32) Job {
	job := newJob(printer(func(exit uint32) []byte { return wasmtest.Call(exit, code) }))
	job.Tenant = tenant
	return job
}

// TestTakenOverWorkerStaysWithItsTenant has the pool's only worker lie about
// every job: the tenant whose guest took it over hears the lies, and no other.
func TestTakenOverWorkerStaysWithItsTenant(t *testing.T) {
	var runners atomic.Int32
	p, err := newPool(PoolConfig{Workers: 1}, func(name, dir string) (*exec.Cmd, error) {
		if name == runnerName && runners.Add(1) == 1 {
			return badCommand("taken over")(name, dir)
		}
		return workerCommand(name, dir)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	evil := p.pids()[0]
	for i, job := range []Job{exitsWith("mallory", 3), exitsWith("mallory", 4), exitsWith("alice", 5), exitsWith("mallory", 6)} {
		want := job.Tenant == "mallory" && i < 2 // while its worker lives
		r, err := p.Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		if lied := r.Outcome.ExitCode == 66; lied != want {
			t.Errorf("job %d, of %s: exit code %d", i, job.Tenant, r.Outcome.ExitCode)
		}
	}
	if err := syscall.Kill(evil, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the worker is still there: %v", err)
	}
}

// TestWorkersBelongToTenants looks at which worker runs which job: each runs
// those of one tenant, warm ones first, and is replaced only when none is free.
func TestWorkersBelongToTenants(t *testing.T) {
	p := testPool(t, PoolConfig{Workers: 2})
	last := func() int { // who answered last
		list := p.pids()
		return list[len(list)-1]
	}
	run := func(tenant string) int {
		t.Helper()
		if r, err := p.Run(t.Context(), exitsWith(tenant, 3)); err != nil || r.Outcome.ExitCode != 3 {
			t.Fatalf("%s: %v, %v", tenant, r, err)
		}
		if n := len(p.pids()); n != 2 {
			t.Fatalf("%d workers", n)
		}
		return last()
	}
	started := p.pids()
	a, b := run("a"), run("b")
	if a == b || !slices.Contains(started, a) || !slices.Contains(started, b) {
		t.Fatalf("tenants got %d and %d of %v", a, b, started)
	}
	for range 3 {
		if again := run("a"); again != a {
			t.Errorf("a moved from %d to %d", a, again)
		}
		if again := run("b"); again != b {
			t.Errorf("b moved from %d to %d", b, again)
		}
	}
	if c := run("c"); c == a || c == b {
		t.Errorf("c got worker %d of another", c)
	}
	if again := run("b"); again != b { // a's was used longest ago
		t.Errorf("b moved from %d to %d", b, again)
	}
	if again := run("a"); again == a || again == b {
		t.Errorf("a got worker %d, which has gone or is another's", again)
	}
}
