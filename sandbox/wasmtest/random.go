package wasmtest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
)

// The shape of random modules: small, so that an engine compiles hundreds a
// second, and with enough of everything that indexes can be mixed up.
const (
	randomFuel     = 2000 // of a call from outside: the sum of the two below
	fuelOfCall     = 8    // so that recursion ends some 250 frames deep
	fuelOfLoop     = 1
	randomPages    = 1
	randomMaxPages = 6
	tableSize      = 8
	tableMax       = 12
)

// A RandomConfig says what random modules are for. All modules of one source
// make the same decisions, whatever the configuration.
type RandomConfig struct {
	// Canonical puts the canonical NaN in place of every NaN that an operation
	// makes, by instructions of the module's own: the module then has one meaning
	// in every engine, and is what a rewritten module must agree with.
	Canonical bool
	// Start lets the module have a start function.
	Start bool
	// Unbounded gives it so much fuel that loops and recursion end only by a
	// limit from outside.
	Unbounded bool
}

// A RandomModule is a valid module that imports nothing but functions of WASI
// preview 1 that any host can fake, and exports a memory as "memory" and
// "_start", which calls every other exported function and stores the results.
type RandomModule struct {
	Bytes []byte
	// Funcs are exported functions of numbers only; each may trap, none runs
	// long if the global Fuel (i32) is set before the call.
	Funcs []RandomFunc
	// Globals are the names of the exported globals: mutable, of numbers.
	Globals []string
}

// Fuel is the name of the exported global that ends loops and recursion of
// random modules: RandomFuel before a call is enough for all to happen.
const (
	Fuel       = "fuel"
	RandomFuel = randomFuel
)

// A RandomFunc is an exported function; its types are letters as in
// [Builder.Type].
type RandomFunc struct{ Name, Params, Results string }

// ByteSource is a random source that begins with the given bytes, so that a
// fuzzer can steer what is made of it, and goes on for ever.
func ByteSource(b []byte) rand.Source {
	return &byteSource{b, rand.NewPCG(uint64(len(b)), 0)}
}

type byteSource struct {
	b    []byte
	rest *rand.PCG
}

func (s *byteSource) Uint64() uint64 {
	if len(s.b) == 0 {
		return s.rest.Uint64()
	}
	var v [8]byte
	// Two bytes decide: the upper ones are what bounded numbers are made of.
	for i := 7; i > 5 && len(s.b) > 0; i-- {
		v[i], s.b = s.b[0], s.b[1:]
	}
	return binary.LittleEndian.Uint64(v[:])
}

// hostImports are the functions that random modules call: they take numbers
// and pointers and always return.
var hostImports = []struct{ name, sig string }{
	{"sched_yield", ":i"},
	{"clock_time_get", "iIi:i"},
	{"random_get", "ii:i"},
}

// A generator makes one module.
type generator struct {
	*rand.Rand
	config  RandomConfig
	b       *Builder
	sigs    []string // of all functions, imports first
	imports int
	fuel    uint32 // global
	globals []randomGlobal
	tables  []rune            // element type of each
	slots   [tableSize]uint32 // functions in table 0 after instantiation, 0 for none
	elems   []rune            // element type of each passive segment
	elem0   uint32            // index of the first passive element segment
	data0   uint32            // index of the first passive data segment
	datas   uint32            // number of passive data segments
}

type randomGlobal struct {
	letter  rune
	mutable bool
}

// Random makes a module out of source.
func Random(source rand.Source, config RandomConfig) *RandomModule {
	g := &generator{Rand: rand.New(source), config: config, b: new(Builder)}
	m := new(RandomModule)
	g.declare()
	g.memory()
	g.makeGlobals(m)
	g.makeTables()
	for i, sig := range g.sigs[g.imports:] {
		if f := g.function(sig); f != uint32(g.imports+i) {
			panic("functions out of order")
		}
		params, results, _ := strings.Cut(sig, ":")
		if numeric(params + results) {
			name := fmt.Sprintf("f%d", i)
			g.b.Export(name, 0, uint32(g.imports+i))
			m.Funcs = append(m.Funcs, RandomFunc{name, params, results})
		}
	}
	g.startFunctions()
	m.Bytes = g.b.Bytes()
	return m
}

