package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/tallystick/tallystick/sandbox/rewrite"
)

// TestKernels demands of every kernel that it validates, as it is and
// rewritten.
func TestKernels(t *testing.T) {
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	seen := map[string]bool{}
	for _, k := range kernels() {
		if seen[k.name] {
			t.Errorf("two kernels %q", k.name)
		}
		seen[k.name] = true
		code, err := rewrite.Rewrite(k.code, rewrite.Config{})
		if err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
		for _, b := range [][]byte{k.code, code.Bytes} {
			c, err := r.CompileModule(ctx, b)
			if err != nil {
				t.Fatalf("%s: %v", k.name, err)
			}
			c.Close(ctx)
		}
	}
}

func TestMeasures(t *testing.T) {
	var out strings.Builder
	if err := run(&out, "i32.xor local"); err != nil || strings.Count(out.String(), "simple") != 2 {
		t.Errorf("%v, output:\n%s", err, out.String())
	}
	if err := run(io.Discard, "sched_yield"); err != nil {
		t.Error(err)
	}
}
