package rewrite

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

var op, i32 = wasmtest.Op, wasmtest.I32Const

// TestGasOfConstructs compares the gas of hand-made control flow with that of
// the reference, which adds up the instructions as they are executed, for
// several arguments.
func TestGasOfConstructs(t *testing.T) {
	const (
		log = 0 // function indexes
		two = 1 // (i32, i32) -> (i32, i32)
		rec = 2 // calls itself argument times
		f   = 3
	)
	get := op(0x20, 0)
	for name, body := range map[string][]byte{
		"straight":             wasmtest.Cat(get, i32(3), op(0x6a), get, op(0x6c)),
		"block":                wasmtest.Cat(op(0x02, 0x40), get, op(0x1a, 0x0b), get),
		"targeted block":       wasmtest.Cat(op(0x02, 0x40), get, op(0x0d, 0), i32(1), op(0x10, log, 0x0b), get),
		"block with result":    wasmtest.Cat(op(0x02, 0x7f), get, get, op(0x0d, 0, 0x1a), i32(7), op(0x0b)),
		"multi-value block":    wasmtest.Cat(get, get, op(0x02, 1), get, op(0x0d, 0, 0x10, two, 0x0b, 0x6a)),
		"if":                   wasmtest.Cat(get, op(0x04, 0x40), get, op(0x10, log, 0x0b), get),
		"if else":              wasmtest.Cat(get, op(0x04, 0x7f), i32(1), i32(2), op(0x6a, 0x05), get, op(0x0b)),
		"if leaves":            wasmtest.Cat(get, op(0x04, 0x40), i32(9), op(0x0f, 0x0b), i32(1), i32(1), op(0x6a)),
		"both arms leave":      wasmtest.Cat(get, op(0x04, 0x40), i32(9), op(0x0f, 0x05), i32(8), op(0x0f, 0x0b), i32(1), i32(1), op(0x6a)),
		"loop never taken":     wasmtest.Cat(op(0x03, 0x40), get, op(0x1a, 0x0b), get),
		"loop":                 wasmtest.Cat(op(0x03, 0x40), get, i32(1), op(0x6b, 0x22, 0, 0x0d, 0, 0x0b), get),
		"loop left dead":       wasmtest.Cat(op(0x02, 0x40, 0x03, 0x40), get, op(0x45, 0x0d, 1), get, i32(1), op(0x6b, 0x21, 0, 0x0c, 0, 0x0b, 0x0b), get),
		"loop with parameter":  wasmtest.Cat(get, op(0x03, 2), i32(1), op(0x6b, 0x22, 0), get, op(0x0d, 0, 0x0b)),
		"nested loops":         wasmtest.Cat(op(0x03, 0x40), i32(3), op(0x21, 1, 0x03, 0x40, 0x20, 1), i32(1), op(0x6b, 0x22, 1, 0x0d, 0, 0x0b), get, i32(1), op(0x6b, 0x22, 0, 0x0d, 0, 0x0b), get),
		"br to function":       wasmtest.Cat(op(0x02, 0x40), get, get, op(0x0d, 1, 0x1a, 0x0b), i32(5)),
		"br in block":          wasmtest.Cat(op(0x03, 0x40, 0x02, 0x40), get, op(0x45, 0x0d, 0), get, i32(1), op(0x6b, 0x21, 0, 0x0c, 1, 0x0b, 0x0b), get),
		"br_table":             wasmtest.Cat(op(0x02, 0x40, 0x02, 0x40, 0x02, 0x40), get, op(0x0e, 2, 0, 1, 2, 0x0b), i32(1), op(0x0f, 0x0b), i32(2), op(0x0f, 0x0b), i32(3)),
		"br_table with value":  wasmtest.Cat(op(0x02, 0x7f, 0x02, 0x7f), i32(4), get, op(0x0e, 1, 0, 1, 0x0b), i32(1), op(0x6a, 0x0b)),
		"return":               wasmtest.Cat(get, op(0x0f), i32(1), op(0x6a)),
		"return over operands": wasmtest.Cat(i32(1), i32(2), get, op(0x0f)),
		"unreachable code":     wasmtest.Cat(get, op(0x0f, 0x02, 0x40, 0x41, 1, 0x04, 0x40, 0x05, 0x0c, 0, 0x0b, 0x0b, 0x03, 0x7f, 0x0c, 0, 0x0b, 0x6a, 0x40, 0)),
		"dead loop":            wasmtest.Cat(op(0x02, 0x40, 0x0c, 0, 0x03, 0x40, 0x0c, 0, 0x0b, 0x0b), get),
		"recursion":            wasmtest.Cat(get, op(0x10, rec)),
		"call_indirect":        wasmtest.Cat(get, i32(0), op(0x11, 2, 0)),
		"multi-value call":     wasmtest.Cat(get, get, op(0x10, two, 0x6c)),
		"remainders":           wasmtest.Cat(i32(1000), get, op(0x70), i32(-77), i32(10), op(0x6f, 0x6a)),
		"fill":                 wasmtest.Cat(i32(0), i32(1), i32(999), op(0xfc, 11, 0), get),
		"copy":                 wasmtest.Cat(i32(0), i32(1), get, op(0xfc, 10, 0, 0), get),
		"grow":                 wasmtest.Cat(get, op(0x40, 0, 0x1a), i32(98), op(0x40, 0, 0x1a), i32(-1), op(0x40, 0)),
		"select":               wasmtest.Cat(i32(1), i32(2), get, op(0x1b)),
	} {
		b := wasmtest.Command()
		b.Import("env", "log", "i:")
		b.Type("ii:ii") // type 1, also of the blocks
		b.Type("i:i")   // type 2
		b.Func("ii:ii", "", op(0x20, 1, 0x20, 0))
		b.Func("i:i", "", get, op(0x45, 0x04, 0x7f), i32(1), op(0x05), get, i32(1), op(0x6b, 0x10, rec), get, op(0x6a, 0x0b))
		b.Export("f", 0, b.Func("i:i", "iiiiiiiii", body))
		b.Table(1, 1).Elem(0, rec)
		t.Run(name, func(t *testing.T) { checkGas(t, b.Bytes(), 1, 2, 5, 0) })
	}
}

