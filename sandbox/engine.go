package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// engineVersion is the version of the engine in go.mod; a test holds it there.
const engineVersion = "v1.12.0"

// features is what the engine accepts: WebAssembly 2.0 without SIMD. [Admit]
// refuses by name what lies outside, before the engine sees it.
const features = api.CoreFeaturesV2 &^ api.CoreFeatureSIMD

// DefaultCachedModules is how many compiled modules an engine keeps warm; a Go
// command takes some 15 MB.
const DefaultCachedModules = 8

// EngineConfig configures an [Engine]. The zero value is useful.
type EngineConfig struct {
	// Interpreter runs modules without compiling them, some hundred times slower:
	// a second opinion for small runs.
	Interpreter bool
	// Interruptible makes a run end soon after its context does, even while the
	// guest computes; it makes compiled code several times slower. Without it a
	// run sees the end of its context at its next host call only.
	Interruptible bool
	// CachedModules bounds the compiled modules kept; 0 means DefaultCachedModules.
	CachedModules int
	// CacheDir, if not empty, keeps compiled code across processes. Who can write
	// there can run code in the worker: it must be private to its owner.
	CacheDir string
}

// An Engine runs modules in this process and keeps their compiled form. It is
// not safe for concurrent use.
type Engine struct {
	config   EngineConfig
	programs []*program // most recently used first
	closed   bool
}

// A programKey is all that decides the compiled form of a module.
type programKey struct {
	module [sha256.Size]byte
	caps   capSet
	pages  uint32
}

// A program is an admitted and compiled module in a runtime of its own, so that
// closing it releases everything it took, and so that the functions of
// capabilities it was not granted do not exist for it.
type program struct {
	key       programKey
	admission *Admission
	runtime   wazero.Runtime
	cache     wazero.CompilationCache // nil without a cache directory
	module    wazero.CompiledModule
}

// NewEngine returns an engine that has compiled nothing yet.
func NewEngine(config EngineConfig) *Engine {
	if config.CachedModules <= 0 {
		config.CachedModules = DefaultCachedModules
	}
	return &Engine{config: config}
}

// Close releases all compiled modules.
func (e *Engine) Close() error {
	e.closed = true
	var errs []error
	for _, p := range e.programs {
		errs = append(errs, p.close())
	}
	e.programs = nil
	return errors.Join(errs...)
}

// RunDirect runs one job in this process with a fresh compiler-mode engine. A
// guest that computes without calling the host is not interrupted by ctx, and a
// fault of the engine's compiler would be in this process: use a [Pool] for
// modules of strangers.
func RunDirect(ctx context.Context, job Job) (*Result, error) {
	e := NewEngine(EngineConfig{})
	defer e.Close()
	return e.Run(ctx, job)
}

// Run admits, compiles (unless it is warm) and runs the job's module. Errors
// are a [*Refusal] or wrap [ErrInvalidJob], [ErrStopped], [ErrEngineFault] or
// [ErrClosed].
func (e *Engine) Run(ctx context.Context, job Job) (*Result, error) {
	if err := job.check(); err != nil {
		return nil, err
	}
	return e.runChecked(ctx, &job, nil)
}

// runChecked runs a job that passed its check. It calls running, if not nil,
// when the module is compiled and the guest is about to start.
func (e *Engine) runChecked(ctx context.Context, job *Job, running func() error) (*Result, error) {
	start := time.Now()
	warm := e.warm(job.key())
	p, err := e.load(ctx, job.Module, job.key())
	if err != nil {
		return nil, err
	}
	compiled := time.Since(start)
	if running != nil {
		if err := running(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, job.Limits.wallClock())
	defer cancel()
	r, err := e.run(ctx, p, job)
	if err != nil {
		return nil, err
	}
	if !warm {
		r.Engine.CompileTime = compiled
	}
	return r, nil
}

// Admit admits module as [Admit] does, and then has the engine validate and
// compile it, so that a module that was admitted here also runs.
func (e *Engine) Admit(ctx context.Context, module []byte, capabilities []string, limits Limits) (*Admission, error) {
	caps, err := capabilitySet(capabilities)
	if err != nil {
		return nil, err
	}
	if err := limits.check(); err != nil {
		return nil, err
	}
	p, err := e.load(ctx, module, programKey{sha256.Sum256(module), caps, limits.MemoryPages})
	if err != nil {
		return nil, err
	}
	return p.admission, nil
}

func (j *Job) key() programKey {
	caps, _ := capabilitySet(j.Capabilities) // checked by j.check
	return programKey{j.ModuleDigest, caps, j.Limits.MemoryPages}
}

// warm reports whether the program is compiled.
func (e *Engine) warm(key programKey) bool {
	return slices.ContainsFunc(e.programs, func(p *program) bool { return p.key == key })
}

// load returns the program for key, compiling module (whose digest the key
// has) if it is not warm.
func (e *Engine) load(ctx context.Context, module []byte, key programKey) (*program, error) {
	if e.closed {
		return nil, ErrClosed
	}
	if i := slices.IndexFunc(e.programs, func(p *program) bool { return p.key == key }); i >= 0 {
		p := e.programs[i]
		e.programs = slices.Insert(slices.Delete(e.programs, i, i+1), 0, p)
		return p, nil
	}
	if got := sha256.Sum256(module); got != key.module {
		return nil, invalidJob("module is %x, the job names %x", got[:8], key.module[:8])
	}
	admission, err := admit(module, key)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w before compiling: %w", ErrStopped, err)
	}
	p, err := e.compile(ctx, module, key)
	if err != nil {
		return nil, err
	}
	p.admission = admission
	if n := e.config.CachedModules; len(e.programs) >= n {
		last := e.programs[n-1]
		e.programs = e.programs[:n-1]
		if err := last.close(); err != nil {
			p.close()
			return nil, engineFault("releasing a compiled module: %w", err)
		}
	}
	e.programs = slices.Insert(e.programs, 0, p)
	return p, nil
}

