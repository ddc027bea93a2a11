package rewrite

import "github.com/tallystick/tallystick/sandbox/wasm"

// A class is a set of instructions that cost the same.
type class uint8

// The classes. What an instruction costs includes what the rewriter adds for
// it: canonicalisation, helper functions, and the charge itself.
const (
	classNone         class = iota // shapes the code and does nothing: nop, block, loop, else, end, drop, unreachable
	classSimple                    // one step of an integer unit: constants, locals, arithmetic, comparison
	classSelect                    // select
	classBranch                    // br, br_if, if, return
	classBranchTable               // br_table
	classCall                      // call; of an imported function, besides what the host charges
	classCallIndirect              // call_indirect
	classGlobal                    // global.get and global.set
	classLoad                      // loads of every width
	classStore                     // stores of every width
	classMultiply                  // integer multiplication
	classDivide                    // integer division and remainder
	classCount                     // counting bits: clz, ctz, popcnt
	classFloat                     // abs, neg, copysign, comparison of floats
	classFloatArith                // float operations that may make a NaN, but those below
	classFloatDivide               // float division and square root
	classConvert                   // conversions between integers and floats
	classTable                     // table.get, table.set, table.size
	classReference                 // ref.null, ref.is_null, ref.func
	classMemorySize                // memory.size
	classMemoryGrow                // memory.grow, besides the pages
	classBulk                      // bulk operations, besides the length
	classDrop                      // data.drop and elem.drop
	numClasses
)

var classNames = [numClasses]string{
	"none", "simple", "select", "branch", "branch_table", "call", "call_indirect", "global", "load", "store",
	"multiply", "divide", "count", "float", "float_arith", "float_divide", "convert", "table", "reference",
	"memory_size", "memory_grow", "bulk", "drop",
}

// classOf is the class of each instruction of one byte; those of two begin
// with 0xfc and are in prefixedClassOf.
var classOf = func() (c [256]class) {
	set := func(class class, spans ...wasm.Opcode) { // pairs of first and last
		for i := 0; i < len(spans); i += 2 {
			for op := spans[i]; op <= spans[i+1]; op++ {
				c[op] = class
			}
		}
	}
	set(classSimple, wasm.OpLocalGet, wasm.OpLocalTee, wasm.OpI32Const, wasm.OpF64Const, wasm.OpI32Eqz, wasm.OpI64Extend32S)
	set(classSelect, wasm.OpSelect, wasm.OpSelectTyped)
	set(classBranch, wasm.OpIf, wasm.OpIf, wasm.OpBr, wasm.OpBrIf, wasm.OpReturn, wasm.OpReturn)
	set(classBranchTable, wasm.OpBrTable, wasm.OpBrTable)
	set(classCall, wasm.OpCall, wasm.OpCall)
	set(classCallIndirect, wasm.OpCallIndirect, wasm.OpCallIndirect)
	set(classGlobal, wasm.OpGlobalGet, wasm.OpGlobalSet)
	set(classLoad, wasm.OpI32Load, wasm.OpI32Store-1)
	set(classStore, wasm.OpI32Store, wasm.OpI64Store32)
	set(classMultiply, wasm.OpI32Mul, wasm.OpI32Mul, wasm.OpI64Mul, wasm.OpI64Mul)
	set(classDivide, wasm.OpI32DivS, wasm.OpI32RemU, wasm.OpI64DivS, wasm.OpI64RemU)
	set(classCount, wasm.OpI32Clz, wasm.OpI32Popcnt, wasm.OpI64Clz, wasm.OpI64Popcnt)
	set(classFloat, wasm.OpF32Eq, wasm.OpF64Ge, wasm.OpF32Abs, wasm.OpF64Copysign)
	set(classFloatArith, wasm.OpF32Ceil, wasm.OpF32Max, wasm.OpF64Ceil, wasm.OpF64Max,
		wasm.OpF32DemoteF64, wasm.OpF32DemoteF64, wasm.OpF64PromoteF32, wasm.OpF64PromoteF32)
	set(classFloatDivide, wasm.OpF32Sqrt, wasm.OpF32Sqrt, wasm.OpF32Div, wasm.OpF32Div,
		wasm.OpF64Sqrt, wasm.OpF64Sqrt, wasm.OpF64Div, wasm.OpF64Div)
	set(classConvert, wasm.OpI32TruncF32S, wasm.OpI32TruncF64U, wasm.OpI64TruncF32S, wasm.OpF32DemoteF64-1,
		wasm.OpF32DemoteF64+1, wasm.OpF64PromoteF32-1)
	set(classTable, wasm.OpTableGet, wasm.OpTableSet)
	set(classReference, wasm.OpRefNull, wasm.OpRefFunc)
	set(classMemorySize, wasm.OpMemorySize, wasm.OpMemorySize)
	set(classMemoryGrow, wasm.OpMemoryGrow, wasm.OpMemoryGrow)
	return c
}()

// prefixedClassOf is the class of each instruction that begins with 0xfc, by
// its second number.
var prefixedClassOf = [...]class{
	classConvert, classConvert, classConvert, classConvert, classConvert, classConvert, classConvert, classConvert,
	classBulk, classDrop, classBulk, classBulk, // memory.init, data.drop, memory.copy, memory.fill
	classBulk, classDrop, classBulk, // table.init, elem.drop, table.copy
	classBulk, classTable, classBulk, // table.grow, table.size, table.fill
}

// cost is what an instruction costs, lengths aside.
func cost(op wasm.Opcode) uint8 {
	if op > 0xff {
		return costs[prefixedClassOf[op&0xff]]
	}
	return costs[classOf[op]]
}
