package rewrite

import (
	"encoding/binary"

	"github.com/tallystick/tallystick/sandbox/wasm"
)

// addedLocals is the most locals that rewriting adds to a function: gas left,
// frames left, an f32 and an f64.
const addedLocals = 4

// noBlockType is the type of a block without parameters and results.
const noBlockType = 0x40

// An assembler writes instructions.
type assembler struct{ b []byte }

func (a *assembler) op(op wasm.Opcode) *assembler {
	a.b = append(a.b, byte(op))
	return a
}

func (a *assembler) index(op wasm.Opcode, i uint32) *assembler {
	a.b = wasm.AppendU32(append(a.b, byte(op)), i)
	return a
}

func (a *assembler) i32(v int32) *assembler {
	a.b = wasm.AppendS64(append(a.b, byte(wasm.OpI32Const)), int64(v))
	return a
}

func (a *assembler) i64(v int64) *assembler {
	a.b = wasm.AppendS64(append(a.b, byte(wasm.OpI64Const)), v)
	return a
}

// A body writes the code of one function. The fields are indexes of added
// locals.
type body struct {
	w *writer
	f *function
	assembler
	gasLeft, framesLeft, tmp32, tmp64 uint32
}

// writeCode decodes, rewrites and writes every function.
func (w *writer) writeCode() error {
	return w.m.Decode(&rewriting{w: w})
}

// A rewriting shows the functions to the writer one by one.
type rewriting struct {
	w     *writer
	stack wasm.Stack
	f     function
	b     body
	index int // of the function
	count int // of its instructions until now
}

// number is the function's index in the original's index space.
func (r *rewriting) number() uint32 { return r.w.m.ImportedFuncs() + uint32(r.index) }

// Function begins a function.
func (r *rewriting) Function(index int, code wasm.Code) error {
	r.index, r.count = index, 0
	if code.NumLocals > MaxLocals {
		return refuse(RuleLocals, "", "function %d has %d parameters and locals, at most %d are taken",
			r.number(), code.NumLocals, MaxLocals)
	}
	r.stack.Begin(r.w.m, code)
	r.f.begin(code)
	return nil
}

// Instr adds an instruction to the function and, with the last, writes it.
func (r *rewriting) Instr(in *wasm.Instr) error {
	if r.count++; r.count > MaxInstructions {
		return refuse(RuleLength, "", "function %d has more than %d instructions", r.number(), MaxInstructions)
	}
	if err := r.stack.Step(in); err != nil {
		return err
	}
	if err := r.blockArity(in); err != nil {
		return err
	}
	if err := r.passive(in); err != nil {
		return err
	}
	if r.f.add(in) {
		r.weigh(in)
	}
	if in.Op != wasm.OpEnd || in.Depth > 1 {
		return nil
	}
	r.f.finish()
	return r.b.write(r.w, &r.f)
}

// blockArity bounds the parameters of blocks; their results are bounded with
// the types.
func (r *rewriting) blockArity(in *wasm.Instr) error {
	switch in.Op {
	case wasm.OpBlock, wasm.OpLoop, wasm.OpIf:
		if in.Block.Index < 0 {
			return nil
		}
		if n := len(r.w.m.Types[in.Block.Index].Params); n > MaxArity {
			return refuse(RuleArity, "", "block at offset %d has %d parameters, at most %d are taken", in.Start, n, MaxArity)
		}
	}
	return nil
}

// passive refuses instructions that initialise from or drop a segment that is
// not passive: they must find it dropped, and not every engine does. Not every
// one has the entries of a passive segment of externref either.
func (r *rewriting) passive(in *wasm.Instr) error {
	kind, mode := "data", wasm.Passive
	switch in.Op {
	case wasm.OpMemoryInit, wasm.OpDataDrop:
		mode = r.w.m.Datas[in.Index].Mode
	case wasm.OpTableInit, wasm.OpElemDrop:
		kind, mode = "element", r.w.m.Elems[in.Index].Mode
		if in.Op == wasm.OpTableInit && r.w.m.Elems[in.Index].Type == wasm.ExternRef {
			return refuse(RuleSegment, "", "instruction at offset %d initialises from element segment %d, which is of externref", in.Start, in.Index)
		}
	}
	if mode != wasm.Passive {
		return refuse(RuleSegment, "", "instruction at offset %d initialises from or drops %s segment %d, which is not passive",
			in.Start, kind, in.Index)
	}
	return nil
}

// weigh adds to what decides the function's frames.
func (r *rewriting) weigh(in *wasm.Instr) {
	f := &r.f
	f.slots++
	if in.Op.Control() {
		f.control++
	}
	switch in.Op {
	case wasm.OpBlock, wasm.OpLoop, wasm.OpIf:
		if in.Block.Index >= 0 {
			f.slots += arity(r.w.m.Types[in.Block.Index])
		}
	case wasm.OpCall:
		t, _ := r.w.m.FuncType(in.Index)
		f.slots += arity(t)
	case wasm.OpCallIndirect:
		f.slots += arity(r.w.m.Types[in.Index])
	case wasm.OpBrTable:
		f.control += uint64(len(in.Labels))
	}
}

