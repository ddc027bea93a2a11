package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/tallystick/tallystick/sandbox/rewrite"
	"github.com/tallystick/tallystick/sandbox/wasm"
)

// A programKey is all that decides the compiled form of a module.
type programKey struct {
	module  [sha256.Size]byte // the original
	caps    capSet
	pages   uint32
	metered bool // rewritten, by the one version there is
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

// compile makes a program of what was admitted. A cache that cannot be read or
// written to costs time and nothing else.
func (e *Engine) compile(ctx context.Context, a *admitted) (*program, error) {
	ctx = experimental.WithCompilationWorkers(ctx, e.compilers)
	var p *program
	var err error
	if e.config.CacheDir != "" {
		p, err = e.compileWith(ctx, a, e.config.CacheDir)
	}
	if p == nil {
		p, err = e.compileWith(ctx, a, "")
	}
	if err != nil {
		return nil, a.compileError(ctx, err)
	}
	return p, nil
}

// compileWith compiles with the code kept in a directory, if there is one.
func (e *Engine) compileWith(ctx context.Context, a *admitted, cacheDir string) (_ *program, err error) {
	// The engine's constructor panics where it has no compiler.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	key := a.key
	p := &program{key: key, admission: a.admission}
	config := wazero.NewRuntimeConfigCompiler()
	if e.config.Interpreter {
		config = wazero.NewRuntimeConfigInterpreter()
	}
	config = config.WithCoreFeatures(features).
		WithMemoryLimitPages(key.pages).
		WithDebugInfoEnabled(false).
		WithCloseOnContextDone(e.config.Interruptible && !key.metered)
	if cacheDir != "" {
		if p.cache, err = wazero.NewCompilationCacheWithDir(cacheDir); err != nil {
			return nil, err
		}
		config = config.WithCompilationCache(p.cache)
	}
	p.runtime = wazero.NewRuntimeWithConfig(context.Background(), config)
	if err := exportHost(p.runtime, key.caps); err != nil {
		p.close()
		return nil, fmt.Errorf("defining host functions: %w", err)
	}
	if key.metered {
		if err := exportRefill(p.runtime); err != nil {
			p.close()
			return nil, err
		}
	}
	code := a.code
	if !key.metered { // what the rewriter made has none, and that of an outline counts
		code = wasm.WithoutCustom(code)
	}
	if p.module, err = p.runtime.CompileModule(ctx, code); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
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
	g.charge(rewrite.HostCallCost)
	memory := m.Memory()
	mem, _ := memory.Read(0, memory.Size())
	e := f.call(g, mem, stack[:len(f.params)])
	if f.returns() {
		stack[0] = uint64(e)
	}
}
