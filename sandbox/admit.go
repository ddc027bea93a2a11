package sandbox

import (
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/tallystick/tallystick/sandbox/rewrite"
	"github.com/tallystick/tallystick/sandbox/wasm"
)

// The static bounds of admission. Together they bound the time and memory that
// compiling takes: the engine's compile time grows with the square of a
// function's blocks and with blocks times locals, so that a module of 100 KB
// could otherwise take a minute. They are never measured by a clock.
const (
	// MaxLocals bounds the parameters and locals of a function.
	MaxLocals = 1024
	// MaxControl bounds the control instructions of a function. The largest
	// function seen in Go, Rust and C programs has 1,286.
	MaxControl = 16384
	// MaxCompileWork bounds the estimate of Admission.CompileWork: seconds of
	// compiling at most. A Go command of 3.8 MB is at 7.6 million.
	MaxCompileWork = 16 << 20
	// MaxFunctionWork bounds the instructions of a function, each with its weight,
	// and what is kept at its blocks: kilobytes of memory that compiling it takes, of
	// which a worker has two functions at a time. The largest function of that command
	// has a twelfth.
	MaxFunctionWork = 1 << 19
	// functionWork is the share of a function, however small.
	functionWork = 32
	// MaxTableEntries bounds the entries of a module's tables, together.
	MaxTableEntries = 65536
)

// admissionRules numbers the rules of admission that no version in a contract
// names. Raise it with every change of what is admitted, or of what rewriting
// makes of it under a version that no release has had: programs that were
// admitted under other rules and kept are not found any more.
const admissionRules = 7

// reservedExport begins the export names that rewriters keep for themselves.
const reservedExport = "tallystick:"

// An Admission describes a module that may run.
type Admission struct {
	ModuleDigest [sha256.Size]byte
	ModuleBytes  int64
	// HostInterface and Rewriter are the versions it was admitted for.
	HostInterface, Rewriter int
	// RewrittenModule is the SHA-256 of what the rewriter makes of the module,
	// which is what runs; nil with rewriter version 0.
	RewrittenModule *[sha256.Size]byte
	// Imports are the imports in the module's order, repeats included.
	Imports []HostFunction
	// Needs are the capabilities that the imports need, ascending, stdio
	// included: the least that a contract for this module must grant.
	Needs []string
	// MinMemoryPages and MaxMemoryPages bound the memory: as declared, the
	// maximum cut to the limit.
	MinMemoryPages, MaxMemoryPages uint32
	Functions, Instructions        int
	// Floats reports whether the module computes with floating point, whose NaN
	// payloads are the engine's under rewriter version 0.
	Floats bool
	// CompileWork is the static estimate that MaxCompileWork bounds.
	CompileWork uint64
}

// Admit decides whether module may run with the given capabilities and limits,
// by looking at it only: the answer is the same on every machine. A module that
// may not is refused with a [*Refusal]; unknown capabilities and limits out of
// range are [ErrInvalidJob]. The engine has not validated the module yet; see
// [Pool.Admit].
func Admit(module []byte, capabilities []string, limits Limits) (*Admission, error) {
	caps, err := capabilitySet(capabilities)
	if err != nil {
		return nil, err
	}
	if err := limits.check(); err != nil {
		return nil, err
	}
	a, err := admitRewritten(module, limits.key(sha256.Sum256(module), caps))
	if err != nil {
		return nil, err
	}
	return a.admission, nil
}

