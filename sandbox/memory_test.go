package sandbox

import (
	"bytes"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// TestMemoryIsFresh has one guest fill all memory it can get, and ends it in
// every way; the next one on the same engine finds zeros only.
func TestMemoryIsFresh(t *testing.T) {
	dirt := func(rest ...byte) []byte {
		b := wasmtest.Command()
		exit := b.Import(wasmtest.WASI, "proc_exit", "i:")
		b.Start("", wasmtest.I32Const(9), wasmtest.Op(0x40, 0, 0x1a), // nine more pages
			wasmtest.I32Const(0), wasmtest.I32Const(0xaa), wasmtest.I32Const(10*pageSize), wasmtest.Op(0xfc, 0x0b, 0), // filled
			rest, wasmtest.Call(exit, 0))
		return b.Bytes()
	}
	clean := wasmtest.Command()
	clean.Start("", wasmtest.I32Const(11), wasmtest.Op(0x40, 0, 0x1a))
	for _, interpreter := range []bool{false, true} {
		e := NewEngine(EngineConfig{Interpreter: interpreter})
		defer e.Close()
		for _, module := range [][]byte{dirt(), dirt(wasmtest.Unreachable...), dirt(wasmtest.Loop()...)} {
			if _, err := e.Run(t.Context(), metered(newJob(module), 1_000_000, 10)); err != nil {
				t.Fatal(err)
			}
			if e.memories.spare == nil {
				t.Error("the memory was not kept")
			}
			r, err := e.Run(t.Context(), metered(newJob(clean.Bytes()), 1_000_000, 10))
			if err != nil {
				t.Fatal(err)
			}
			if want := DigestOf(make([]byte, 12*pageSize)).SHA256; *r.Outcome.Memory != want {
				t.Error("a guest found memory that is not zero")
			}
		}
	}
}

// TestMemoryGrows checks that what is lent is zero beyond what was asked for,
// keeps its contents, and is not kept if it is too large.
func TestMemoryGrows(t *testing.T) {
	var p memoryPool
	m := p.Allocate(0, 10*pageSize)
	b := m.Reallocate(pageSize)
	for i := range b {
		b[i] = 1
	}
	b = m.Reallocate(3 * pageSize)
	if !bytes.Equal(b[:pageSize], bytes.Repeat([]byte{1}, pageSize)) || bytes.Count(b[pageSize:], []byte{0}) != 2*pageSize {
		t.Error("contents changed when the memory grew")
	}
	if b = m.Reallocate(4 * pageSize); len(b) != 4*pageSize {
		t.Errorf("%d bytes", len(b))
	}
	m.Free()
	if spare := p.spare[:cap(p.spare)]; bytes.Count(spare, []byte{0}) != len(spare) || len(spare) < 4*pageSize {
		t.Errorf("%d bytes are kept, not all zero", len(spare))
	}
	m = p.Allocate(0, maxSpare+pageSize)
	m.Reallocate(maxSpare + pageSize)
	m.Free()
	if p.spare != nil {
		t.Error("a large memory is kept")
	}
}
