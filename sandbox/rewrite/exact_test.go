package rewrite

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// A follower goes through a rewritten module and holds it to what rewriting.md
// says of the gas left: that the counter has it at every instruction but those of
// a charge, and the local wherever it is read. It is told where they are, and
// nothing of how the instructions were chosen.
type follower struct {
	gas  uint32   // index of the counter
	left []uint32 // index of the local in each function; the functions after are helpers

	local  uint32
	helper bool
	fresh  bool // on every way to here, the local has what the counter has
	blocks []followed
	last   wasm.Opcode // the instruction before
	index  uint32      // its operand
	place  string
}

// A followed is an open block.
type followed struct {
	op    wasm.Opcode
	out   bool // fresh on all branches to its label
	start bool // of an if: fresh before it
}

func (f *follower) Function(index int, _ wasm.Code) error {
	f.place = fmt.Sprintf("function %d", index)
	if f.helper = index >= len(f.left); !f.helper {
		f.local = f.left[index]
	}
	f.fresh, f.blocks, f.last = false, []followed{{op: wasm.OpBlock, out: true}}, 0
	return nil
}

func (f *follower) wrong(in *wasm.Instr, what string) error {
	return fmt.Errorf("%s: %s at offset %d", f.place, what, in.Start)
}

func (f *follower) Instr(in *wasm.Instr) error {
	if f.helper {
		return nil
	}
	left := in.Op >= wasm.OpLocalGet && in.Op <= wasm.OpLocalTee && in.Index == f.local
	counter := (in.Op == wasm.OpGlobalGet || in.Op == wasm.OpGlobalSet) && in.Index == f.gas
	setLocal := f.last == wasm.OpLocalTee && f.index == f.local
	switch {
	case setLocal && !(counter && in.Op == wasm.OpGlobalSet):
		return f.wrong(in, "the local is set, and the counter is not")
	case counter && in.Op == wasm.OpGlobalSet:
		if f.fresh = setLocal; !setLocal && f.last != wasm.OpI64Sub {
			return f.wrong(in, "the counter is set to something else")
		}
	case left && in.Op == wasm.OpLocalGet:
		if !f.fresh {
			return f.wrong(in, "the local is read and is behind")
		}
	case left && in.Op == wasm.OpLocalTee:
		if f.last != wasm.OpI64Sub {
			return f.wrong(in, "the local is set to something else")
		}
	case left:
		if f.fresh = f.last == wasm.OpGlobalGet && f.index == f.gas; !f.fresh {
			return f.wrong(in, "the local is read back from elsewhere")
		}
	case in.Op == wasm.OpCall, in.Op == wasm.OpCallIndirect:
		f.fresh = false
	}
	f.last, f.index = in.Op, in.Index
	return f.control(in)
}

// control follows the ways through the code.
func (f *follower) control(in *wasm.Instr) error {
	top := len(f.blocks) - 1
	switch in.Op {
	case wasm.OpBlock, wasm.OpIf, wasm.OpLoop:
		f.blocks = append(f.blocks, followed{in.Op, true, f.fresh})
	case wasm.OpElse:
		b := &f.blocks[top]
		b.op, b.out, f.fresh = wasm.OpElse, b.out && f.fresh, b.start
	case wasm.OpEnd:
		b := f.blocks[top]
		f.blocks = f.blocks[:top]
		f.fresh = f.fresh && (b.op == wasm.OpLoop || b.out) && (b.op != wasm.OpIf || b.start)
	case wasm.OpBr, wasm.OpBrIf, wasm.OpBrTable:
		for _, l := range append(in.Labels, in.Index) {
			b := &f.blocks[top-int(l)]
			if b.op == wasm.OpLoop && b.start && !f.fresh {
				return f.wrong(in, "the local is behind when a loop goes back")
			}
			b.out = b.out && f.fresh
		}
	}
	switch in.Op {
	case wasm.OpBr, wasm.OpBrTable, wasm.OpReturn, wasm.OpUnreachable:
		f.fresh = true // no way leads to what follows
	}
	return nil
}

// lefts finds the first added local of each function of the original: the one
// after its own.
type lefts []uint32

func (l *lefts) Function(_ int, code wasm.Code) error {
	*l = append(*l, uint32(code.NumLocals))
	return nil
}

func (l *lefts) Instr(*wasm.Instr) error { return nil }

