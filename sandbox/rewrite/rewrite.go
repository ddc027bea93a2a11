package rewrite

import (
	"crypto/sha256"
	"strings"

	"github.com/tallystick/tallystick/sandbox/wasm"
)

// What a contract names: another rule or another cost is another number.
const (
	// Version is the version of the rewriting rules.
	Version = 1
	// CostTable is the version of the costs.
	CostTable = 1
)

// The names through which the host deals with a rewritten module. Originals
// cannot use them.
const (
	// Prefix begins every export that the rewriter adds.
	Prefix = "tallystick:"
	// GasGlobal is a mutable i64: the gas left in the tank. Negative: exhausted.
	GasGlobal = Prefix + "gas"
	// FramesGlobal is a mutable i32: the frames left. Negative: exhausted.
	FramesGlobal = Prefix + "frames"
	// StartExport is the module's start function, if it has one: () -> (). The
	// host calls it before anything else.
	StartExport = Prefix + "start"
	// ImportModule and RefillImport name the one function the rewriter imports,
	// () -> (): it adds to GasGlobal until it is not negative, or does not return.
	ImportModule = "tallystick"
	RefillImport = "refill"
)

// Bounds. They keep the work of rewriting and of what follows proportional.
const (
	// MaxInput bounds the module, in bytes.
	MaxInput = 16 << 20
	// MaxOutput bounds the rewritten module, in bytes. Compilers' modules grow by
	// less than half; code made to grow, one checked region per three bytes, would
	// grow more than tenfold and is refused.
	MaxOutput = 4 * MaxInput
	// MaxLocals bounds the parameters and locals of a function: engines take no
	// more than 50,000, and four may be added.
	MaxLocals = 50_000 - addedLocals
	// MaxArity bounds the results of every function type and the parameters of
	// every block: branches, ends of blocks and returns move them all at a price
	// that does not know how many they are. Parameters of functions, and operands
	// beyond these, are pushed one by one, each charged. Compilers' modules have
	// one result and no parameters of blocks.
	MaxArity = 16
	// MaxInstructions bounds the instructions of a function, those that cannot be
	// reached included: the rewriter keeps 32 bytes for each until the function
	// ends, and a module could be one function of nop. Compilers' largest have
	// some tens of thousands.
	MaxInstructions = 1 << 20
	// MaxPages is the most pages of 64 KiB that a memory can have.
	MaxPages = 65_536
	// MaxTableEntries bounds the entries of each table, and is the maximum of
	// tables that declare none or a higher one.
	MaxTableEntries = 65_536
)

// Config is what a rewritten module depends on besides the module. The zero
// value is useful.
type Config struct {
	// MemoryPages is the contract's limit, in pages of 64 KiB: it becomes the
	// memory's maximum unless the module declares a lower one. 0, and anything
	// above MaxPages, means MaxPages.
	MemoryPages uint32
}

// A Rewritten is a rewritten module and, for reports, what was done.
type Rewritten struct {
	Bytes  []byte
	Digest [sha256.Size]byte // SHA-256 of Bytes

	Functions    int  // that the module defines
	Instructions int  // of the original that can be reached
	Regions      int  // straight lines of code that are charged
	Checks       int  // of them, those that compare the counter with zero
	Counted      int  // functions that take frames
	Canonical    int  // NaN canonicalisations
	Remainders   int  // remainder operations moved into functions
	Bulk         int  // operations charged by length
	Segments     int  // data segments of the original
	Joined       int  // of them, those that were joined to the one before
	Start        bool // whether StartExport exists
	// MinPages and MaxPages bound the memory, in pages; zero without a memory.
	MinPages, MaxPages uint32
}

// Rewrite rewrites a module. What it returns is valid, as it refuses what is
// not. Errors are of type [*Refusal].
func Rewrite(module []byte, c Config) (*Rewritten, error) {
	if len(module) > MaxInput {
		return nil, refuse(RuleSize, "", "%d bytes, at most %d are taken", len(module), MaxInput)
	}
	m, err := wasm.Decode(module)
	if err != nil {
		return nil, decodeRefusal(err)
	}
	w := newWriter(module, m, c)
	for _, step := range []func() error{m.Validate, w.checkNames, w.limitResults, w.limitMemory, w.limitTables, w.writeCode} {
		if err := step(); err != nil {
			return nil, decodeRefusal(err)
		}
	}
	w.r.Bytes = w.assemble()
	if len(w.r.Bytes) > MaxOutput {
		return nil, w.tooLarge()
	}
	w.r.Digest = sha256.Sum256(w.r.Bytes)
	return &w.r, nil
}

