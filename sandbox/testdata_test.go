package sandbox

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

var update = flag.Bool("update", false, "write the files of testdata/sandbox instead of comparing with them")

// testdataDir holds modules in binary form, for other implementations and as
// seeds of the fuzzer, and the outcomes of the probes.
const testdataDir = "../testdata/sandbox"

// golden compares content with a file of testdata.
func golden(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(testdataDir, name)
	if *update {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; make it with go test -update", err)
	}
	if string(want) != string(content) {
		t.Errorf("%s is\n%s\nwant\n%s", name, content, want)
	}
}

// TestModules holds the assembled modules to their files.
func TestModules(t *testing.T) {
	for name, module := range map[string][]byte{
		"ok":        printer(func(uint32) []byte { return nil }),
		"exit":      printer(func(exit uint32) []byte { return wasmtest.Call(exit, 7) }),
		"trap":      printer(func(uint32) []byte { return wasmtest.Unreachable }),
		"spin":      spinner(),
		"recursion": recursion(),
		"probe":     probe(),
	} {
		golden(t, name+".wasm", module)
	}
}
