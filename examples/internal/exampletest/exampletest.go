// Package exampletest builds an example for WebAssembly and runs it in the
// sandbox, for the tests of the examples.
package exampletest

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/sandbox"
)

// A Guest is an example as a WebAssembly module.
type Guest struct {
	module  []byte
	engines []*sandbox.Engine // compiler and interpreter
}

// Build builds the command in the working directory with GOOS=wasip1. That
// takes seconds, so it skips the test with -short.
func Build(t *testing.T) *Guest {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a WebAssembly module")
	}
	path := filepath.Join(t.TempDir(), "guest.wasm")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, ".")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	module, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g := &Guest{module: module}
	for _, interpreter := range []bool{false, true} {
		e := sandbox.NewEngine(sandbox.EngineConfig{Interpreter: interpreter})
		t.Cleanup(func() { e.Close() })
		g.engines = append(g.engines, e)
	}
	return g
}

// Run runs the guest on input as a node would, with the compiler and with the
// interpreter, which must agree.
func (g *Guest) Run(t *testing.T, input []byte) *sandbox.Result {
	t.Helper()
	job := sandbox.Job{
		Module:       g.module,
		ModuleDigest: sha256.Sum256(g.module),
		Input:        input,
		Args:         []string{"example"},
		Capabilities: []string{"args", "clock", "random", "stdio"},
		Limits:       sandbox.DefaultLimits(),
		MemoryDigest: true,
	}
	var first *sandbox.Result
	for _, e := range g.engines {
		r, err := e.Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = r
		}
		if a, b := first.Outcome.String(), r.Outcome.String(); a != b {
			t.Errorf("compiler and interpreter differ:\n%s\n%s", a, b)
		}
	}
	return first
}

// Golden checks that the guest, run on the file in of testdata, succeeds with
// the file golden as its output and says nothing.
func (g *Guest) Golden(t *testing.T, in, golden string) {
	t.Helper()
	input, want := Read(t, in), Read(t, golden)
	r := g.Run(t, input)
	if r.Outcome.Kind != sandbox.KindOK || len(r.Diagnostics) > 0 {
		t.Fatalf("outcome is %v, diagnostics %q", r.Outcome, r.Diagnostics)
	}
	if !bytes.Equal(r.Output, want) {
		t.Errorf("output is\n%s\nwant\n%s", r.Output, want)
	}
}

// Read returns a file of testdata.
func Read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