// exact holds what the rewriter made of a module to the follower.
func exact(original, rewritten []byte) error {
	m, err := wasm.Decode(original)
	if err != nil {
		return err
	}
	var l lefts
	if err := m.Decode(&l); err != nil {
		return err
	}
	after, err := wasm.Decode(rewritten)
	if err != nil {
		return err
	}
	return after.Decode(&follower{gas: uint32(len(m.Globals)), left: l})
}

// TestGasIsExact follows what becomes of compilers' modules and of random ones.
func TestGasIsExact(t *testing.T) {
	check := func(name string, module []byte) {
		if err := exact(module, rewritten(t, module).Bytes); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, module := range guests(t) {
		check(name, module)
	}
	for seed := range uint64(100) {
		check(fmt.Sprint("module ", seed), wasmtest.Random(rand.NewPCG(seed, 2), wasmtest.RandomConfig{Start: true}).Bytes)
		check(fmt.Sprint("flow ", seed), (&flow{r: rand.New(rand.NewPCG(seed, 3))}).module())
	}
}

// TestFollower: the follower finds what it is to find.
func TestFollower(t *testing.T) {
	entry := op(0x23, 0, 0x42, 9, 0x7d, 0x22, 0, 0x24, 0)  // charges and keeps
	charge := op(0x20, 0, 0x42, 9, 0x7d, 0x22, 0, 0x24, 0) // in a further region
	last := op(0x20, 0, 0x42, 9, 0x7d, 0x24, 0)            // and keeps nothing
	call, back := op(0x10, 1), op(0x23, 0, 0x21, 0)
	nest := func(begin byte, pieces ...[]byte) []byte {
		return wasmtest.Cat(op(begin, 0x40), wasmtest.Cat(pieces...), op(0x0b))
	}
	again := op(0x41, 0, 0x0d, 0) // br_if 0
	for name, test := range map[string]struct {
		body []byte
		good bool
	}{
		"nothing":              {nil, true},
		"one after the other":  {wasmtest.Cat(entry, charge, charge, last), true},
		"at the entry":         {charge, false},
		"after the last":       {wasmtest.Cat(entry, last, charge), false},
		"after a call":         {wasmtest.Cat(entry, call, charge), false},
		"read back":            {wasmtest.Cat(entry, call, call, back, charge), true},
		"a call in an arm":     {wasmtest.Cat(entry, op(0x41, 0), nest(0x04, charge, call), charge), false},
		"read back in an arm":  {wasmtest.Cat(entry, op(0x41, 0), nest(0x04, last, call, back), charge), true},
		"a call before an arm": {wasmtest.Cat(entry, call, op(0x41, 0), nest(0x04, back), charge), false},
		"a call in one arm":    {wasmtest.Cat(entry, op(0x41, 0), nest(0x04, charge, op(0x05), call), charge), false},
		"both read back":       {wasmtest.Cat(entry, call, op(0x41, 0), nest(0x04, back, op(0x05), back), charge), true},
		"a branch with a call": {wasmtest.Cat(entry, nest(0x02, call, again, back), charge), false},
		"a branch without":     {wasmtest.Cat(entry, nest(0x02, again, call, back), charge), true},
		"a loop with a call":   {wasmtest.Cat(entry, nest(0x03, charge, call, again, back)), false},
		"a loop reading back":  {wasmtest.Cat(entry, nest(0x03, last, call, back, again)), true},
		"after a return":       {wasmtest.Cat(entry, op(0x41, 0), nest(0x04, last, call, op(0x0f)), charge), true},
		"set to a constant":    {wasmtest.Cat(entry, op(0x42, 0, 0x24, 0)), false},
		"kept and not set":     {wasmtest.Cat(entry, op(0x20, 0, 0x42, 9, 0x7d, 0x22, 0, 0x1a)), false},
		"kept a constant":      {wasmtest.Cat(entry, op(0x42, 0, 0x22, 0, 0x24, 0)), false},
		"read from elsewhere":  {wasmtest.Cat(entry, op(0x42, 0, 0x21, 0)), false},
	} {
		b := wasmtest.Command().Global('I', 0x42, 0)
		b.Func(":", "I", test.body)
		b.Func(":", "I")
		m, err := wasm.Decode(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Decode(&follower{left: []uint32{0, 0}}); (err == nil) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
