package wasm

import "strings"

// Bounds on what a module may declare. Those of the web embedding of
// WebAssembly, so that what toolchains are tested against passes, but for what
// every instance pays for and no run is charged: globals, tables and elements.
const (
	maxTypes      = 1_000_000
	maxFunctions  = 1_000_000
	maxImports    = 100_000
	maxExports    = 100_000
	maxGlobals    = 1 << 16
	maxSegments   = 100_000
	maxTables     = 64      // each costs the engine a structure per instance
	maxElements   = 1 << 20 // of all segments together
	maxArity      = 1_000   // parameters, or results, of a type
	maxBranches   = 65_520  // targets of one br_table
	maxLocalRuns  = 50_000  // groups of locals of a function
	maxNestedCtrl = 65_536  // blocks open at once; the module's own bytes bound the rest
)

// A ValueType is the type of a value, as its byte in the binary format.
type ValueType byte

// The value types of the accepted set.
const (
	I32       ValueType = 0x7f
	I64       ValueType = 0x7e
	F32       ValueType = 0x7d
	F64       ValueType = 0x7c
	FuncRef   ValueType = 0x70
	ExternRef ValueType = 0x6f
)

func (t ValueType) String() string {
	switch t {
	case I32:
		return "i32"
	case I64:
		return "i64"
	case F32:
		return "f32"
	case F64:
		return "f64"
	case FuncRef:
		return "funcref"
	case ExternRef:
		return "externref"
	}
	return "?"
}

// A FuncType is the type of a function.
type FuncType struct{ Params, Results []ValueType }

// String is the signature in the form "(i32, i64) i32".
func (t FuncType) String() string {
	s := "(" + joinTypes(t.Params) + ")"
	switch len(t.Results) {
	case 0:
		return s
	case 1:
		return s + " " + t.Results[0].String()
	}
	return s + " (" + joinTypes(t.Results) + ")"
}

func joinTypes(list []ValueType) string {
	words := make([]string, len(list))
	for i, t := range list {
		words[i] = t.String()
	}
	return strings.Join(words, ", ")
}

// A Kind says what an import or export is.
type Kind byte

// The kinds of external.
const (
	KindFunc   Kind = 0
	KindTable  Kind = 1
	KindMemory Kind = 2
	KindGlobal Kind = 3

	kindTag Kind = 4 // of exception handling, refused
)

func (k Kind) String() string {
	switch k {
	case KindFunc:
		return "function"
	case KindTable:
		return "table"
	case KindMemory:
		return "memory"
	case KindGlobal:
		return "global"
	}
	return "?"
}

// An Import is one import. Type is the type index of a function and 0 for
// other kinds, whose descriptions are checked for form and not kept: a module
// that imports them is not admitted.
type Import struct {
	Module, Name string
	Kind         Kind
	Type         uint32
}

// An Export names the item of a kind with an index.
type Export struct {
	Name  string
	Kind  Kind
	Index uint32
}

// Limits are the minimum and, if HasMax, the maximum of a memory (in pages of
// 64 KiB) or table (in entries).
type Limits struct {
	Min, Max uint32
	HasMax   bool
}

// A Table is a table the module defines.
type Table struct {
	Type ValueType
	Limits
}

// A Global is a global the module defines.
type Global struct {
	Type    ValueType
	Mutable bool
	Init    ConstExpr
}

// A ConstExpr is a constant expression: one instruction and its end.
type ConstExpr struct {
	Op     Opcode
	Value  int64     // of i32.const and i64.const; the bits of f32.const and f64.const
	Index  uint32    // of global.get and ref.func
	Type   ValueType // of ref.null
	Offset int       // in the module
	End    int       // offset after its end instruction
}

// A Mode says how a segment is used.
type Mode byte

// The modes of segments.
const (
	Active Mode = iota
	Passive
	Declarative // element segments only
)

// An Elem is an element segment.
type Elem struct {
	Mode   Mode
	Table  uint32    // of an active segment
	Offset ConstExpr // of an active segment
	Type   ValueType
	Count  uint32
	// Funcs are the function indexes of a segment that lists them; a segment of
	// expressions has Exprs instead.
	Funcs []uint32
	Exprs []ConstExpr
}

// A Data is a data segment.
type Data struct {
	Mode   Mode
	Offset ConstExpr // of an active segment
	Bytes  []byte
}

// A Module is a decoded module. Index spaces begin with the imports, as in the
// specification; Funcs, Tables, Memories and Globals hold what is defined.
type Module struct {
	Types    []FuncType
	Imports  []Import
	Funcs    []uint32 // type index of each defined function
	Tables   []Table
	Memories []Limits
	Globals  []Global
	Exports  []Export
	Start    *uint32 // function index
	Elems    []Elem
	Datas    []Data
	Bodies   []Body // parallel to Funcs
	// DataCount is the data count section's number, if there is one.
	DataCount *uint32

	imported    [4]uint32 // number of imports of each kind
	importTypes []uint32  // type index of each imported function

	importGlobals  []Global // only the types
	importTables   []Table
	importMemories []Limits
	declared       map[uint32]bool // functions that ref.func may name
}

// ImportedFuncs is the number of imported functions, the index of the first
// defined one.
func (m *Module) ImportedFuncs() uint32 { return m.imported[KindFunc] }

// FuncType returns the type of a function by its index, imports included.
func (m *Module) FuncType(index uint32) (FuncType, bool) {
	if uint64(index) < uint64(len(m.importTypes)) {
		return m.Types[m.importTypes[index]], true
	}
	i := uint64(index) - uint64(len(m.importTypes))
	if i >= uint64(len(m.Funcs)) {
		return FuncType{}, false
	}
	return m.Types[m.Funcs[i]], true
}

// Export returns the export with the given name.
func (m *Module) Export(name string) (Export, bool) {
	for _, e := range m.Exports {
		if e.Name == name {
			return e, true
		}
	}
	return Export{}, false
}

func (m *Module) numFuncs() uint64 {
	return uint64(m.imported[KindFunc]) + uint64(len(m.Funcs))
}

func (m *Module) numGlobals() uint64 {
	return uint64(m.imported[KindGlobal]) + uint64(len(m.Globals))
}

func (m *Module) numTables() uint64 {
	return uint64(m.imported[KindTable]) + uint64(len(m.Tables))
}

func (m *Module) numMemories() uint64 {
	return uint64(m.imported[KindMemory]) + uint64(len(m.Memories))
}
