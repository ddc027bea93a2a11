package wasm

import (
	"fmt"
	"slices"
)

// maxPages is the most pages of 64 KiB that a memory can have.
const maxPages = 65_536

// Validate checks what the specification wants of a module outside of its
// code: the types of constant expressions, segments and the start function,
// and the size of memories. With [Stack] for every function, a module that
// passes is valid. Its error wraps [ErrInvalid].
func (m *Module) Validate() error {
	for _, l := range slices.Concat(m.importMemories, m.Memories) {
		if l.Min > maxPages || (l.HasMax && l.Max > maxPages) {
			return fmt.Errorf("%w: memory of more than %d pages", ErrInvalid, maxPages)
		}
	}
	for i, g := range m.Globals {
		if t := m.constType(g.Init); t != g.Type {
			return fmt.Errorf("%w: global %d is %v and initialised with %v", ErrInvalid, i, g.Type, t)
		}
	}
	if m.Start != nil {
		if t, _ := m.FuncType(*m.Start); len(t.Params)+len(t.Results) != 0 {
			return fmt.Errorf("%w: start function has the signature %v", ErrInvalid, t)
		}
	}
	for i, d := range m.Datas {
		if d.Mode == Active && m.constType(d.Offset) != I32 {
			return fmt.Errorf("%w: offset of data segment %d is %v", ErrInvalid, i, m.constType(d.Offset))
		}
	}
	for i, e := range m.Elems {
		if err := m.validElem(e); err != nil {
			return fmt.Errorf("%w: element segment %d: %w", ErrInvalid, i, err)
		}
	}
	return nil
}

func (m *Module) validElem(e Elem) error {
	if e.Mode == Active {
		if t := m.constType(e.Offset); t != I32 {
			return fmt.Errorf("offset is %v", t)
		}
		if t := m.table(e.Table).Type; t != e.Type {
			return fmt.Errorf("of %v for a table of %v", e.Type, t)
		}
	}
	for _, x := range e.Exprs {
		if t := m.constType(x); t != e.Type {
			return fmt.Errorf("element is %v, must be %v", t, e.Type)
		}
	}
	return nil
}

// constType is the type of a constant expression, unknown if it reads a
// mutable global.
func (m *Module) constType(e ConstExpr) ValueType {
	switch e.Op {
	case OpI32Const:
		return I32
	case OpI64Const:
		return I64
	case OpF32Const:
		return F32
	case OpF64Const:
		return F64
	case OpRefNull:
		return e.Type
	case OpRefFunc:
		return FuncRef
	}
	if g := m.global(e.Index); !g.Mutable {
		return g.Type
	}
	return unknown
}

// global returns a global by its index, imports included; of an imported one
// there is only the type.
func (m *Module) global(index uint32) Global {
	if n := uint32(len(m.importGlobals)); index >= n {
		return m.Globals[index-n]
	}
	return m.importGlobals[index]
}

// table returns a table by its index, imports included.
func (m *Module) table(index uint32) Table {
	if n := uint32(len(m.importTables)); index >= n {
		return m.Tables[index-n]
	}
	return m.importTables[index]
}

// declares reports whether a function is named outside of the code, which
// ref.func wants.
func (m *Module) declares(index uint32) bool { return m.declared[index] }

// declare notes the functions that exports, globals and elements name.
func (m *Module) declare() {
	m.declared = make(map[uint32]bool)
	note := func(e ConstExpr) {
		if e.Op == OpRefFunc {
			m.declared[e.Index] = true
		}
	}
	for _, e := range m.Exports {
		if e.Kind == KindFunc {
			m.declared[e.Index] = true
		}
	}
	for _, g := range m.Globals {
		note(g.Init)
	}
	for _, e := range m.Elems {
		for _, f := range e.Funcs {
			m.declared[f] = true
		}
		for _, x := range e.Exprs {
			note(x)
		}
	}
}
