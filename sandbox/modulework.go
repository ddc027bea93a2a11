package sandbox

import "github.com/tallystick/tallystick/sandbox/wasm"

// What of a module the engine goes through for each of its functions, or calls,
// as units of the estimate.
const (
	// reloadsPerUnit is how many mutable globals that are read back after a call
	// count as one: each read is some 150 bytes until the function is compiled, also
	// where nothing uses the global.
	reloadsPerUnit = 6
	// passedPerUnit is how many globals and types that it goes through before a
	// function, or imports before a call of one, count as one.
	passedPerUnit = 64
	// addedGlobals are the rewriter's, which are mutable.
	addedGlobals = 2
)

// A moduleWork is what a module adds to the work of its functions: 0 or 1 in real
// programs, but a module can have tens of thousands of what it counts.
type moduleWork struct {
	function uint64 // for each function
	call     uint64 // for each call in it
}

func moduleWorkOf(m *wasm.Module) moduleWork {
	mutable := addedGlobals
	for _, g := range m.Globals {
		if g.Mutable {
			mutable++
		}
	}
	call := uint64(mutable/reloadsPerUnit + len(m.Imports)/passedPerUnit)
	// The rewriter has each function call for gas at its entry.
	return moduleWork{function: call + uint64((len(m.Globals)+len(m.Types))/passedPerUnit), call: call}
}

// calls reports whether an instruction is a call, or the rewriter makes it one or
// adds one to it: loops and what it meters by length.
func calls(op wasm.Opcode) bool {
	switch {
	case op == wasm.OpCall, op == wasm.OpCallIndirect, op == wasm.OpLoop, op == wasm.OpMemoryGrow:
		return true
	case op >= wasm.OpI32RemS && op <= wasm.OpI32RemU, op >= wasm.OpI64RemS && op <= wasm.OpI64RemU:
		return true
	}
	return op >= wasm.OpMemoryInit && op <= wasm.OpTableFill
}