// A writer makes one rewritten module. Indexes are those of the rewritten
// module unless said otherwise.
type writer struct {
	in []byte
	m  *wasm.Module
	c  Config
	r  Rewritten

	types  []wasm.FuncType   // the original's, and those added
	typeOf map[string]uint32 // index of the first type of an encoding
	refill uint32            // function index of the refill import, the last import
	gas    uint32            // global index; that of frames is one more

	memories []wasm.Limits
	tables   []wasm.Table

	code    []byte            // bodies, each with its length
	helpers []helper          // functions added after the module's own
	index   map[helper]uint32 // place in helpers
}

func newWriter(module []byte, m *wasm.Module, c Config) *writer {
	if c.MemoryPages == 0 || c.MemoryPages > MaxPages {
		c.MemoryPages = MaxPages
	}
	w := &writer{in: module, m: m, c: c, typeOf: make(map[string]uint32, len(m.Types)), index: make(map[helper]uint32)}
	w.types = m.Types[:len(m.Types):len(m.Types)]
	for i := len(m.Types) - 1; i >= 0; i-- { // so that the first of equal ones stays
		w.typeOf[string(wasm.AppendFuncType(nil, m.Types[i]))] = uint32(i)
	}
	w.code = make([]byte, 0, len(module)+len(module)/4)
	w.refill, w.gas = m.ImportedFuncs(), uint32(len(m.Globals))
	w.typeIndex(wasm.FuncType{}) // of the refill import: the first type added, if it is added
	w.r.Functions, w.r.Segments, w.r.Start = len(m.Funcs), len(m.Datas), m.Start != nil
	return w
}

// checkNames refuses what would collide with what the rewriter adds, and
// imports other than functions, which the host does not have.
func (w *writer) checkNames() error {
	for _, im := range w.m.Imports {
		item := im.Module + "." + im.Name
		if im.Kind != wasm.KindFunc {
			return refuse(RuleImport, item, "imported %v; only functions can be imported", im.Kind)
		}
		if im.Module == ImportModule {
			return refuse(RuleImport, item, "module %q is reserved", ImportModule)
		}
	}
	for _, e := range w.m.Exports {
		if strings.HasPrefix(e.Name, Prefix) {
			return refuse(RuleExport, e.Name, "names beginning with %q are reserved", Prefix)
		}
	}
	return nil
}

// limitResults bounds the results of functions, and of blocks with them.
func (w *writer) limitResults() error {
	for i, t := range w.m.Types {
		if n := len(t.Results); n > MaxArity {
			return refuse(RuleArity, "", "type %d has %d results, at most %d are taken", i, n, MaxArity)
		}
	}
	return nil
}

// limitMemory gives the memory its maximum.
func (w *writer) limitMemory() error {
	for _, l := range w.m.Memories {
		if l.Min > w.c.MemoryPages {
			return refuse(RuleMemory, "", "needs %d pages to start, the limit is %d", l.Min, w.c.MemoryPages)
		}
		if !l.HasMax || l.Max > w.c.MemoryPages {
			l.Max, l.HasMax = w.c.MemoryPages, true
		}
		w.memories = append(w.memories, l)
		w.r.MinPages, w.r.MaxPages = l.Min, l.Max
	}
	return nil
}

// limitTables gives every table its maximum.
func (w *writer) limitTables() error {
	for i, t := range w.m.Tables {
		if t.Min > MaxTableEntries {
			return refuse(RuleTable, "", "table %d has %d entries, at most %d are taken", i, t.Min, MaxTableEntries)
		}
		if !t.HasMax || t.Max > MaxTableEntries {
			t.Max, t.HasMax = MaxTableEntries, true
		}
		w.tables = append(w.tables, t)
	}
	return nil
}

// typeIndex is the index of the first type equal to t, which is added if there
// is none.
func (w *writer) typeIndex(t wasm.FuncType) uint32 {
	key := string(wasm.AppendFuncType(nil, t))
	i, ok := w.typeOf[key]
	if !ok {
		i = uint32(len(w.types))
		w.types, w.typeOf[key] = append(w.types, t), i
	}
	return i
}

// function is the index of a function of the original in the rewritten module.
func (w *writer) function(original uint32) uint32 {
	if original >= w.refill {
		return original + 1
	}
	return original
}

func (w *writer) tooLarge() error {
	return refuse(RuleSize, "", "rewriting makes more than %d bytes", MaxOutput)
}
