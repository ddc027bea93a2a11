package wasmtest

import (
	"slices"
	"strings"
)

const (
	randomInstrs = 60 // of a function, about
	randomDepth  = 6  // of nested blocks
	randomStack  = 10 // operands of a block
	scratch      = "iifF"
)

// A coder makes the body of one function. It keeps the types of the operands
// and the open blocks as a validator does, and picks instructions that fit.
type coder struct {
	*generator
	code    []byte
	locals  string // parameters and locals
	first   int    // index of the locals of the types of scratch: two count loops, two are for NaNs
	results string
	stack   []rune
	blocks  []randomBlock
	left    int // instructions that may still be picked
}

type randomBlock struct {
	params, results string
	loop            bool
	arm             bool // of an if, with no else yet
	dead            bool // what follows is not reached
	height          int  // operands below the block's own
	counter         int  // local that counts a loop down, or -1
}

// label is the operand types of a branch to the block.
func (b *randomBlock) label() string {
	if b.loop {
		return b.params
	}
	return b.results
}

// function adds a function with the given signature and returns its index.
func (g *generator) function(sig string) uint32 {
	params, results, _ := strings.Cut(sig, ":")
	own := g.letters(6) + "iIfF"
	c := &coder{
		generator: g,
		locals:    params + own,
		first:     len(params) + len(own),
		results:   results,
		blocks:    []randomBlock{{results: results, counter: -1}},
		left:      10 + g.IntN(randomInstrs),
	}
	c.burn(fuelOfCall)
	for len(c.blocks) > 0 {
		c.next()
	}
	// The last end is added by the builder.
	return g.b.Func(sig, own+scratch, c.code[:len(c.code)-1])
}

// burn is code that takes fuel and traps when there is none.
func (c *coder) burn(n int32) {
	c.emit(U32([]byte{0x23}, c.fuel), I32Const(n), []byte{0x6b}, U32([]byte{0x24}, c.fuel))
	c.emit(U32([]byte{0x23}, c.fuel), I32Const(0), []byte{0x48, 0x04, 0x40, 0x00, 0x0b})
}

func (c *coder) emit(pieces ...[]byte) {
	for _, p := range pieces {
		c.code = append(c.code, p...)
	}
}

func (c *coder) top() *randomBlock { return &c.blocks[len(c.blocks)-1] }

// own is the operands of the innermost block.
func (c *coder) own() []rune { return c.stack[c.top().height:] }

func (c *coder) push(letters string) { c.stack = append(c.stack, []rune(letters)...) }

func (c *coder) pop(n int) { c.stack = c.stack[:max(len(c.stack)-n, c.top().height)] }

// need takes operands of the given types off the stack: those that are there,
// where they fit, or new ones.
func (c *coder) need(letters string) {
	own := string(c.own())
	switch {
	case strings.HasSuffix(own, letters) && c.chance(85):
	case c.top().dead && strings.HasSuffix(letters, own) && c.chance(50):
		// What is missing is made up by the rules of code that is not reached.
	default:
		for _, l := range letters {
			c.operand(l)
		}
	}
	c.pop(len(letters))
}

// operand pushes an operand of a type.
func (c *coder) operand(letter rune) {
	switch {
	case c.chance(55) && strings.ContainsRune(c.locals, letter):
		c.emit(U32([]byte{0x20}, c.local(letter)))
	case c.chance(20):
		if i, ok := c.global(letter, false); ok {
			c.emit(U32([]byte{0x23}, i))
			break
		}
		fallthrough
	default:
		c.emit(c.constant(letter))
		if letter == 'r' && c.chance(70) {
			c.code = c.code[:len(c.code)-2]
			c.emit(U32([]byte{0xd2}, c.someFunc()))
		}
	}
	c.stack = append(c.stack, letter)
}

// local is the index of a local of a type that there is.
func (c *coder) local(letter rune) uint32 {
	var list []uint32
	for i, l := range c.locals {
		if l == letter {
			list = append(list, uint32(i))
		}
	}
	return list[c.IntN(len(list))]
}

