//go:build unix

package sandbox

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// TestInterpretingPool interprets in workers: what it finds is what compiled code
// finds, it leaves nothing in a cache of native code, and a run ends with its
// worker, which is where the guest is.
func TestInterpretingPool(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	p := testPool(t, PoolConfig{Interpreter: true, CacheDir: cache})
	job := metered(newJob(counter(1000)), 1_000_000, 10)
	want, err := runDirect(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := p.Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		if got.Engine.Mode != "interpreter" || want.Engine.Mode != "compiler" {
			t.Errorf("modes %q and %q", got.Engine.Mode, want.Engine.Mode)
		}
		if got.Outcome.String() != want.Outcome.String() || *got.RewrittenModule != *want.RewrittenModule {
			t.Errorf("interpreted %v, compiled %v", got.Outcome, want.Outcome)
		}
	}
	if left, err := filepath.Glob(filepath.Join(cache, "*")); err != nil || len(left) > 0 {
		t.Errorf("the cache has %q, %v", left, err)
	}
	bad := newJob(printer(func(uint32) []byte { return wasmtest.Op(0x43, 0, 0, 0, 0, 0x45, 0x1a) })) // i32.eqz of an f32
	_, err = p.Run(t.Context(), bad)
	if r := (*Refusal)(nil); !errors.As(err, &r) || r.Code != RefusedInvalid {
		t.Errorf("an invalid module: %v", err)
	}
	pid, result := runSpinner(t, testPool(t, PoolConfig{Interpreter: true}))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, ErrEngineFault) {
		t.Errorf("error is %v, want an engine fault", err)
	}
}
