package rewrite

import (
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// recursion is a module whose function f(n) calls itself n times, and logs how
// deep it is.
func recursion() []byte { return recursionBuilder().Bytes() }

func recursionBuilder() *wasmtest.Builder {
	b := new(wasmtest.Builder)
	log := b.Import("env", "log", "i:")
	f := log + 1
	b.Export("f", 0, b.Func("i:i", "", wasmtest.Op(0x20, 0, 0x10, byte(log)), // log(n)
		wasmtest.Op(0x20, 0, 0x45, 0x04, 0x40, 0x41, 0, 0x0f, 0x0b),        // if n == 0 return 0
		wasmtest.Op(0x20, 0, 0x41, 1, 0x6b, 0x10, byte(f), 0x41, 1, 0x6a))) // f(n-1) + 1
	return b
}

// TestRecursionDepth: with n frames a function can be entered n times, no more
// and no fewer, in both modes of the engine, and puts the frames back.
func TestRecursionDepth(t *testing.T) {
	r := rewritten(t, recursion())
	for _, e := range engines(t) {
		for _, frames := range []int32{0, 1, 2, 7, 500} {
			for depth := max(0, frames-2); depth <= frames+1; depth++ {
				got := e.run(t, r.Bytes, limit{gas: 1 << 40, frames: frames}, "f", uint64(depth))
				want, left := "ok", frames
				if depth+1 > frames {
					want, left = "stack_exhausted", -1
				}
				if got.outcome != want || got.frames != left {
					t.Errorf("%s: depth %d of %d frames: %+v", e.name, depth, frames, got)
				}
			}
		}
	}
}
