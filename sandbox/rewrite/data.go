package rewrite

import "github.com/tallystick/tallystick/sandbox/wasm"

const (
	// joinGap is the number of bytes between two data segments from which they
	// are not joined: a segment of its own costs the engine more than so many
	// zeros.
	joinGap = 64
	// maxJoining bounds the segments that each new one is compared with. Beyond
	// it nothing is joined any more. Linkers' segments join into a few dozen.
	maxJoining = 1024
)

// A span is a range of addresses, its end not included.
type span struct{ start, end uint64 }

// joinedData are the data segments, where those that follow closely upon the
// one before are joined to it, with zeros between. Linkers make tens of
// thousands, and every instance pays for each.
//
// The memory after instantiation is the same: a segment is joined only if it
// lies inside the memory, above the one before, and if no other segment until
// then wrote to the gap, so that it holds zeros. Nothing is joined in a module
// with passive segments, whose indexes instructions use; active ones are used
// by none, as they are refused.
func (w *writer) joinedData() []wasm.Data {
	for _, d := range w.m.Datas {
		if d.Mode != wasm.Active || d.Offset.Op != wasm.OpI32Const {
			return w.m.Datas
		}
	}
	var list []wasm.Data
	var spans []span // of list
	size := uint64(w.r.MinPages) << 16
	own := false // the last of list has bytes of its own, to which more can be appended
	for _, d := range w.m.Datas {
		start := uint64(uint32(d.Offset.Value))
		at := span{start, start + uint64(len(d.Bytes))}
		if at.end > size || !joins(spans, at) {
			list, spans, own = append(list, d), append(spans, at), false
			continue
		}
		k := len(list) - 1
		if !own {
			list[k].Bytes = append(make([]byte, 0, 2*len(list[k].Bytes)+joinGap), list[k].Bytes...)
		}
		list[k].Bytes = append(append(list[k].Bytes, make([]byte, start-spans[k].end)...), d.Bytes...)
		spans[k].end, own = at.end, true
		w.r.Joined++
	}
	return list
}

// joins reports whether a segment follows so closely upon the last of spans
// that it can be joined to it, and none of the others has a byte in the gap.
func joins(spans []span, at span) bool {
	k := len(spans) - 1
	if k < 0 || k >= maxJoining || at.start < spans[k].end || at.start-spans[k].end >= joinGap {
		return false
	}
	for _, s := range spans[:k] {
		if max(s.start, spans[k].end) < min(s.end, at.start) {
			return false
		}
	}
	return true
}

func appendData(b []byte, d wasm.Data) []byte {
	if d.Mode == wasm.Passive {
		b = append(b, 1)
	} else {
		b = wasm.AppendConstExpr(append(b, 0), d.Offset)
	}
	return append(wasm.AppendU32(b, uint32(len(d.Bytes))), d.Bytes...)
}
