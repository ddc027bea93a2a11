package main

import (
	"encoding/binary"
	"math"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// A kernel is a module that does one thing many times. It exports "run", which
// takes the number of rounds.
type kernel struct {
	name  string
	class string // of the instruction that is measured
	ops   int    // times that a round does it
	code  []byte
}

// unroll is how often a round repeats a cheap instruction, so that what the
// loop itself takes does not show.
const unroll = 64

// The locals of run: the rounds left, and one of each type.
const (
	rounds = iota
	i32a
	i64a
	f32a
	f64a
	i32b
	i64b
)

func get(i byte) []byte { return []byte{0x20, i} }
func set(i byte) []byte { return []byte{0x21, i} }
func tee(i byte) []byte { return []byte{0x22, i} }

func f32c(v float32) []byte {
	return binary.LittleEndian.AppendUint32([]byte{0x43}, math.Float32bits(v))
}

func f64c(v float64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{0x44}, math.Float64bits(v))
}

func times(n int, code []byte) (out []byte) {
	for range n {
		out = append(out, code...)
	}
	return out
}

// chain applies op to the local again and again, each time on its own result.
func chain(class, name string, local byte, op ...[]byte) kernel {
	code := wasmtest.Cat(get(local), times(unroll, wasmtest.Cat(op...)), set(local))
	return spec{class: class, name: name, ops: unroll, code: code}.build()
}

// A spec is what a kernel is built from.
type spec struct {
	class, name string
	ops         int    // times that code does what is measured
	code        []byte // of a round
	pages       int64
	more        func(b *wasmtest.Builder) // adds functions and segments after run and _start
}

// The indexes of functions: the host function, run, and the first that
// spec.more adds.
const (
	hostFunc = iota
	runFunc
	startFunc
	firstFunc
)

func (s spec) build() kernel {
	b := new(wasmtest.Builder)
	b.Import(wasmtest.WASI, "sched_yield", ":i")
	b.Memory(max(s.pages, 1), 4096).Export("memory", 2, 0)
	b.Table(1024, 65536)
	b.Global('i', wasmtest.I32Const(1)...).Global('I', wasmtest.I64Const(1)...)
	body := wasmtest.Cat(
		wasmtest.I32Const(7), set(i32a), wasmtest.I64Const(7), set(i64a), f32c(1.5), set(f32a), f64c(1.5), set(f64a),
		wasmtest.Op(0x03, 0x40), s.code,
		get(rounds), wasmtest.I32Const(1), wasmtest.Op(0x6b), tee(rounds), wasmtest.Op(0x0d, 0, 0x0b),
		// The results are used, or a compiler could leave the work out.
		wasmtest.I32Const(0), get(i32a), wasmtest.Op(0x36, 2, 0), wasmtest.I32Const(8), get(i64a), wasmtest.Op(0x37, 3, 0),
		wasmtest.I32Const(16), get(f32a), wasmtest.Op(0x38, 2, 0), wasmtest.I32Const(24), get(f64a), wasmtest.Op(0x39, 3, 0),
	)
	b.Export("run", 0, b.Func("i:", "iIfFiI", body)).Export("_start", 0, b.Func(":", ""))
	if s.more != nil {
		s.more(b)
	}
	return kernel{s.name, s.class, s.ops, b.Bytes()}
}
