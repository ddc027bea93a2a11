package rewrite

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// FuzzRewrite rewrites anything. It never panics; what it accepts, the engine
// accepts before and after, and the gas left is where it must be; what it
// refuses, it refuses by a rule; and what it made cannot be rewritten again.
func FuzzRewrite(f *testing.F) {
	for _, module := range guests(f) {
		if len(module) < 1000 {
			f.Add(module)
		}
	}
	for seed := range uint64(20) {
		f.Add(wasmtest.Random(rand.NewPCG(seed, 0), wasmtest.RandomConfig{Start: seed%2 == 0}).Bytes)
	}
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features))
	defer r.Close(ctx)
	valid := func(module []byte) error {
		m, err := r.CompileModule(ctx, module)
		if err == nil {
			m.Close(ctx)
		}
		return err
	}
	f.Fuzz(func(t *testing.T, module []byte) {
		got, err := Rewrite(module, Config{})
		if err != nil {
			if refusal := (*Refusal)(nil); !errors.As(err, &refusal) || refusal.Rule == "" || refusal.Detail == "" || got != nil {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		// The engine would read names, which mean nothing.
		if err := valid(wasm.WithoutCustom(module)); err != nil {
			t.Errorf("the engine refuses the original: %v", err)
		}
		if err := valid(got.Bytes); err != nil {
			t.Errorf("the engine refuses %x: %v", got.Bytes, err)
		}
		if err := exact(module, got.Bytes); err != nil {
			t.Errorf("%v in %x", err, got.Bytes)
		}
		if _, err := Rewrite(got.Bytes, Config{}); err == nil {
			t.Error("rewritten again")
		}
	})
}
