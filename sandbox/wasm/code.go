package wasm

import "encoding/binary"

// A Body is the code of one function, not yet decoded.
type Body struct {
	Offset int    // of Bytes in the module
	Bytes  []byte // locals and instructions
}

// A LocalRun is a group of consecutive locals of one type.
type LocalRun struct {
	Count uint32
	Type  ValueType
}

// A BlockType is the type of a block: a type index, or a result or nothing.
type BlockType struct {
	Index  int64     // type index, or negative
	Result ValueType // if Index is negative; 0 for none
}

// An Instr is one instruction. Which operands it has depends on Op.
type Instr struct {
	Op         Opcode
	Start, End int // extent in the module, operands included
	// Index is the first index operand: label, function, type (of
	// call_indirect), local, global, table, or segment; of a memory access, the
	// alignment's exponent. For br_table, the default label.
	Index uint32
	// Index2 is the second: the table of call_indirect and table.init, the
	// source table of table.copy.
	Index2 uint32
	// Imm is the value of a constant (a float's bits) or the offset of a memory
	// access.
	Imm    int64
	Block  BlockType // of block, loop and if
	Labels []uint32  // of br_table, without the default; valid until the next instruction
	Types  []ValueType
	Depth  int // blocks open before the instruction, the function's own included
}

// A Code is a body's head, handed out before its instructions.
type Code struct {
	Type   FuncType
	Locals []LocalRun
	// NumLocals counts the parameters and the locals.
	NumLocals uint64
}

// A Visitor receives the instructions of a function in order. An error ends
// the walk.
type Visitor interface {
	// Function is called once for each body; index is that of m.Bodies.
	Function(index int, code Code) error
	// Instr is called for each instruction. in is reused by the next call.
	Instr(in *Instr) error
}

// Decode decodes every body and shows it to v. It checks form, nesting, and
// every index but those of labels of types; it returns what v returns, an error
// that wraps [ErrMalformed], or a [*FeatureError].
func (m *Module) Decode(v Visitor) (err error) {
	defer catch(&err)
	w := walker{m: m, v: v}
	for i := range m.Bodies {
		if err := w.body(i); err != nil {
			return err
		}
	}
	return nil
}

// A walker decodes bodies one after the other, reusing its buffers.
type walker struct {
	m      *Module
	v      Visitor
	blocks []Opcode // open blocks; the function's own is OpBlock
	labels []uint32
	runs   []LocalRun
	in     Instr
	locals uint64
}

func (w *walker) body(i int) error {
	b := w.m.Bodies[i]
	r := &reader{b: b.Bytes, base: b.Offset}
	code := Code{Type: w.m.Types[w.m.Funcs[i]]}
	w.runs = w.runs[:0]
	code.NumLocals = uint64(len(code.Type.Params))
	for n := r.count("groups of locals", maxLocalRuns, 2); n > 0; n-- {
		run := LocalRun{r.u32(), r.valueType()}
		code.NumLocals += uint64(run.Count)
		w.runs = append(w.runs, run)
	}
	code.Locals = w.runs
	w.locals = code.NumLocals
	if err := w.v.Function(i, code); err != nil {
		return err
	}
	w.blocks = append(w.blocks[:0], OpBlock)
	for len(w.blocks) > 0 {
		w.in = Instr{Start: r.offset(), Depth: len(w.blocks), Types: w.in.Types[:0]}
		w.instr(r, &w.in)
		w.in.End = r.offset()
		if err := w.v.Instr(&w.in); err != nil {
			return err
		}
	}
	r.end("function body")
	return nil
}

