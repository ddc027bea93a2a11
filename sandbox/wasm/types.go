package wasm

import "fmt"

// A signature is what an instruction takes and leaves.
type signature struct {
	params [3]ValueType
	n      uint8
	result ValueType // 0 for none
}

func sig(result ValueType, params ...ValueType) signature {
	s := signature{result: result, n: uint8(len(params))}
	copy(s.params[:], params)
	return s
}

// plain are the signatures of the instructions of one byte whose types depend
// on nothing else; has tells which these are.
var plain, hasPlain = func() (table [256]signature, has [256]bool) {
	set := func(first, last Opcode, s signature) {
		for op := first; op <= last; op++ {
			table[op], has[op] = s, true
		}
	}
	set(OpNop, OpNop, sig(0))
	for op, t := range map[Opcode]ValueType{0x28: I32, 0x29: I64, 0x2a: F32, 0x2b: F64} { // loads
		set(op, op, sig(t, I32))
	}
	set(0x2c, 0x2f, sig(I32, I32))
	set(0x30, 0x35, sig(I64, I32))
	for op, t := range map[Opcode]ValueType{0x36: I32, 0x37: I64, 0x38: F32, 0x39: F64} { // stores
		set(op, op, sig(0, I32, t))
	}
	set(0x3a, 0x3b, sig(0, I32, I32))
	set(0x3c, 0x3e, sig(0, I32, I64))
	set(OpMemorySize, OpMemorySize, sig(I32))
	set(OpMemoryGrow, OpMemoryGrow, sig(I32, I32))
	set(OpI32Const, OpI32Const, sig(I32))
	set(OpI64Const, OpI64Const, sig(I64))
	set(OpF32Const, OpF32Const, sig(F32))
	set(OpF64Const, OpF64Const, sig(F64))
	set(0x45, 0x45, sig(I32, I32)) // tests and comparisons
	set(0x46, 0x4f, sig(I32, I32, I32))
	set(0x50, 0x50, sig(I32, I64))
	set(0x51, 0x5a, sig(I32, I64, I64))
	set(0x5b, 0x60, sig(I32, F32, F32))
	set(0x61, 0x66, sig(I32, F64, F64))
	set(0x67, 0x69, sig(I32, I32)) // arithmetic
	set(0x6a, 0x78, sig(I32, I32, I32))
	set(0x79, 0x7b, sig(I64, I64))
	set(0x7c, 0x8a, sig(I64, I64, I64))
	set(0x8b, 0x91, sig(F32, F32))
	set(0x92, 0x98, sig(F32, F32, F32))
	set(0x99, 0x9f, sig(F64, F64))
	set(0xa0, 0xa6, sig(F64, F64, F64))
	set(0xa7, 0xa7, sig(I32, I64)) // conversions
	set(0xa8, 0xa9, sig(I32, F32))
	set(0xaa, 0xab, sig(I32, F64))
	set(0xac, 0xad, sig(I64, I32))
	set(0xae, 0xaf, sig(I64, F32))
	set(0xb0, 0xb1, sig(I64, F64))
	set(0xb2, 0xb3, sig(F32, I32))
	set(0xb4, 0xb5, sig(F32, I64))
	set(0xb6, 0xb6, sig(F32, F64))
	set(0xb7, 0xb8, sig(F64, I32))
	set(0xb9, 0xba, sig(F64, I64))
	set(0xbb, 0xbb, sig(F64, F32))
	set(0xbc, 0xbc, sig(I32, F32))
	set(0xbd, 0xbd, sig(I64, F64))
	set(0xbe, 0xbe, sig(F32, I32))
	set(0xbf, 0xbf, sig(F64, I64))
	set(0xc0, 0xc1, sig(I32, I32))
	set(0xc2, 0xc4, sig(I64, I64))
	return table, has
}()

// prefixed are the signatures of instructions that begin with 0xfc, but those
// that depend on a table.
var prefixed = [...]signature{
	sig(I32, F32), sig(I32, F32), sig(I32, F64), sig(I32, F64),
	sig(I64, F32), sig(I64, F32), sig(I64, F64), sig(I64, F64),
	sig(0, I32, I32, I32), sig(0), sig(0, I32, I32, I32), sig(0, I32, I32, I32), // memory.init, data.drop, memory.copy, memory.fill
	sig(0, I32, I32, I32), sig(0), sig(0, I32, I32, I32), // table.init, elem.drop, table.copy
	sig(I32, unknown, I32), sig(I32), sig(0, I32, unknown, I32), // table.grow, table.size, table.fill
}

// natural is the exponent of each memory access's width, the largest alignment
// it may have, from i32.load to i64.store32.
var natural = [...]uint32{2, 3, 2, 3, 0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 3, 2, 3, 0, 1, 0, 1, 2}

