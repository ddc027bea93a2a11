package rewrite

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
	"github.com/tetratelabs/wazero"
)

// floatOps are the operations whose NaNs are open, by the letters of operands
// and result: 11 of each width, demote and promote.
func floatOps() map[wasm.Opcode]string {
	ops := map[wasm.Opcode]string{0xb6: "F:f", 0xbb: "f:F"}
	for i := range wasm.Opcode(11) {
		one, two := "f:f", "ff:f"
		ops[0x8d+i], ops[0x9b+i] = two, "FF:F"
		if i < 5 { // ceil, floor, trunc, nearest, sqrt
			ops[0x8d+i], ops[0x9b+i] = one, "F:F"
		}
	}
	return ops
}

func f32Bits(v uint32) []byte { return binary.LittleEndian.AppendUint32([]byte{0x43}, v) }
func f64Bits(v uint64) []byte { return binary.LittleEndian.AppendUint64([]byte{0x44}, v) }

// TestCanonicalNaN gives every operation NaNs with payloads, and operands that
// make NaNs; the bits that come out are the canonical ones in both modes,
// whether they leave through a local, the memory, or a reinterpretation.
func TestCanonicalNaN(t *testing.T) {
	nan := map[byte][]byte{'f': f32Bits(0xffc12345), 'F': f64Bits(0xfff8000012345678)}
	signalling := map[byte][]byte{'f': f32Bits(0x7f812345), 'F': f64Bits(0x7ff0000012345678)}
	list := engines(t)
	if len(floatOps()) != 24 {
		t.Fatal(len(floatOps()))
	}
	for opcode, sig := range floatOps() {
		for _, operand := range []map[byte][]byte{nan, signalling} {
			var args []byte
			for _, letter := range sig[:len(sig)-2] {
				args = append(args, operand[byte(letter)]...)
			}
			result, bits, want := "i", byte(0xbc), "[7fc00000]"
			if sig[len(sig)-1] == 'F' {
				result, bits, want = "I", 0xbd, "[7ff8000000000000]"
			}
			b := new(wasmtest.Builder)
			b.Export("f", 0, b.Func(":"+result, "", args, op(byte(opcode), bits)))
			r := rewritten(t, b.Bytes())
			if r.Canonical != 1 {
				t.Errorf("%v: %d canonicalisations", opcode, r.Canonical)
			}
			for _, e := range list {
				if got := e.run(t, r.Bytes, limit{gas: 1000, frames: 1}, "f"); got.values != want {
					t.Errorf("%s: %v of %x: %+v", e.name, opcode, args, got)
				}
			}
		}
	}
}

// TestBitsThatStay: operations that only move bits keep a NaN's.
func TestBitsThatStay(t *testing.T) {
	nan := f32Bits(0x7f812345)
	for name, test := range map[string]struct {
		code []byte
		want string
	}{
		"const":    {nan, "[7f812345]"},
		"neg":      {append(nan, 0x8c), "[ff812345]"},
		"abs":      {wasmtest.Cat(f32Bits(0xff812345), op(0x8b)), "[7f812345]"},
		"copysign": {wasmtest.Cat(nan, f32Bits(0x80000000), op(0x98)), "[ff812345]"},
		"memory":   {wasmtest.Cat(i32(0), i32(0), nan, op(0x38, 2, 0, 0x2a, 2, 0)), "[7f812345]"},
		"select":   {wasmtest.Cat(nan, f32Bits(0), i32(1), op(0x1b)), "[7f812345]"},
	} {
		b := wasmtest.Command()
		b.Export("f", 0, b.Func(":i", "", test.code, op(0xbc)))
		r := rewritten(t, b.Bytes())
		for _, e := range engines(t) {
			if got := e.run(t, r.Bytes, limit{gas: 1000, frames: 1}, "f"); got.values != test.want || r.Canonical != 0 {
				t.Errorf("%s: %s: %+v, %d canonicalisations", e.name, name, got, r.Canonical)
			}
		}
	}
}