// instr reads one instruction and keeps the stack of open blocks.
func (w *walker) instr(r *reader, in *Instr) {
	at := *r
	b := r.byte()
	in.Op = Opcode(b)
	switch {
	case in.Op >= OpI32Eqz && in.Op <= OpI64Extend32S:
		return
	case in.Op >= OpI32Load && in.Op <= OpI64Store32:
		w.memoryAccess(r, in)
		return
	case in.Op == opPrefixed:
		w.prefixed(at, r, in)
		return
	}
	switch in.Op {
	case OpUnreachable, OpNop, OpReturn, OpDrop, OpSelect, OpRefIsNull:
	case OpBlock, OpLoop, OpIf:
		in.Block = w.blockType(r)
		if len(w.blocks) >= maxNestedCtrl {
			at.fail("more than %d nested blocks", maxNestedCtrl)
		}
		w.blocks = append(w.blocks, in.Op)
	case OpElse:
		if top := len(w.blocks) - 1; w.blocks[top] == OpIf {
			w.blocks[top] = OpElse
		} else {
			at.fail("else without if")
		}
	case OpEnd:
		w.blocks = w.blocks[:len(w.blocks)-1]
	case OpBr, OpBrIf:
		in.Index = w.label(r)
	case OpBrTable:
		w.branchTable(r, in)
	case OpCall, OpRefFunc:
		in.Index = w.m.funcIndex(r)
	case OpCallIndirect:
		in.Index = w.m.typeIndex(r)
		in.Index2 = r.index("table", w.m.numTables())
	case OpSelectTyped:
		for n := r.count("select types", maxArity, 1); n > 0; n-- {
			in.Types = append(in.Types, r.valueType())
		}
	case OpLocalGet, OpLocalSet, OpLocalTee:
		in.Index = r.index("local", w.locals)
	case OpGlobalGet, OpGlobalSet:
		in.Index = r.index("global", w.m.numGlobals())
	case OpTableGet, OpTableSet:
		in.Index = r.index("table", w.m.numTables())
	case OpMemorySize, OpMemoryGrow:
		w.memoryIndex(r)
	case OpI32Const:
		in.Imm = r.signed(32)
	case OpI64Const:
		in.Imm = r.signed(64)
	case OpF32Const:
		in.Imm = int64(binary.LittleEndian.Uint32(r.take(4)))
	case OpF64Const:
		in.Imm = int64(binary.LittleEndian.Uint64(r.take(8)))
	case OpRefNull:
		in.Types = append(in.Types, r.refType())
	default:
		if f, ok := foreign(b); ok {
			at.refuse(f, "opcode %#x", b)
		}
		at.fail("unknown opcode %#x", b)
	}
}

func (w *walker) prefixed(at reader, r *reader, in *Instr) {
	sub := r.u32()
	if sub > uint32(OpTableFill&0xff) {
		if sub >= 19 && sub <= 22 {
			at.refuse(WideArithmetic, "opcode 0xfc %d", sub)
		}
		at.fail("unknown opcode 0xfc %d", sub)
	}
	in.Op = opPrefixed<<8 | Opcode(sub)
	switch in.Op {
	case OpMemoryInit:
		in.Index = w.dataIndex(r)
		w.memoryIndex(r)
	case OpDataDrop:
		in.Index = w.dataIndex(r)
	case OpMemoryCopy:
		w.memoryIndex(r)
		w.memoryIndex(r)
	case OpMemoryFill:
		w.memoryIndex(r)
	case OpTableInit:
		in.Index = r.index("element segment", uint64(len(w.m.Elems)))
		in.Index2 = r.index("table", w.m.numTables())
	case OpElemDrop:
		in.Index = r.index("element segment", uint64(len(w.m.Elems)))
	case OpTableCopy:
		in.Index = r.index("table", w.m.numTables())
		in.Index2 = r.index("table", w.m.numTables())
	case OpTableGrow, OpTableSize, OpTableFill:
		in.Index = r.index("table", w.m.numTables())
	}
}

// dataIndex needs the data count section, as the specification does.
func (w *walker) dataIndex(r *reader) uint32 {
	if w.m.DataCount == nil {
		r.fail("data index without a data count section")
	}
	return r.index("data segment", uint64(len(w.m.Datas)))
}

func (w *walker) memoryIndex(r *reader) {
	if b := r.byte(); b != 0 {
		r.refuse(MultiMemory, "memory index %d", b)
	}
	if w.m.numMemories() == 0 {
		r.fail("instruction needs a memory")
	}
}

// maxAlign is the largest alignment exponent of the set's accesses; with bit 6
// an index of a memory follows.
const (
	maxAlign    = 3
	alignMemory = 1 << 6
)

func (w *walker) memoryAccess(r *reader, in *Instr) {
	in.Index = r.u32()
	switch {
	case in.Index&alignMemory != 0 && in.Index < 2*alignMemory:
		r.refuse(MultiMemory, "memory access with a memory index")
	case in.Index > maxAlign:
		r.fail("alignment 2^%d", in.Index)
	case w.m.numMemories() == 0:
		r.fail("instruction needs a memory")
	}
	in.Imm = int64(r.u32())
}

func (w *walker) blockType(r *reader) BlockType {
	if r.left() > 0 {
		switch b := r.b[r.pos]; {
		case b == 0x40:
			r.pos++
			return BlockType{Index: -1}
		case b&0xc0 == 0x40: // a negative number of one byte is a value type
			return BlockType{-1, r.valueType()}
		}
	}
	i := r.signed(33)
	if i < 0 || i >= int64(len(w.m.Types)) {
		r.fail("block type index %d of %d", i, len(w.m.Types))
	}
	return BlockType{Index: i}
}

func (w *walker) label(r *reader) uint32 { return r.index("label", uint64(len(w.blocks))) }

func (w *walker) branchTable(r *reader, in *Instr) {
	n := r.count("branch targets", maxBranches, 1)
	w.labels = w.labels[:0]
	for ; n > 0; n-- {
		w.labels = append(w.labels, w.label(r))
	}
	in.Labels = w.labels
	in.Index = w.label(r)
}
