package sandbox

import "github.com/tallystick/tallystick/sandbox/wasm"

// mergeOps is the number of steps of the pass below that count as one unit of
// the estimate: 10 seconds of them are MaxCompileWork.
const mergeOps = 96

// merges estimates what the engine takes to simplify the values that merge
// where control does. It looks at every block in passes, until one finds
// nothing to remove, and in a pass takes the square of the locals that merge,
// for each way into the block.
//
// A pass may find no more than what the one before made visible. A local that
// loops only read is removed from one more loop of a nest by each pass; a local
// that is set to another, and so on around the loop, follows that by one pass.
// So there are at most as many passes as loops are nested and locals are set
// to what is no new value; code has few of both, unless it is made to.
type merges struct {
	used   [MaxLocals]bool // locals that are used in a loop, or set
	locals uint64          // of them
	blocks []wasm.Opcode   // open ones, the function's own left out
	loops  uint64          // of them that are loops
	nested uint64          // the most loops that were open at once
	copies uint64          // locals set in loops to what is no new value
	fresh  bool            // the last instruction made a new value
}

func (m *merges) begin() {
	*m = merges{blocks: m.blocks[:0]}
}

// add follows an instruction.
func (m *merges) add(in *wasm.Instr) {
	switch in.Op {
	case wasm.OpBlock, wasm.OpLoop, wasm.OpIf:
		m.blocks = append(m.blocks, in.Op)
		if in.Op == wasm.OpLoop {
			m.loops++
			m.nested = max(m.nested, m.loops)
		}
	case wasm.OpEnd:
		if n := len(m.blocks) - 1; n >= 0 {
			if m.blocks[n] == wasm.OpLoop {
				m.loops--
			}
			m.blocks = m.blocks[:n]
		}
	case wasm.OpLocalSet, wasm.OpLocalTee:
		if m.loops > 0 && !m.fresh {
			m.copies++
		}
		m.use(in.Index)
	case wasm.OpLocalGet:
		if m.loops > 0 {
			m.use(in.Index)
		}
	}
	m.fresh = computes(in.Op)
}

func (m *merges) use(local uint32) {
	if !m.used[local] {
		m.used[local] = true
		m.locals++
	}
}

// work is the estimate for a function with so many control instructions. The
// local in which the rewriter keeps what is left of the gas merges like another
// one; as each charge sets it to a new value, it takes no further pass.
func (m *merges) work(control uint64) uint64 {
	locals := m.locals + 1
	return control * locals * locals * (1 + m.nested + m.copies) / mergeOps
}

// computes reports whether an instruction leaves a value on top of the stack
// that no local has. Whether a call does depends on its type.
func computes(op wasm.Opcode) bool {
	switch {
	case op >= wasm.OpI32Load && op < wasm.OpI32Store:
		return true
	case op >= wasm.OpI32Const && op <= wasm.OpI64Extend32S:
		return true
	case op == wasm.OpMemorySize, op == wasm.OpMemoryGrow, op == wasm.OpSelect, op == wasm.OpGlobalGet:
		return true
	}
	return false
}