func numeric(letters string) bool { return !strings.ContainsAny(letters, "re") }

// chance is true in p of 100 cases.
func (g *generator) chance(p int) bool { return g.IntN(100) < p }

// letter is a random type; references are rare.
func (g *generator) letter() rune {
	if g.chance(6) {
		return rune("re"[g.IntN(2)])
	}
	return rune("iiIIfF"[g.IntN(6)])
}

func (g *generator) letters(most int) string {
	list := make([]rune, g.IntN(most+1))
	for i := range list {
		list[i] = g.letter()
	}
	return string(list)
}

// declare decides the signatures of all functions.
func (g *generator) declare() {
	for _, im := range hostImports {
		if g.chance(60) {
			g.b.Import(WASI, im.name, im.sig)
			g.sigs = append(g.sigs, im.sig)
		}
	}
	g.imports = len(g.sigs)
	for range 3 + g.IntN(4) {
		sig := g.letters(3) + ":" + g.letters(2)
		if g.chance(15) { // some have many
			sig = g.letters(6) + ":" + g.letters(5)
		}
		g.sigs = append(g.sigs, sig)
	}
	// One at least can be called from outside.
	g.sigs = append(g.sigs, "iF:I")
}

func (g *generator) memory() {
	high := int64(-1)
	if g.chance(60) {
		high = randomPages + int64(g.IntN(randomMaxPages))
	}
	g.b.Memory(randomPages, high).Export("memory", 2, 0)
	at := int32(0)
	for range g.IntN(4) { // active ones, apart from each other, touching or overlapping
		at += int32(g.IntN(100)) - 10
		at = max(at, 0)
		s := g.text(40)
		g.b.Data(at, s)
		at += int32(len(s))
		g.data0++
	}
	for range g.IntN(3) {
		g.b.PassiveData(g.text(60))
		g.datas++
	}
}

func (g *generator) text(most int) string {
	b := make([]byte, g.IntN(most+1))
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return string(b)
}

func (g *generator) makeGlobals(m *RandomModule) {
	for range 2 + g.IntN(6) {
		letter, mutable := g.letter(), g.chance(70)
		index := uint32(len(g.globals))
		g.globals = append(g.globals, randomGlobal{letter, mutable})
		init := g.constant(letter)
		if letter == 'r' && g.chance(50) {
			init = U32([]byte{0xd2}, g.someFunc())
		}
		g.b.GlobalRaw(letter, mutable, init...)
		if mutable && numeric(string(letter)) {
			name := fmt.Sprintf("g%d", index)
			g.b.Export(name, 3, index)
			m.Globals = append(m.Globals, name)
		}
	}
	g.fuel = uint32(len(g.globals)) // not in g.globals: only fuel code touches it
	g.b.GlobalRaw('i', true, I32Const(g.startFuel())...).Export(Fuel, 3, g.fuel)
}

func (g *generator) startFuel() int32 {
	if g.config.Unbounded {
		return 1 << 30
	}
	return randomFuel
}

// someFunc is the index of any function that the module defines.
func (g *generator) someFunc() uint32 {
	return uint32(g.imports + g.IntN(len(g.sigs)-g.imports))
}