func (c *coder) global(letter rune, mutable bool) (uint32, bool) {
	var list []uint32
	for i, g := range c.globals {
		if g.letter == letter && (g.mutable || !mutable) {
			list = append(list, uint32(i))
		}
	}
	if len(list) == 0 {
		return 0, false
	}
	return list[c.IntN(len(list))], true
}

// next adds an instruction, or ends the innermost block.
func (c *coder) next() {
	c.left--
	switch {
	case c.left < 0 || c.top().dead && c.chance(40):
		c.end()
		return
	case len(c.own()) > randomStack:
		c.discard(1)
		return
	}
	switch n := c.IntN(100); {
	case n < 38:
		c.numeric()
	case n < 48:
		c.operand(c.letter())
	case n < 58:
		c.set()
	case n < 70:
		c.access()
	case n < 80:
		c.begin()
	case n < 84:
		c.branch()
	case n < 90:
		c.call()
	case n < 96:
		c.bulk()
	case n < 98:
		c.choose()
	default:
		if len(c.blocks) > 1 && c.chance(40) {
			c.end()
			return
		}
		c.emit([]byte{0x01})
	}
}

// discard takes n operands away, one by one into locals, or drops them.
func (c *coder) discard(n int) {
	for range n {
		own := c.own()
		if len(own) == 0 {
			return
		}
		l := own[len(own)-1]
		if c.chance(70) && strings.ContainsRune(c.locals, l) {
			c.emit(U32([]byte{0x21}, c.local(l)))
		} else {
			c.emit(Drop)
		}
		c.pop(1)
	}
}

// set stores an operand in a local or global.
func (c *coder) set() {
	l := c.letter()
	if own := c.own(); len(own) > 0 {
		l = own[len(own)-1]
	}
	if i, ok := c.global(l, true); ok && c.chance(30) {
		c.need(string(l))
		c.emit(U32([]byte{0x24}, i))
		return
	}
	if !strings.ContainsRune(c.locals, l) {
		return
	}
	c.need(string(l))
	if c.chance(50) {
		c.emit(U32([]byte{0x22}, c.local(l)))
		c.push(string(l))
		return
	}
	c.emit(U32([]byte{0x21}, c.local(l)))
}

// choose is a select of numbers, or with its type.
func (c *coder) choose() {
	l := string(c.letter())
	c.need(l + l + "i")
	if !numeric(l) || c.chance(30) {
		c.emit([]byte{0x1c, 1, valueTypes[[]rune(l)[0]]})
	} else {
		c.emit([]byte{0x1b})
	}
	c.push(l)
}

// begin opens a block, loop or if.
func (c *coder) begin() {
	if len(c.blocks) > randomDepth {
		return
	}
	b := randomBlock{results: c.letters(1), counter: -1}
	if c.chance(40) {
		b.params, b.results = c.letters(3), c.letters(3)
	}
	var typ []byte
	switch {
	case b.params != "" || len(b.results) > 1 || c.chance(10):
		typ = S64(nil, int64(c.b.Type(b.params+":"+b.results)))
	case b.results == "":
		typ = []byte{0x40}
	default:
		typ = []byte{valueTypes[rune(b.results[0])]}
	}
	op := byte(2 + c.IntN(3))
	if op == 3 && c.chance(80) && !slices.ContainsFunc(c.blocks, func(o randomBlock) bool { return o.counter == c.first+1 }) {
		// A counter of its own, unless two loops around have them.
		b.counter = c.first
		if slices.ContainsFunc(c.blocks, func(o randomBlock) bool { return o.counter == c.first }) {
			b.counter++
		}
		c.emit(I32Const(int32(1+c.IntN(6))), U32([]byte{0x21}, uint32(b.counter)))
	}
	if op == 4 {
		c.need(b.params + "i")
		b.arm = true
	} else {
		c.need(b.params)
	}
	b.loop, b.height = op == 3, len(c.stack)
	c.emit(append([]byte{op}, typ...))
	c.blocks = append(c.blocks, b)
	c.push(b.params)
	if b.loop {
		c.burn(fuelOfLoop)
	}
}

