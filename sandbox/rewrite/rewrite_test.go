package rewrite

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
	"github.com/tetratelabs/wazero"
)

// guests are the modules of the sandbox's tests, made by compilers and by hand.
func guests(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("../../testdata/sandbox/*.wasm")
	if err != nil || len(paths) == 0 {
		t.Fatal("no modules", err)
	}
	list := make(map[string][]byte)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		list[filepath.Base(path)] = b
	}
	return list
}

// TestGuestsValidate rewrites what compilers made; the engine accepts it, and
// rewriting again makes the same bytes.
func TestGuestsValidate(t *testing.T) {
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features))
	defer r.Close(ctx)
	for name, module := range guests(t) {
		before := bytes.Clone(module)
		got := rewritten(t, module)
		m, err := r.CompileModule(ctx, got.Bytes)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again := rewritten(t, module); again.Digest != got.Digest || !bytes.Equal(module, before) {
			t.Errorf("%s: rewriting twice differs, or changed the original", name)
		}
		if len(m.CustomSections()) != 0 || m.ExportedFunctions()["_start"] == nil {
			t.Errorf("%s: custom sections %v", name, m.CustomSections())
		}
		m.Close(ctx)
		if name == "guest-rust.wasm" && (got.Regions < 1000 || got.Checks < got.Functions || got.Counted == 0 || len(got.Bytes) > 2*len(module)) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestReserved: nobody but the rewriter uses its names, and a rewritten module
// cannot be rewritten.
func TestReserved(t *testing.T) {
	once := rewritten(t, wasmtest.Command().Start("").Bytes())
	if _, err := Rewrite(once.Bytes, Config{}); err == nil || err.(*Refusal).Rule != RuleImport {
		t.Errorf("a rewritten module: %v", err)
	}
}
