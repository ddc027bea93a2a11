package sandbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"github.com/tetratelabs/wazero/experimental"

	"github.com/tallystick/tallystick/sandbox/rewrite"
	"github.com/tallystick/tallystick/sandbox/wasm"
)

// An outline is a rewritten module without what its functions do. The engine
// decodes and validates a module each time that it is loaded, also when it has
// native code for it, and function bodies are most of that; so a worker loads the
// outline, and with it the native code of the whole module, which the store keeps
// under the name that the engine has for the outline. All that decides how the
// engine uses native code (types, imports, functions, tables, memories, globals,
// segments) is in the outline byte for byte. Before all that is a custom section
// with the digest of the whole module, which no engine looks at: modules that
// differ in what their functions do, and in nothing else, would have one outline
// otherwise, and the engine one name for the native code of both.
//
// An outline that ran as what it says would have another outcome than its module.
// Three things rule out that it is attested: [Engine.keepStored] has the engine
// load and never compile; each body of an outline sets the gas counter to
// outlineGas, which no run of a rewritten module does, and traps; and classify
// takes that for a fault of the engine, before it looks at anything else. Who
// could swap native code in the store could do so without outlines too.

// outlineGas is what the gas counter holds once any function of an outline has
// run. The counter of a rewritten module stays above -2^62.
const outlineGas = math.MinInt64

// outlineSectionName is the name of the custom section.
const outlineSectionName = "tallystick:outline"

// maxOutlined bounds the functions of a module that gets an outline. The engine
// compiles an outline too, for its name, which no estimate of admission counts:
// 0.2 s for so many functions, 0.7 s if they have as many parameters as admission
// lets them, but 2.6 s for half a million. Programs of languages have thousands,
// and what has more is loaded whole.
const maxOutlined = 1 << 15

// errNotStored is that the engine has no native code for a program.
var errNotStored = errors.New("no native code for the program")

// outlineOf returns the outline of a module that the rewriter made.
func outlineOf(rewritten []byte) ([]byte, error) {
	m, err := wasm.Decode(rewritten)
	if err != nil {
		return nil, engineFault("outlining a rewritten module: %w", err)
	}
	gas, ok := m.Export(rewrite.GasGlobal)
	if !ok || gas.Kind != wasm.KindGlobal {
		return nil, engineFault("outlining: the rewritten module lacks %q", rewrite.GasGlobal)
	}
	code := outlineSection(len(m.Bodies), gas.Index)
	out := append([]byte(wasm.Header), digestSection(rewritten)...)
	for id, section := range wasm.Sections(rewritten) {
		if id == wasm.SectionCode {
			section = code
		}
		out = append(out, section...)
	}
	return out, nil
}

// digestSection is a custom section that tells the outline of a module from any
// other.
func digestSection(rewritten []byte) []byte {
	sum := sha256.Sum256(rewritten)
	name := append(wasm.AppendU32(nil, uint32(len(outlineSectionName))), outlineSectionName...)
	return slices.Concat(wasm.AppendU32([]byte{wasm.SectionCustom}, uint32(len(name)+len(sum))), name, sum[:])
}

// outlineSection is a code section of n bodies.
func outlineSection(n int, gas uint32) []byte {
	body := append([]byte{0}, byte(wasm.OpI64Const)) // no locals
	body = wasm.AppendS64(body, outlineGas)
	body = wasm.AppendU32(append(body, byte(wasm.OpGlobalSet)), gas)
	body = append(body, byte(wasm.OpUnreachable), byte(wasm.OpEnd))
	body = slices.Concat(wasm.AppendU32(nil, uint32(len(body))), body)
	bodies := slices.Concat(wasm.AppendU32(nil, uint32(n)), bytes.Repeat(body, n))
	return slices.Concat(wasm.AppendU32([]byte{wasm.SectionCode}, uint32(len(bodies))), bodies)
}

// outlined reports whether a function of an outline has run.
func (t *tank) outlined() bool { return int64(t.gas.Get()) == outlineGas }

// nameOutline has the engine name the native code of an outline: by the file that
// it leaves in dir when it compiles the outline. Without files it leaves none.
func (e *Engine) nameOutline(ctx context.Context, a *admitted, dir string) error {
	p, err := e.compileWith(experimental.WithCompilationWorkers(ctx, e.compilers), a.ofOutline(), dir)
	if err == nil {
		return p.close()
	}
	if invalid := validate(ctx, a.outline); invalid != nil {
		return engineFault("the outline of a rewritten module does not validate: %w", invalid)
	}
	return nil
}

// stored reports whether the engine looks for native code anywhere.
func (e *Engine) stored() bool { return e.config.CacheDir != "" && !e.config.Interpreter }

// placed reports whether there is any native code where the engine looks for it.
func (e *Engine) placed() bool {
	if !e.stored() {
		return false
	}
	found, _ := filepath.Glob(filepath.Join(e.config.CacheDir, "*", "*"))
	return len(found) > 0
}

// keepStored makes a program of the native code that the cache directory has for
// its outline, or for its code if it has none. Without that it returns an error
// that wraps errNotStored; it never compiles.
func (e *Engine) keepStored(a *admitted) (*program, error) {
	if !e.stored() {
		return nil, errNotStored
	}
	if len(a.outline) > 0 {
		a = a.ofOutline()
	}
	// The engine asks its cache first and does not look at the context before it
	// compiles; with more than one compiler it does so before each function.
	never, cancel := context.WithCancel(context.Background())
	cancel()
	p, err := e.compileWith(experimental.WithCompilationWorkers(never, 2), a, e.config.CacheDir)
	if errors.Is(err, context.Canceled) {
		return nil, fmt.Errorf("%w under the name that the engine has for it on this processor", errNotStored)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotStored, err)
	}
	return p, e.remember(p)
}

// ofOutline is what the engine is given to load a.
func (a *admitted) ofOutline() *admitted {
	return &admitted{key: a.key, admission: a.admission, code: a.outline}
}