func arity(t wasm.FuncType) uint64 { return uint64(len(t.Params) + len(t.Results)) }

// write appends the function's body to the writer's code. It stops where they
// would be more than the bound together: a region for every few bytes expands
// tenfold.
func (b *body) write(w *writer, f *function) error {
	b.w, b.f, b.b = w, f, b.b[:0]
	frames := f.frames()
	b.locals(frames > 0)
	if frames > 0 {
		b.takeFrames(int32(frames))
		w.r.Counted++
	}
	b.charge(f.entry, checks, true)
	if frames > 0 {
		b.op(wasm.OpBlock)
		b.resultType()
	}
	last := len(f.instrs) - 1
	for k := range f.instrs[:last] {
		if b.instr(&f.instrs[k], frames > 0); len(w.code)+len(b.b) > MaxOutput {
			return w.tooLarge()
		}
	}
	if frames > 0 {
		b.op(wasm.OpEnd)
		b.index(wasm.OpGlobalGet, w.gas+1).i32(int32(frames)).op(wasm.OpI32Add).index(wasm.OpGlobalSet, w.gas+1)
	}
	b.op(wasm.OpEnd)
	w.r.Instructions += len(f.instrs)
	w.code = append(wasm.AppendU32(w.code, uint32(len(b.b))), b.b...)
	return nil
}

// locals declares the function's locals and those added.
func (b *body) locals(frames bool) {
	runs := b.f.locals
	next := uint32(b.f.numLocal)
	add := func(t wasm.ValueType) uint32 {
		runs = append(runs, wasm.LocalRun{Count: 1, Type: t})
		next++
		return next - 1
	}
	b.gasLeft = add(wasm.I64)
	if frames {
		b.framesLeft = add(wasm.I32)
	}
	if b.f.canon32 {
		b.tmp32 = add(wasm.F32)
	}
	if b.f.canon64 {
		b.tmp64 = add(wasm.F64)
	}
	b.b = wasm.AppendU32(b.b, uint32(len(runs)))
	for _, run := range runs {
		b.b = append(wasm.AppendU32(b.b, run.Count), byte(run.Type))
	}
	b.f.locals = runs
}

// takeFrames takes frames, and traps if that leaves less than none.
func (b *body) takeFrames(n int32) {
	b.index(wasm.OpGlobalGet, b.w.gas+1).i32(n).op(wasm.OpI32Sub)
	b.index(wasm.OpLocalTee, b.framesLeft).index(wasm.OpGlobalSet, b.w.gas+1)
	b.index(wasm.OpLocalGet, b.framesLeft).i32(0).op(wasm.OpI32LtS)
	b.op(wasm.OpIf).op(noBlockType).op(wasm.OpUnreachable).op(wasm.OpEnd)
}

// resultType writes the type of the block around a function that takes frames.
func (b *body) resultType() {
	switch results := b.f.typ.Results; len(results) {
	case 0:
		b.op(noBlockType)
	case 1:
		b.op(wasm.Opcode(results[0]))
	default:
		b.b = wasm.AppendS64(b.b, int64(b.w.typeIndex(wasm.FuncType{Results: results})))
	}
}

// instr writes one instruction and the charge for the region that begins after
// it.
func (b *body) instr(in *instr, frames bool) {
	h, follows, helped := helperOf(in.op)
	switch {
	case helped:
		b.index(wasm.OpCall, b.w.helper(h))
		if follows {
			b.copy(in)
			b.w.r.Bulk++
		} else {
			b.w.r.Remainders++
		}
	case in.op == wasm.OpReturn && frames:
		b.index(wasm.OpBr, in.depth-1) // to the end of the block around the function
	case in.op == wasm.OpCall || in.op == wasm.OpRefFunc:
		b.index(in.op, b.w.function(in.operand))
	default:
		b.copy(in)
	}
	if in.marks&renews != 0 {
		b.renew()
	}
	if in.marks&cleans != 0 {
		b.canonicalise(in.op)
	}
	if in.marks&leads != 0 {
		b.charge(in.region, in.marks, false)
	}
}

func (b *body) copy(in *instr) { b.b = append(b.b, b.w.in[in.start:in.end]...) }

// canonicalise replaces a NaN on top of the stack by the canonical one: it
// selects x if x = x, and the canonical NaN otherwise.
func (b *body) canonicalise(op wasm.Opcode) {
	b.w.r.Canonical++
	if opensNaN(op) == wasm.F32 {
		b.index(wasm.OpLocalTee, b.tmp32)
		b.b = binary.LittleEndian.AppendUint32(append(b.b, byte(wasm.OpF32Const)), canonical32)
		b.index(wasm.OpLocalGet, b.tmp32).index(wasm.OpLocalGet, b.tmp32).op(wasm.OpF32Eq).op(wasm.OpSelect)
		return
	}
	b.index(wasm.OpLocalTee, b.tmp64)
	b.b = binary.LittleEndian.AppendUint64(append(b.b, byte(wasm.OpF64Const)), canonical64)
	b.index(wasm.OpLocalGet, b.tmp64).index(wasm.OpLocalGet, b.tmp64).op(wasm.OpF64Eq).op(wasm.OpSelect)
}
