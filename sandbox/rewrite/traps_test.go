package rewrite

import (
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// A bill adds up what the instructions cost of function 0 and of those that it
// calls, which stand behind it, each executed once.
type bill struct {
	gas    int64
	called map[uint32]bool
	counts bool // the function that is decoded
}

func (b *bill) Function(index int, _ wasm.Code) error {
	if b.counts = index == 0 || b.called[uint32(index)]; b.counts {
		b.gas += costFunction
	}
	return nil
}

func (b *bill) Instr(in *wasm.Instr) error {
	if !b.counts {
		return nil
	}
	if in.Op == wasm.OpCall {
		b.called[in.Index] = true
	}
	b.gas += int64(cost(in.Op))
	return nil
}

// TestGasAtTraps lets each instruction that can trap do so, and compares the gas
// with that of the instructions. What stands behind the trap in its region costs
// nothing.
func TestGasAtTraps(t *testing.T) {
	var far, nan = i32(-1), f64Bits(0x7ff8000000000000)
	big, drop, index, zeros := f32Bits(0x7f000000), op(0x1a), i32(9), wasmtest.Cat(i32(0), i32(0), i32(0))
	tests := map[string][]byte{
		"unreachable":                   op(0x00),
		"unreachable, costing nothing":  op(0x02, 0x40, 0x41, 0, 0x0d, 0, 0x0b, 0x00),
		"unreachable after a call":      op(0x10, 1, 0x00),
		"load":                          wasmtest.Cat(far, op(0x2d, 0, 0), drop),
		"store":                         wasmtest.Cat(far, i32(1), op(0x3a, 0, 0)),
		"i32.div_s":                     wasmtest.Cat(i32(-0x80000000), far, op(0x6d), drop),
		"i32.div_u":                     wasmtest.Cat(far, i32(0), op(0x6e), drop),
		"i32.rem_s":                     wasmtest.Cat(far, i32(0), op(0x6f), drop),
		"i32.rem_u":                     wasmtest.Cat(far, i32(0), op(0x70), drop),
		"i64.div_s":                     op(0x42, 1, 0x42, 0, 0x7f, 0x1a),
		"i64.div_u":                     op(0x42, 1, 0x42, 0, 0x80, 0x1a),
		"i64.rem_s":                     op(0x42, 1, 0x42, 0, 0x81, 0x1a),
		"i64.rem_u":                     op(0x42, 1, 0x42, 0, 0x82, 0x1a),
		"call_indirect out of range":    wasmtest.Cat(index, op(0x11, 0, 0)),
		"call_indirect of null":         wasmtest.Cat(i32(2), op(0x11, 0, 0)),
		"call_indirect of another type": wasmtest.Cat(i32(1), op(0x11, 0, 0)),
		"called function":               op(0x10, 2),
		"table.get":                     wasmtest.Cat(index, op(0x25, 0), drop),
		"table.set":                     wasmtest.Cat(index, op(0xd0, 0x70, 0x26, 0)),
		"memory.init":                   wasmtest.Cat(far, i32(0), i32(0), op(0xfc, 8, 0, 0)),
		"memory.copy":                   wasmtest.Cat(far, i32(0), i32(0), op(0xfc, 10, 0, 0)),
		"memory.fill":                   wasmtest.Cat(far, i32(0), i32(0), op(0xfc, 11, 0)),
		"memory.fill after another":     wasmtest.Cat(zeros, op(0xfc, 11, 0), far, i32(0), i32(0), op(0xfc, 11, 0)),
		"table.init":                    wasmtest.Cat(far, i32(0), i32(0), op(0xfc, 12, 1, 0)),
		"table.copy":                    wasmtest.Cat(far, i32(0), i32(0), op(0xfc, 14, 0, 0)),
		"table.fill":                    wasmtest.Cat(far, op(0xd0, 0x70), i32(0), op(0xfc, 17, 0)),
	}
	for i := range byte(2) { // signed and unsigned; to i32 and i64
		for to32, operand := range map[byte][]byte{0xa8 + i: big, 0xaa + i: nan} {
			tests[wasm.Opcode(to32).String()] = wasmtest.Cat(operand, op(to32), drop)
			tests[wasm.Opcode(to32+6).String()] = wasmtest.Cat(operand, op(to32+6), drop)
		}
	}
	before := wasmtest.Cat(i32(1), op(0x04, 0x40), i32(5), drop, op(0x0b), // a few regions
		op(0x02, 0x40), i32(0), op(0x0d, 0), i32(1), op(0x04, 0x40), i32(2), drop, op(0x0b, 0x0b))
	list := engines(t)
	for name, body := range tests {
		b := wasmtest.Command().Table(3, 3).Elem(0, 1, 3).PassiveData("abc").ElemRaw(1, 0, 1, 1)
		b.Export("f", 0, b.Func(":", "", before, body))
		b.Func(":", "", i32(0), drop)
		b.Func(":", "", before, far, op(0x28, 2, 0), drop)
		b.Func("i:", "")
		due := bill{called: map[uint32]bool{}}
		m, err := wasm.Decode(b.Bytes())
		if err == nil {
			err = m.Decode(&due)
		}
		if err != nil {
			t.Fatal(err)
		}
		r := rewritten(t, b.Bytes())
		for _, e := range list {
			for _, slice := range []int64{0, 3} {
				if got := e.run(t, r.Bytes, limit{gas: 1000, slice: slice, frames: 5}, "f"); got.outcome != "trap" || got.gas != due.gas {
					t.Errorf("%s: %s: %+v, want a trap after %d gas", e.name, name, got, due.gas)
				}
			}
		}
	}
}
