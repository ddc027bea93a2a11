package wasm

import (
	"encoding/binary"
)

const header = "\x00asm\x01\x00\x00\x00"

// Section numbers of the binary format.
const (
	SectionCustom    = 0
	SectionType      = 1
	SectionImport    = 2
	SectionFunction  = 3
	SectionTable     = 4
	SectionMemory    = 5
	SectionGlobal    = 6
	SectionExport    = 7
	SectionStart     = 8
	SectionElement   = 9
	SectionCode      = 10
	SectionData      = 11
	SectionDataCount = 12
	SectionTag       = 13
)

// The least bytes that an entry of a section takes.
const (
	leastType   = 3 // form, no parameters, no results
	leastImport = 4 // two empty names, kind, type
	leastTable  = 3 // type, flags, minimum
	leastExpr   = 3 // opcode, operand, end
	leastGlobal = 2 + leastExpr
	leastExport = 3 // empty name, kind, index
	leastElem   = 3 // flags, kind, no elements
	leastData   = 2 // flags, no bytes
)

// sectionOrder is the place of each section; the data count comes before the
// code.
var sectionOrder = [...]int{
	SectionType: 1, SectionImport: 2, SectionFunction: 3, SectionTable: 4, SectionMemory: 5, SectionGlobal: 6, SectionExport: 7,
	SectionStart: 8, SectionElement: 9, SectionDataCount: 10, SectionCode: 11, SectionData: 12,
}

// Decode decodes a module. It returns an error that wraps [ErrMalformed], or a
// [*FeatureError]. Function bodies are located here and decoded by
// [Module.Decode]. The module refers to b, which must not change.
func Decode(b []byte) (m *Module, err error) {
	defer catch(&err)
	r := &reader{b: b}
	r.header()
	m = &Module{}
	for last := 0; !r.done(); {
		at := *r
		id := r.byte()
		s := r.sub(r.u32())
		if id == SectionCustom {
			s.name()
			continue
		}
		if id == SectionTag {
			at.refuse(Exceptions, "tag section")
		}
		if int(id) >= len(sectionOrder) {
			at.fail("unknown section %d", id)
		}
		if order := sectionOrder[id]; order <= last {
			at.fail("section %d is repeated or out of order", id)
		} else {
			last = order
		}
		m.section(id, s)
		s.end("section")
	}
	if len(m.Bodies) != len(m.Funcs) {
		r.fail("%d functions and %d bodies", len(m.Funcs), len(m.Bodies))
	}
	if m.DataCount != nil && uint64(*m.DataCount) != uint64(len(m.Datas)) {
		r.fail("data count of %d and %d data segments", *m.DataCount, len(m.Datas))
	}
	m.declare()
	return m, nil
}

func (r *reader) header() {
	b := r.take(uint32(min(len(header), r.left())))
	if string(b) == header {
		return
	}
	r.pos = 0
	if len(b) == len(header) && string(b[:4]) == header[:4] {
		if binary.LittleEndian.Uint16(b[6:]) == 1 {
			r.refuse(Component, "component header")
		}
		r.fail("version %d is not 1", binary.LittleEndian.Uint32(b[4:]))
	}
	r.fail("not a WebAssembly binary")
}

func (m *Module) section(id byte, r *reader) {
	switch id {
	case SectionType:
		m.types(r)
	case SectionImport:
		m.imports(r)
	case SectionFunction:
		n := r.count("functions", maxFunctions, 1)
		m.Funcs = make([]uint32, n)
		for i := range m.Funcs {
			m.Funcs[i] = m.typeIndex(r)
		}
	case SectionTable:
		m.tables(r)
	case SectionMemory:
		for n := r.count("memories", maxTables, 2); n > 0; n-- {
			if m.numMemories() > 0 {
				r.refuse(MultiMemory, "second memory")
			}
			m.Memories = append(m.Memories, r.memory())
		}
	case SectionGlobal:
		m.globals(r)
	case SectionExport:
		m.exports(r)
	case SectionStart:
		i := m.funcIndex(r)
		m.Start = &i
	case SectionElement:
		m.elements(r)
	case SectionDataCount:
		n := r.u32()
		m.DataCount = &n
	case SectionCode:
		m.bodies(r)
	case SectionData:
		m.datas(r)
	}
}

func (m *Module) types(r *reader) {
	n := r.count("types", maxTypes, leastType)
	m.Types = make([]FuncType, n)
	for i := range m.Types {
		switch form := r.byte(); form {
		case 0x60:
		case 0x5e, 0x5f, 0x50, 0x4f, 0x4e:
			r.refuse(GC, "type form %#x", form)
		default:
			r.fail("type form %#x", form)
		}
		m.Types[i] = FuncType{r.valueTypes("parameters"), r.valueTypes("results")}
	}
}

