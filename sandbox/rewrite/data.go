package rewrite

import "github.com/tallystick/tallystick/sandbox/wasm"

// joinGap is the number of bytes between two data segments from which they are
// not joined: a segment of its own costs the engine more than so many zeros.
const joinGap = 64

// joinedData are the data segments, where those that follow closely upon the
// one before are joined to it, with zeros between. Linkers make tens of
// thousands, and every instance pays for each.
//
// The memory after instantiation is the same: a segment is joined only if it
// and the one before lie inside the memory, and if the gap lies above
// everything that was written until then, so that it holds zeros. Nothing is
// joined in a module with passive segments, whose indexes instructions use;
// active ones are used by none, as they are refused.
func (w *writer) joinedData() []wasm.Data {
	for _, d := range w.m.Datas {
		if d.Mode != wasm.Active || d.Offset.Op != wasm.OpI32Const {
			return w.m.Datas
		}
	}
	var list []wasm.Data
	size := uint64(w.r.MinPages) << 16
	high := uint64(0) // end of the highest segment until now
	last := uint64(0) // end of the last one
	own := false      // the last of list has bytes of its own, to which more can be appended
	for _, d := range w.m.Datas {
		start := uint64(uint32(d.Offset.Value))
		end := start + uint64(len(d.Bytes))
		if len(list) > 0 && last == high && start >= last && start-last < joinGap && end <= size {
			d0 := &list[len(list)-1]
			if !own {
				d0.Bytes = append(make([]byte, 0, 2*len(d0.Bytes)+joinGap), d0.Bytes...)
			}
			d0.Bytes = append(append(d0.Bytes, make([]byte, start-last)...), d.Bytes...)
			own = true
			w.r.Joined++
		} else {
			list, own = append(list, d), false
		}
		last, high = end, max(high, end)
	}
	return list
}

func appendData(b []byte, d wasm.Data) []byte {
	if d.Mode == wasm.Passive {
		b = append(b, 1)
	} else {
		b = wasm.AppendConstExpr(append(b, 0), d.Offset)
	}
	return append(wasm.AppendU32(b, uint32(len(d.Bytes))), d.Bytes...)
}