// makeTables adds a table of functions, sometimes a second table of either
// kind, and element segments of every form.
func (g *generator) makeTables() {
	g.tables = append(g.tables, 'r')
	g.b.Table(tableSize, tableMax)
	if g.chance(50) {
		letter := rune("re"[g.IntN(2)])
		g.tables = append(g.tables, letter)
		g.b.TableRaw(valueTypes[letter], 1, tableSize, tableMax)
	}
	var run []uint32 // functions for the entries before i
	for i := range uint32(tableSize) {
		if g.chance(85) {
			g.slots[i] = g.someFunc()
			run = append(run, g.slots[i])
			continue
		}
		g.activeElem(run, i-uint32(len(run)))
		run = nil
	}
	g.activeElem(run, tableSize-uint32(len(run)))
	for range g.IntN(3) {
		g.passiveElem()
	}
	// ref.func needs its function named outside the code.
	declared := U32([]byte{3, 0}, uint32(len(g.sigs)-g.imports))
	for i := g.imports; i < len(g.sigs); i++ {
		declared = U32(declared, uint32(i))
	}
	g.b.ElemRaw(declared...)
}

// activeElem puts funcs at an offset of table 0, in one of the four forms.
func (g *generator) activeElem(funcs []uint32, offset uint32) {
	at := append(I32Const(int32(offset)), 0x0b)
	g.elem0++
	switch form := g.IntN(4); form {
	case 0: // function indexes
		g.b.ElemRaw(append(append([]byte{0}, at...), indexes(funcs)...)...)
	case 1: // and the table named
		g.b.ElemRaw(append(append(append([]byte{2, 0}, at...), 0), indexes(funcs)...)...)
	case 2: // expressions
		g.b.ElemRaw(append(append([]byte{4}, at...), expressions(funcs)...)...)
	case 3:
		g.b.ElemRaw(append(append(append([]byte{6, 0}, at...), 0x70), expressions(funcs)...)...)
	}
}

func (g *generator) passiveElem() {
	funcs := []uint32{g.someFunc(), g.someFunc(), g.someFunc()}
	g.elems = append(g.elems, 'r')
	if g.chance(50) {
		g.b.ElemRaw(append([]byte{1, 0}, indexes(funcs)...)...)
		return
	}
	// The expression form may have null references in it.
	g.b.ElemRaw(append([]byte{5, 0x70, 4, 0xd0, 0x70, 0x0b}, expressions(funcs)[1:]...)...)
}

func indexes(funcs []uint32) []byte {
	b := U32(nil, uint32(len(funcs)))
	for _, f := range funcs {
		b = U32(b, f)
	}
	return b
}

func expressions(funcs []uint32) []byte {
	b := U32(nil, uint32(len(funcs)))
	for _, f := range funcs {
		b = append(U32(append(b, 0xd2), f), 0x0b)
	}
	return b
}

// startFunctions adds _start and perhaps a start function.
func (g *generator) startFunctions() {
	code := Cat(I32Const(g.startFuel()), U32([]byte{0x24}, g.fuel))
	at := uint32(4096)
	for i, sig := range g.sigs[g.imports:] {
		params, results, _ := strings.Cut(sig, ":")
		for _, p := range params {
			code = append(code, g.constant(p)...)
		}
		code = U32(append(code, 0x10), uint32(g.imports+i))
		for j := len(results) - 1; j >= 0; j-- {
			code = append(code, storeResult(rune(results[j]), at)...)
			at += 8
		}
	}
	g.b.Export("_start", 0, g.b.Func(":", "iIfF", code))
	if g.chance(30) && g.config.Start {
		// It calls the function that every module has.
		last := U32([]byte{0x10}, uint32(len(g.sigs)-1))
		g.b.StartSection(g.b.Func(":", "", g.constant('i'), g.constant('F'), last, Drop))
	}
}

// storeResult stores the top of the stack by way of the local of its type.
func storeResult(letter rune, at uint32) []byte {
	local := strings.IndexRune("iIfF", letter)
	if local < 0 {
		return Drop
	}
	op := []byte{0x36, 0x37, 0x38, 0x39}[local]
	return U32(Cat([]byte{0x21, byte(local)}, I32Const(0), []byte{0x20, byte(local), op, 0}), at)
}