func (r *reader) valueTypes(what string) []ValueType {
	list := make([]ValueType, r.count(what, maxArity, 1))
	for i := range list {
		list[i] = r.valueType()
	}
	return list
}

func (r *reader) valueType() ValueType {
	switch b := r.byte(); b {
	case 0x7f, 0x7e, 0x7d, 0x7c, 0x70, 0x6f:
		return ValueType(b)
	case 0x7b:
		r.refuse(SIMD, "type v128")
	case 0x63, 0x64:
		r.refuse(FunctionReferences, "typed reference")
	case 0x69, 0x74:
		r.refuse(Exceptions, "type exnref")
	case 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x71, 0x72, 0x73:
		r.refuse(GC, "reference type %#x", b)
	default:
		r.fail("value type %#x", b)
	}
	return 0
}

func (r *reader) refType() ValueType {
	t := r.valueType()
	if t != FuncRef && t != ExternRef {
		r.fail("%v is not a reference type", t)
	}
	return t
}

func (m *Module) imports(r *reader) {
	n := r.count("imports", maxImports, leastImport)
	m.Imports = make([]Import, n)
	for i := range m.Imports {
		im := Import{Module: r.name(), Name: r.name(), Kind: Kind(r.byte())}
		switch im.Kind {
		case KindFunc:
			im.Type = m.typeIndex(r)
			m.importTypes = append(m.importTypes, im.Type)
		case KindTable:
			m.importTables = append(m.importTables, r.table())
		case KindMemory:
			if m.numMemories() > 0 {
				r.refuse(MultiMemory, "second memory")
			}
			m.importMemories = append(m.importMemories, r.memory())
		case KindGlobal:
			t, mutable := r.globalType()
			m.importGlobals = append(m.importGlobals, Global{Type: t, Mutable: mutable})
		case kindTag:
			r.refuse(Exceptions, "imported tag")
		default:
			r.fail("import kind %d", im.Kind)
		}
		m.imported[im.Kind]++
		m.Imports[i] = im
	}
}

// Flags of limits. Those above the first belong to later proposals.
const (
	limitMax      = 1 << 0
	limitShared   = 1 << 1
	limit64       = 1 << 2
	limitPageSize = 1 << 3
	limitFlags    = 0x0f
)

func (r *reader) limits(what string) (l Limits) {
	flags := r.byte()
	switch {
	case flags&^limitFlags != 0:
		r.fail("%s flags %#x", what, flags)
	case flags&limit64 != 0:
		r.refuse(Memory64, "64-bit %s", what)
	case flags&limitPageSize != 0:
		r.refuse(CustomPageSizes, "%s with a page size", what)
	case flags&limitShared != 0:
		r.refuse(Threads, "shared %s", what)
	}
	l.Min = r.u32()
	if l.HasMax = flags&limitMax != 0; l.HasMax {
		l.Max = r.u32()
		if l.Max < l.Min {
			r.fail("%s with maximum %d below its minimum %d", what, l.Max, l.Min)
		}
	}
	return l
}

func (r *reader) table() Table {
	if r.left() > 0 && r.b[r.pos] == 0x40 {
		r.refuse(FunctionReferences, "table with an initial value")
	}
	t := r.refType()
	return Table{t, r.limits("table")}
}

func (r *reader) memory() Limits { return r.limits("memory") }

func (r *reader) globalType() (t ValueType, mutable bool) {
	t = r.valueType()
	switch b := r.byte(); b {
	case 0:
	case 1:
		mutable = true
	case 2, 3:
		r.refuse(Threads, "shared global")
	default:
		r.fail("mutability %#x", b)
	}
	return t, mutable
}

func (m *Module) tables(r *reader) {
	n := r.count("tables", maxTables, leastTable)
	m.Tables = make([]Table, n)
	for i := range m.Tables {
		m.Tables[i] = r.table()
	}
}

func (m *Module) globals(r *reader) {
	n := r.count("globals", maxGlobals, leastGlobal)
	m.Globals = make([]Global, n)
	for i := range m.Globals {
		g := &m.Globals[i]
		g.Type, g.Mutable = r.globalType()
		g.Init = m.constExpr(r)
	}
}

func (m *Module) exports(r *reader) {
	n := r.count("exports", maxExports, leastExport)
	m.Exports = make([]Export, n)
	seen := make(map[string]bool, n)
	for i := range m.Exports {
		e := Export{Name: r.name()}
		if seen[e.Name] {
			r.fail("export %q is repeated", e.Name)
		}
		seen[e.Name] = true
		e.Kind = Kind(r.byte())
		var size uint64
		switch e.Kind {
		case KindFunc:
			size = m.numFuncs()
		case KindTable:
			size = m.numTables()
		case KindMemory:
			size = m.numMemories()
		case KindGlobal:
			size = m.numGlobals()
		case kindTag:
			r.refuse(Exceptions, "exported tag")
		default:
			r.fail("export kind %d", e.Kind)
		}
		e.Index = r.index(e.Kind.String(), size)
		m.Exports[i] = e
	}
}

