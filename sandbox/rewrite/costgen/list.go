package main

import (
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// size is the name of a kernel with a length.
func size(name string, n int32) string { return fmt.Sprintf("%s of %d", name, n) }

var (
	op   = wasmtest.Op
	cat  = wasmtest.Cat
	i32c = wasmtest.I32Const
	i64c = wasmtest.I64Const
)

// kernels is every kernel: chains of dependent operations, the slowest way to
// run them, and for memory the worst places.
func kernels() []kernel {
	return slices.Concat(integers(), floats(), conversions(), variables(), memory(), bulk(), control())
}

func integers() (list []kernel) {
	for _, k := range []struct {
		class, name string
		op32, op64  byte
	}{
		{"simple", "add", 0x6a, 0x7c}, {"simple", "xor", 0x73, 0x85}, {"multiply", "mul", 0x6c, 0x7e},
		{"shift", "shl", 0x74, 0x86}, {"shift", "rotl", 0x77, 0x89},
	} {
		list = append(list,
			chain(k.class, "i32."+k.name, i32a, i32c(5), op(k.op32)),
			chain(k.class, "i64."+k.name, i64a, i64c(5), op(k.op64)),
			// With an operand that is no constant.
			chain(k.class, "i32."+k.name+" local", i32a, get(i32b), op(k.op32)),
			chain(k.class, "i64."+k.name+" local", i64a, get(i64b), op(k.op64)))
	}
	// Quotients of the largest numbers by 1 keep the dividend large.
	for i, name := range []string{"div_s", "div_u"} {
		list = append(list,
			spec{class: "divide", name: "i32." + name, ops: unroll, code: cat(i32c(1), set(i32b), i32c(0x7fffffff), times(unroll, cat(get(i32b), op(0x6d+byte(i)))), set(i32a))}.build(),
			spec{class: "divide", name: "i64." + name, ops: unroll, code: cat(i64c(1), set(i64b), i64c(1<<62+12345), times(unroll, cat(get(i64b), op(0x7f+byte(i)))), set(i64a))}.build())
	}
	for i, name := range []string{"rem_s", "rem_u"} {
		list = append(list,
			spec{class: "remainder", name: "i32." + name, ops: unroll, code: cat(i32c(0x7ffffffe), set(i32b), i32c(0x7fffffff), times(unroll, cat(get(i32b), op(0x6f+byte(i), 0x41, 3, 0x6a))), set(i32a))}.build(),
			spec{class: "remainder", name: "i64." + name, ops: unroll, code: cat(i64c(1<<62), set(i64b), i64c(1<<62+12345), times(unroll, cat(get(i64b), op(0x81+byte(i), 0x42, 3, 0x7c))), set(i64a))}.build())
	}
	for i, name := range []string{"clz", "ctz", "popcnt"} {
		list = append(list, chain("count bits", "i32."+name, i32a, op(0x67+byte(i))), chain("count bits", "i64."+name, i64a, op(0x79+byte(i))))
	}
	return append(list,
		chain("compare", "i32.eqz", i32a, op(0x45)),
		chain("compare", "i32.lt_s", i32a, i32c(5), op(0x48)),
		chain("compare", "i64.lt_s", i64a, i64c(5), op(0x53), op(0xac)),
		chain("simple", "i32.extend8_s", i32a, op(0xc0)),
		chain("simple", "i64.extend32_s", i64a, op(0xc4)),
		chain("simple", "wrap, extend", i64a, op(0xa7, 0xac)),
		chain("select", "select", i32a, get(i32b), get(i32b), op(0x1b)),
		chain("select", "select condition", i32a, set(i32a), i32c(3), get(i32b), get(i32a), op(0x1b)))
}

func floats() (list []kernel) {
	for _, k := range []struct {
		class, name string
		op32, op64  byte
	}{
		{"float", "add", 0x92, 0xa0}, {"float", "mul", 0x94, 0xa2}, {"float divide", "div", 0x95, 0xa3},
		{"float min", "min", 0x96, 0xa4}, {"float min", "max", 0x97, 0xa5}, {"float sign", "copysign", 0x98, 0xa6},
	} {
		list = append(list,
			chain(k.class, "f32."+k.name, f32a, f32c(1.0001), op(k.op32)),
			chain(k.class, "f64."+k.name, f64a, f64c(1.0001), op(k.op64)))
	}
	for _, k := range []struct {
		class, name string
		op32, op64  byte
	}{
		{"float sign", "abs", 0x8b, 0x99}, {"float sign", "neg", 0x8c, 0x9a}, {"float round", "ceil", 0x8d, 0x9b},
		{"float round", "nearest", 0x90, 0x9e}, {"float sqrt", "sqrt", 0x91, 0x9f},
	} {
		list = append(list, chain(k.class, "f32."+k.name, f32a, op(k.op32)), chain(k.class, "f64."+k.name, f64a, op(k.op64)))
	}
	// Denormal numbers and NaNs are slow on some machines.
	denormal := cat(f64c(5e-310), set(f64a), get(f64a))
	return append(list,
		spec{class: "float", name: "f64.mul denormal", ops: unroll, code: cat(denormal, times(unroll, cat(f64c(0.75), op(0xa2))), set(f64a))}.build(),
		spec{class: "float", name: "f64.add denormal", ops: unroll, code: cat(denormal, times(unroll, cat(f64c(5e-320), op(0xa0))), set(f64a))}.build(),
		spec{class: "float divide", name: "f64.div denormal", ops: unroll, code: cat(denormal, times(unroll, cat(f64c(1.1), op(0xa3))), set(f64a))}.build(),
		spec{class: "float sqrt", name: "f64.sqrt denormal", ops: unroll, code: times(unroll, cat(f64c(5e-310), get(f64a), op(0xa0, 0x9f), set(f64a)))}.build(),
		spec{class: "float compare", name: "f64.lt", ops: unroll, code: cat(get(i32a), times(unroll, cat(op(0xb7), f64c(3), op(0x63))), set(i32a))}.build())
}

// conversions go there and back: two operations for each that is counted.
func conversions() (list []kernel) {
	for _, k := range []struct {
		name  string
		local byte
		code  []byte
	}{
		{"f64.convert_i32_s, trunc", i32a, op(0xb7, 0xaa)}, {"f64.convert_i32_u, trunc", i32a, op(0xb8, 0xab)},
		{"f64.convert_i64_s, trunc", i64a, op(0xb9, 0xb0)}, {"f64.convert_i64_u, trunc", i64a, op(0xba, 0xb1)},
		{"f32.convert_i32_s, trunc", i32a, op(0xb2, 0xa8)}, {"f32.convert_i64_u, trunc", i64a, op(0xb5, 0xaf)},
		{"f64.convert_i32_s, trunc_sat", i32a, op(0xb7, 0xfc, 2)}, {"f64.convert_i64_u, trunc_sat", i64a, op(0xba, 0xfc, 7)},
		{"f32.convert_i32_u, trunc_sat", i32a, op(0xb3, 0xfc, 1)}, {"f32.convert_i64_u, trunc_sat", i64a, op(0xb5, 0xfc, 5)},
		{"promote, demote", f32a, op(0xbb, 0xb6)},
	} {
		c := chain("convert", k.name, k.local, k.code)
		c.ops *= 2
		list = append(list, c)
	}
	r := chain("reinterpret", "reinterpret", f64a, op(0xbd, 0xbf))
	r.ops *= 2
	return append(list, r)
}

func variables() []kernel {
	manyLocals := func(n int) func(b *wasmtest.Builder) {
		return func(b *wasmtest.Builder) {
			// All are used, so that all are live and must be cleared.
			var use []byte
			for i := range n {
				use = append(use, cat(wasmtest.U32([]byte{0x20}, uint32(i)), op(0x7c))...)
			}
			body := wasmtest.U32(nil, 1)
			body = cat(append(wasmtest.U32(body, uint32(n)), 0x7e), i64c(1), use, i64c(1<<40), op(0x53, 0x04, 0x40, 0x0f, 0x0b, 0x0b))
			b.FuncRaw(":", body)
		}
	}
	twice := cat(get(i32a), get(i32b), set(i32a), set(i32b))
	return []kernel{
		spec{class: "local", name: "local.get, set", ops: 2 * unroll, code: times(unroll, twice)}.build(),
		spec{class: "global", name: "global.get, add, set", ops: 2 * unroll, code: times(unroll, cat(op(0x23, 0), i32c(3), op(0x6a, 0x24, 0)))}.build(),
		spec{class: "global", name: "global.get i64", ops: unroll, code: cat(get(i64a), times(unroll, cat(op(0x23, 1), op(0x7c))), set(i64a))}.build(),
		spec{class: "locals", name: "call with 1,000 locals", ops: 1000, code: wasmtest.Call(firstFunc), more: manyLocals(1000)}.build(),
		spec{class: "locals", name: "call with 60 locals", ops: 60, code: wasmtest.Call(firstFunc), more: manyLocals(60)}.build(),
	}
}

// step moves i32a to another pseudo-random place: its bits above 16.
var step = cat(get(i32a), i32c(1664525), op(0x6c), i32c(1013904223), op(0x6a), tee(i32a))

// chase walks through memory by loading the next place from it. The table of
// places is a permutation of one cycle, made by writing: place i leads to
// i*a+c modulo the size, in steps of a cache line.
func chase(name string, size int32) kernel {
	// mem[i] = (i*a+c)&mask with a = 5 modulo 8, c odd, in units of 64 bytes.
	prepare := func(b *wasmtest.Builder) {
		lines := size / 64
		b.Func(":", "i", op(0x03, 0x40),
			get(0), i32c(6), op(0x74),
			get(0), i32c(1664525), op(0x6c), i32c(1013904223), op(0x6a), i32c(lines-1), op(0x71), i32c(6), op(0x74),
			op(0x36, 2, 0),
			get(0), i32c(1), op(0x6a), tee(0), i32c(lines), op(0x49, 0x0d, 0, 0x0b))
		b.Export("prepare", 0, firstFunc)
	}
	return spec{class: "load", name: name, ops: unroll, pages: int64(size / 65536), more: prepare,
		code: cat(get(i32a), i32c(size-64), op(0x71), times(unroll, op(0x28, 2, 0)), set(i32a))}.build()
}

func memory() []kernel {
	random := func(size int32, access ...[]byte) []byte {
		return times(unroll, cat(step, i32c(size-8), op(0x71), cat(access...)))
	}
	return []kernel{
		chase("chase through 16 KiB", 16<<10), chase("chase through 1 MiB", 1<<20),
		chase("chase through 64 MiB", 64<<20), chase("chase through 256 MiB", 256<<20),
		spec{class: "load", name: "i64.load8_s, near", ops: unroll, code: cat(get(i64a), times(unroll, op(0xa7, 0x41, 0x3f, 0x71, 0x30, 0, 0)), set(i64a))}.build(),
		spec{class: "load", name: "f64.load, near", ops: unroll, code: cat(get(f64a), times(unroll, op(0xfc, 2, 0x41, 0x3f, 0x71, 0x2b, 0, 0)), set(f64a))}.build(),
		spec{class: "load", name: "random loads in 64 MiB", ops: unroll, pages: 1024, code: random(64<<20, op(0x28, 2, 0), set(i32b))}.build(),
		spec{class: "load", name: "random loads in 256 MiB", ops: unroll, pages: 4096, code: random(256<<20, op(0x28, 2, 0), set(i32b))}.build(),
		spec{class: "store", name: "i32.store, near", ops: unroll, code: times(unroll, cat(i32c(64), get(i32a), op(0x36, 2, 0)))}.build(),
		spec{class: "store", name: "store, load", ops: 2 * unroll, code: times(unroll, cat(i32c(64), get(i32a), op(0x36, 2, 0), i32c(64), op(0x28, 2, 0), set(i32a)))}.build(),
		spec{class: "store", name: "random stores in 64 MiB", ops: unroll, pages: 1024, code: random(64<<20, get(i32a), op(0x36, 2, 0))}.build(),
		spec{class: "store", name: "random stores in 256 MiB", ops: unroll, pages: 4096, code: random(256<<20, get(i32a), op(0x36, 2, 0))}.build(),
		spec{class: "simple", name: "random places alone", ops: unroll, code: random(256<<20, set(i32b))}.build(),
		spec{class: "memory.size", name: "memory.size", ops: unroll, code: times(unroll, op(0x3f, 0, 0x21, i32b))}.build(),
		spec{class: "memory.grow", name: "memory.grow by 0", ops: unroll, code: times(unroll, op(0x41, 0, 0x40, 0, 0x21, i32b))}.build(),
		spec{class: "memory.grow", name: "memory.grow too far", ops: unroll, code: times(unroll, op(0x41, 0xff, 0xff, 0, 0x40, 0, 0x21, i32b))}.build(),
	}
}

func bulk() []kernel {
	three := func(to, from, n int32, code ...byte) []byte { return cat(i32c(to), i32c(from), i32c(n), code) }
	const copy, fill, initialise, tableCopy, tableFill = 10, 11, 8, 14, 17
	passive := func(b *wasmtest.Builder) { b.PassiveData(string(make([]byte, 60000))) }
	list := []kernel{}
	for _, n := range []int32{1, 64, 4096, 32768} {
		list = append(list,
			spec{class: "bulk", name: size("memory.copy", n), ops: 1, code: three(32768, 0, n, 0xfc, copy, 0, 0)}.build(),
			spec{class: "bulk", name: size("memory.copy up", n), ops: 1, code: three(1, 0, n, 0xfc, copy, 0, 0)}.build(),
			spec{class: "bulk", name: size("memory.fill", n), ops: 1, code: three(1, 7, n, 0xfc, fill, 0)}.build(),
			spec{class: "bulk", name: size("memory.init", n), ops: 1, code: three(1, 7, n, 0xfc, initialise, 0, 0), more: passive}.build())
	}
	const big = 64 << 20
	list = append(list,
		spec{class: "bulk", name: size("memory.copy", big), ops: 1, pages: 2048, code: three(big, 0, big, 0xfc, copy, 0, 0)}.build(),
		spec{class: "bulk", name: size("memory.fill", big), ops: 1, pages: 1024, code: three(0, 7, big, 0xfc, fill, 0)}.build())
	for _, n := range []int32{1, 1000} {
		fill := cat(i32c(0), op(0xd2, runFunc), i32c(n), op(0xfc, tableFill, 0))
		list = append(list,
			spec{class: "table bulk", name: size("table.copy", n), ops: 1, code: three(10, 0, n, 0xfc, tableCopy, 0, 0)}.build(),
			spec{class: "table bulk", name: size("table.fill", n), ops: 1, code: fill}.build(),
			spec{class: "table bulk", name: size("table.init", n), ops: 1, code: three(0, 0, n, 0xfc, 12, 0, 0), more: func(b *wasmtest.Builder) {
				b.ElemRaw(append([]byte{1, 0}, cat(wasmtest.U32(nil, 1000), times(1000, []byte{runFunc}))...)...)
			}}.build())
	}
	return append(list,
		spec{class: "table", name: "table.get", ops: unroll, code: times(unroll, cat(i32c(1), op(0x25, 0, 0x1a)))}.build(),
		spec{class: "table", name: "table.set", ops: unroll, code: times(unroll, cat(i32c(1), op(0xd0, 0x70, 0x26, 0)))}.build(),
		spec{class: "table", name: "table.size", ops: unroll, code: times(unroll, op(0xfc, 16, 0, 0x21, i32b))}.build(),
		spec{class: "table grow", name: "table.grow by 0", ops: unroll, code: times(unroll, op(0xd0, 0x70, 0x41, 0, 0xfc, 15, 0, 0x21, i32b))}.build(),
		spec{class: "table", name: "ref.func", ops: unroll, code: times(unroll, op(0xd2, runFunc, 0xd1, 0x21, i32b)), more: func(b *wasmtest.Builder) {
			b.ElemRaw(3, 0, 1, runFunc)
		}}.build())
}

func control() []kernel {
	// Bit 20 of a random number: not to be predicted.
	coin := cat(step, i32c(20), op(0x76), i32c(1), op(0x71))
	leaf := func(b *wasmtest.Builder) { b.Func(":", "") }
	caller := func(b *wasmtest.Builder) {
		b.Func(":", "")
		b.Func(":", "", wasmtest.Call(firstFunc))
		b.Elem(0, firstFunc, firstFunc+1)
	}
	table := []byte{0x0e, 7, 0, 1, 2, 3, 4, 5, 6, 7}
	arms := op()
	for range 7 {
		arms = cat(arms, op(0x0b), get(i32b), i32c(3), op(0x6a), set(i32b))
	}
	indirect := func(slot int32) []byte { return cat(i32c(slot), op(0x11, 2, 0)) }
	return []kernel{
		spec{class: "branch", name: "br_if, never", ops: unroll, code: cat(op(0x02, 0x40), times(unroll, op(0x41, 0, 0x0d, 0)), op(0x0b))}.build(),
		spec{class: "branch", name: "br_if, not constant, never", ops: unroll, code: cat(op(0x02, 0x40), times(unroll, cat(get(i32b), op(0x0d, 0))), op(0x0b))}.build(),
		spec{class: "branch", name: "br_if, always", ops: unroll, code: times(unroll, cat(op(0x02, 0x40), get(i32a), op(0x0d, 0, 0x0b)))}.build(),
		spec{class: "branch", name: "if, by chance", ops: 1, code: cat(coin, op(0x04, 0x40), get(i32b), i32c(3), op(0x6a), set(i32b), op(0x0b))}.build(),
		spec{class: "branch", name: "br_table, by chance", ops: 1, code: cat(
			times(8, op(0x02, 0x40)), step, i32c(20), op(0x76), i32c(7), op(0x71), table, arms, op(0x0b))}.build(),
		spec{class: "branch", name: "br_table, the same", ops: 1, code: cat(times(8, op(0x02, 0x40)), get(i32b), table, times(8, op(0x0b)))}.build(),
		spec{class: "loop", name: "empty loop", ops: 1}.build(),
		spec{class: "call", name: "call of nothing", ops: unroll, code: times(unroll, wasmtest.Call(firstFunc)), more: leaf}.build(),
		spec{class: "call", name: "call of a caller", ops: 2 * unroll, code: times(unroll, wasmtest.Call(firstFunc+1)), more: caller}.build(),
		spec{class: "call_indirect", name: "call_indirect of nothing", ops: unroll, code: times(unroll, indirect(0)), more: caller}.build(),
		spec{class: "call_indirect", name: "call_indirect by chance", ops: 1, code: cat(coin, op(0x11, 2, 0)), more: caller}.build(),
		spec{class: "host call", name: "sched_yield", ops: 16, code: times(16, cat(wasmtest.Call(hostFunc), op(0x1a)))}.build(),
	}
}
