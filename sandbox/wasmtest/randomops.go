package wasmtest

import (
	"encoding/binary"
	"math"
)

// An opRange is a run of opcodes with one signature.
type opRange struct {
	first, last int // opcode, 0xfc00 added to prefixed ones
	sig         string
	result      string
}

// numericOps are all numeric instructions of the accepted set.
var numericOps = []opRange{
	{0x45, 0x45, "i", "i"}, {0x46, 0x4f, "ii", "i"}, {0x50, 0x50, "I", "i"}, {0x51, 0x5a, "II", "i"},
	{0x5b, 0x60, "ff", "i"}, {0x61, 0x66, "FF", "i"},
	{0x67, 0x69, "i", "i"}, {0x6a, 0x78, "ii", "i"}, {0x79, 0x7b, "I", "I"}, {0x7c, 0x8a, "II", "I"},
	{0x8b, 0x91, "f", "f"}, {0x92, 0x98, "ff", "f"}, {0x99, 0x9f, "F", "F"}, {0xa0, 0xa6, "FF", "F"},
	{0xa7, 0xa7, "I", "i"}, {0xa8, 0xa9, "f", "i"}, {0xaa, 0xab, "F", "i"}, {0xac, 0xad, "i", "I"},
	{0xae, 0xaf, "f", "I"}, {0xb0, 0xb1, "F", "I"}, {0xb2, 0xb3, "i", "f"}, {0xb4, 0xb5, "I", "f"},
	{0xb6, 0xb6, "F", "f"}, {0xb7, 0xb8, "i", "F"}, {0xb9, 0xba, "I", "F"}, {0xbb, 0xbb, "f", "F"},
	{0xbc, 0xbc, "f", "i"}, {0xbd, 0xbd, "F", "I"}, {0xbe, 0xbe, "i", "f"}, {0xbf, 0xbf, "I", "F"},
	{0xc0, 0xc1, "i", "i"}, {0xc2, 0xc4, "I", "I"},
	{0xfc00, 0xfc01, "f", "i"}, {0xfc02, 0xfc03, "F", "i"}, {0xfc04, 0xfc05, "f", "I"}, {0xfc06, 0xfc07, "F", "I"},
}

// MakesNaN reports whether an opcode computes a number of which the
// specification leaves the bits of a NaN open, and of which type.
func MakesNaN(op int) (letter rune, ok bool) {
	switch {
	case op >= 0x8d && op <= 0x97, op == 0xb6: // ceil to max, demote
		return 'f', true
	case op >= 0x9b && op <= 0xa5, op == 0xbb: // and promote
		return 'F', true
	}
	return 0, false
}

// numeric adds a numeric instruction. Those that trap on many operands get
// operands, most of the time, on which they do not.
func (c *coder) numeric() {
	r := numericOps[c.IntN(len(numericOps))]
	op := r.first + c.IntN(r.last-r.first+1)
	c.need(r.sig)
	switch {
	case op >= 0x6d && op <= 0x70 && c.chance(90): // division of i32
		c.emit(I32Const(1), []byte{0x72})
	case op >= 0x7f && op <= 0x82 && c.chance(90): // of i64
		c.emit(I64Const(1), []byte{0x84})
	case op >= 0xa8 && op <= 0xab && c.chance(80): // trapping conversions
		op += 0xfc00 - 0xa8
	case op >= 0xae && op <= 0xb1 && c.chance(80):
		op += 0xfc04 - 0xae
	}
	if op >= 0xfc00 {
		c.emit([]byte{0xfc, byte(op)})
	} else {
		c.emit([]byte{byte(op)})
	}
	if l, ok := MakesNaN(op); ok && c.config.Canonical {
		c.canonical(l)
	}
	c.push(r.result)
}

