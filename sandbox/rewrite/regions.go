package rewrite

import (
	"github.com/tallystick/tallystick/sandbox/wasm"
)

// Marks of an instruction.
type mark uint8

const (
	leads  mark = 1 << iota // a region begins after it
	checks                  // and compares the counter with zero: control can come back to it
	cleans                  // its NaN is made canonical
	keeps                   // the region that begins after it keeps what is left for the next
	renews                  // the counter may have changed, and is read back after it
)

// An instr is one instruction that can be reached, as far as the rewriter
// cares.
type instr struct {
	op         wasm.Opcode
	marks      mark
	start, end uint32 // extent in the original
	operand    uint32 // function of call and ref.func
	depth      uint32 // blocks open before it, the function's own included
	region     int64  // cost of the region that begins after it
}

// A function is one function while it is rewritten. It is reused for the next.
type function struct {
	typ      wasm.FuncType
	locals   []wasm.LocalRun
	numLocal uint64 // parameters and locals
	instrs   []instr
	entry    int64  // cost of the region at its entry
	calls    bool   // it contains call or call_indirect
	control  uint64 // control instructions
	slots    uint64 // values that instructions may leave on the native stack
	canon32  bool   // it needs a temporary f32
	canon64  bool   // it needs a temporary f64

	open []block
	// dead is set from an instruction that never falls through to the end or else
	// of its block; skipped counts the blocks opened meanwhile.
	dead    bool
	skipped int
}

// A block is an open block, loop, if, or the function's own.
type block struct {
	at       int // place of its first instruction in instrs; -1 for the function's own
	op       wasm.Opcode
	targeted bool // a branch goes to its label
}

func (f *function) begin(code wasm.Code) {
	*f = function{
		typ: code.Type, numLocal: code.NumLocals,
		locals: append(f.locals[:0], code.Locals...),
		instrs: f.instrs[:0],
		open:   append(f.open[:0], block{-1, wasm.OpBlock, false}),
	}
}

// add records an instruction and marks where regions begin. It returns false
// for what cannot be reached, which is left out.
func (f *function) add(in *wasm.Instr) bool {
	if f.dead && !f.revive(in.Op) {
		return false
	}
	i := instr{op: in.Op, start: uint32(in.Start), end: uint32(in.End), operand: in.Index, depth: uint32(in.Depth)}
	switch in.Op {
	case wasm.OpBlock, wasm.OpLoop, wasm.OpIf:
		f.open = append(f.open, block{len(f.instrs), in.Op, false})
		if in.Op == wasm.OpIf {
			i.marks = leads
		}
	case wasm.OpElse:
		i.marks = leads
		f.dead = false
	case wasm.OpEnd:
		f.close(&i)
	case wasm.OpBr:
		f.target(in.Index)
		f.dead = true
	case wasm.OpBrIf:
		f.target(in.Index)
		i.marks = leads
	case wasm.OpBrTable:
		for _, l := range in.Labels {
			f.target(l)
		}
		f.target(in.Index)
		f.dead = true
	case wasm.OpReturn, wasm.OpUnreachable:
		f.dead = true
	case wasm.OpCall, wasm.OpCallIndirect:
		f.calls = true
	}
	f.instrs = append(f.instrs, i)
	return true
}

// revive follows the nesting of unreachable code and reports whether op ends
// it.
func (f *function) revive(op wasm.Opcode) bool {
	switch op {
	case wasm.OpBlock, wasm.OpLoop, wasm.OpIf:
		f.skipped++
	case wasm.OpElse:
		return f.skipped == 0
	case wasm.OpEnd:
		if f.skipped == 0 {
			return true
		}
		f.skipped--
	}
	return false
}

// close ends the innermost block. What follows begins a region unless control
// gets there only by running on from the line before.
func (f *function) close(end *instr) {
	b := f.open[len(f.open)-1]
	f.open = f.open[:len(f.open)-1]
	switch {
	case b.op == wasm.OpLoop:
		if b.targeted {
			f.instrs[b.at].marks |= leads | checks
		}
		if f.dead {
			end.marks = leads
		}
	case b.targeted || f.dead || b.op == wasm.OpIf:
		end.marks = leads
	}
	f.dead = false
}

func (f *function) target(label uint32) { f.open[len(f.open)-1-int(label)].targeted = true }

// finish goes from the last instruction to the first, sums the regions, and
// decides where the counter is read back and where NaNs are made canonical.
func (f *function) finish() {
	last := len(f.instrs) - 1
	var rest tail
	for k := last; k >= 0; k-- {
		in := &f.instrs[k]
		if in.marks&leads != 0 && k < last {
			in.region = rest.cost
			if in.marks&checks != 0 {
				in.region += costLoop
			}
			if rest.goesOn {
				in.marks |= keeps
			}
			rest = tail{goesOn: true}
		}
		rest.add(in)
		if t := opensNaN(in.op); t != 0 && !hidesNaN(f.instrs[k+1].op) {
			in.marks |= cleans
			f.canon32 = f.canon32 || t == wasm.F32
			f.canon64 = f.canon64 || t == wasm.F64
		}
	}
	declared := f.numLocal - uint64(len(f.typ.Params))
	f.entry = rest.cost + costFunction + int64(declared)*costLocal
}

// slotsPerFrame is the number of values on the native stack that a frame
// stands for. The engine gives every guest at least 50 MB of stack, whatever
// sizes its frames come in; 1,000 frames of this many values of 8 bytes are 33
// MB, and what every call saves besides is less than 1 KB. So the frames run
// out before the stack does. Few functions of compilers need a second frame.
const slotsPerFrame = 4_096

// frames is the number of frames that a call of the function takes; none, if
// it is small and calls nothing.
func (f *function) frames() int64 {
	n := 1 + (f.slots+(f.control+1)*f.numLocal)/slotsPerFrame
	if n == 1 && !f.calls {
		return 0
	}
	return int64(n)
}
