package rewrite

import "github.com/tallystick/tallystick/sandbox/wasm"

// The canonical NaNs, which replace all others.
const (
	canonical32 uint32 = 0x7fc00000
	canonical64 uint64 = 0x7ff8000000000000
)

// opensNaN gives the result type of an operation that may make a NaN whose
// bits the specification leaves open, and 0 for all others. Operations that
// only move bits, such as loads, negation and copysign, are not among them.
func opensNaN(op wasm.Opcode) wasm.ValueType {
	switch {
	case op >= wasm.OpF32Ceil && op <= wasm.OpF32Max, op == wasm.OpF32DemoteF64:
		return wasm.F32
	case op >= wasm.OpF64Ceil && op <= wasm.OpF64Max, op == wasm.OpF64PromoteF32:
		return wasm.F64
	}
	return 0
}

// hidesNaN reports whether nothing can tell which NaN an operation took from
// the top of the stack: it makes one itself, which is seen to, or none.
func hidesNaN(op wasm.Opcode) bool {
	switch {
	case opensNaN(op) != 0, op == wasm.OpDrop,
		op >= wasm.OpF32Eq && op <= wasm.OpF64Ge,
		op >= wasm.OpI32TruncF32S && op <= wasm.OpI32TruncF64U,
		op >= wasm.OpI64TruncF32S && op <= wasm.OpI64TruncF64U,
		op >= wasm.OpI32TruncSatF32S && op <= wasm.OpI64TruncSatF64U:
		return true
	}
	return false
}