// TestHiddenNaN: only the last of a chain of operations is made canonical, and
// none whose result only a comparison, a truncation or a drop sees.
func TestHiddenNaN(t *testing.T) {
	x, y := f32Bits(0x7fa00001), f64Bits(0x7ff4000000000001)
	for name, test := range map[string]struct {
		sig  string
		code []byte
		want int
	}{
		"chain":      {":f", wasmtest.Cat(x, x, op(0x92, 0x91, 0x8c)), 1},
		"promoted":   {":F", wasmtest.Cat(x, op(0x91, 0xbb)), 1},
		"compared":   {":i", wasmtest.Cat(x, x, x, op(0x92, 0x5b)), 0},
		"truncated":  {":I", wasmtest.Cat(y, op(0x9f, 0xb1)), 0},
		"saturated":  {":I", wasmtest.Cat(y, op(0x9f, 0xfc, 7)), 0},
		"dropped":    {":", wasmtest.Cat(y, op(0x9f, 0x1a)), 0},
		"negated":    {":F", wasmtest.Cat(y, op(0x9f, 0x9a)), 1},
		"below":      {":i", wasmtest.Cat(x, op(0x91), x, op(0x5b)), 1},
		"at the end": {":f", wasmtest.Cat(x, op(0x91)), 1},
		"stored":     {":", wasmtest.Cat(i32(0), x, op(0x91, 0x38, 2, 0)), 1},
	} {
		b := wasmtest.Command()
		b.Export("f", 0, b.Func(test.sig, "", test.code))
		r := rewritten(t, b.Bytes())
		if r.Canonical != test.want {
			t.Errorf("%s: %d canonicalisations, want %d", name, r.Canonical, test.want)
		}
		want := newEngine(t, "interpreter", wazero.NewRuntimeConfigInterpreter()).run(t, r.Bytes, limit{gas: 1000, frames: 1}, "f")
		if got := newEngine(t, "compiler", wazero.NewRuntimeConfigCompiler()).run(t, r.Bytes, limit{gas: 1000, frames: 1}, "f"); got != want {
			t.Errorf("%s: compiler %+v, interpreter %+v", name, got, want)
		}
	}
}

// TestRemainders: the helper functions compute what the instructions do, and
// trap where they trap.
func TestRemainders(t *testing.T) {
	values := []int64{0, 1, -1, 2, -2, 7, -7, 10, 1<<31 - 1, -1 << 31, 1<<63 - 1, -1 << 63, 0x123456789abcdef}
	b := new(wasmtest.Builder)
	for i, letter := range []string{"i", "i", "I", "I"} {
		code := []byte{0x6f, 0x70, 0x81, 0x82}[i]
		b.Export(fmt.Sprintf("f%d", i), 0, b.Func(letter+letter+":"+letter, "", op(0x20, 0, 0x20, 1, code)))
	}
	r := rewritten(t, b.Bytes())
	if r.Remainders != 4 {
		t.Errorf("%d remainders", r.Remainders)
	}
	ctx := context.Background()
	for _, e := range engines(t) {
		original, err := e.r.InstantiateWithConfig(ctx, b.Bytes(), wazero.NewModuleConfig().WithName(""))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			name := fmt.Sprintf("f%d", i)
			for _, x := range values {
				y := values[(i+int(x&3)+5)%len(values)]
				a, b := uint64(x), uint64(y)
				if i < 2 {
					a, b = uint64(uint32(a)), uint64(uint32(b))
				}
				want, err := original.ExportedFunction(name).Call(ctx, a, b)
				got := e.run(t, r.Bytes, limit{gas: 1000, frames: 1}, name, a, b)
				if (err != nil) != (got.outcome == "trap") || (err == nil && got.values != fmt.Sprintf("%x", want)) {
					t.Errorf("%s: %s(%d, %d) = %+v, want %x, %v", e.name, name, x, y, got, want, err)
				}
			}
		}
	}
}
