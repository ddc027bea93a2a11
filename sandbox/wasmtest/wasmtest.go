// Package wasmtest assembles small WebAssembly modules for tests, in the binary
// format of the WebAssembly Core Specification 2.0, chapter 5. It checks
// nothing, so that tests can make invalid modules too.
package wasmtest

import (
	"encoding/binary"
	"strings"
)

// Value types, as in signatures: see [Builder.Import].
var valueTypes = map[rune]byte{'i': 0x7f, 'I': 0x7e, 'f': 0x7d, 'F': 0x7c, 'r': 0x70, 'e': 0x6f, 'v': 0x7b}

// WASI is the module name of WASI preview 1.
const WASI = "wasi_snapshot_preview1"

// A Builder collects the parts of a module. The zero value is an empty module;
// [Command] begins one that can run. Imports come before functions.
type Builder struct {
	types, imports, funcs, tables, memories, globals, exports, elems, codes, datas [][]byte
	start                                                                          []byte
	dataCount                                                                      bool
	nfuncs                                                                         uint32
	bySig                                                                          map[string]uint32
}

// Command returns a builder with a memory of one page, exported as "memory".
func Command() *Builder { return new(Builder).Memory(1, -1).Export("memory", 2, 0) }

// Type adds a function type and returns its index. A signature is parameter
// letters, a colon and result letters, from i (i32), I (i64), f (f32), F (f64),
// r (funcref), e (externref) and v (v128): "iIi:i".
func (b *Builder) Type(sig string) uint32 {
	if i, ok := b.bySig[sig]; ok {
		return i
	}
	params, results, _ := strings.Cut(sig, ":")
	t := []byte{0x60}
	for _, letters := range []string{params, results} {
		t = U32(t, uint32(len(letters)))
		for _, l := range letters {
			t = append(t, valueTypes[l])
		}
	}
	if b.bySig == nil {
		b.bySig = make(map[string]uint32)
	}
	b.types = append(b.types, t)
	b.bySig[sig] = uint32(len(b.types) - 1)
	return b.bySig[sig]
}

// Import adds an imported function and returns its index.
func (b *Builder) Import(module, name, sig string) uint32 {
	b.imports = append(b.imports, U32(append(Name(Name(nil, module), name), 0), b.Type(sig)))
	b.nfuncs++
	return b.nfuncs - 1
}

// ImportRaw adds an import with the given kind and description.
func (b *Builder) ImportRaw(module, name string, kind byte, desc ...byte) *Builder {
	b.imports = append(b.imports, append(append(Name(Name(nil, module), name), kind), desc...))
	return b
}

// Func adds a function with locals of the given letters, and returns its index.
// The body's end is added.
func (b *Builder) Func(sig, locals string, body ...[]byte) uint32 {
	code := U32(nil, uint32(len(locals)))
	for _, l := range locals {
		code = append(code, 1, valueTypes[l])
	}
	return b.FuncRaw(sig, append(append(code, Cat(body...)...), 0x0b))
}

// FuncRaw adds a function whose body, locals included, is given.
func (b *Builder) FuncRaw(sig string, body []byte) uint32 {
	b.funcs = append(b.funcs, U32(nil, b.Type(sig)))
	b.codes = append(b.codes, append(U32(nil, uint32(len(body))), body...))
	b.nfuncs++
	return b.nfuncs - 1
}

// Start adds a function and exports it as "_start".
func (b *Builder) Start(locals string, body ...[]byte) *Builder {
	return b.Export("_start", 0, b.Func(":", locals, body...))
}

// StartSection names the start function.
func (b *Builder) StartSection(index uint32) *Builder {
	b.start = U32(nil, index)
	return b
}

func limits(b []byte, low, high int64) []byte {
	if high < 0 {
		return U32(append(b, 0), uint32(low))
	}
	return U32(U32(append(b, 1), uint32(low)), uint32(high))
}

// Memory adds a memory; a negative maximum is none.
func (b *Builder) Memory(low, high int64) *Builder {
	b.memories = append(b.memories, limits(nil, low, high))
	return b
}

// MemoryRaw adds a memory with the given bytes.
func (b *Builder) MemoryRaw(raw ...byte) *Builder {
	b.memories = append(b.memories, raw)
	return b
}

// Table adds a table of functions; a negative maximum is none.
func (b *Builder) Table(low, high int64) *Builder {
	b.tables = append(b.tables, limits([]byte{0x70}, low, high))
	return b
}

