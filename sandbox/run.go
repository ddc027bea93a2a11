package sandbox

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/tallystick/tallystick/sandbox/rewrite"
)

// run instantiates the program and calls its start function, if it has one, and
// _start.
func (e *Engine) run(ctx context.Context, p *program, job *Job) (*Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w before the start: %w", ErrStopped, err)
	}
	g := newGuest(ctx, job)
	// The engine watches a context only where it is to be interruptible.
	base := context.Background()
	if e.config.Interruptible && !p.key.metered {
		base = ctx
	}
	start := time.Now()
	lending := experimental.WithMemoryAllocator(base, &e.memories)
	// The engine's own source of randomness, which no guest can reach, takes longer
	// to make than a small module.
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions().WithRandSource(strings.NewReader(""))
	m, err := p.runtime.InstantiateModule(lending, p.module, config)
	if err != nil {
		return nil, engineFault("instantiating: %w", err) // admission left no other reason
	}
	defer m.Close(context.Background())
	if p.key.metered {
		if g.tank, err = newTank(m, job.Limits, e.config.Slice); err != nil {
			return nil, err
		}
	}
	runErr := call(context.WithValue(base, guestKey{}, g), m)
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
	info := engineInfo(modeOf(e.config.Interpreter))
	info.WallTime = wall
	if outcome.Kind == KindTrap {
		info.Trap = trapText(runErr)
	}
	return &Result{
		Outcome: outcome, Output: g.output, Diagnostics: g.diag,
		RewrittenModule: p.admission.RewrittenModule, Engine: info,
	}, nil
}

// call runs what the rewriter made of a start section, and _start.
func call(ctx context.Context, m api.Module) error {
	for _, name := range []string{rewrite.StartExport, "_start"} {
		f := m.ExportedFunction(name)
		if f == nil {
			continue
		}
		if _, err := f.Call(ctx); err != nil {
			return err
		}
	}
	return nil
}

const pageSize = 64 << 10

// modeOf is the word for how modules run.
func modeOf(interpreter bool) string {
	if interpreter {
		return "interpreter"
	}
	return "compiler"
}

// engineInfo describes this engine in a mode.
func engineInfo(mode string) EngineInfo {
	return EngineInfo{Name: "wazero", Version: engineVersion, Mode: mode, GOARCH: runtime.GOARCH}
}
