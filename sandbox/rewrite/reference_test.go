package rewrite

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tallystick/tallystick/sandbox/wasm"
)

// A reference runs a module's original code one instruction at a time and adds
// up what each costs when it is executed: what the regions must come to. It
// knows the instructions that the tests of gas use.
type reference struct {
	m      *wasm.Module
	bodies [][]wasm.Instr
	locals []uint64 // number of parameters and locals of each function
	match  []map[int]int
	gas    int64
	pages  uint64
	log    []uint32
	steps  int
	depth  int
	most   int // frames open at once, of functions that call
}

var (
	errRefTrap  = errors.New("trap")
	errRefSteps = errors.New("too many steps")
)

// maxSteps ends modules that do not.
const maxSteps = 200_000

func newReference(module []byte) (*reference, error) {
	m, err := wasm.Decode(module)
	if err != nil {
		return nil, err
	}
	r := &reference{m: m}
	for _, l := range m.Memories {
		r.pages = uint64(l.Min)
	}
	return r, m.Decode(r)
}

func (r *reference) Function(_ int, code wasm.Code) error {
	r.bodies = append(r.bodies, nil)
	r.locals = append(r.locals, code.NumLocals)
	r.match = append(r.match, nil)
	return nil
}

func (r *reference) Instr(in *wasm.Instr) error {
	c := *in
	c.Labels = slices.Clone(in.Labels)
	i := len(r.bodies) - 1
	r.bodies[i] = append(r.bodies[i], c)
	return nil
}

// ends maps each block's opening to its end, and each if to its else.
func (r *reference) ends(f int) map[int]int {
	if r.match[f] != nil {
		return r.match[f]
	}
	m := map[int]int{}
	var open []int
	for pc, in := range r.bodies[f] {
		switch in.Op {
		case wasm.OpBlock, wasm.OpLoop, wasm.OpIf:
			open = append(open, pc)
		case wasm.OpElse:
			m[-1-open[len(open)-1]] = pc
		case wasm.OpEnd:
			if len(open) > 0 {
				m[open[len(open)-1]] = pc
				open = open[:len(open)-1]
			}
		}
	}
	r.match[f] = m
	return m
}

// targeted reports whether a branch that can be reached goes back to the loop
// at a place.
func (r *reference) targeted(f, loop int) bool {
	depth, dead := 0, -1 // blocks open since the loop; where unreachable code ends
	for _, in := range r.bodies[f][loop+1 : r.ends(f)[loop]] {
		switch in.Op {
		case wasm.OpBlock, wasm.OpLoop, wasm.OpIf:
			depth++
		case wasm.OpElse:
			if dead == depth {
				dead = -1
			}
		case wasm.OpEnd:
			if dead == depth {
				dead = -1
			}
			depth--
		case wasm.OpBr, wasm.OpBrIf, wasm.OpBrTable:
			if dead < 0 && (int(in.Index) == depth || slices.Contains(in.Labels, uint32(depth))) {
				return true
			}
		}
		if dead < 0 && (in.Op == wasm.OpBr || in.Op == wasm.OpBrTable || in.Op == wasm.OpReturn || in.Op == wasm.OpUnreachable) {
			dead = depth
		}
	}
	return false
}

// A label is where a branch goes.
type label struct {
	pc     int // of the loop, or of the end
	loop   bool
	height int
	arity  int // values that a branch takes along
}

func (r *reference) blockArity(b wasm.BlockType) (params, results int) {
	if b.Index >= 0 {
		return len(r.m.Types[b.Index].Params), len(r.m.Types[b.Index].Results)
	}
	if b.Result != 0 {
		return 0, 1
	}
	return 0, 0
}

