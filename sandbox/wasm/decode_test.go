package wasm

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// A recorder is a visitor that keeps what it sees.
type recorder struct {
	codes  []Code
	instrs []Instr
}

func (r *recorder) Function(_ int, code Code) error {
	code.Locals = slices.Clone(code.Locals)
	r.codes = append(r.codes, code)
	return nil
}

func (r *recorder) Instr(in *Instr) error {
	c := *in
	c.Labels, c.Types = slices.Clone(in.Labels), slices.Clone(in.Types)
	r.instrs = append(r.instrs, c)
	return nil
}

// decodeAll decodes a module and its bodies.
func decodeAll(b []byte) (*Module, *recorder, error) {
	m, err := Decode(b)
	if err != nil {
		return nil, nil, err
	}
	r := &recorder{}
	return m, r, m.Decode(r)
}

func TestDecodeModule(t *testing.T) {
	b := new(wasmtest.Builder).Memory(1, 9).Table(2, -1).Global('I', 0x42, 0x7f).Global('F', 0x44, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f)
	imported := b.Import("env", "f", "iF:I")
	b.ImportRaw("env", "g", 3, 0x7f, 0).ImportRaw("env", "t", 1, 0x6f, 0, 1)
	defined := b.Func("i:ii", "f", []byte{0x20, 0, 0x20, 0})
	b.Export("run", 0, defined).Export("memory", 2, 0).Export("table", 1, 1).Export("global", 3, 2)
	b.StartSection(defined).Elem(1, defined, imported).Data(3, "abc").PassiveData("defg")
	m, r, err := decodeAll(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := &Module{
		Types:       []FuncType{{[]ValueType{I32, F64}, []ValueType{I64}}, {[]ValueType{I32}, []ValueType{I32, I32}}},
		Imports:     []Import{{"env", "f", KindFunc, 0}, {"env", "g", KindGlobal, 0}, {"env", "t", KindTable, 0}},
		Funcs:       []uint32{1},
		Tables:      []Table{{FuncRef, Limits{Min: 2}}},
		Memories:    []Limits{{1, 9, true}},
		Globals:     m.Globals,
		Exports:     []Export{{"run", KindFunc, 1}, {"memory", KindMemory, 0}, {"table", KindTable, 1}, {"global", KindGlobal, 2}},
		Start:       new(uint32),
		Elems:       m.Elems,
		Datas:       m.Datas,
		Bodies:      m.Bodies,
		DataCount:   new(uint32),
		imported:    [4]uint32{1, 1, 0, 1},
		importTypes: []uint32{0},

		importGlobals: []Global{{Type: I32}},
		importTables:  []Table{{ExternRef, Limits{Min: 1}}},
		declared:      map[uint32]bool{0: true, 1: true},
	}
	*want.Start, *want.DataCount = 1, 2
	if !reflect.DeepEqual(m, want) {
		t.Errorf("module is\n%+v\nwant\n%+v", m, want)
	}
	if g := m.Globals; len(g) != 2 || g[0].Init.Value != -1 || g[1].Init.Value != 0x3ff0000000000000 || !g[0].Mutable || g[1].Type != F64 {
		t.Errorf("globals are %+v", g)
	}
	if e := m.Elems[0]; e.Mode != Active || e.Offset.Value != 1 || !slices.Equal(e.Funcs, []uint32{1, 0}) || e.Count != 2 {
		t.Errorf("element segment is %+v", e)
	}
	if d := m.Datas; d[0].Offset.Value != 3 || string(d[0].Bytes) != "abc" || d[1].Mode != Passive || string(d[1].Bytes) != "defg" {
		t.Errorf("data segments are %+v", d)
	}
	for i, want := range []string{"(i32, f64) i64", "(i32) (i32, i32)"} {
		if ft, ok := m.FuncType(uint32(i)); !ok || ft.String() != want {
			t.Errorf("function %d has type %v, %v", i, ft, ok)
		}
	}
	if _, ok := m.FuncType(2); ok || m.ImportedFuncs() != 1 {
		t.Error("there is a third function")
	}
	if e, ok := m.Export("memory"); !ok || e.Kind.String() != "memory" {
		t.Errorf("export is %v, %v", e, ok)
	}
	if _, ok := m.Export("nothing"); ok {
		t.Error("there is an export \"nothing\"")
	}
	if c := r.codes[0]; c.NumLocals != 2 || !slices.Equal(c.Locals, []LocalRun{{1, F32}}) || len(r.instrs) != 3 {
		t.Errorf("code is %+v, %d instructions", c, len(r.instrs))
	}
}

// TestElementForms decodes one segment of each of the eight forms.
func TestElementForms(t *testing.T) {
	refFunc := []byte{0xd2, 0, 0x0b}
	forms := [][]byte{
		append([]byte{0, 0x41, 0, 0x0b, 1}, 0),
		{1, 0, 1, 0},
		{2, 0, 0x41, 0, 0x0b, 0, 1, 0},
		{3, 0, 1, 0},
		append([]byte{4, 0x41, 0, 0x0b, 1}, refFunc...),
		append([]byte{5, 0x70, 1}, refFunc...),
		append([]byte{6, 0, 0x41, 0, 0x0b, 0x70, 1}, refFunc...),
		append([]byte{7, 0x70, 1}, refFunc...),
	}
	modes := []Mode{Active, Passive, Active, Declarative, Active, Passive, Active, Declarative}
	b := new(wasmtest.Builder).Table(1, 1)
	b.Func(":", "")
	for _, f := range forms {
		b.ElemRaw(f...)
	}
	m, _, err := decodeAll(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range m.Elems {
		if e.Mode != modes[i] || e.Count != 1 || (i < 4) != (len(e.Funcs) == 1) || (i >= 4) != (len(e.Exprs) == 1) {
			t.Errorf("form %d is %+v", i, e)
		}
	}
}

// TestDecodeInstructions decodes every instruction of the set, with operands
// that tell fields apart, and checks fields and extents.
func TestDecodeInstructions(t *testing.T) {
	type want struct {
		code []byte
		in   Instr
	}
	block := BlockType{Index: -1}
	list := []want{
		{[]byte{0x02, 0x40}, Instr{Op: OpBlock, Block: block}},
		{[]byte{0x03, 0x7e}, Instr{Op: OpLoop, Block: BlockType{-1, I64}}},
		{[]byte{0x04, 0x01}, Instr{Op: OpIf, Block: BlockType{Index: 1}}},
		{[]byte{0x05}, Instr{Op: OpElse}},
		{[]byte{0x0c, 3}, Instr{Op: OpBr, Index: 3}},
		{[]byte{0x0d, 2}, Instr{Op: OpBrIf, Index: 2}},
		{[]byte{0x0e, 2, 0, 1, 2}, Instr{Op: OpBrTable, Index: 2, Labels: []uint32{0, 1}}},
		{[]byte{0x0b}, Instr{Op: OpEnd}},
		{[]byte{0x0b}, Instr{Op: OpEnd}},
		{[]byte{0x0b}, Instr{Op: OpEnd}},
		{[]byte{0x10, 0}, Instr{Op: OpCall}},
		{[]byte{0x11, 1, 1}, Instr{Op: OpCallIndirect, Index: 1, Index2: 1}},
		{[]byte{0x1c, 1, 0x7d}, Instr{Op: OpSelectTyped, Types: []ValueType{F32}}},
		{[]byte{0x20, 1}, Instr{Op: OpLocalGet, Index: 1}},
		{[]byte{0x21, 1}, Instr{Op: OpLocalSet, Index: 1}},
		{[]byte{0x22, 0x81, 0}, Instr{Op: OpLocalTee, Index: 1}}, // padded
		{[]byte{0x23, 0}, Instr{Op: OpGlobalGet}},
		{[]byte{0x24, 0}, Instr{Op: OpGlobalSet}},
		{[]byte{0x25, 1}, Instr{Op: OpTableGet, Index: 1}},
		{[]byte{0x26, 1}, Instr{Op: OpTableSet, Index: 1}},
		{[]byte{0x3f, 0}, Instr{Op: OpMemorySize}},
		{[]byte{0x40, 0}, Instr{Op: OpMemoryGrow}},
		{[]byte{0x41, 0x7f}, Instr{Op: OpI32Const, Imm: -1}},
		{[]byte{0x41, 0x80, 0x80, 0x80, 0x80, 0x78}, Instr{Op: OpI32Const, Imm: -1 << 31}},
		{[]byte{0x42, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f}, Instr{Op: OpI64Const, Imm: -1 << 63}},
		{[]byte{0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00}, Instr{Op: OpI64Const, Imm: 1<<63 - 1}},
		{[]byte{0x43, 0, 0, 0xc0, 0x7f}, Instr{Op: OpF32Const, Imm: 0x7fc00000}},
		{[]byte{0x44, 1, 0, 0, 0, 0, 0, 0, 0x80}, Instr{Op: OpF64Const, Imm: -1<<63 + 1}},
		{[]byte{0xd0, 0x6f}, Instr{Op: OpRefNull, Types: []ValueType{ExternRef}}},
		{[]byte{0xd1}, Instr{Op: OpRefIsNull}},
		{[]byte{0xd2, 0}, Instr{Op: OpRefFunc}},
		{[]byte{0xfc, 8, 1, 0}, Instr{Op: OpMemoryInit, Index: 1}},
		{[]byte{0xfc, 9, 1}, Instr{Op: OpDataDrop, Index: 1}},
		{[]byte{0xfc, 10, 0, 0}, Instr{Op: OpMemoryCopy}},
		{[]byte{0xfc, 11, 0}, Instr{Op: OpMemoryFill}},
		{[]byte{0xfc, 12, 1, 1}, Instr{Op: OpTableInit, Index: 1, Index2: 1}},
		{[]byte{0xfc, 13, 1}, Instr{Op: OpElemDrop, Index: 1}},
		{[]byte{0xfc, 14, 1, 0}, Instr{Op: OpTableCopy, Index: 1}},
		{[]byte{0xfc, 15, 1}, Instr{Op: OpTableGrow, Index: 1}},
		{[]byte{0xfc, 16, 1}, Instr{Op: OpTableSize, Index: 1}},
		{[]byte{0xfc, 17, 1}, Instr{Op: OpTableFill, Index: 1}},
	}
	for _, op := range []Opcode{OpUnreachable, OpNop, OpReturn, OpDrop, OpSelect} {
		list = append(list, want{[]byte{byte(op)}, Instr{Op: op}})
	}
	for op := OpI32Load; op <= OpI64Store32; op++ {
		list = append(list, want{[]byte{byte(op), 2, 0x80, 1}, Instr{Op: op, Index: 2, Imm: 128}})
	}
	for op := OpI32Eqz; op <= OpI64Extend32S; op++ {
		list = append(list, want{[]byte{byte(op)}, Instr{Op: op}})
	}
	for sub := byte(0); sub <= 7; sub++ {
		list = append(list, want{[]byte{0xfc, sub}, Instr{Op: OpI32TruncSatF32S + Opcode(sub)}})
	}
	var code []byte
	for _, w := range list {
		code = append(code, w.code...)
	}
	b := new(wasmtest.Builder).Memory(1, -1).Table(1, 1).Table(1, 1).Global('i', 0x41, 0).
		Elem(0, 0).Elem(0, 0).PassiveData("").PassiveData("")
	b.Type("i:i") // type 0
	b.Func("i:ii", "I", code)
	m, r, err := decodeAll(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	at := m.Bodies[0].Offset + 3 // one group of locals
	depth := 1
	for i, w := range list {
		got := r.instrs[i]
		w.in.Start, w.in.End, w.in.Depth = at, at+len(w.code), depth
		at = w.in.End
		switch w.in.Op {
		case OpBlock, OpLoop, OpIf:
			depth++
		case OpEnd:
			depth--
		}
		if !reflect.DeepEqual(normal(got), normal(w.in)) {
			t.Errorf("%x decodes as\n%+v, want\n%+v", w.code, got, w.in)
		}
	}
	if last := r.instrs[len(list)]; last.Op != OpEnd || last.End != at+1 || len(r.instrs) != len(list)+1 {
		t.Errorf("last is %+v of %d", last, len(r.instrs))
	}
}

// normal makes empty lists nil.
func normal(in Instr) Instr {
	in.Labels, in.Types = append([]uint32(nil), in.Labels...), append([]ValueType(nil), in.Types...)
	return in
}

// section is a module of one section.
func section(id byte, body ...byte) []byte {
	return wasmtest.Section([]byte(header), id, body)
}

// code is a module of one function with the given code and a memory.
func code(body ...byte) []byte {
	b := new(wasmtest.Builder).Memory(1, -1)
	b.Func(":", "", body)
	return b.Bytes()
}

func TestMalformed(t *testing.T) {
	for name, test := range map[string]struct {
		module []byte
		want   string
	}{
		"empty":                 {nil, "not a WebAssembly binary"},
		"magic only":            {[]byte("\x00asm"), "not a WebAssembly binary"},
		"version 2":             {[]byte("\x00asm\x02\x00\x00\x00"), "version 2"},
		"section number":        {section(99), "unknown section 99"},
		"section order":         {append(section(3, 0), section(1, 0)[8:]...), "out of order"},
		"section twice":         {append(section(1, 0), section(1, 0)[8:]...), "repeated"},
		"section past the end":  {append([]byte(header), 1, 5, 0), "runs past the end"},
		"bytes after section":   {section(1, 0, 0), "left over"},
		"custom without name":   {section(0), "unexpected end"},
		"custom name":           {section(0, 1, 0xff), "not UTF-8"},
		"long count":            {section(1, 0xff, 0xff, 0xff, 0xff, 0x1f), "longer than 32 bits"},
		"six bytes":             {section(1, 0x80, 0x80, 0x80, 0x80, 0x80, 0), "longer than 32 bits"},
		"count beyond bytes":    {section(1, 100), "100 types in 0 bytes"},
		"count beyond bound":    {section(7, 0xa1, 0x8d, 0x06), "at most 100000"},
		"type form":             {section(1, 1, 0x61, 0, 0), "type form"},
		"value type":            {section(1, 1, 0x60, 1, 0x01, 0), "value type 0x1"},
		"too many parameters":   {section(1, 1, 0x60, 0xe9, 7), "1001 parameters"},
		"types in bytes":        {section(1, 2, 0x60, 0, 0, 0x60, 0), "2 types in 5 bytes"},
		"elements in bytes":     {section(9, 1, 5, 0x70, 2, 0xd0, 0x70, 0x0b, 0xd0, 0x70), "2 elements in 5 bytes"},
		"elements of all":       {section(9, slices.Concat([]byte{2, 5, 0x70, 1, 0xd0, 0x70, 0x0b, 1, 0}, wasmtest.U32(nil, 1<<20), make([]byte, 1<<20))...), "1048576 elements, at most 1048575"},
		"globals":               {section(6, slices.Concat(wasmtest.U32(nil, 1<<16+1), make([]byte, 5<<16+5))...), "65537 globals"},
		"globals in bytes":      {section(6, 2, 0x7f, 0, 0x41, 0, 0x0b, 0x7f, 0, 0x41, 0), "2 globals in 9 bytes"},
		"import kind":           {section(2, 1, 0, 0, 9, 0), "import kind 9"},
		"import type":           {section(2, 1, 0, 0, 0, 0), "type index 0 of 0"},
		"function type":         {section(3, 1, 0), "type index 0 of 0"},
		"table of numbers":      {section(4, 1, 0x7f, 0, 0), "not a reference type"},
		"table flags":           {section(4, 1, 0x70, 0x10, 0), "flags 0x10"},
		"maximum below minimum": {section(5, 1, 1, 2, 1), "below its minimum"},
		"mutability":            {section(6, 1, 0x7f, 7, 0x41, 0, 0x0b), "mutability"},
		"constant":              {section(6, 1, 0x7f, 0, 0x01, 0x0b, 0), "in a constant expression"},
		"export kind":           {section(7, 1, 0, 9, 0), "export kind 9"},
		"export index":          {section(7, 1, 0, 0, 0), "function index 0 of 0"},
		"export twice":          {new(wasmtest.Builder).Memory(0, 0).Export("m", 2, 0).Export("m", 2, 0).Bytes(), `"m" is repeated`},
		"start":                 {section(8, 0), "function index 0 of 0"},
		"element flags":         {section(9, 1, 8, 0, 0), "flags 0x8"},
		"element table":         {section(9, 1, 0, 0x41, 0, 0x0b, 0), "table index 0 of 0"},
		"element kind":          {section(9, 1, 1, 1, 0), "element kind 1"},
		"data without memory":   {section(11, 1, 0, 0x41, 0, 0x0b, 0), "without a memory"},
		"data flags":            {section(11, 1, 3, 0), "flags 0x3"},
		"data count":            {append(section(12, 1), section(11, 0)[8:]...), "data count of 1 and 0"},
		"functions only":        {append(section(1, 1, 0x60, 0, 0), section(3, 1, 0)[8:]...), "1 functions and 0 bodies"},
		"body past the end":     {append(section(1, 1, 0x60, 0, 0), append(section(3, 1, 0)[8:], section(10, 1, 9, 0)[8:]...)...), "runs past the end"},

		"no end":             {code(0x02, 0x40), "unexpected end"},
		"bytes after end":    {code(0x0b, 0x01), "left over"},
		"else without if":    {code(0x05), "else without if"},
		"two elses":          {code(0x04, 0x40, 0x05, 0x05, 0x0b), "else without if"},
		"label":              {code(0x0c, 1), "label index 1 of 1"},
		"table label":        {code(0x0e, 1, 0, 1), "label index 1 of 1"},
		"function":           {code(0x10, 1), "function index 1 of 1"},
		"local":              {code(0x20, 0), "local index 0 of 0"},
		"global":             {code(0x23, 0), "global index 0 of 0"},
		"table":              {code(0x25, 0), "table index 0 of 0"},
		"indirect type":      {code(0x11, 1, 0), "type index 1 of 1"},
		"indirect table":     {code(0x11, 0, 0), "table index 0 of 0"},
		"block type":         {code(0x02, 1, 0x0b), "block type index 1 of 1"},
		"negative type":      {code(0x02, 0xff, 0x7f), "block type index"},
		"alignment":          {code(0x28, 4, 0), "alignment 2^4"},
		"no data count":      {code(0xfc, 9, 0), "without a data count"},
		"element segment":    {code(0xfc, 13, 0), "element segment index 0 of 0"},
		"prefixed":           {code(0xfc, 99), "unknown opcode 0xfc 99"},
		"opcode":             {code(0x27), "unknown opcode 0x27"},
		"i32 too long":       {code(0x41, 0x80, 0x80, 0x80, 0x80, 0x08), "longer than 32 bits"},
		"i32 sign":           {code(0x41, 0xff, 0xff, 0xff, 0xff, 0x4f), "longer than 32 bits"},
		"i32 continued":      {code(0x41, 0x80, 0x80, 0x80, 0x80, 0x80, 0), "longer than 32 bits"},
		"i64 sign":           {code(0x42, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01), "longer than 64 bits"},
		"truncated float":    {code(0x44, 0, 0), "runs past the end"},
		"load without mem":   {func() []byte { b := new(wasmtest.Builder); b.Func(":", "", []byte{0x28, 0, 0}); return b.Bytes() }(), "needs a memory"},
		"grow without mem":   {func() []byte { b := new(wasmtest.Builder); b.Func(":", "", []byte{0x40, 0}); return b.Bytes() }(), "needs a memory"},
		"reference to i32":   {code(0xd0, 0x7f), "not a reference type"},
		"deep":               {code(slices.Repeat([]byte{0x02, 0x40}, maxNestedCtrl+1)...), "nested blocks"},
		"branch table count": {code(0x0e, 0xf1, 0xff, 0x03), "65521 branch targets"},
	} {
		m, _, err := decodeAll(test.module)
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %+v, %v; want malformed with %q", name, m, err, test.want)
		}
	}
}

func TestFeatures(t *testing.T) {
	for name, test := range map[string]struct {
		module []byte
		want   Feature
	}{
		"component":           {[]byte("\x00asm\x0d\x00\x01\x00"), Component},
		"tags":                {section(13, 0), Exceptions},
		"struct type":         {section(1, 1, 0x5f, 0, 0), GC},
		"v128":                {section(1, 1, 0x60, 1, 0x7b, 0), SIMD},
		"typed reference":     {section(1, 1, 0x60, 1, 0x64, 0), FunctionReferences},
		"exnref":              {section(1, 1, 0x60, 1, 0x69, 0), Exceptions},
		"anyref":              {section(1, 1, 0x60, 1, 0x6e, 0), GC},
		"imported tag":        {section(2, 1, 0, 0, 4, 0), Exceptions},
		"exported tag":        {section(7, 1, 0, 4, 0), Exceptions},
		"table with a value":  {section(4, 1, 0x40, 0, 0), FunctionReferences},
		"shared memory":       {section(5, 1, 3, 1, 1), Threads},
		"memory64":            {section(5, 1, 4, 1), Memory64},
		"page size":           {section(5, 1, 8, 1, 0), CustomPageSizes},
		"two memories":        {section(5, 2, 0, 1, 0, 1), MultiMemory},
		"two imported":        {section(2, 2, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0), MultiMemory},
		"shared global":       {section(6, 1, 0x7f, 3, 0x41, 0, 0x0b), Threads},
		"extended constant":   {section(6, 1, 0x7f, 0, 0x41, 1, 0x41, 2, 0x6a, 0x0b), ExtendedConst},
		"constant of global":  {section(6, 1, 0x7f, 0, 0x23, 0, 0x0b), GC},
		"constant of struct":  {section(6, 1, 0x7f, 0, 0xfb, 1, 0, 0x0b), GC},
		"constant vector":     {section(6, 1, 0x7f, 0, 0xfd, 12, 0), SIMD},
		"data for memory 1":   {section(11, 1, 2, 1), MultiMemory},
		"simd":                {code(0xfd, 0), SIMD},
		"atomics":             {code(0xfe, 0), Threads},
		"try":                 {code(0x06), Exceptions},
		"throw_ref":           {code(0x0a), Exceptions},
		"try_table":           {code(0x1f), Exceptions},
		"return_call":         {code(0x12, 0), TailCall},
		"call_ref":            {code(0x14, 0), FunctionReferences},
		"br_on_null":          {code(0xd5, 0), FunctionReferences},
		"ref.eq":              {code(0xd3), GC},
		"gc":                  {code(0xfb, 0), GC},
		"cont.new":            {code(0xe0, 0), StackSwitching},
		"wide arithmetic":     {code(0xfc, 19), WideArithmetic},
		"load of memory 1":    {code(0x28, 0x42, 1, 0), MultiMemory},
		"size of memory 1":    {code(0x3f, 1), MultiMemory},
		"local of v128":       {code(), ""},
		"block type of a ref": {code(0x02, 0x63, 0x70), FunctionReferences},
	} {
		if name == "local of v128" {
			b := new(wasmtest.Builder)
			b.Func(":", "v")
			test.module, test.want = b.Bytes(), SIMD
		}
		_, _, err := decodeAll(test.module)
		var f *FeatureError
		if !errors.As(err, &f) || f.Feature != test.want || !strings.Contains(err.Error(), string(test.want)) {
			t.Errorf("%s: %v, want feature %q", name, err, test.want)
		}
	}
}

// TestTruncated cuts a module everywhere: what is left never decodes, and the
// decoder does not panic.
func TestTruncated(t *testing.T) {
	b := new(wasmtest.Builder).Memory(1, 2).Table(1, 2).Global('i', 0x41, 0).Export("memory", 2, 0)
	b.Import("m", "f", "iI:i")
	b.Func("i:i", "fF", []byte{0x02, 0x40, 0x0b, 0x20, 0})
	module := b.Elem(0, 1).PassiveData("abc").Bytes()
	if _, _, err := decodeAll(module); err != nil {
		t.Fatal(err)
	}
	whole := map[int]bool{len(header): true} // a module may end after a section
	for at := len(header); at < len(module); {
		at += 2 + int(module[at+1])
		whole[at] = true
	}
	for n := range module {
		_, _, err := decodeAll(module[:n])
		if err == nil && !whole[n] {
			t.Errorf("the first %d of %d bytes decode", n, len(module))
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
}

// TestVisitorErrors checks that a visitor's error ends the walk and comes back
// as it is.
func TestVisitorErrors(t *testing.T) {
	m, err := Decode(code(0x01, 0x01))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []failing{{function: true}, {instr: true}} {
		if err := m.Decode(v); err != errVisitor {
			t.Errorf("%+v: %v", v, err)
		}
	}
	defer func() {
		if r := recover(); r != "visitor" {
			t.Errorf("a visitor's panic became %v", r)
		}
	}()
	m.Decode(failing{panics: true})
}

var errVisitor = errors.New("visitor")

type failing struct{ function, instr, panics bool }

func (f failing) Function(int, Code) error {
	if f.panics {
		panic("visitor")
	}
	if f.function {
		return errVisitor
	}
	return nil
}

func (f failing) Instr(*Instr) error {
	if f.instr {
		return errVisitor
	}
	return nil
}

// FuzzDecode checks that the decoder returns on any input, that its errors are
// of the two kinds, and that instructions follow each other without gaps.
func FuzzDecode(f *testing.F) {
	seeds, err := filepath.Glob("../../testdata/sandbox/*.wasm")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds in testdata/sandbox: %v", err)
	}
	for _, name := range seeds {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(code(0x02, 0x7f, 0x41, 1, 0x0d, 0, 0x0b, 0x1a))
	f.Add(section(9, 1, 5, 0x70, 1, 0xd2, 0, 0x0b))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, r, err := decodeAll(b)
		var feature *FeatureError
		switch {
		case errors.Is(err, ErrMalformed), errors.As(err, &feature):
			return
		case err != nil:
			t.Fatal(err)
		}
		i := 0
		for _, body := range m.Bodies {
			at := -1
			for ; i < len(r.instrs); i++ {
				in := r.instrs[i]
				if at >= 0 && in.Start != at {
					t.Fatalf("gap before %+v", in)
				}
				at = in.End
				if in.Op == OpEnd && in.Depth == 1 {
					i++
					break
				}
			}
			if at != body.Offset+len(body.Bytes) {
				t.Fatalf("body at %d ends at %d", body.Offset, at)
			}
		}
	})
}
