package wasm

import (
	"fmt"
	"slices"
)

// A Stack follows the operand stack through a function and checks the types
// of its code, as chapter 3 of the specification has it. One is used for all
// functions of a module.
type Stack struct {
	m      *Module
	values []ValueType // unknown for operands of code that cannot be reached
	frames []frame
	locals []ValueType
	long   bool // more locals than maxLocals
	work   int  // operands of calls, blocks and branches until now
}

// unknown is the type of an operand that may have any, in code that cannot be
// reached.
const unknown ValueType = 0

const (
	// maxLocals bounds the parameters and locals of a function: engines take no
	// more.
	maxLocals = 50_000
	// maxWork bounds the operands that calls, blocks and branches move in a
	// module, most a thousand each: a second of work at most. Compilers' modules
	// are at a few million.
	maxWork = 1 << 28
)

// A frame is an open block.
type frame struct {
	base            int // height below the block's parameters
	params, results []ValueType
	op              Opcode
	dead            bool // what follows cannot be reached: any operands can be taken
}

// label are the types of the operands that a branch to the block takes along.
func (f *frame) label() []ValueType {
	if f.op == OpLoop {
		return f.params
	}
	return f.results
}

// Begin starts a function of m.
func (s *Stack) Begin(m *Module, code Code) {
	if s.m != m {
		s.m, s.work = m, 0
	}
	s.values = s.values[:0]
	s.frames = append(s.frames[:0], frame{results: code.Type.Results, op: OpBlock})
	s.locals = append(s.locals[:0], code.Type.Params...)
	if s.long = code.NumLocals > maxLocals; s.long {
		return
	}
	for _, run := range code.Locals {
		for range run.Count {
			s.locals = append(s.locals, run.Type)
		}
	}
}

// Height is the number of operands before the next instruction, of all open
// blocks together.
func (s *Stack) Height() int { return len(s.values) }

// Step follows one instruction, in the order in which [Module.Decode] shows
// them. Its error wraps [ErrInvalid].
func (s *Stack) Step(in *Instr) error {
	if s.long {
		return s.invalid(in, "more than %d locals", maxLocals)
	}
	var err error
	if sig := s.signature(in); sig != nil {
		err = s.apply(sig)
	} else {
		err = s.special(in)
	}
	if err != nil {
		return s.invalid(in, "%w", err)
	}
	if s.work > maxWork {
		return s.invalid(in, "code moves more than %d operands", maxWork)
	}
	return nil
}

func (s *Stack) invalid(in *Instr, format string, args ...any) error {
	return fmt.Errorf("%w: %w at offset %d", ErrInvalid, fmt.Errorf(format, args...), in.Start)
}

// apply takes a signature's parameters and leaves its results.
func (s *Stack) apply(sig *signature) error {
	for i := int(sig.n) - 1; i >= 0; i-- {
		if err := s.pop(sig.params[i]); err != nil {
			return err
		}
	}
	if sig.result != 0 {
		s.values = append(s.values, sig.result)
	}
	return nil
}

func (s *Stack) top() *frame { return &s.frames[len(s.frames)-1] }

// take takes an operand of any type.
func (s *Stack) take() (ValueType, error) {
	top := s.top()
	n := len(s.values)
	if n == top.base {
		if top.dead {
			return unknown, nil
		}
		return 0, fmt.Errorf("operand missing")
	}
	t := s.values[n-1]
	s.values = s.values[:n-1]
	return t, nil
}

func (s *Stack) pop(want ValueType) error {
	got, err := s.take()
	if err == nil && got != want && got != unknown && want != unknown {
		err = fmt.Errorf("operand is %v, must be %v", got, want)
	}
	return err
}

func (s *Stack) popAll(types []ValueType) error {
	s.work += len(types)
	for _, t := range slices.Backward(types) {
		if err := s.pop(t); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) push(types ...ValueType) {
	s.work += len(types)
	s.values = append(s.values, types...)
}

// never marks what follows as out of reach.
func (s *Stack) never() {
	top := s.top()
	s.values, top.dead = s.values[:top.base], true
}

// singles are lists of one type, so that blocks with one result need no
// allocation.
var singles = func() (list [256][]ValueType) {
	for i := range list {
		list[i] = []ValueType{ValueType(i)}
	}
	return list
}()

func (s *Stack) blockTypes(b BlockType) (params, results []ValueType) {
	switch {
	case b.Index >= 0:
		t := s.m.Types[b.Index]
		return t.Params, t.Results
	case b.Result != 0:
		return nil, singles[b.Result]
	}
	return nil, nil
}

func (s *Stack) begin(in *Instr) error {
	params, results := s.blockTypes(in.Block)
	if err := s.popAll(params); err != nil {
		return err
	}
	s.frames = append(s.frames, frame{base: len(s.values), params: params, results: results, op: in.Op})
	s.push(params...)
	return nil
}

// end closes a block, or the first arm of an if.
func (s *Stack) end(op Opcode) error {
	top := s.top()
	if n := len(s.values) - top.base; n != len(top.results) && (!top.dead || n > len(top.results)) {
		return fmt.Errorf("block with %d results ends with %d operands", len(top.results), n)
	}
	if err := s.popAll(top.results); err != nil {
		return err
	}
	if op == OpElse {
		top.op, top.dead = OpElse, false
		s.push(top.params...)
		return nil
	}
	if top.op == OpIf && !slices.Equal(top.params, top.results) {
		return fmt.Errorf("if without else changes the operands")
	}
	s.frames = s.frames[:len(s.frames)-1]
	s.push(top.results...)
	return nil
}

// branch takes along what the label's block wants and leaves it there.
func (s *Stack) branch(label uint32) error {
	types := s.frames[len(s.frames)-1-int(label)].label()
	if err := s.popAll(types); err != nil {
		return err
	}
	s.push(types...)
	return nil
}

func (s *Stack) branchTable(in *Instr) error {
	if err := s.pop(I32); err != nil {
		return err
	}
	arity := len(s.frames[len(s.frames)-1-int(in.Index)].label())
	height := len(s.values)
	for _, l := range in.Labels {
		types := s.frames[len(s.frames)-1-int(l)].label()
		if len(types) != arity {
			return fmt.Errorf("targets take %d and %d operands", len(types), arity)
		}
		kept := slices.Clone(s.values[max(s.top().base, height-arity):]) // with what is unknown
		if err := s.popAll(types); err != nil {
			return err
		}
		s.push(kept...)
	}
	if err := s.branch(in.Index); err != nil {
		return err
	}
	s.never()
	return nil
}

func (s *Stack) call(t FuncType) error {
	if err := s.popAll(t.Params); err != nil {
		return err
	}
	s.push(t.Results...)
	return nil
}