// canonical replaces a NaN on top of the stack by the canonical one.
func (c *coder) canonical(letter rune) {
	local, nan, eq := uint32(c.first+2), []byte{0x43, 0, 0, 0xc0, 0x7f}, byte(0x5b)
	if letter == 'F' {
		local, nan, eq = local+1, []byte{0x44, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f}, 0x61
	}
	get := U32([]byte{0x20}, local)
	c.emit(U32([]byte{0x22}, local), nan, get, get, []byte{eq, 0x1b})
}

// access is a load or store of any width, nearly always inside the memory.
func (c *coder) access() {
	op := 0x28 + c.IntN(0x3f-0x28)
	letter := rune("iIfFiiiiIIIIIIiIfFiiIII"[op-0x28])
	width := []int{4, 8, 4, 8, 1, 1, 2, 2, 1, 1, 2, 2, 4, 4, 4, 8, 4, 8, 1, 2, 1, 2, 4}[op-0x28]
	memarg := U32([]byte{byte(op), byte(c.IntN(log2(width) + 1))}, uint32(c.IntN(300)))
	if op < 0x36 {
		c.need("i")
		c.insideMemory()
		c.emit(memarg)
		c.push(string(letter))
		return
	}
	c.emit(c.address())
	c.stack = append(c.stack, 'i')
	c.operand(letter)
	c.pop(2)
	c.emit(memarg)
}

func log2(n int) (k int) {
	for ; n > 1; n /= 2 {
		k++
	}
	return k
}

// insideMemory makes an address of the operand on top of the stack.
func (c *coder) insideMemory() {
	if c.chance(97) {
		c.emit(I32Const(0x1fff), []byte{0x71})
	}
}

// address is code for an address that is nearly always inside the memory.
func (c *coder) address() []byte {
	if c.chance(3) {
		return I32Const(int32(c.Uint32()))
	}
	if c.chance(50) {
		return I32Const(int32(c.IntN(9000)))
	}
	return Cat(U32([]byte{0x20}, c.local('i')), I32Const(0x1fff), []byte{0x71})
}

// length is code for a length, short but for a few.
func (c *coder) length() []byte {
	switch n := c.IntN(100); {
	case n < 2:
		return I32Const(int32(c.Uint32()))
	case n < 60:
		return I32Const(int32(c.IntN(200)))
	}
	return Cat(U32([]byte{0x20}, c.local('i')), I32Const(0xff), []byte{0x71})
}

// small is code for an index or length of a table.
func (c *coder) small(most int) []byte {
	if c.chance(3) {
		return I32Const(int32(c.Uint32()))
	}
	return I32Const(int32(c.IntN(most)))
}

// bulk adds an instruction on memories, tables or references as a whole.
func (c *coder) bulk() {
	table := uint32(c.IntN(len(c.tables)))
	kind := c.tables[table]
	name := U32(nil, table)
	switch c.IntN(17) {
	case 0:
		c.emit([]byte{0x3f, 0})
		c.push("i")
	case 1:
		c.emit(I32Const(int32(c.IntN(3))), []byte{0x40, 0})
		c.push("i")
	case 2:
		c.emit(c.address(), c.address(), c.length(), []byte{0xfc, 10, 0, 0})
	case 3:
		c.emit(c.address(), I32Const(int32(c.Uint32())), c.length(), []byte{0xfc, 11, 0})
	case 4, 5:
		if c.datas > 0 {
			c.emit(c.address(), c.small(4), c.small(20), U32([]byte{0xfc, 8}, c.data0+uint32(c.IntN(int(c.datas)))), []byte{0})
		}
	case 6:
		if c.datas > 0 && c.chance(30) {
			c.emit(U32([]byte{0xfc, 9}, c.data0+uint32(c.IntN(int(c.datas)))))
		}
	case 7, 8:
		if len(c.elems) > 0 && kind == 'r' {
			c.emit(c.small(tableSize), c.small(2), c.small(3), U32([]byte{0xfc, 12}, c.elem0+uint32(c.IntN(len(c.elems)))), name)
		}
	case 9:
		if len(c.elems) > 0 && c.chance(30) {
			c.emit(U32([]byte{0xfc, 13}, c.elem0+uint32(c.IntN(len(c.elems)))))
		}
	case 10:
		from := uint32(c.IntN(len(c.tables)))
		if c.tables[from] == kind {
			c.emit(c.small(tableSize), c.small(tableSize), c.small(4), []byte{0xfc, 14}, name, U32(nil, from))
		}
	case 11:
		c.need(string(kind))
		c.emit(c.small(3), []byte{0xfc, 15}, name)
		c.push("i")
	case 12:
		c.emit([]byte{0xfc, 16}, name)
		c.push("i")
	case 13:
		c.emit(c.small(tableSize))
		c.operand(kind)
		c.pop(1)
		c.emit(c.small(3), []byte{0xfc, 17}, name)
	case 14:
		c.emit(c.small(tableSize), []byte{0x25}, name)
		c.push(string(kind))
	case 15:
		c.emit(c.small(tableSize))
		c.operand(kind)
		c.pop(1)
		c.emit([]byte{0x26}, name)
	case 16:
		c.need(string(kind))
		c.emit([]byte{0xd1})
		c.push("i")
	}
}

