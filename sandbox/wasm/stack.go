package wasm

import "fmt"

// A Stack follows the height of the operand stack through a function, by the
// number of operands each instruction takes and leaves; it does not know their
// types. It refuses code whose heights do not add up, which is never valid.
type Stack struct {
	m      *Module
	height int
	frames []frame
}

// A frame is an open block.
type frame struct {
	base            int // height below the block's parameters
	params, results int
	dead            bool // what follows cannot be reached: any number of operands can be taken
}

// Begin starts a function of m. A Stack can be used for one after the other.
func (s *Stack) Begin(m *Module, t FuncType) {
	s.m, s.height = m, 0
	s.frames = append(s.frames[:0], frame{results: len(t.Results)})
}

// Height is the number of operands before the next instruction, of all open
// blocks together.
func (s *Stack) Height() int { return s.height }

// Step follows one instruction, in the order in which [Module.Decode] shows
// them. Its error wraps [ErrMalformed].
func (s *Stack) Step(in *Instr) error {
	pops, pushes := s.arity(in)
	top := &s.frames[len(s.frames)-1]
	s.height -= pops
	if s.height < top.base {
		if !top.dead {
			return fmt.Errorf("%w: operand missing at offset %d", ErrMalformed, in.Start)
		}
		s.height = top.base
	}
	s.height += pushes
	switch in.Op {
	case OpBlock, OpLoop, OpIf:
		params, results := s.blockArity(in.Block)
		if s.height-params < top.base && !top.dead {
			return fmt.Errorf("%w: operand missing at offset %d", ErrMalformed, in.Start)
		}
		s.height = max(s.height-params, top.base)
		s.frames = append(s.frames, frame{base: s.height, params: params, results: results, dead: false})
		s.height += params
	case OpElse, OpEnd:
		if s.height != top.base+top.results && (!top.dead || s.height > top.base+top.results) {
			return fmt.Errorf("%w: block with %d results ends with %d operands at offset %d",
				ErrMalformed, top.results, s.height-top.base, in.Start)
		}
		if in.Op == OpElse {
			s.height, top.dead = top.base+top.params, false
			break
		}
		s.height = top.base + top.results
		s.frames = s.frames[:len(s.frames)-1]
	case OpUnreachable, OpBr, OpBrTable, OpReturn:
		s.height, top.dead = top.base, true
	}
	return nil
}

func (s *Stack) blockArity(b BlockType) (params, results int) {
	switch {
	case b.Index >= 0:
		t := s.m.Types[b.Index]
		return len(t.Params), len(t.Results)
	case b.Result != 0:
		return 0, 1
	}
	return 0, 0
}

// arity is the number of operands an instruction takes and leaves, apart from
// those of blocks and branches.
func (s *Stack) arity(in *Instr) (pops, pushes int) {
	switch op := in.Op; {
	case op == OpCall:
		t, _ := s.m.FuncType(in.Index)
		return len(t.Params), len(t.Results)
	case op == OpCallIndirect:
		t := s.m.Types[in.Index]
		return len(t.Params) + 1, len(t.Results)
	case op >= OpI32Eqz && op <= OpI64Extend32S:
		if unary(op) {
			return 1, 1
		}
		return 2, 1
	case op >= OpI32Load && op < OpI32Store:
		return 1, 1
	case op >= OpI32Store && op <= OpI64Store32:
		return 2, 0
	case op >= OpI32TruncSatF32S && op <= OpI64TruncSatF64U:
		return 1, 1
	}
	switch in.Op {
	case OpIf, OpBrIf, OpBrTable, OpDrop, OpLocalSet, OpGlobalSet:
		return 1, 0
	case OpSelect, OpSelectTyped:
		return 3, 1
	case OpLocalGet, OpGlobalGet, OpMemorySize, OpI32Const, OpI64Const, OpF32Const, OpF64Const, OpRefNull, OpRefFunc, OpTableSize:
		return 0, 1
	case OpLocalTee, OpTableGet, OpMemoryGrow, OpRefIsNull:
		return 1, 1
	case OpTableSet:
		return 2, 0
	case OpTableGrow:
		return 2, 1
	case OpMemoryInit, OpMemoryCopy, OpMemoryFill, OpTableInit, OpTableCopy, OpTableFill:
		return 3, 0
	}
	return 0, 0
}

// unary tells the numeric instructions of one operand from those of two.
func unary(op Opcode) bool {
	switch {
	case op == OpI32Eqz, op == 0x50: // eqz
	case op >= 0x67 && op <= 0x69, op >= 0x79 && op <= 0x7b: // clz to popcnt
	case op >= 0x8b && op <= 0x91, op >= 0x99 && op <= 0x9f: // abs to sqrt
	case op >= 0xa7: // conversions and sign extensions
	default:
		return false
	}
	return true
}
