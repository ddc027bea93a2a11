package wasm

import "fmt"

// An Opcode identifies an instruction: its byte, or 0xfc00 plus the second
// number of a prefixed one.
type Opcode uint16

// The instructions that the decoder, admission or a rewriter treat one by one.
// The numeric instructions are OpI32Eqz to OpI64Extend32S.
const (
	OpUnreachable  Opcode = 0x00
	OpNop          Opcode = 0x01
	OpBlock        Opcode = 0x02
	OpLoop         Opcode = 0x03
	OpIf           Opcode = 0x04
	OpElse         Opcode = 0x05
	OpEnd          Opcode = 0x0b
	OpBr           Opcode = 0x0c
	OpBrIf         Opcode = 0x0d
	OpBrTable      Opcode = 0x0e
	OpReturn       Opcode = 0x0f
	OpCall         Opcode = 0x10
	OpCallIndirect Opcode = 0x11
	OpDrop         Opcode = 0x1a
	OpSelect       Opcode = 0x1b
	OpSelectTyped  Opcode = 0x1c
	OpLocalGet     Opcode = 0x20
	OpLocalSet     Opcode = 0x21
	OpLocalTee     Opcode = 0x22
	OpGlobalGet    Opcode = 0x23
	OpGlobalSet    Opcode = 0x24
	OpTableGet     Opcode = 0x25
	OpTableSet     Opcode = 0x26
	OpI32Load      Opcode = 0x28 // the first memory access
	OpI32Store     Opcode = 0x36 // the first store
	OpI64Store32   Opcode = 0x3e // the last memory access
	OpMemorySize   Opcode = 0x3f
	OpMemoryGrow   Opcode = 0x40
	OpI32Const     Opcode = 0x41
	OpI64Const     Opcode = 0x42
	OpF32Const     Opcode = 0x43
	OpF64Const     Opcode = 0x44
	OpI32Eqz       Opcode = 0x45 // the first numeric instruction
	OpI64Extend32S Opcode = 0xc4 // the last
	OpRefNull      Opcode = 0xd0
	OpRefIsNull    Opcode = 0xd1
	OpRefFunc      Opcode = 0xd2

	opPrefixed Opcode = 0xfc

	OpI32TruncSatF32S Opcode = 0xfc00 // the first saturating conversion
	OpI64TruncSatF64U Opcode = 0xfc07 // the last
	OpMemoryInit      Opcode = 0xfc08
	OpDataDrop        Opcode = 0xfc09
	OpMemoryCopy      Opcode = 0xfc0a
	OpMemoryFill      Opcode = 0xfc0b
	OpTableInit       Opcode = 0xfc0c
	OpElemDrop        Opcode = 0xfc0d
	OpTableCopy       Opcode = 0xfc0e
	OpTableGrow       Opcode = 0xfc0f
	OpTableSize       Opcode = 0xfc10
	OpTableFill       Opcode = 0xfc11
)

// String is the opcode in hexadecimal.
func (op Opcode) String() string { return fmt.Sprintf("%#x", uint16(op)) }

// Control reports whether the instruction begins, ends or leaves a straight
// line of code, other than by calling; end, which closes every one of them, is
// not counted.
func (op Opcode) Control() bool { return op >= OpBlock && op <= OpBrTable && op != OpEnd }

// Known reports whether op is an instruction of the accepted set.
func Known(op Opcode) bool {
	switch {
	case op >= OpI32Load && op <= OpI64Extend32S, op >= OpLocalGet && op <= OpTableSet,
		op >= OpI32TruncSatF32S && op <= OpTableFill, op >= OpRefNull && op <= OpRefFunc,
		op <= OpElse, op >= OpEnd && op <= OpCallIndirect, op >= OpDrop && op <= OpSelectTyped:
		return true
	}
	return false
}

// foreign names the feature that an opcode outside the set belongs to.
func foreign(op byte) (Feature, bool) {
	switch {
	case op >= 0x06 && op <= 0x0a, op == 0x18, op == 0x19, op == 0x1f:
		return Exceptions, true
	case op == 0x12, op == 0x13:
		return TailCall, true
	case op == 0x14, op == 0x15, op >= 0xd4 && op <= 0xd6:
		return FunctionReferences, true
	case op >= 0xe0 && op <= 0xe6:
		return StackSwitching, true
	case op == 0xd3, op == 0xfb:
		return GC, true
	case op == 0xfd:
		return SIMD, true
	case op == 0xfe:
		return Threads, true
	}
	return "", false
}

// Numeric instructions that a rewriter tells apart or writes.
const (
	OpI32LtS         Opcode = 0x48
	OpI32LtU         Opcode = 0x49
	OpI64LeU         Opcode = 0x58
	OpI64GeS         Opcode = 0x59
	OpF32Eq          Opcode = 0x5b // the first comparison of floats
	OpF64Eq          Opcode = 0x61
	OpF64Ge          Opcode = 0x66 // the last
	OpI32Add         Opcode = 0x6a
	OpI32Sub         Opcode = 0x6b
	OpI32Clz         Opcode = 0x67
	OpI32Popcnt      Opcode = 0x69
	OpI32Mul         Opcode = 0x6c
	OpI32DivS        Opcode = 0x6d
	OpI32DivU        Opcode = 0x6e
	OpI32RemS        Opcode = 0x6f
	OpI32RemU        Opcode = 0x70
	OpI64Clz         Opcode = 0x79
	OpI64Popcnt      Opcode = 0x7b
	OpI64Add         Opcode = 0x7c
	OpI64Sub         Opcode = 0x7d
	OpI64Mul         Opcode = 0x7e
	OpI64DivS        Opcode = 0x7f
	OpI64DivU        Opcode = 0x80
	OpI64RemS        Opcode = 0x81
	OpI64RemU        Opcode = 0x82
	OpI64ShrU        Opcode = 0x88
	OpF32Abs         Opcode = 0x8b
	OpF32Neg         Opcode = 0x8c
	OpF32Ceil        Opcode = 0x8d // f32: ceil, floor, trunc, nearest, sqrt, add, sub, mul, div, min, max
	OpF32Sqrt        Opcode = 0x91
	OpF32Div         Opcode = 0x95
	OpF32Max         Opcode = 0x97
	OpF32Copysign    Opcode = 0x98
	OpF64Abs         Opcode = 0x99
	OpF64Neg         Opcode = 0x9a
	OpF64Ceil        Opcode = 0x9b // f64, in the same order
	OpF64Sqrt        Opcode = 0x9f
	OpF64Div         Opcode = 0xa3
	OpF64Max         Opcode = 0xa5
	OpF64Copysign    Opcode = 0xa6
	OpI32WrapI64     Opcode = 0xa7
	OpI32TruncF32S   Opcode = 0xa8
	OpI32TruncF64U   Opcode = 0xab
	OpI64ExtendI32U  Opcode = 0xad
	OpI64TruncF32S   Opcode = 0xae
	OpI64TruncF64U   Opcode = 0xb1
	OpF32ConvertI32S Opcode = 0xb2
	OpF32DemoteF64   Opcode = 0xb6
	OpF64PromoteF32  Opcode = 0xbb
	OpI32Reinterpret Opcode = 0xbc // the first reinterpretation
	OpF64Reinterpret Opcode = 0xbf // the last
)
