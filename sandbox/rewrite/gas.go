package rewrite

import "github.com/tallystick/tallystick/sandbox/wasm"

// The gas left is in the counter, a global, at every instruction of the
// original: wherever a run ends, and whoever is called, the counter is exact.
// A region does not read it from there, which would make a loop wait for it to
// go through the memory, but from a local of its function, which an engine has
// in a register. The local is exact where a region begins, except at the entry of
// a function.

// A tail is what is left of a region from one of its instructions on. Regions
// are gone through from the last instruction to the first.
type tail struct {
	cost int64
	// goesOn is set while another region may follow and no instruction is in
	// between that may change the counter.
	goesOn bool
}

// add puts an instruction before the tail.
func (t *tail) add(in *instr) {
	switch in.op {
	case wasm.OpBr, wasm.OpBrTable:
		*t = tail{goesOn: true}
	case wasm.OpReturn, wasm.OpUnreachable:
		*t = tail{}
	}
	t.cost += int64(cost(in.op))
	if t.goesOn && callsOut(in.op) {
		in.marks |= renews
		t.goesOn = false
	}
}

// callsOut reports whether an instruction is a call once it is rewritten. Even
// of a function that leaves the counter alone, reading it back is cheaper than
// keeping a register across the call. ref.func is none, though engines may make it
// one of their own.
func callsOut(op wasm.Opcode) bool {
	_, _, helped := helperOf(op)
	return helped || op == wasm.OpCall || op == wasm.OpCallIndirect
}

// charge charges for a region with the cost and the marks. One that costs
// nothing is not charged unless it also checks.
func (b *body) charge(cost int64, marks mark, entry bool) {
	if cost == 0 && marks&checks == 0 {
		return
	}
	b.w.r.Regions++
	if entry {
		b.index(wasm.OpGlobalGet, b.w.gas)
	} else {
		b.index(wasm.OpLocalGet, b.gasLeft)
	}
	b.i64(cost).op(wasm.OpI64Sub)
	if marks&(keeps|checks) != 0 {
		b.index(wasm.OpLocalTee, b.gasLeft)
	}
	b.index(wasm.OpGlobalSet, b.w.gas)
	if marks&checks == 0 {
		return
	}
	b.w.r.Checks++
	b.ifNegative(b.gasLeft).index(wasm.OpCall, b.w.refill)
	b.renew()
	b.op(wasm.OpEnd)
}

// renew reads the counter back.
func (b *body) renew() {
	b.index(wasm.OpGlobalGet, b.w.gas).index(wasm.OpLocalSet, b.gasLeft)
}

// ifNegative begins a block that runs if a local, an i64, is negative. It is an
// else: an engine takes the first arm for the likely one, and has registers
// where it needs them on the way through that.
func (a *assembler) ifNegative(local uint32) *assembler {
	a.index(wasm.OpLocalGet, local).i64(0).op(wasm.OpI64GeS)
	return a.op(wasm.OpIf).op(noBlockType).op(wasm.OpElse)
}
