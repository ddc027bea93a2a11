package wasmtest_test

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

var update = flag.Bool("update", false, "write the golden file instead of comparing with it")

// randomDigests has what random modules do once they are rewritten, on every
// architecture. Another version of the rewriter or of its costs, or a change of
// the generator, makes another file.
const randomDigests = "../testdata/golden/random.txt"

// TestRandomDigests compares the bytes of random modules, of their rewritten
// form, and all that can be seen of their runs, gas included, with the file.
func TestRandomDigests(t *testing.T) {
	compiler, _ := newMachines(t)
	var found strings.Builder
	found.WriteString("# Random modules by seed: SHA-256 of the module, of its rewritten form, and of all its runs. Written by go test -update.\n")
	for seed := range uint64(24) {
		m := wasmtest.Random(rand.NewPCG(seed, 0), wasmtest.RandomConfig{Start: true})
		code := rewritten(t, m)
		meter := ample
		compiler.meter = &meter
		trace, err := compiler.run(m, code, seed)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&found, "%d %x %x %x\n", seed, sha256.Sum256(m.Bytes), sha256.Sum256(code), sha256.Sum256([]byte(trace)))
	}
	if *update {
		if err := os.WriteFile(randomDigests, []byte(found.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(randomDigests)
	if err != nil {
		t.Fatalf("%v; make it with go test -update", err)
	}
	if string(want) != found.String() {
		t.Errorf("%s is\n%s\nwant\n%s", randomDigests, found.String(), want)
	}
}