// signature is what in takes and leaves, if that depends on the opcode only
// and nothing else has to be checked.
func (s *Stack) signature(in *Instr) *signature {
	if in.Op > 0xff {
		if in.Op <= OpMemoryFill || in.Op == OpElemDrop || in.Op == OpTableSize {
			return &prefixed[in.Op&0xff]
		}
		return nil
	}
	if !hasPlain[in.Op] || (in.Op >= OpI32Load && in.Op <= OpI64Store32 && in.Index > natural[in.Op-OpI32Load]) {
		return nil
	}
	return &plain[in.Op]
}

// special follows the other instructions.
func (s *Stack) special(in *Instr) error {
	switch in.Op {
	case OpUnreachable:
		s.never()
	case OpBlock, OpLoop:
		return s.begin(in)
	case OpIf:
		if err := s.pop(I32); err != nil {
			return err
		}
		return s.begin(in)
	case OpElse, OpEnd:
		return s.end(in.Op)
	case OpBr, OpReturn:
		label := in.Index
		if in.Op == OpReturn {
			label = uint32(len(s.frames) - 1)
		}
		if err := s.branch(label); err != nil {
			return err
		}
		s.never()
	case OpBrIf:
		if err := s.pop(I32); err != nil {
			return err
		}
		return s.branch(in.Index)
	case OpBrTable:
		return s.branchTable(in)
	case OpCall:
		t, _ := s.m.FuncType(in.Index)
		return s.call(t)
	case OpCallIndirect:
		if t := s.m.table(in.Index2).Type; t != FuncRef {
			return fmt.Errorf("call through a table of %v", t)
		}
		if err := s.pop(I32); err != nil {
			return err
		}
		return s.call(s.m.Types[in.Index])
	case OpDrop:
		_, err := s.take()
		return err
	case OpSelect:
		return s.choose()
	case OpSelectTyped:
		if len(in.Types) != 1 {
			return fmt.Errorf("select of %d types", len(in.Types))
		}
		one := sig(in.Types[0], in.Types[0], in.Types[0], I32)
		return s.apply(&one)
	case OpLocalGet:
		s.values = append(s.values, s.locals[in.Index])
	case OpLocalSet:
		return s.pop(s.locals[in.Index])
	case OpLocalTee:
		one := sig(s.locals[in.Index], s.locals[in.Index])
		return s.apply(&one)
	case OpGlobalGet, OpGlobalSet:
		g := s.m.global(in.Index)
		if in.Op == OpGlobalGet {
			s.values = append(s.values, g.Type)
			return nil
		}
		if !g.Mutable {
			return fmt.Errorf("global %d is not mutable", in.Index)
		}
		return s.pop(g.Type)
	case OpRefNull:
		s.values = append(s.values, in.Types[0])
	case OpRefIsNull:
		t, err := s.take()
		if err == nil && t != unknown && t != FuncRef && t != ExternRef {
			return fmt.Errorf("operand is %v, must be a reference", t)
		}
		s.values = append(s.values, I32)
		return err
	case OpRefFunc:
		if !s.m.declares(in.Index) {
			return fmt.Errorf("reference to function %d, which is not declared", in.Index)
		}
		s.values = append(s.values, FuncRef)
	default:
		return s.tables(in)
	}
	return nil
}

// choose follows a select without types.
func (s *Stack) choose() error {
	if err := s.pop(I32); err != nil {
		return err
	}
	b, err := s.take()
	if err != nil {
		return err
	}
	a, err := s.take()
	if err != nil {
		return err
	}
	if a == unknown {
		a, b = b, a
	}
	if a == FuncRef || a == ExternRef || b == FuncRef || b == ExternRef || (a != b && b != unknown) {
		return fmt.Errorf("select between %v and %v", a, b)
	}
	s.values = append(s.values, a)
	return nil
}

// tables follows the instructions on tables. What is left is an access with
// too large an alignment.
func (s *Stack) tables(in *Instr) error {
	if in.Op < 0xff && in.Op != OpTableGet && in.Op != OpTableSet {
		return fmt.Errorf("alignment 2^%d is more than the access is wide", in.Index)
	}
	var one signature
	switch in.Op {
	case OpTableGet:
		one = sig(s.m.table(in.Index).Type, I32)
	case OpTableSet:
		one = sig(0, I32, s.m.table(in.Index).Type)
	case OpTableInit:
		if a, b := s.m.Elems[in.Index].Type, s.m.table(in.Index2).Type; a != b {
			return fmt.Errorf("initialising a table of %v from a segment of %v", b, a)
		}
		one = prefixed[in.Op&0xff]
	case OpTableCopy:
		if a, b := s.m.table(in.Index).Type, s.m.table(in.Index2).Type; a != b {
			return fmt.Errorf("copying from a table of %v to one of %v", b, a)
		}
		one = prefixed[in.Op&0xff]
	case OpTableGrow:
		one = sig(I32, s.m.table(in.Index).Type, I32)
	case OpTableFill:
		one = sig(0, I32, s.m.table(in.Index).Type, I32)
	}
	return s.apply(&one)
}
