//go:build slow && unix

package sandbox

import (
	"testing"
	"time"
)

// TestLargestAdmitted has a worker's process compile, within the memory that it
// has by default, the largest functions of each kind that admission takes, two of
// them side by side; and it takes more of none.
func TestLargestAdmitted(t *testing.T) {
	p := testPool(t, PoolConfig{CompileTimeout: 10 * time.Minute})
	for name, kind := range denseKinds() {
		t.Run(name, func(t *testing.T) {
			limit := MaxModuleBytes / len(kind.unit)
			n := most(t, func(n int) []byte { return kind.module(n, 1) }, limit)
			functions := min(2, most(t, func(functions int) []byte { return kind.module(n, functions) }, 2))
			start := time.Now()
			a, err := p.Admit(t.Context(), kind.module(n, functions), nil, meteredJob(nil).Limits)
			if err != nil {
				t.Fatalf("%d units in each of %d functions: %v", n, functions, err)
			}
			t.Logf("%d units in each of %d functions: estimate %d, %v", n, functions, a.CompileWork, time.Since(start).Round(time.Millisecond))
		})
	}
}

// TestLargestModules compiles modules of as many such functions as admission
// takes together.
func TestLargestModules(t *testing.T) {
	p := testPool(t, PoolConfig{CompileTimeout: 10 * time.Minute})
	kinds := denseKinds()
	for _, name := range []string{"load", "truncate", "call indirect"} {
		t.Run(name, func(t *testing.T) {
			kind := kinds[name]
			n := most(t, func(n int) []byte { return kind.module(n, 1) }, MaxModuleBytes/len(kind.unit))
			functions := most(t, func(functions int) []byte { return kind.module(n, functions) }, 64)
			start := time.Now()
			a, err := p.Admit(t.Context(), kind.module(n, functions), nil, meteredJob(nil).Limits)
			if err != nil {
				t.Fatalf("%d functions of %d units: %v", functions, n, err)
			}
			t.Logf("%d functions of %d units: estimate %d, %v", functions, n, a.CompileWork, time.Since(start).Round(time.Millisecond))
		})
	}
}
