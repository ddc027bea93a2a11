package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
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
	// Interruptible makes an unmetered run end soon after its context does, even
	// while the guest computes; it makes compiled code several times slower.
	// Without it such a run sees the end of its context at its next host call
	// only. A metered run sees it between two slices, and needs no such help.
	Interruptible bool
	// Slice is how much gas a metered guest gets at a time; 0 means DefaultSlice.
	// No outcome depends on it.
	Slice uint64
	// CachedModules bounds the compiled modules kept; 0 means DefaultCachedModules.
	CachedModules int
	// CacheDir, if not empty, keeps compiled code across processes. Who can write
	// there can run code in the worker: it must be private to its owner.
	CacheDir string
}

// An Engine runs modules in this process and keeps their compiled form. Modules of
// strangers are for a [Pool]. It is not safe for concurrent use.
type Engine struct {
	config   EngineConfig
	programs []*program // most recently used first
	memories memoryPool
	closed   bool
	// compilers is how many functions of a module are compiled at a time; what the
	// engine makes of them is the same. With more than one, a panic of the compiler
	// ends the process, so it is for processes that may end.
	compilers int
}

// NewEngine returns an engine that has compiled nothing yet.
func NewEngine(config EngineConfig) *Engine {
	if config.CachedModules <= 0 {
		config.CachedModules = DefaultCachedModules
	}
	if config.Slice == 0 {
		config.Slice = DefaultSlice
	}
	config.Slice = min(config.Slice, MaxGas)
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

// Run admits, compiles (unless it is warm) and runs the job's module. Errors
// are a [*Refusal] or wrap [ErrInvalidJob], [ErrStopped], [ErrEngineFault] or
// [ErrClosed].
func (e *Engine) Run(ctx context.Context, job Job) (*Result, error) {
	if err := job.check(); err != nil {
		return nil, err
	}
	return e.runLoaded(ctx, &job, func(ctx context.Context, key programKey) (*program, error) {
		return e.load(ctx, job.Module, key)
	}, nil)
}

// A loader returns the program of a key.
type loader func(context.Context, programKey) (*program, error)

// runLoaded runs a job that passed its check. It calls running, if not nil,
// when the module is compiled and the guest is about to start.
func (e *Engine) runLoaded(ctx context.Context, job *Job, load loader, running func() error) (*Result, error) {
	start := time.Now()
	warm := e.warm(job.key())
	p, err := load(ctx, job.key())
	if err != nil {
		return nil, err
	}
	compiled := time.Since(start)
	if running != nil {
		if err := running(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, job.Limits.wallClock(), errWallClock)
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
	p, err := e.load(ctx, module, limits.key(sha256.Sum256(module), caps))
	if err != nil {
		return nil, err
	}
	return p.admission, nil
}

func (j *Job) key() programKey {
	caps, _ := capabilitySet(j.Capabilities) // checked by j.check
	return j.Limits.key(j.ModuleDigest, caps)
}

// key is what decides the compiled form of a module under these limits.
func (l *Limits) key(module [sha256.Size]byte, caps capSet) programKey {
	return programKey{module, caps, l.MemoryPages, l.metered()}
}

// warm reports whether the program is compiled.
func (e *Engine) warm(key programKey) bool {
	return slices.ContainsFunc(e.programs, func(p *program) bool { return p.key == key })
}

// load returns the program for key, compiling module (whose digest the key
// has) if it is not warm.
func (e *Engine) load(ctx context.Context, module []byte, key programKey) (*program, error) {
	if p, err := e.recall(key); p != nil || err != nil {
		return p, err
	}
	if got := sha256.Sum256(module); got != key.module {
		return nil, invalidJob("module is %x, the job names %x", got[:8], key.module[:8])
	}
	admitted, err := admitRewritten(module, key)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w before compiling: %w", ErrStopped, err)
	}
	return e.keepValid(ctx, admitted, module)
}

// recall returns the program for key if it is warm, else nil.
func (e *Engine) recall(key programKey) (*program, error) {
	if e.closed {
		return nil, ErrClosed
	}
	i := slices.IndexFunc(e.programs, func(p *program) bool { return p.key == key })
	if i < 0 {
		return nil, nil
	}
	p := e.programs[i]
	e.programs = slices.Insert(slices.Delete(e.programs, i, i+1), 0, p)
	return p, nil
}

// keep compiles a program and makes room for it.
func (e *Engine) keep(ctx context.Context, a *admitted) (*program, error) {
	p, err := e.compile(ctx, a)
	if err != nil {
		return nil, err
	}
	return p, e.remember(p)
}

// keepUnstored is keep without the cache directory: of an engine that cannot
// write there, and has found nothing in it.
func (e *Engine) keepUnstored(ctx context.Context, a *admitted) (*program, error) {
	p, err := e.compileWith(experimental.WithCompilationWorkers(ctx, e.compilers), a, "")
	if err != nil {
		return nil, a.compileError(ctx, err)
	}
	return p, e.remember(p)
}

// remember makes room for a program; on an error it is closed.
func (e *Engine) remember(p *program) error {
	if n := e.config.CachedModules; len(e.programs) >= n {
		last := e.programs[n-1]
		e.programs = e.programs[:n-1]
		if err := last.close(); err != nil {
			p.close()
			return engineFault("releasing a compiled module: %w", err)
		}
	}
	e.programs = slices.Insert(e.programs, 0, p)
	return nil
}
