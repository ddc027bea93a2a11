//go:build unix

package sandbox

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// assembled are guests that no compiler makes: every kind of trap, every
// operation that may make a NaN, remainders under register pressure, and a start
// function that does the work.
var assembled = map[string]func() []byte{
	"trap unreachable":     trapping(0x00),
	"trap divide":          trapping(0x41, 1, 0x41, 0, 0x6d, 0x1a),
	"trap divide unsigned": trapping(0x42, 1, 0x42, 0, 0x80, 0x1a),
	"trap remainder":       trapping(0x41, 1, 0x41, 0, 0x6f, 0x1a),
	"trap overflow":        trapping(0x41, 0x80, 0x80, 0x80, 0x80, 0x78, 0x41, 0x7f, 0x6d, 0x1a),
	"trap NaN to integer":  trapping(0x43, 0, 0, 0xc0, 0x7f, 0xa8, 0x1a),
	"trap infinity":        trapping(0x43, 0, 0, 0x80, 0x7f, 0xa9, 0x1a),
	"trap load":            trapping(0x41, 0x7f, 0x28, 2, 0, 0x1a),
	"trap load offset":     trapping(0x41, 0, 0x28, 2, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x1a),
	"trap store":           trapping(0x41, 0xfe, 0xff, 3, 0x41, 1, 0x36, 2, 0),
	"trap memory.copy":     trapping(0x41, 0, 0x41, 0x7f, 0x41, 2, 0xfc, 10, 0, 0),
	"trap memory.fill":     trapping(0x41, 0x7f, 0x41, 0, 0x41, 2, 0xfc, 11, 0),
	"trap memory.init":     trapping(0x41, 0, 0x41, 0, 0x41, 9, 0xfc, 8, 1, 0),
	"trap dropped segment": trapping(0xfc, 9, 1, 0x41, 0, 0x41, 0, 0x41, 1, 0xfc, 8, 1, 0),
	"trap table.get":       trapping(0x41, 9, 0x25, 0, 0x1a),
	"trap table.set":       trapping(0x41, 9, 0xd0, 0x70, 0x26, 0),
	"trap table.fill":      trapping(0x41, 3, 0xd0, 0x70, 0x41, 2, 0xfc, 17, 0),
	"trap table.copy":      trapping(0x41, 3, 0x41, 0, 0x41, 2, 0xfc, 14, 0, 0),
	"trap table.init":      trapping(0x41, 0, 0x41, 0, 0x41, 2, 0xfc, 12, 1, 0),
	"trap null function":   trapping(0x41, 2, 0x11, 0, 0),
	"trap no such entry":   trapping(0x41, 9, 0x11, 0, 0),
	"trap other signature": trapping(0x41, 5, 0x41, 0, 0x11, 1, 0),
	"NaNs":                 nanGuest,
	"remainders":           remainderGuest,
	"start function":       startGuest,
}

// trapping is a command that writes something and then does what traps. It has
// a table of four entries, the first two of which are functions () -> (), and a
// passive segment of each kind, of one function and of eight bytes.
func trapping(code ...byte) func() []byte {
	return func() []byte {
		b := wasmtest.Command()
		b.Type(":")
		b.Type("i:")
		fdWrite := b.Import(wasmtest.WASI, "fd_write", "iiii:i")
		b.Table(4, 4).Data(16, "before").PassiveData("12345678")
		nothing := b.Func(":", "")
		b.Elem(0, nothing, nothing).ElemRaw(1, 0, 1, byte(nothing))
		b.Start("", write(fdWrite, 1, 16, 6), code, write(fdWrite, 1, 16, 6))
		return b.Bytes()
	}
}