// end finishes the innermost block with the results that it owes.
func (c *coder) end() {
	b := c.top()
	if b.loop && !b.dead && c.chance(90) {
		c.repeat()
	}
	own := string(c.own())
	if own != b.results && !(b.dead && strings.HasSuffix(b.results, own)) {
		c.discard(len(own))
		if !(b.dead && c.chance(50)) {
			for _, l := range b.results {
				c.operand(l)
			}
		}
	}
	c.stack = c.stack[:b.height]
	if b.arm && (b.params != b.results || c.chance(50)) {
		c.emit([]byte{0x05})
		b.arm, b.dead = false, false
		c.push(b.params)
		return
	}
	c.emit([]byte{0x0b})
	results := b.results
	c.blocks = c.blocks[:len(c.blocks)-1]
	c.push(results)
}

// repeat branches back to the loop, while its counter lasts if it has one.
func (c *coder) repeat() {
	b := c.top()
	for _, l := range b.params {
		c.operand(l)
	}
	if b.counter >= 0 {
		c.emit(U32([]byte{0x20}, uint32(b.counter)), I32Const(1), []byte{0x6b}, U32([]byte{0x22}, uint32(b.counter)))
	} else {
		c.operand('i')
		c.pop(1)
	}
	c.emit([]byte{0x0d, 0})
}

// branch leaves a block, mostly if a condition holds.
func (c *coder) branch() {
	n := c.IntN(len(c.blocks)) // label
	label := c.blocks[len(c.blocks)-1-n].label()
	kind := c.IntN(100)
	if len(c.blocks) < 3 || c.chance(60) { // where much would be skipped
		kind = 0
	}
	switch {
	case kind < 60:
		c.need(label + "i")
		c.emit(U32([]byte{0x0d}, uint32(n)))
		c.push(label)
		return
	case kind < 70:
		c.need(label)
		c.emit(U32([]byte{0x0c}, uint32(n)))
	case kind < 90:
		c.need(label + "i")
		var same []uint32
		for i := range c.blocks {
			if c.blocks[len(c.blocks)-1-i].label() == label {
				same = append(same, uint32(i))
			}
		}
		table := U32(nil, uint32(c.IntN(5)))
		for range table[0] + 1 {
			table = U32(table, same[c.IntN(len(same))])
		}
		c.emit([]byte{0x0e}, table)
	case kind < 97:
		c.need(c.results)
		c.emit([]byte{0x0f})
	default:
		c.emit(Unreachable)
	}
	c.stack = c.stack[:c.top().height]
	c.top().dead = true
}

// call calls a function, by its index or through a table.
func (c *coder) call() {
	f := uint32(c.IntN(len(c.sigs)))
	if c.chance(60) {
		c.arguments(f)
		c.emit(U32([]byte{0x10}, f))
	} else {
		slot := c.IntN(tableSize)
		if g := c.slots[slot]; g != 0 && c.chance(90) { // else the types differ, most likely
			f = g
		}
		c.arguments(f)
		c.emit(I32Const(int32(slot)), U32([]byte{0x11}, c.b.Type(c.sigs[f])), []byte{0})
	}
	_, results, _ := strings.Cut(c.sigs[f], ":")
	c.push(results)
}

// arguments takes the operands of a call. Host functions get addresses that are
// inside the memory.
func (c *coder) arguments(f uint32) {
	params, _, _ := strings.Cut(c.sigs[f], ":")
	if f >= uint32(c.imports) {
		c.need(params)
		return
	}
	for _, p := range params {
		if p == 'I' {
			c.emit(I64Const(1))
		} else {
			c.emit(I32Const(int32(c.IntN(64))))
		}
	}
}
