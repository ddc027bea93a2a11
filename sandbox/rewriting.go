package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"

	"github.com/tetratelabs/wazero"

	"github.com/tallystick/tallystick/sandbox/rewrite"
	"github.com/tallystick/tallystick/sandbox/wasm"
)

// Rewriter and CostTable are the versions of the rewriter and of its table of
// costs, as contracts name them. Contracts may also name 0 for both, which runs
// modules as they are, for development.
const (
	Rewriter  = rewrite.Version
	CostTable = rewrite.CostTable
)

// An admitted module is one that may run, in the form in which it runs: the
// original under rewriter version 0, else what the rewriter made of it.
type admitted struct {
	key       programKey
	admission *Admission
	code      []byte
	outline   []byte // of code; see outline.go
}

// admitRewritten admits module, whose digest key has, and rewrites it if it is
// to be metered.
func admitRewritten(module []byte, key programKey) (*admitted, error) {
	admission, err := admit(module, key)
	if err != nil {
		return nil, err
	}
	a := &admitted{key: key, admission: admission, code: module}
	if !key.metered {
		return a, nil
	}
	r, err := rewrite.Rewrite(module, rewrite.Config{MemoryPages: key.pages})
	if refusal := (*rewrite.Refusal)(nil); errors.As(err, &refusal) {
		return nil, refuse(RefusalCode(refusal.Rule), refusal.Item, "%s", refusal.Detail) // the names are the same
	}
	if err != nil {
		return nil, engineFault("rewriting: %w", err)
	}
	sum := r.Digest
	a.code, admission.RewrittenModule, admission.Rewriter = r.Bytes, &sum, Rewriter
	return a, nil
}

// keepValid has the engine validate the original of a rewritten module while it
// compiles the other: what the rewriter makes of an invalid one may happen to be
// valid. Of unmetered modules the original is what the engine compiles.
func (e *Engine) keepValid(ctx context.Context, a *admitted, original []byte) (*program, error) {
	if !a.key.metered {
		return e.keep(ctx, a)
	}
	invalid := make(chan error, 1)
	go func() { invalid <- validate(ctx, original) }()
	p, err := e.compile(ctx, a)
	if reason := <-invalid; reason != nil {
		if err == nil {
			p.close()
		}
		return nil, refuse(RefusedInvalid, "", "%v", reason) // whatever became of the other
	}
	if err != nil {
		return nil, err
	}
	return p, e.remember(p)
}

// validate says what is wrong with a module that was admitted. The interpreter
// shares the compiler's validator and needs nothing of the machine. Custom
// sections mean nothing and are not shown to the engine, which would refuse names
// that it cannot read.
func validate(ctx context.Context, module []byte) error {
	config := wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features).WithDebugInfoEnabled(false)
	r := wazero.NewRuntimeWithConfig(context.Background(), config)
	defer r.Close(context.Background())
	_, err := r.CompileModule(ctx, wasm.WithoutCustom(module))
	return err
}

// compileError tells a module that does not validate, which is refused, from a
// compiler that failed. Rewritten modules are validated before, so that an
// invalid one here is the rewriter's fault.
func (a *admitted) compileError(ctx context.Context, err error) error {
	if invalid := validate(ctx, a.code); invalid == nil {
		return engineFault("compiling: %w", err)
	} else if a.key.metered {
		return engineFault("the rewritten module %x does not validate: %w", sha256.Sum256(a.code), errors.Join(invalid))
	} else {
		return refuse(RefusedInvalid, "", "%v", invalid)
	}
}