// The values that arithmetic finds hard.
var (
	hardInts = []int64{0, 1, -1, 2, 7, 31, 32, 63, 64, 127, -128, 255, 1 << 15, 65535,
		math.MaxInt32, math.MinInt32, math.MaxUint32, math.MaxInt64, math.MinInt64}
	hardFloats = []float64{0, math.Copysign(0, -1), 1, -1, 0.5, -0.5, 1.5, 2.5, 3e9, -3e9, 1e19, 1e-310,
		math.SmallestNonzeroFloat64, math.MaxFloat64, math.MaxFloat32, 2147483647, 2147483648, -2147483649,
		4294967296, 9223372036854775808, 18446744073709551616, math.Inf(1), math.Inf(-1)}
	// NaNs: canonical ones, with a payload, signalling.
	hardBits32 = []uint32{0x7fc00000, 0xffc00000, 0x7fc00001, 0x7f800001, 0xff812345, 0x7fffffff}
	hardBits64 = []uint64{0x7ff8000000000000, 0xfff8000000000000, 0x7ff8000000000001, 0x7ff0000000000001,
		0xfff123456789abcd, 0x7fffffffffffffff}
)

// constant is code for a constant of a type.
func (g *generator) constant(letter rune) []byte {
	switch letter {
	case 'i':
		return I32Const(int32(g.integer()))
	case 'I':
		return I64Const(g.integer())
	case 'f':
		bits := math.Float32bits(float32(hardFloats[g.IntN(len(hardFloats))]))
		switch g.IntN(5) {
		case 0:
			bits = hardBits32[g.IntN(len(hardBits32))]
		case 1:
			bits = g.Uint32()
		case 2:
			bits = math.Float32bits(float32(g.IntN(2000)-1000) / 8)
		}
		return binary.LittleEndian.AppendUint32([]byte{0x43}, bits)
	case 'F':
		bits := math.Float64bits(hardFloats[g.IntN(len(hardFloats))])
		switch g.IntN(5) {
		case 0:
			bits = hardBits64[g.IntN(len(hardBits64))]
		case 1:
			bits = g.Uint64()
		case 2:
			bits = math.Float64bits(float64(g.IntN(2000)-1000) / 8)
		}
		return binary.LittleEndian.AppendUint64([]byte{0x44}, bits)
	}
	return []byte{0xd0, valueTypes[letter]}
}

func (g *generator) integer() int64 {
	switch g.IntN(3) {
	case 0:
		return int64(g.IntN(100))
	case 1:
		return hardInts[g.IntN(len(hardInts))]
	}
	return int64(g.Uint64())
}