func (e *Engine) compile(ctx context.Context, module []byte, key programKey) (_ *program, err error) {
	// The engine's constructor panics where it has no compiler.
	defer func() {
		if r := recover(); r != nil {
			err = engineFault("compiling: panic: %v", r)
		}
	}()
	p := &program{key: key}
	config := wazero.NewRuntimeConfigCompiler()
	if e.config.Interpreter {
		config = wazero.NewRuntimeConfigInterpreter()
	}
	config = config.WithCoreFeatures(features).
		WithMemoryLimitPages(key.pages).
		WithDebugInfoEnabled(false).
		WithCloseOnContextDone(e.config.Interruptible)
	if e.config.CacheDir != "" {
		if p.cache, err = wazero.NewCompilationCacheWithDir(e.config.CacheDir); err != nil {
			return nil, engineFault("opening the compilation cache: %w", err)
		}
		config = config.WithCompilationCache(p.cache)
	}
	p.runtime = wazero.NewRuntimeWithConfig(context.Background(), config)
	if err := exportHost(p.runtime, key.caps); err != nil {
		p.close()
		return nil, engineFault("defining host functions: %w", err)
	}
	if p.module, err = p.runtime.CompileModule(ctx, module); err != nil {
		p.close()
		return nil, compileError(ctx, module, err)
	}
	return p, nil
}

// compileError tells a module that does not validate, which is refused, from a
// compiler that failed: the former fails in the interpreter as well, which
// shares the validator and needs nothing of the machine.
func compileError(ctx context.Context, module []byte, err error) error {
	r := wazero.NewRuntimeWithConfig(context.Background(), wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features))
	defer r.Close(context.Background())
	if _, invalid := r.CompileModule(ctx, module); invalid != nil {
		return refuse(RefusedInvalid, "", "%v", invalid)
	}
	return engineFault("compiling: %w", err)
}

func (p *program) close() error {
	err := p.runtime.Close(context.Background())
	if p.cache != nil {
		err = errors.Join(err, p.cache.Close(context.Background()))
	}
	return err
}

// guestKey is the context key under which host functions find their guest.
type guestKey struct{}

// exportHost defines the host functions that caps grants.
func exportHost(r wazero.Runtime, caps capSet) error {
	b := r.NewHostModuleBuilder(wasiModule)
	for i := range hostFuncs {
		f := &hostFuncs[i]
		if !caps.has(f.cap) {
			continue
		}
		var params, results []api.ValueType
		for _, p := range f.params {
			if p == 'I' {
				params = append(params, api.ValueTypeI64)
			} else {
				params = append(params, api.ValueTypeI32)
			}
		}
		if f.returns() {
			results = []api.ValueType{api.ValueTypeI32}
		}
		b = b.NewFunctionBuilder().WithGoModuleFunction(f, params, results).Export(f.name)
	}
	_, err := b.Instantiate(context.Background())
	return err
}

// Call is the engine's entry into a host function.
func (f *hostFunc) Call(ctx context.Context, m api.Module, stack []uint64) {
	g := ctx.Value(guestKey{}).(*guest)
	if g.ctx.Err() != nil {
		g.finish(endedStopped)
	}
	memory := m.Memory()
	mem, _ := memory.Read(0, memory.Size())
	e := f.call(g, mem, stack[:len(f.params)])
	if f.returns() {
		stack[0] = uint64(e)
	}
}

// run instantiates the program and calls its _start.
func (e *Engine) run(ctx context.Context, p *program, job *Job) (*Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w before the start: %w", ErrStopped, err)
	}
	g := newGuest(ctx, job)
	// The engine watches a context only where it is to be interruptible.
	base := context.Background()
	if e.config.Interruptible {
		base = ctx
	}
	start := time.Now()
	m, err := p.runtime.InstantiateModule(base, p.module, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, engineFault("instantiating: %w", err) // admission left no other reason
	}
	defer m.Close(context.Background())
	_, runErr := m.ExportedFunction("_start").Call(context.WithValue(base, guestKey{}, g))
	wall := time.Since(start)

	outcome, err := classify(ctx, g, runErr)
	if err != nil {
		return nil, err
	}
	memory := m.Memory()
	outcome.PeakPages = memory.Size() / pageSize
	outcome.Output, outcome.Diagnostics = DigestOf(g.output), DigestOf(g.diag)
	if job.MemoryDigest {
		b, _ := memory.Read(0, memory.Size())
		sum := sha256.Sum256(b)
		outcome.Memory = &sum
	}
	info := compilerInfo()
	info.WallTime = wall
	if e.config.Interpreter {
		info.Mode = "interpreter"
	}
	if outcome.Kind == KindTrap {
		info.Trap = trapText(runErr)
	}
	return &Result{Outcome: outcome, Output: g.output, Diagnostics: g.diag, Engine: info}, nil
}

const pageSize = 64 << 10

// compilerInfo describes this engine in its ordinary mode.
func compilerInfo() EngineInfo {
	return EngineInfo{Name: "wazero", Version: engineVersion, Mode: "compiler", GOARCH: runtime.GOARCH}
}