// admit checks everything about the module itself.
func admit(module []byte, key programKey) (*Admission, error) {
	if len(module) > MaxModuleBytes {
		return nil, refuse(RefusedSize, "", "%d bytes, at most %d are taken", len(module), MaxModuleBytes)
	}
	m, err := wasm.Decode(module)
	if err != nil {
		return nil, decodeRefusal(err)
	}
	a := &Admission{
		ModuleDigest:  key.module,
		ModuleBytes:   int64(len(module)),
		HostInterface: HostInterface,
		Functions:     len(m.Funcs),
	}
	for _, check := range []func(*Admission, *wasm.Module, programKey) error{
		admitImports, admitExports, admitResults, admitMemory, admitTables, admitSegments, admitCode,
	} {
		if err := check(a, m, key); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func decodeRefusal(err error) error {
	if f := (*wasm.FeatureError)(nil); errors.As(err, &f) {
		return refuse(RefusedFeature, string(f.Feature), "%s at offset %d", f.What, f.Offset)
	}
	// The code says malformed or invalid already.
	if errors.Is(err, wasm.ErrInvalid) {
		return refuse(RefusedInvalid, "", "%s", strings.TrimPrefix(err.Error(), wasm.ErrInvalid.Error()+": "))
	}
	return refuse(RefusedMalformed, "", "%s", strings.TrimPrefix(err.Error(), wasm.ErrMalformed.Error()+": "))
}

// admitImports wants every import to be a granted function with exactly its
// signature.
func admitImports(a *Admission, m *wasm.Module, key programKey) error {
	needs := capSet(1 << capStdio)
	a.Imports = make([]HostFunction, len(m.Imports))
	for i, im := range m.Imports {
		item := im.Module + "." + im.Name
		if im.Kind != wasm.KindFunc {
			return refuse(RefusedImport, item, "imported %v; only functions can be imported", im.Kind)
		}
		f := hostFuncByName[im.Name]
		if im.Module != wasiModule || f == nil {
			return refuse(RefusedImport, item, "not in host interface version %d", HostInterface)
		}
		if got := m.Types[im.Type].String(); got != f.signature() {
			return refuse(RefusedImport, item, "signature is %s, must be %s", got, f.signature())
		}
		if !key.caps.has(f.cap) {
			r := refuse(RefusedImport, item, "not granted")
			r.Capability = capNames[f.cap]
			return r
		}
		needs |= 1 << f.cap
		a.Imports[i] = HostFunction{wasiModule, f.name, f.signature(), capNames[f.cap]}
	}
	a.Needs = needs.names()
	return nil
}

func admitExports(_ *Admission, m *wasm.Module, key programKey) error {
	start, ok := m.Export("_start")
	if !ok || start.Kind != wasm.KindFunc {
		return refuse(RefusedExport, "_start", "not an exported function; build a command, not a library")
	}
	if t, _ := m.FuncType(start.Index); len(t.Params)+len(t.Results) != 0 {
		return refuse(RefusedExport, "_start", "signature is %s, must be ()", t)
	}
	if memory, ok := m.Export("memory"); !ok || memory.Kind != wasm.KindMemory {
		return refuse(RefusedExport, "memory", "not an exported memory")
	}
	for _, e := range m.Exports {
		if strings.HasPrefix(e.Name, reservedExport) {
			return refuse(RefusedExport, e.Name, "names beginning with %q are reserved", reservedExport)
		}
	}
	if m.Start != nil && !key.metered {
		return refuse(RefusedStart, "", "function %d would run before _start; only metered modules can have one", *m.Start)
	}
	return nil
}

// admitResults wants types without more results than their price covers.
func admitResults(_ *Admission, m *wasm.Module, _ programKey) error {
	for i, t := range m.Types {
		if n := len(t.Results); n > rewrite.MaxArity {
			return refuse(RefusedArity, "", "type %d has %d results, at most %d are taken", i, n, rewrite.MaxArity)
		}
	}
	return nil
}

func admitMemory(a *Admission, m *wasm.Module, key programKey) error {
	memory := m.Memories[0] // exported, not imported: there is one
	if memory.Min > key.pages {
		return refuse(RefusedMemory, "", "needs %d pages to start, the limit is %d", memory.Min, key.pages)
	}
	a.MinMemoryPages, a.MaxMemoryPages = memory.Min, key.pages
	if memory.HasMax {
		a.MaxMemoryPages = min(memory.Max, key.pages)
	}
	return nil
}

func admitTables(_ *Admission, m *wasm.Module, _ programKey) error {
	total := uint64(0)
	for _, t := range m.Tables {
		total += uint64(t.Min)
	}
	if total > MaxTableEntries {
		return refuse(RefusedTable, "", "%d entries, at most %d are taken", total, MaxTableEntries)
	}
	return nil
}

// admitSegments wants active segments inside what they initialise, so that
// instantiating cannot fail.
func admitSegments(_ *Admission, m *wasm.Module, _ programKey) error {
	for i, d := range m.Datas {
		end := uint64(uint32(d.Offset.Value)) + uint64(len(d.Bytes))
		if d.Mode == wasm.Active && (d.Offset.Op != wasm.OpI32Const || end > uint64(m.Memories[0].Min)*pageSize) {
			return refuse(RefusedSegment, "", "data segment %d does not lie inside the memory", i)
		}
	}
	for i, e := range m.Elems {
		end := uint64(uint32(e.Offset.Value)) + uint64(e.Count)
		if e.Mode == wasm.Active && (e.Offset.Op != wasm.OpI32Const || end > uint64(m.Tables[e.Table].Min)) {
			return refuse(RefusedSegment, "", "element segment %d does not lie inside its table", i)
		}
	}
	return nil
}

func admitCode(a *Admission, m *wasm.Module, _ programKey) error {
	c := &codeCheck{m: m, module: moduleWorkOf(m)}
	err := m.Decode(c)
	if err == nil {
		err = c.finish()
	}
	if r := (*Refusal)(nil); errors.As(err, &r) {
		return r
	}
	if err != nil {
		return decodeRefusal(err)
	}
	a.Instructions, a.Floats, a.CompileWork = c.instructions, c.floats, c.work
	return nil
}

// A codeCheck bounds what compiling a module costs and refuses instructions
// whose result engines do not agree on.
type codeCheck struct {
	m            *wasm.Module
	open         bool   // a function has been begun and not been added to work
	index        int    // of the function
	length       int    // instructions of the function
	locals       uint64 // of the function
	control      uint64 // control instructions of the function
	simple       uint64 // other work of the function: instructions by weight, operands, targets
	work         uint64 // of the functions before
	instructions int
	floats       bool
	stack        wasm.Stack
	merges       merges
	accesses     accesses
	module       moduleWork
	deepest      uint64 // of the operand stack in the function
}

// Function closes the account of the previous function and opens one.
func (c *codeCheck) Function(index int, code wasm.Code) error {
	if err := c.finish(); err != nil {
		return err
	}
	c.index, c.length, c.locals, c.control, c.simple, c.deepest, c.open = index, 0, code.NumLocals, 0, c.module.function, 0, true
	c.stack.Begin(c.m, code)
	c.merges.begin()
	c.accesses.begin()
	if c.locals > MaxLocals {
		return refuse(RefusedLocals, "", "function %d has %d parameters and locals, at most %d are taken",
			c.number(), c.locals, MaxLocals)
	}
	return nil
}

// finish adds the function's share to the estimate:
//
//	functionWork + control²/32 + (control+1)·locals + deepest²/64 + memory + merges
//
// where memory is that of [codeCheck.memory], operands that are alive at a control
// instruction count as locals do, and merges are those of [merges.work].
func (c *codeCheck) finish() error {
	if c.control > MaxControl {
		return refuse(RefusedControl, "", "function %d has %d control instructions, at most %d are taken",
			c.number(), c.control, MaxControl)
	}
	memory := c.memory()
	if memory > MaxFunctionWork {
		return refuse(RefusedWork, "", "estimate of %d for the instructions of function %d, at most %d is taken", memory, c.number(), MaxFunctionWork)
	}
	if c.open {
		c.work += functionWork + c.control*c.control/32 + (c.control+1)*c.locals + c.deepest*c.deepest/64 + memory +
			c.merges.work(c.control)
		c.open = false
	}
	if c.work > MaxCompileWork {
		return refuse(RefusedWork, "", "estimate of %d by function %d, at most %d is taken", c.work, c.number(), MaxCompileWork)
	}
	return nil
}

// memory is the sum of the instructions' weights, of the globals that calls
// read back, and of [accesses.work].
func (c *codeCheck) memory() uint64 { return c.simple + c.accesses.work() }

// number is the function's index in the module's index space.
func (c *codeCheck) number() uint32 { return c.m.ImportedFuncs() + uint32(c.index) }

// Instr accounts for one instruction. An instruction that moves many operands
// counts as many.
func (c *codeCheck) Instr(in *wasm.Instr) error {
	if c.length++; c.length > rewrite.MaxInstructions {
		return refuse(RefusedLength, "", "function %d has more than %d instructions", c.number(), rewrite.MaxInstructions)
	}
	c.instructions++
	c.simple += weightOf(in.Op)
	height := uint64(c.stack.Height())
	c.deepest = max(c.deepest, height)
	if in.Op.Control() {
		c.control++
		c.simple += height
	}
	if err := c.stack.Step(in); err != nil {
		return err
	}
	c.merges.add(in)
	c.accesses.add(in)
	if calls(in.Op) {
		c.simple += c.module.call
	}
	switch in.Op {
	case wasm.OpBrTable: // the compiler makes a block for each target
		c.control += uint64(len(in.Labels))
	case wasm.OpMemoryFill, wasm.OpTableFill:
		c.control += fillBlocks
	case wasm.OpCall:
		t, _ := c.m.FuncType(in.Index)
		c.call(t)
	case wasm.OpCallIndirect:
		c.call(c.m.Types[in.Index])
	case wasm.OpBlock, wasm.OpLoop, wasm.OpIf:
		return c.block(in)
	case wasm.OpMemoryInit, wasm.OpDataDrop:
		if c.m.Datas[in.Index].Mode != wasm.Passive {
			return c.segment("data", in)
		}
	case wasm.OpTableInit, wasm.OpElemDrop:
		if c.m.Elems[in.Index].Mode != wasm.Passive {
			return c.segment("element", in)
		}
		if in.Op == wasm.OpTableInit && c.m.Elems[in.Index].Type == wasm.ExternRef {
			// The engine keeps no entries of such a segment, and traps.
			return refuse(RefusedSegment, "", "function %d initialises from element segment %d, which is of externref", c.number(), in.Index)
		}
	case wasm.OpTableGrow:
		return c.tableGrow(in)
	}
	c.floats = c.floats || float(in.Op)
	return nil
}

// call accounts for a call's operands.
func (c *codeCheck) call(t wasm.FuncType) {
	c.simple += arity(t)
	c.merges.fresh = len(t.Results) > 0
}

// block accounts for a block's operands and bounds its parameters.
func (c *codeCheck) block(in *wasm.Instr) error {
	if in.Block.Index < 0 {
		return nil
	}
	t := c.m.Types[in.Block.Index]
	if n := len(t.Params); n > rewrite.MaxArity {
		return refuse(RefusedArity, "", "function %d has a block with %d parameters, at most %d are taken",
			c.number(), n, rewrite.MaxArity)
	}
	c.simple += arity(t)
	return nil
}

// segment refuses memory.init and the like of a segment that counts as dropped
// from the start: it must trap, and not every engine does.
func (c *codeCheck) segment(kind string, in *wasm.Instr) error {
	return refuse(RefusedSegment, "", "function %d initialises from or drops %s segment %d, which is not passive",
		c.number(), kind, in.Index)
}

// tableGrow wants the tables of a module that grows one to declare maxima, as
// nothing else bounds them.
func (c *codeCheck) tableGrow(in *wasm.Instr) error {
	total := uint64(0)
	for i, t := range c.m.Tables {
		if !t.HasMax {
			return refuse(RefusedTable, "", "function %d grows table %d, but table %d declares no maximum", c.number(), in.Index, i)
		}
		total += uint64(t.Max)
	}
	if total > MaxTableEntries {
		return refuse(RefusedTable, "", "function %d grows table %d, and the tables' maxima are %d entries, at most %d are taken",
			c.number(), in.Index, total, MaxTableEntries)
	}
	return nil
}

func arity(t wasm.FuncType) uint64 { return uint64(len(t.Params) + len(t.Results)) }

// float reports whether an operation computes a floating-point value.
func float(op wasm.Opcode) bool {
	switch {
	case op >= 0x8b && op <= 0xa6: // abs to copysign, both widths
		return true
	case op >= 0xb2 && op <= 0xbb: // conversions to floats
		return true
	}
	return false
}
