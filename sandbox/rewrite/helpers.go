package rewrite

import "github.com/tallystick/tallystick/sandbox/wasm"

// A helper is a function that the rewriter adds to the module, named by what
// it stands for: the opcode of a remainder, of memory.grow, or of the first of
// the operations that share it.
type helper = wasm.Opcode

// Helpers that take a length, charge for it and return it.
const (
	chargeBytes   = wasm.OpMemoryInit
	chargeEntries = wasm.OpTableInit
	chargeGrowth  = wasm.OpTableGrow
	chargePages   = wasm.OpMemoryGrow
)

// helperOf tells the operations that go through a helper, and whether they
// follow it (a charge by length) or are replaced by it.
func helperOf(op wasm.Opcode) (h helper, follows, ok bool) {
	switch op {
	case wasm.OpI32RemS, wasm.OpI32RemU, wasm.OpI64RemS, wasm.OpI64RemU:
		return op, false, true
	case wasm.OpMemoryInit, wasm.OpMemoryCopy, wasm.OpMemoryFill:
		return chargeBytes, true, true
	case wasm.OpTableInit, wasm.OpTableCopy, wasm.OpTableFill:
		return chargeEntries, true, true
	case wasm.OpTableGrow:
		return chargeGrowth, true, true
	case wasm.OpMemoryGrow:
		return chargePages, true, true
	}
	return 0, false, false
}

// helper is the function index of a helper, which is added at its first use.
func (w *writer) helper(h helper) uint32 {
	i, ok := w.index[h]
	if !ok {
		i = uint32(len(w.helpers))
		w.helpers = append(w.helpers, h)
		w.index[h] = i
		w.typeIndex(helperType(h))
	}
	return w.refill + 1 + uint32(len(w.m.Funcs)) + i
}

func helperType(h helper) wasm.FuncType {
	switch h {
	case wasm.OpI32RemS, wasm.OpI32RemU:
		return wasm.FuncType{Params: []wasm.ValueType{wasm.I32, wasm.I32}, Results: []wasm.ValueType{wasm.I32}}
	case wasm.OpI64RemS, wasm.OpI64RemU:
		return wasm.FuncType{Params: []wasm.ValueType{wasm.I64, wasm.I64}, Results: []wasm.ValueType{wasm.I64}}
	}
	return wasm.FuncType{Params: []wasm.ValueType{wasm.I32}, Results: []wasm.ValueType{wasm.I32}}
}

// helperBody is the body of a helper. Its cost is in that of the operation it
// serves, and it is charged nothing itself.
func (w *writer) helperBody(h helper) []byte {
	var a assembler
	if len(helperType(h).Params) == 2 {
		a.op(0) // no locals
		a.index(wasm.OpLocalGet, 0).index(wasm.OpLocalGet, 1).op(h).op(wasm.OpEnd)
		return a.b
	}
	const length, left = 0, 1 // the parameter, and a local
	a.b = append(a.b, 1, 1, byte(wasm.I64))
	a.index(wasm.OpGlobalGet, w.gas)
	switch h {
	case chargeBytes:
		a.index(wasm.OpLocalGet, length).op(wasm.OpI64ExtendI32U)
		a.i64(bytesShift).op(wasm.OpI64ShrU)
	case chargeEntries, chargeGrowth:
		// A length above the most entries of a table is charged as that: it fails.
		a.index(wasm.OpLocalGet, length).i32(MaxTableEntries)
		a.index(wasm.OpLocalGet, length).i32(MaxTableEntries).op(wasm.OpI32LtU).op(wasm.OpSelect)
		each := int64(costEntry)
		if h == chargeGrowth {
			each = costGrowEntry
		}
		a.op(wasm.OpI64ExtendI32U).i64(each).op(wasm.OpI64Mul)
	case chargePages:
		// Growing beyond the maximum fails at once and is charged nothing.
		a.index(wasm.OpLocalGet, length).op(wasm.OpI64ExtendI32U).i64(costPage).op(wasm.OpI64Mul)
		a.i64(0)
		a.index(wasm.OpLocalGet, length).op(wasm.OpI64ExtendI32U)
		a.op(wasm.OpMemorySize).op(0).op(wasm.OpI64ExtendI32U).op(wasm.OpI64Add)
		a.i64(int64(w.r.MaxPages)).op(wasm.OpI64LeU).op(wasm.OpSelect)
	}
	a.op(wasm.OpI64Sub)
	a.index(wasm.OpLocalTee, left).index(wasm.OpGlobalSet, w.gas)
	a.ifNegative(left).index(wasm.OpCall, w.refill).op(wasm.OpEnd)
	a.index(wasm.OpLocalGet, length).op(wasm.OpEnd)
	return a.b
}