// checkGas runs a module's f on both engines, with the argument, and compares
// result, log, gas and frames with the reference.
func checkGas(t *testing.T, module []byte, args ...uint64) {
	t.Helper()
	r := rewritten(t, module)
	list := engines(t)
	for _, arg := range args {
		ref, err := newReference(module)
		if err != nil {
			t.Fatal(err)
		}
		export, _ := ref.m.Export("f")
		values, err := ref.call(export.Index, []uint64{arg})
		if err == errRefSteps {
			continue // zero, counted down without end
		}
		const frames = 300
		for _, e := range list {
			full := limit{gas: 1 << 50, frames: frames}
			got := e.run(t, r.Bytes, full, "f", arg)
			if err != nil {
				if got.outcome != "trap" || got.gas < ref.gas {
					t.Errorf("%s: f(%d): %+v, want a trap after at least %d gas", e.name, arg, got, ref.gas)
				}
				continue
			}
			want := report{"ok", fmt.Sprintf("%x", values), ref.gas, frames, fmt.Sprint(ref.log), got.memory}
			if got != want {
				t.Errorf("%s: f(%d):\n got %+v\nwant %+v", e.name, arg, got, want)
			}
			// What it needs is enough, and one less is not.
			if got := e.run(t, r.Bytes, limit{gas: ref.gas, slice: 7, frames: int32(ref.most)}, "f", arg); got.outcome != "ok" || got.gas != ref.gas || got.frames != int32(ref.most) {
				t.Errorf("%s: f(%d) with %d gas and %d frames: %+v", e.name, arg, ref.gas, ref.most, got)
			}
			if got := e.run(t, r.Bytes, limit{gas: ref.gas - 1, frames: frames}, "f", arg); got.outcome != "budget_exhausted" {
				t.Errorf("%s: f(%d) with %d gas: %+v", e.name, arg, ref.gas-1, got)
			}
		}
	}
}

// TestEveryBudget runs a small module with every budget from none to enough,
// in several slices and both modes: all agree on where it ends.
func TestEveryBudget(t *testing.T) {
	b := wasmtest.Command()
	b.Import("env", "log", "i:")
	b.Export("f", 0, b.Func("i:i", "i",
		op(0x03, 0x40, 0x20, 0, 0x10, 0, 0x20, 0, 0x10, 2, 0x1a), // loop: log(n), g(n)
		i32(64), op(0x20, 0), i32(40), op(0xfc, 11, 0), // fill
		op(0x20, 0), i32(1), op(0x6b, 0x22, 0, 0x0d, 0, 0x0b, 0x20, 0)))
	b.Func("i:i", "", op(0x20, 0), i32(100), op(0x10, 0), i32(3), op(0x6c))
	module := b.Bytes()
	r := rewritten(t, module)
	list := engines(t)
	ref, _ := newReference(module)
	if _, err := ref.call(1, []uint64{4}); err != nil {
		t.Fatal(err)
	}
	for gas := int64(0); gas <= ref.gas+1; gas++ {
		want := list[0].run(t, r.Bytes, limit{gas: gas, frames: 10}, "f", 4)
		if (want.outcome == "ok") != (gas >= ref.gas) || (gas < ref.gas && want.gas != gas) {
			t.Fatalf("budget %d of %d: %+v", gas, ref.gas, want)
		}
		for _, e := range list {
			for _, slice := range []int64{-1, 1, 5, 0} {
				if slice == -1 && gas > 20 {
					continue
				}
				if got := e.run(t, r.Bytes, limit{gas: gas, slice: slice, frames: 10}, "f", 4); got != want {
					t.Fatalf("%s: budget %d in slices of %d:\n got %+v\nwant %+v", e.name, gas, slice, got, want)
				}
			}
		}
	}
}