// index reads an index and checks it against the size of its space.
func (r *reader) index(what string, size uint64) uint32 {
	i := r.u32()
	if uint64(i) >= size {
		r.fail("%s index %d of %d", what, i, size)
	}
	return i
}

func (m *Module) typeIndex(r *reader) uint32 { return r.index("type", uint64(len(m.Types))) }

func (m *Module) funcIndex(r *reader) uint32 { return r.index("function", m.numFuncs()) }

// constExpr reads one of the constant expressions of WebAssembly 2.0.
func (m *Module) constExpr(r *reader) (e ConstExpr) {
	e.Offset = r.offset()
	at := *r
	e.Op = Opcode(r.byte())
	switch e.Op {
	case OpI32Const:
		e.Value = r.signed(32)
	case OpI64Const:
		e.Value = r.signed(64)
	case OpF32Const:
		e.Value = int64(binary.LittleEndian.Uint32(r.take(4)))
	case OpF64Const:
		e.Value = int64(binary.LittleEndian.Uint64(r.take(8)))
	case OpGlobalGet:
		e.Index = r.u32()
		if uint64(e.Index) >= uint64(m.imported[KindGlobal]) {
			at.refuse(GC, "constant expression over a defined global")
		}
	case OpRefNull:
		e.Type = r.refType()
	case OpRefFunc:
		e.Index = m.funcIndex(r)
	case 0xfb:
		at.refuse(GC, "constant expression")
	case 0xfd:
		at.refuse(SIMD, "constant expression")
	default:
		at.fail("opcode %#x in a constant expression", byte(e.Op))
	}
	at = *r
	if op := r.byte(); op != byte(OpEnd) {
		at.refuse(ExtendedConst, "constant expression of several instructions")
	}
	e.End = r.offset()
	return e
}

// Flags of an element segment.
const (
	elemNotActive = 1 << 0
	elemExplicit  = 1 << 1 // active: names its table; else: declarative
	elemExprs     = 1 << 2
)

func (m *Module) elements(r *reader) {
	n := r.count("element segments", maxSegments, leastElem)
	m.Elems = make([]Elem, n)
	total := uint32(0)
	for i := range m.Elems {
		e := Elem{Type: FuncRef}
		flags := r.u32()
		switch {
		case flags > 7:
			r.fail("element segment flags %#x", flags)
		case flags&elemNotActive == 0:
			if flags&elemExplicit != 0 {
				e.Table = r.u32()
			}
			if uint64(e.Table) >= m.numTables() {
				r.fail("table index %d of %d", e.Table, m.numTables())
			}
			e.Offset = m.constExpr(r)
		case flags&elemExplicit != 0:
			e.Mode = Declarative
		default:
			e.Mode = Passive
		}
		if flags&(elemNotActive|elemExplicit) != 0 {
			if flags&elemExprs != 0 {
				e.Type = r.refType()
			} else if kind := r.byte(); kind != 0 {
				r.fail("element kind %d", kind)
			}
		}
		least := uint32(1)
		if flags&elemExprs != 0 {
			least = leastExpr
		}
		e.Count = r.count("elements", maxElements-total, least)
		total += e.Count
		if flags&elemExprs != 0 {
			e.Exprs = make([]ConstExpr, e.Count)
			for k := range e.Exprs {
				e.Exprs[k] = m.constExpr(r)
			}
		} else {
			e.Funcs = make([]uint32, e.Count)
			for k := range e.Funcs {
				e.Funcs[k] = m.funcIndex(r)
			}
		}
		m.Elems[i] = e
	}
}

func (m *Module) datas(r *reader) {
	n := r.count("data segments", maxSegments, leastData)
	m.Datas = make([]Data, n)
	for i := range m.Datas {
		d := &m.Datas[i]
		switch flags := r.u32(); flags {
		case 0, 2:
			if flags == 2 {
				if index := r.u32(); index != 0 {
					r.refuse(MultiMemory, "data segment for memory %d", index)
				}
			}
			if m.numMemories() == 0 {
				r.fail("data segment without a memory")
			}
			d.Offset = m.constExpr(r)
		case 1:
			d.Mode = Passive
		default:
			r.fail("data segment flags %#x", flags)
		}
		d.Bytes = r.take(r.u32())
	}
}

func (m *Module) bodies(r *reader) {
	n := r.count("bodies", maxFunctions, 1)
	m.Bodies = make([]Body, n)
	for i := range m.Bodies {
		size := r.u32()
		offset := r.offset()
		m.Bodies[i] = Body{Offset: offset, Bytes: r.take(size)}
	}
}
