package wasm

import "encoding/binary"

// Header begins every module: the magic bytes and version 1.
const Header = header

// AppendU32 appends an unsigned number in its shortest form.
func AppendU32(b []byte, v uint32) []byte { return binary.AppendUvarint(b, uint64(v)) }

// AppendS64 appends a signed number in its shortest form. A 32-bit number is
// encoded as the 64-bit one of the same value.
func AppendS64(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && c&0x40 == 0) || (v == -1 && c&0x40 != 0) {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

// AppendName appends a name with its length.
func AppendName(b []byte, name string) []byte {
	return append(AppendU32(b, uint32(len(name))), name...)
}

// AppendFuncType appends a function type.
func AppendFuncType(b []byte, t FuncType) []byte {
	b = append(b, 0x60)
	for _, list := range [...][]ValueType{t.Params, t.Results} {
		b = AppendU32(b, uint32(len(list)))
		for _, v := range list {
			b = append(b, byte(v))
		}
	}
	return b
}

// AppendLimits appends limits.
func AppendLimits(b []byte, l Limits) []byte {
	if !l.HasMax {
		return AppendU32(append(b, 0), l.Min)
	}
	return AppendU32(AppendU32(append(b, limitMax), l.Min), l.Max)
}

// AppendConstExpr appends a constant expression and its end.
func AppendConstExpr(b []byte, e ConstExpr) []byte {
	b = append(b, byte(e.Op))
	switch e.Op {
	case OpI32Const, OpI64Const:
		b = AppendS64(b, e.Value)
	case OpF32Const:
		b = binary.LittleEndian.AppendUint32(b, uint32(e.Value))
	case OpF64Const:
		b = binary.LittleEndian.AppendUint64(b, uint64(e.Value))
	case OpGlobalGet, OpRefFunc:
		b = AppendU32(b, e.Index)
	case OpRefNull:
		b = append(b, byte(e.Type))
	}
	return append(b, byte(OpEnd))
}

// AppendElem appends an element segment, in the form with the smallest flags
// that can express it.
func AppendElem(b []byte, e Elem) []byte {
	flags := uint32(0)
	switch {
	case e.Mode == Passive:
		flags = elemNotActive
	case e.Mode == Declarative:
		flags = elemNotActive | elemExplicit
	case e.Table != 0 || e.Type != FuncRef:
		flags = elemExplicit
	}
	if e.Exprs != nil {
		flags |= elemExprs
	}
	b = AppendU32(b, flags)
	if e.Mode == Active {
		if flags&elemExplicit != 0 {
			b = AppendU32(b, e.Table)
		}
		b = AppendConstExpr(b, e.Offset)
	}
	if flags&(elemNotActive|elemExplicit) != 0 {
		if e.Exprs != nil {
			b = append(b, byte(e.Type))
		} else {
			b = append(b, 0) // functions
		}
	}
	b = AppendU32(b, e.Count)
	for _, f := range e.Funcs {
		b = AppendU32(b, f)
	}
	for _, x := range e.Exprs {
		b = AppendConstExpr(b, x)
	}
	return b
}