// TestGasOfRandomControlFlow is TestGasOfConstructs for random ones.
func TestGasOfRandomControlFlow(t *testing.T) {
	for seed := range uint64(60) {
		g := &flow{r: rand.New(rand.NewPCG(seed, 1))}
		t.Run(fmt.Sprint(seed), func(t *testing.T) { checkGas(t, g.module(), 1, 6) })
	}
}

// A flow makes random functions of control flow over i32. Local 0 is the
// argument, local 1 a counter that ends loops, local 2 a scratch value.
type flow struct {
	r      *rand.Rand
	labels []int // arity of each open block, innermost last
	loops  []bool
	left   int // statements that may still be made
	funcs  int // functions made until now, which can be called
}

func (g *flow) module() []byte {
	b := wasmtest.Command()
	b.Import("env", "log", "i:")
	for g.funcs = 0; g.funcs < 4; g.funcs++ {
		g.labels, g.loops, g.left = []int{1}, []bool{false}, 30
		body := wasmtest.Cat(i32(20), op(0x21, 1), g.block(0), op(0x20, 2))
		b.Func("i:i", "ii", body)
	}
	return b.Table(4, 4).Elem(0, 1, 2, 3, 4).Export("f", 0, 4).Bytes()
}

// value pushes something.
func (g *flow) value() []byte {
	switch g.r.IntN(4) {
	case 0:
		return i32(int32(g.r.IntN(5)))
	case 1:
		return wasmtest.Cat(op(0x20, 2), i32(1), op(0x71))
	case 2:
		return op(0x20, 0)
	}
	return op(0x20, 2)
}

// block makes statements.
func (g *flow) block(depth int) (code []byte) {
	for n := g.r.IntN(5); n > 0 && g.left > 0; n-- {
		g.left--
		code = append(code, g.statement(depth)...)
	}
	return code
}

func (g *flow) inside(depth, arity int, loop bool) []byte {
	g.labels, g.loops = append(g.labels, arity), append(g.loops, loop)
	code := g.block(depth + 1)
	g.labels, g.loops = g.labels[:len(g.labels)-1], g.loops[:len(g.loops)-1]
	return code
}

func (g *flow) label(arity int) (byte, bool) {
	l := g.r.IntN(len(g.labels))
	i := len(g.labels) - 1 - l
	return byte(l), g.labels[i] == arity && !g.loops[i]
}

func (g *flow) statement(depth int) []byte {
	switch n := g.r.IntN(14); {
	case n < 2:
		return wasmtest.Cat(g.value(), g.value(), op(0x6a, 0x21, 2))
	case n < 3:
		return wasmtest.Cat(g.value(), op(0x10, 0))
	case n < 4 && g.funcs > 0:
		return wasmtest.Cat(g.value(), op(0x10, byte(1+g.r.IntN(g.funcs)), 0x21, 2))
	case n < 5 && g.funcs > 0:
		return wasmtest.Cat(g.value(), i32(int32(g.r.IntN(g.funcs))), op(0x11, 1, 0, 0x21, 2))
	case n < 7 && depth < 5:
		return wasmtest.Cat(op(0x02, 0x40), g.inside(depth, 0, false), op(0x0b))
	case n < 8 && depth < 5:
		return wasmtest.Cat(op(0x02, 0x7f), g.inside(depth, 1, false), g.value(), op(0x0b, 0x21, 2))
	case n < 9 && depth < 5:
		return wasmtest.Cat(op(0x03, 0x40, 0x20, 1), i32(1), op(0x6b, 0x21, 1), g.inside(depth, 0, true), op(0x20, 1), i32(20), op(0x49, 0x0d, 0, 0x0b))
	case n < 11 && depth < 5:
		code := wasmtest.Cat(g.value(), op(0x04, 0x40), g.inside(depth, 0, false))
		if g.r.IntN(2) == 0 {
			code = wasmtest.Cat(code, op(0x05), g.inside(depth, 0, false))
		}
		return append(code, 0x0b)
	case n < 12:
		if l, ok := g.label(0); ok {
			return wasmtest.Cat(g.value(), op(0x0d, l))
		}
		if l, ok := g.label(1); ok {
			return wasmtest.Cat(g.value(), g.value(), op(0x0d, l, 0x1a))
		}
	case n < 13:
		if l, ok := g.label(1); ok && g.r.IntN(2) == 0 {
			return wasmtest.Cat(g.value(), op(0x0c, l))
		}
		a, okA := g.label(0)
		b, okB := g.label(0)
		if okA && okB {
			return wasmtest.Cat(g.value(), op(0x0e, 2, a, b, a))
		}
	default:
		if g.r.IntN(3) == 0 {
			return wasmtest.Cat(g.value(), op(0x0f))
		}
	}
	return op(0x01)
}