// TableRaw adds a table with the given bytes.
func (b *Builder) TableRaw(raw ...byte) *Builder {
	b.tables = append(b.tables, raw)
	return b
}

// Global adds a mutable global; init is a constant expression without its end.
func (b *Builder) Global(letter rune, init ...byte) *Builder {
	return b.GlobalRaw(letter, true, init...)
}

// GlobalRaw adds a global that is mutable or not.
func (b *Builder) GlobalRaw(letter rune, mutable bool, init ...byte) *Builder {
	flag := byte(0)
	if mutable {
		flag = 1
	}
	b.globals = append(b.globals, append(append([]byte{valueTypes[letter], flag}, init...), 0x0b))
	return b
}

// Export exports the item of a kind: 0 function, 1 table, 2 memory, 3 global.
func (b *Builder) Export(name string, kind byte, index uint32) *Builder {
	b.exports = append(b.exports, U32(append(Name(nil, name), kind), index))
	return b
}

// Elem adds an active segment of functions to table 0.
func (b *Builder) Elem(offset int32, funcs ...uint32) *Builder {
	s := append(append([]byte{0}, I32Const(offset)...), 0x0b)
	s = U32(s, uint32(len(funcs)))
	for _, f := range funcs {
		s = U32(s, f)
	}
	b.elems = append(b.elems, s)
	return b
}

// ElemRaw adds an element segment with the given bytes.
func (b *Builder) ElemRaw(raw ...byte) *Builder {
	b.elems = append(b.elems, raw)
	return b
}

// Data adds an active data segment.
func (b *Builder) Data(offset int32, data string) *Builder {
	b.datas = append(b.datas, Name(append(append([]byte{0}, I32Const(offset)...), 0x0b), data))
	return b
}

// PassiveData adds a passive data segment, and the data count section.
func (b *Builder) PassiveData(data string) *Builder {
	b.datas = append(b.datas, Name([]byte{1}, data))
	return b.DataCount()
}

// DataCount adds the data count section.
func (b *Builder) DataCount() *Builder {
	b.dataCount = true
	return b
}

// Bytes returns the module.
func (b *Builder) Bytes() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	vector := func(id byte, items [][]byte) {
		if len(items) > 0 {
			out = Section(out, id, append(U32(nil, uint32(len(items))), Cat(items...)...))
		}
	}
	vector(1, b.types)
	vector(2, b.imports)
	vector(3, b.funcs)
	vector(4, b.tables)
	vector(5, b.memories)
	vector(6, b.globals)
	vector(7, b.exports)
	if b.start != nil {
		out = Section(out, 8, b.start)
	}
	vector(9, b.elems)
	if b.dataCount {
		out = Section(out, 12, U32(nil, uint32(len(b.datas))))
	}
	vector(10, b.codes)
	vector(11, b.datas)
	return out
}

// Section appends a section.
func Section(dst []byte, id byte, body []byte) []byte {
	return append(U32(append(dst, id), uint32(len(body))), body...)
}

// U32 appends an unsigned number.
func U32(dst []byte, v uint32) []byte { return binary.AppendUvarint(dst, uint64(v)) }

// S64 appends a signed number.
func S64(dst []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && c&0x40 == 0) || (v == -1 && c&0x40 != 0) {
			return append(dst, c)
		}
		dst = append(dst, c|0x80)
	}
}

// Name appends a length and the bytes.
func Name(dst []byte, s string) []byte { return append(U32(dst, uint32(len(s))), s...) }

// Cat joins pieces of code.
func Cat(list ...[]byte) []byte {
	var out []byte
	for _, b := range list {
		out = append(out, b...)
	}
	return out
}

// Op is the given bytes.
func Op(b ...byte) []byte { return b }

// I32Const is i32.const.
func I32Const(v int32) []byte { return S64([]byte{0x41}, int64(v)) }

// I64Const is i64.const.
func I64Const(v int64) []byte { return S64([]byte{0x42}, v) }

// Call pushes i32 arguments and calls a function.
func Call(f uint32, arguments ...int32) []byte {
	var b []byte
	for _, a := range arguments {
		b = append(b, I32Const(a)...)
	}
	return U32(append(b, 0x10), f)
}

// Loop repeats a body for ever.
func Loop(body ...[]byte) []byte { return Cat(Op(0x03, 0x40), Cat(body...), Op(0x0c, 0, 0x0b)) }

// Drop discards a value.
var Drop = Op(0x1a)

// Unreachable traps.
var Unreachable = Op(0x00)
