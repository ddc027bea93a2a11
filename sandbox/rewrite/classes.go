package rewrite

import "github.com/tallystick/tallystick/sandbox/wasm"

// A class is a set of instructions that cost the same.
type class uint8

// The classes. What an instruction costs includes what the rewriter adds for
// it: canonicalisation, helper functions, and the charge itself.
const (
	classNone         class = iota // shapes the code and does nothing: nop, block, loop, else, end, drop, unreachable
	classSimple                    // a step of an integer unit: constants, locals, arithmetic, comparison, ref.null
	classMultiply                  // integer multiplication
	classCount                     // counting bits: clz, ctz, popcnt
	classDivide                    // integer division
	classRemainder                 // integer remainder, by way of a helper function
	classSelect                    // select
	classBranch                    // br, return
	classCondition                 // br_if, if
	classBranchTable               // br_table
	classCall                      // call; of an imported function, besides what the host charges
	classCallIndirect              // call_indirect
	classGlobal                    // global.get and global.set
	classLoad                      // loads of every width
	classStore                     // stores of every width
	classSign                      // abs, neg, copysign
	classCompare                   // comparison of floats
	classFloat                     // float operations that may make a NaN, but those of the next two
	classFloatDivide               // float division
	classRoot                      // square root
	classConvert                   // conversions between integers and floats
	classReinterpret               // reinterpretations
	classMemorySize                // memory.size and table.size
	classGrow                      // memory.grow and table.grow, besides what is added
	classBulk                      // the other bulk operations, besides the length; data.drop, elem.drop
	classTableGet                  // table.get
	classTableSet                  // table.set
	classFuncRef                   // ref.func
	numClasses
)

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
	set(classSimple, wasm.OpLocalGet, wasm.OpLocalTee, wasm.OpI32Const, wasm.OpF64Const,
		wasm.OpI32Eqz, wasm.OpI64Extend32S, wasm.OpRefNull, wasm.OpRefIsNull)
	set(classMultiply, wasm.OpI32Mul, wasm.OpI32Mul, wasm.OpI64Mul, wasm.OpI64Mul)
	set(classCount, wasm.OpI32Clz, wasm.OpI32Popcnt, wasm.OpI64Clz, wasm.OpI64Popcnt)
	set(classDivide, wasm.OpI32DivS, wasm.OpI32DivU, wasm.OpI64DivS, wasm.OpI64DivU)
	set(classRemainder, wasm.OpI32RemS, wasm.OpI32RemU, wasm.OpI64RemS, wasm.OpI64RemU)
	set(classSelect, wasm.OpSelect, wasm.OpSelectTyped)
	set(classBranch, wasm.OpBr, wasm.OpBr, wasm.OpReturn, wasm.OpReturn)
	set(classCondition, wasm.OpIf, wasm.OpIf, wasm.OpBrIf, wasm.OpBrIf)
	set(classBranchTable, wasm.OpBrTable, wasm.OpBrTable)
	set(classCall, wasm.OpCall, wasm.OpCall)
	set(classCallIndirect, wasm.OpCallIndirect, wasm.OpCallIndirect)
	set(classGlobal, wasm.OpGlobalGet, wasm.OpGlobalSet)
	set(classLoad, wasm.OpI32Load, wasm.OpI32Store-1)
	set(classStore, wasm.OpI32Store, wasm.OpI64Store32)
	set(classSign, wasm.OpF32Abs, wasm.OpF32Neg, wasm.OpF32Copysign, wasm.OpF32Copysign,
		wasm.OpF64Abs, wasm.OpF64Neg, wasm.OpF64Copysign, wasm.OpF64Copysign)
	set(classCompare, wasm.OpF32Eq, wasm.OpF64Ge)
	set(classFloat, wasm.OpF32Ceil, wasm.OpF32Max, wasm.OpF64Ceil, wasm.OpF64Max)
	set(classFloatDivide, wasm.OpF32Div, wasm.OpF32Div, wasm.OpF64Div, wasm.OpF64Div)
	set(classRoot, wasm.OpF32Sqrt, wasm.OpF32Sqrt, wasm.OpF64Sqrt, wasm.OpF64Sqrt)
	set(classConvert, wasm.OpI32TruncF32S, wasm.OpI32TruncF64U, wasm.OpI64TruncF32S, wasm.OpF64PromoteF32)
	set(classFloat, wasm.OpF32DemoteF64, wasm.OpF32DemoteF64, wasm.OpF64PromoteF32, wasm.OpF64PromoteF32)
	set(classReinterpret, wasm.OpI32Reinterpret, wasm.OpF64Reinterpret)
	set(classMemorySize, wasm.OpMemorySize, wasm.OpMemorySize)
	set(classGrow, wasm.OpMemoryGrow, wasm.OpMemoryGrow)
	set(classTableGet, wasm.OpTableGet, wasm.OpTableGet)
	set(classTableSet, wasm.OpTableSet, wasm.OpTableSet)
	set(classFuncRef, wasm.OpRefFunc, wasm.OpRefFunc)
	return c
}()

// prefixedClassOf is the class of each instruction that begins with 0xfc, by
// its second number.
var prefixedClassOf = [...]class{
	classConvert, classConvert, classConvert, classConvert, classConvert, classConvert, classConvert, classConvert,
	classBulk, classBulk, classBulk, classBulk, // memory.init, data.drop, memory.copy, memory.fill
	classBulk, classBulk, classBulk, // table.init, elem.drop, table.copy
	classGrow, classMemorySize, classBulk, // table.grow, table.size, table.fill
}

// cost is what an instruction costs, lengths aside.
func cost(op wasm.Opcode) uint16 {
	if op > 0xff {
		return costs[prefixedClassOf[op&0xff]]
	}
	return costs[classOf[op]]
}
