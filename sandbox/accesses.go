package sandbox

import (
	"math"

	"github.com/tallystick/tallystick/sandbox/wasm"
)

// accessesPerUnit is how many remembered addresses count as one unit of a
// function's work, a kilobyte: each is 24 bytes. The engine keeps the room for the
// next functions too, and functions that need most of it in different blocks need
// several times what one does.
const accessesPerUnit = 8

// loopBlocks and fillsBlocks are the blocks of the engine that end at or in such
// an instruction: of a loop also those in which the rewriter refills the gas.
const (
	loopBlocks  = 4
	fillsBlocks = 4
)

// accesses estimates what the engine takes to remember which addresses are known
// to lie inside the memory, so that it need not check them again. It keeps a list
// of them for every block of a function until that is compiled: those that the
// block accesses, and what all blocks know that lead to it. So loads and branches
// that are cheap alone are not together.
//
// known is never less than the engine's number. Where it takes the intersection
// of lists, the estimate takes the shortest; the engine has none yet, and knows
// nothing, after a br_table, and after an if without an else.
type accesses struct {
	known   uint64 // addresses known here
	kept    uint64 // in the lists of all blocks that have ended
	open    []accessBlock
	dead    bool // what follows cannot be reached
	skipped int  // blocks opened since
}

// An accessBlock is an open block, the function's own included.
type accessBlock struct {
	op    wasm.Opcode
	entry uint64 // known where an if began
	least uint64 // least that is known where control leaves for its end; unreached if it does not
}

const unreached = math.MaxUint64

func (a *accesses) begin() {
	*a = accesses{open: append(a.open[:0], accessBlock{wasm.OpBlock, 0, unreached})}
}

// work is the estimate until here, in units.
func (a *accesses) work() uint64 { return a.kept / accessesPerUnit }

// add follows an instruction.
func (a *accesses) add(in *wasm.Instr) {
	if a.dead && !a.revive(in.Op) {
		return
	}
	switch in.Op {
	case wasm.OpBlock:
		a.enter(in.Op)
	case wasm.OpLoop: // its beginning knows what comes before: later branches to it change nothing
		a.leave(loopBlocks)
		a.enter(in.Op)
	case wasm.OpIf:
		a.leave(1)
		a.enter(in.Op)
	case wasm.OpElse:
		a.arm()
	case wasm.OpEnd:
		a.end()
	case wasm.OpBr:
		a.branch(in.Index, a.known)
		a.dead = true
	case wasm.OpBrIf:
		a.branch(in.Index, a.known)
		a.leave(1)
	case wasm.OpBrTable:
		a.branchTable(in)
	case wasm.OpReturn, wasm.OpUnreachable:
		a.dead = true
	case wasm.OpMemoryFill, wasm.OpTableFill:
		a.leave(fillsBlocks)
	default:
		if in.Op >= wasm.OpI32Load && in.Op <= wasm.OpI64Store32 {
			a.known++
		}
	}
}

// revive follows the nesting of code that cannot be reached and reports whether
// op ends it.
func (a *accesses) revive(op wasm.Opcode) bool {
	switch op {
	case wasm.OpBlock, wasm.OpLoop, wasm.OpIf:
		a.skipped++
	case wasm.OpElse:
		return a.skipped == 0
	case wasm.OpEnd:
		if a.skipped == 0 {
			return true
		}
		a.skipped--
	}
	return false
}

func (a *accesses) enter(op wasm.Opcode) {
	a.open = append(a.open, accessBlock{op, a.known, unreached})
}

// leave ends so many of the engine's blocks.
func (a *accesses) leave(blocks uint64) { a.kept += blocks * a.known }

// arm goes from the first arm of an if to the second.
func (a *accesses) arm() {
	b := &a.open[len(a.open)-1]
	a.leave(1)
	if !a.dead {
		b.least = min(b.least, a.known)
	}
	b.op, a.known, a.dead = wasm.OpElse, b.entry, false
}

// end goes on behind a block. What the function's own end keeps is in the weights
// of its loads.
func (a *accesses) end() {
	b := a.open[len(a.open)-1]
	if a.open = a.open[:len(a.open)-1]; len(a.open) == 0 {
		return
	}
	a.leave(1)
	if !a.dead {
		b.least = min(b.least, a.known)
	}
	if b.op == wasm.OpIf {
		b.least = 0
	}
	a.dead = b.least == unreached
	if !a.dead {
		a.known = b.least
	}
}

// branch goes to the label with so many known addresses.
func (a *accesses) branch(label uint32, known uint64) {
	b := &a.open[len(a.open)-1-int(label)]
	if b.op != wasm.OpLoop {
		b.least = min(b.least, known)
	}
}

func (a *accesses) branchTable(in *wasm.Instr) {
	known := uint64(0)
	if len(in.Labels) == 0 { // the engine makes a br of it
		known = a.known
	}
	for _, l := range in.Labels {
		a.branch(l, known)
	}
	a.branch(in.Index, known)
	a.dead = true
}