// nanGuest writes the bits that each of the operations whose NaNs are open
// makes of NaNs with payloads, quiet and signalling, and of numbers.
func nanGuest() []byte {
	b := wasmtest.Command()
	fdWrite := b.Import(wasmtest.WASI, "fd_write", "iiii:i")
	operands := []float64{math.Float64frombits(0x7ff8000000000123), math.Float64frombits(0xfff8000000000456),
		math.Float64frombits(0x7ff0000000000789), math.Inf(1), math.Inf(-1), 0, -1}
	var code []byte
	at := int32(64)
	add := func(result, store byte, pieces ...[]byte) {
		code = append(code, wasmtest.Cat(append([][]byte{wasmtest.I32Const(at)}, pieces...)...)...)
		code = append(code, result, store, 2, 0)
		at += 8
	}
	for op := range 0xc0 {
		letter, ok := wasmtest.MakesNaN(op)
		if !ok {
			continue
		}
		wide, toBits, store := letter == 'F', byte(0xbc), byte(0x36)
		if wide {
			toBits, store = 0xbd, 0x37
		}
		if op == 0xb6 || op == 0xbb { // demote and promote take the other type
			wide = !wide
		}
		unary := op <= 0x91 || op >= 0x99 && op <= 0x9f || op >= 0xb6
		for i, x := range operands {
			if unary {
				add(toBits, store, floatConst(wide, x), []byte{byte(op)})
				continue
			}
			for _, y := range operands[i:] {
				add(toBits, store, floatConst(wide, x), floatConst(wide, y), []byte{byte(op)})
			}
		}
	}
	b.Start("", code, write(fdWrite, 1, 64, at-64))
	return b.Bytes()
}

func floatConst(wide bool, v float64) []byte {
	if wide {
		return binary.LittleEndian.AppendUint64([]byte{0x44}, math.Float64bits(v))
	}
	bits := math.Float64bits(v)
	narrow := math.Float32bits(float32(v))
	if v != v { // the payload's low bits go along, a signalling NaN stays one
		narrow = uint32(bits>>32)&0x80000000 | 0x7f800000 | uint32(bits>>51&1)<<22 | uint32(bits&0xfff)
	}
	return binary.LittleEndian.AppendUint32([]byte{0x43}, narrow)
}

// remainderGuest computes remainders while many values are alive, in all four
// operations, inside loops and branches: compiled in line on arm64, by version
// 1.12 of the engine, some come out wrong (see TestRemainderFault). The shape
// was searched for, and comes from the seed.
func remainderGuest() []byte {
	r := rand.New(rand.NewPCG(17, 9))
	live := 10 + r.IntN(50)
	b := wasmtest.Command()
	fdWrite := b.Import(wasmtest.WASI, "fd_write", "iiii:i")
	get := func(i int) []byte { return []byte{0x20, byte(i)} }
	set := func(i int) []byte { return []byte{0x21, byte(i)} }
	var code []byte
	add := func(pieces ...[]byte) { code = append(code, wasmtest.Cat(pieces...)...) }
	for i := range live {
		add(wasmtest.I64Const(r.Int64()), set(i))
	}
	loop, counter := r.IntN(2) == 0, live
	if loop {
		add(wasmtest.I32Const(5), set(counter), []byte{0x03, 0x40})
	}
	for range 10 + r.IntN(60) {
		i, j, k := r.IntN(live), r.IntN(live), r.IntN(live)
		divisor := wasmtest.Cat(get(j), wasmtest.I64Const(1), []byte{0x84})
		switch r.IntN(4) {
		case 0:
			add(get(k), divisor, []byte{byte(0x81 + r.IntN(2))}, set(i))
		case 1:
			add(get(k), []byte{0xa7}, divisor, []byte{0xa7, byte(0x6f + r.IntN(2)), 0xad}, set(i))
		case 2:
			add(get(j), []byte{0xa7, 0x41, 1, 0x71, 0x04, 0x40}, get(k), divisor, []byte{0x82}, set(i), []byte{0x0b})
		case 3:
			add(get(k), get(j), []byte{0x7e}, get(i), []byte{0x7c}, set(i))
		}
	}
	if loop {
		add(get(counter), []byte{0x41, 1, 0x6b, 0x22, byte(counter), 0x0d, 0, 0x0b})
	}
	for i := range live {
		add(wasmtest.I32Const(int32(64+8*i)), get(i), []byte{0x37, 3, 0})
	}
	b.Start(strings.Repeat("I", live)+"i", code, write(fdWrite, 1, 64, int32(8*live)))
	return b.Bytes()
}

// startGuest does its work before _start is called.
func startGuest() []byte {
	b := wasmtest.Command()
	fdWrite := b.Import(wasmtest.WASI, "fd_write", "iiii:i")
	b.Data(16, "first, then")
	first := b.Func(":", "", write(fdWrite, 1, 16, 5))
	b.StartSection(first)
	b.Start("", write(fdWrite, 1, 21, 6))
	return b.Bytes()
}