// call runs a function, by its index in the module.
func (r *reference) call(index uint32, args []uint64) ([]uint64, error) {
	if index < r.m.ImportedFuncs() {
		r.log = append(r.log, uint32(args[0]))
		return nil, nil
	}
	f := int(index - r.m.ImportedFuncs())
	typ := r.m.Types[r.m.Funcs[f]]
	code, ends := r.bodies[f], r.ends(f)
	r.gas += costFunction + int64(r.locals[f]-uint64(len(typ.Params)))*costLocal
	if slices.ContainsFunc(code, func(in wasm.Instr) bool { return in.Op == wasm.OpCall || in.Op == wasm.OpCallIndirect }) {
		r.depth++
		r.most = max(r.most, r.depth)
		defer func() { r.depth-- }()
	}
	locals := append(slices.Clone(args), make([]uint64, r.locals[f]-uint64(len(args)))...)
	var stack []uint64
	labels := []label{{pc: len(code) - 1, arity: len(typ.Results)}}
	pop := func() uint64 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		return v
	}
	pc := 0
	branch := func(depth uint32) {
		l := labels[len(labels)-1-int(depth)]
		stack = append(stack[:l.height], stack[len(stack)-l.arity:]...)
		if l.loop {
			labels = labels[:len(labels)-int(depth)]
			pc = l.pc
			r.gas += costLoop
		} else {
			labels = labels[:len(labels)-1-int(depth)]
			pc = l.pc
		}
	}
	for ; pc < len(code); pc++ {
		in := &code[pc]
		if r.steps++; r.steps > maxSteps {
			return nil, errRefSteps
		}
		r.gas += int64(cost(in.Op))
		switch in.Op {
		case wasm.OpNop:
		case wasm.OpUnreachable:
			return nil, errRefTrap
		case wasm.OpBlock:
			params, results := r.blockArity(in.Block)
			labels = append(labels, label{ends[pc], false, len(stack) - params, results})
		case wasm.OpLoop:
			params, _ := r.blockArity(in.Block)
			if r.targeted(f, pc) {
				r.gas += costLoop
			}
			labels = append(labels, label{pc, true, len(stack) - params, params})
		case wasm.OpIf:
			c := pop()
			params, results := r.blockArity(in.Block)
			labels = append(labels, label{ends[pc], false, len(stack) - params, results})
			if c == 0 {
				if at, ok := ends[-1-pc]; ok {
					pc = at
				} else {
					pc = ends[pc] - 1
				}
			}
		case wasm.OpElse: // of an arm that ran to its end
			pc = labels[len(labels)-1].pc - 1
		case wasm.OpEnd:
			labels = labels[:len(labels)-1]
		case wasm.OpBr:
			branch(in.Index)
		case wasm.OpBrIf:
			if pop() != 0 {
				branch(in.Index)
			}
		case wasm.OpBrTable:
			if i := pop(); i < uint64(len(in.Labels)) {
				branch(in.Labels[i])
			} else {
				branch(in.Index)
			}
		case wasm.OpReturn:
			branch(uint32(len(labels) - 1))
		case wasm.OpCall, wasm.OpCallIndirect:
			index := in.Index
			if in.Op == wasm.OpCallIndirect {
				i := pop()
				if i >= uint64(len(r.m.Elems[0].Funcs)) {
					return nil, errRefTrap
				}
				index = r.m.Elems[0].Funcs[i]
			}
			t, _ := r.m.FuncType(index)
			results, err := r.call(index, stack[len(stack)-len(t.Params):])
			if err != nil {
				return nil, err
			}
			stack = append(stack[:len(stack)-len(t.Params)], results...)
		case wasm.OpDrop:
			pop()
		case wasm.OpSelect:
			c, b, a := pop(), pop(), pop()
			if c == 0 {
				a = b
			}
			stack = append(stack, a)
		case wasm.OpLocalGet:
			stack = append(stack, locals[in.Index])
		case wasm.OpLocalSet:
			locals[in.Index] = pop()
		case wasm.OpLocalTee:
			locals[in.Index] = stack[len(stack)-1]
		case wasm.OpI32Const:
			stack = append(stack, uint64(uint32(in.Imm)))
		case wasm.OpI32Eqz:
			v := uint64(0)
			if pop() == 0 {
				v = 1
			}
			stack = append(stack, v)
		case wasm.OpMemoryGrow:
			n := pop()
			if r.pages+n > 100 {
				stack = append(stack, 0xffffffff)
				break
			}
			r.gas += int64(n) * costPage
			stack = append(stack, r.pages)
			r.pages += n
		case wasm.OpMemoryFill, wasm.OpMemoryCopy:
			n, _, at := pop(), pop(), pop()
			r.gas += int64(n >> bytesShift)
			if at+n > r.pages<<16 {
				return nil, errRefTrap
			}
		default:
			b, a := pop(), pop()
			v, err := binary32(in.Op, uint32(a), uint32(b))
			if err != nil {
				return nil, err
			}
			stack = append(stack, uint64(v))
		}
	}
	return stack, nil
}

func binary32(op wasm.Opcode, a, b uint32) (uint32, error) {
	switch op {
	case wasm.OpI32Add:
		return a + b, nil
	case wasm.OpI32Sub:
		return a - b, nil
	case wasm.OpI32Mul:
		return a * b, nil
	case 0x71: // and
		return a & b, nil
	case wasm.OpI32LtU:
		if a < b {
			return 1, nil
		}
		return 0, nil
	case wasm.OpI32RemU:
		if b == 0 {
			return 0, errRefTrap
		}
		return a % b, nil
	case wasm.OpI32RemS:
		if b == 0 {
			return 0, errRefTrap
		}
		return uint32(int32(int64(int32(a)) % int64(int32(b)))), nil
	}
	return 0, fmt.Errorf("reference: opcode %v", op)
}
