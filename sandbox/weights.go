package sandbox

import "github.com/tallystick/tallystick/sandbox/wasm"

// weights is what the engine takes to compile an instruction of one byte, in
// kilobytes of memory while it compiles the function, or in dozens of bytes of
// native code, whichever is more: rounded up from what was measured on amd64, and
// including what the rewriter adds. All others take 1. Loads, stores, divisions,
// truncations and what looks into tables make the engine check and leave the
// function; calls save and restore what is in registers.
var weights = func() (w [256]uint8) {
	set := func(weight uint8, spans ...wasm.Opcode) { // pairs of first and last
		for i := 0; i < len(spans); i += 2 {
			for op := spans[i]; op <= spans[i+1]; op++ {
				w[op] = weight
			}
		}
	}
	set(1, 0, 0xff)
	set(5, wasm.OpI32Load, wasm.OpI64Store32, wasm.OpMemoryGrow, wasm.OpMemoryGrow, wasm.OpTableGet, wasm.OpTableSet)
	set(10, wasm.OpI32DivS, wasm.OpI32DivU, wasm.OpI64DivS, wasm.OpI64DivU)
	set(3, wasm.OpI32RemS, wasm.OpI32RemU, wasm.OpI64RemS, wasm.OpI64RemU)
	set(5, wasm.OpF32Ceil, wasm.OpF32Max, wasm.OpF64Ceil, wasm.OpF64Max)
	set(8, wasm.OpF32Max-1, wasm.OpF32Max, wasm.OpF64Max-1, wasm.OpF64Max) // and the minimum
	set(4, wasm.OpF32Copysign, wasm.OpF32Copysign, wasm.OpF64Copysign, wasm.OpF64Copysign)
	set(4, wasm.OpI32TruncF32S, wasm.OpF64PromoteF32)
	set(1, wasm.OpI64ExtendI32U-1, wasm.OpI64ExtendI32U) // between the others
	set(5, wasm.OpF32DemoteF64, wasm.OpF32DemoteF64, wasm.OpF64PromoteF32, wasm.OpF64PromoteF32)
	set(16, wasm.OpI32TruncF32S, wasm.OpI32TruncF64U, wasm.OpI64TruncF32S, wasm.OpI64TruncF64U)
	set(2, wasm.OpCall, wasm.OpCall, wasm.OpRefFunc, wasm.OpRefFunc) // and the call's operands
	set(18, wasm.OpCallIndirect, wasm.OpCallIndirect)
	return w
}()

// prefixedWeights is the same for the instructions that begin with 0xfc, by
// their second number.
var prefixedWeights = [...]uint8{
	9, 9, 9, 9, 9, 9, 9, 9, // saturating truncations
	20, 4, 20, 36, // memory.init, data.drop, memory.copy, memory.fill
	24, 4, 24, // table.init, elem.drop, table.copy
	5, 1, 36, // table.grow, table.size, table.fill
}

// fillBlocks is how many control instructions a memory.fill or table.fill is to
// the engine, which makes a loop of it.
const fillBlocks = 4

func weightOf(op wasm.Opcode) uint64 {
	if op > 0xff {
		return uint64(prefixedWeights[op&0xff])
	}
	return uint64(weights[op])
}
