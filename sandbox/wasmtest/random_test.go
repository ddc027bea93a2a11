package wasmtest_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// TestModesAgree runs random modules that canonicalise their own NaNs in both
// modes of the engine: they validate, and have one meaning. It is what makes
// them a reference for rewritten modules.
func TestModesAgree(t *testing.T) { modesAgree(t, seeds) }

func modesAgree(t *testing.T, seeds uint64) {
	compiler, interpreter := newMachines(t)
	for seed := range seeds {
		m := wasmtest.Random(rand.NewPCG(seed, 0), wasmtest.RandomConfig{Canonical: true, Start: true})
		want, err := compiler.run(m, m.Bytes, seed)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got, err := interpreter.run(m, m.Bytes, seed)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got != want {
			t.Errorf("seed %d: the compiler finds\n%sthe interpreter\n%s", seed, want, got)
		}
	}
}

// TestRandomIsRepeatable holds modules to their source: configurations differ
// in what they say only, and a fuzzer's bytes steer them.
func TestRandomIsRepeatable(t *testing.T) {
	for seed := range uint64(50) {
		one := wasmtest.Random(rand.NewPCG(seed, 0), wasmtest.RandomConfig{})
		two := wasmtest.Random(rand.NewPCG(seed, 0), wasmtest.RandomConfig{})
		other := wasmtest.Random(rand.NewPCG(seed, 0), wasmtest.RandomConfig{Canonical: true})
		if !bytes.Equal(one.Bytes, two.Bytes) {
			t.Fatalf("seed %d makes two modules", seed)
		}
		if len(one.Funcs) != len(other.Funcs) || len(one.Globals) != len(other.Globals) {
			t.Errorf("seed %d makes other functions when NaNs are canonical", seed)
		}
	}
	short := wasmtest.Random(wasmtest.ByteSource([]byte("abc\x00")), wasmtest.RandomConfig{})
	if bytes.Equal(short.Bytes, wasmtest.Random(wasmtest.ByteSource([]byte("\xf0bd\xff")), wasmtest.RandomConfig{}).Bytes) {
		t.Error("other bytes make the same module")
	}
}
