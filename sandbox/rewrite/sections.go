package rewrite

import "github.com/tallystick/tallystick/sandbox/wasm"

// assemble writes the module, section by section in the order of the
// specification. A section without entries is left out.
func (w *writer) assemble() []byte {
	datas := w.joinedData()
	size := len(w.in) + len(w.code) + len(w.code)/8
	out := append(make([]byte, 0, size), wasm.Header...)
	vector := func(id byte, n int, item func(b []byte, i int) []byte) {
		if n == 0 {
			return
		}
		b := wasm.AppendU32(nil, uint32(n))
		for i := range n {
			b = item(b, i)
		}
		out = append(wasm.AppendU32(append(out, id), uint32(len(b))), b...)
	}
	m, imports := w.m, len(w.m.Imports)
	vector(wasm.SectionType, len(w.types), func(b []byte, i int) []byte { return wasm.AppendFuncType(b, w.types[i]) })
	vector(wasm.SectionImport, imports+1, func(b []byte, i int) []byte {
		im := wasm.Import{Module: ImportModule, Name: RefillImport, Type: w.typeIndex(wasm.FuncType{})}
		if i < imports {
			im = m.Imports[i]
		}
		b = wasm.AppendName(wasm.AppendName(b, im.Module), im.Name)
		return wasm.AppendU32(append(b, byte(wasm.KindFunc)), im.Type)
	})
	vector(wasm.SectionFunction, len(m.Funcs)+len(w.helpers), func(b []byte, i int) []byte {
		if i < len(m.Funcs) {
			return wasm.AppendU32(b, m.Funcs[i])
		}
		return wasm.AppendU32(b, w.typeIndex(helperType(w.helpers[i-len(m.Funcs)])))
	})
	vector(wasm.SectionTable, len(w.tables), func(b []byte, i int) []byte {
		return wasm.AppendLimits(append(b, byte(w.tables[i].Type)), w.tables[i].Limits)
	})
	vector(wasm.SectionMemory, len(w.memories), func(b []byte, i int) []byte { return wasm.AppendLimits(b, w.memories[i]) })
	globals := w.globals()
	vector(wasm.SectionGlobal, len(globals), func(b []byte, i int) []byte {
		g := globals[i]
		mutable := byte(0)
		if g.Mutable {
			mutable = 1
		}
		return wasm.AppendConstExpr(append(b, byte(g.Type), mutable), w.constExpr(g.Init))
	})
	exports := w.exports()
	vector(wasm.SectionExport, len(exports), func(b []byte, i int) []byte {
		e := exports[i]
		return wasm.AppendU32(append(wasm.AppendName(b, e.Name), byte(e.Kind)), e.Index)
	})
	vector(wasm.SectionElement, len(m.Elems), func(b []byte, i int) []byte { return wasm.AppendElem(b, w.elem(m.Elems[i])) })
	if m.DataCount != nil {
		n := wasm.AppendU32(nil, uint32(len(datas)))
		out = append(wasm.AppendU32(append(out, wasm.SectionDataCount), uint32(len(n))), n...)
	}
	if n := len(m.Bodies) + len(w.helpers); n > 0 {
		for _, h := range w.helpers {
			body := w.helperBody(h)
			w.code = append(wasm.AppendU32(w.code, uint32(len(body))), body...)
		}
		head := wasm.AppendU32(nil, uint32(n))
		out = wasm.AppendU32(append(out, wasm.SectionCode), uint32(len(head)+len(w.code)))
		out = append(append(out, head...), w.code...)
	}
	vector(wasm.SectionData, len(datas), func(b []byte, i int) []byte { return appendData(b, datas[i]) })
	return out
}

// globals are the original's and the two counters, both zero.
func (w *writer) globals() []wasm.Global {
	return append(w.m.Globals[:len(w.m.Globals):len(w.m.Globals)],
		wasm.Global{Type: wasm.I64, Mutable: true, Init: wasm.ConstExpr{Op: wasm.OpI64Const}},
		wasm.Global{Type: wasm.I32, Mutable: true, Init: wasm.ConstExpr{Op: wasm.OpI32Const}})
}

// exports are the original's and those of the rewriter.
func (w *writer) exports() []wasm.Export {
	var list []wasm.Export
	for _, e := range w.m.Exports {
		if e.Kind == wasm.KindFunc {
			e.Index = w.function(e.Index)
		}
		list = append(list, e)
	}
	list = append(list, wasm.Export{Name: GasGlobal, Kind: wasm.KindGlobal, Index: w.gas},
		wasm.Export{Name: FramesGlobal, Kind: wasm.KindGlobal, Index: w.gas + 1})
	if w.m.Start != nil {
		list = append(list, wasm.Export{Name: StartExport, Kind: wasm.KindFunc, Index: w.function(*w.m.Start)})
	}
	return list
}

// elem is an element segment with its function indexes moved.
func (w *writer) elem(e wasm.Elem) wasm.Elem {
	e.Offset = w.constExpr(e.Offset)
	for i, f := range e.Funcs {
		e.Funcs[i] = w.function(f) // the decoded module is this writer's own
	}
	for i, x := range e.Exprs {
		e.Exprs[i] = w.constExpr(x)
	}
	return e
}

func (w *writer) constExpr(e wasm.ConstExpr) wasm.ConstExpr {
	if e.Op == wasm.OpRefFunc {
		e.Index = w.function(e.Index)
	}
	return e
}
