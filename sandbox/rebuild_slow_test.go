//go:build slow && unix

package sandbox

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestGuestsRebuilt builds the committed guests from their sources. Where the
// compilers are those of Debian 12 the modules are the same; others make other
// modules, which must do the same.
func TestGuestsRebuilt(t *testing.T) {
	if _, err := exec.LookPath("clang-14"); err != nil {
		t.Skip("clang-14 is missing; ", guestDir, "/build names the packages")
	}
	dir := t.TempDir()
	if out, err := exec.Command(filepath.Join(guestDir, "build"), dir).CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	e := NewEngine(EngineConfig{})
	defer e.Close()
	for _, c := range guestCases {
		module, err := os.ReadFile(filepath.Join(dir, c.guest+".wasm"))
		if err != nil || c.arg == "random" { // which shows addresses of the heap
			continue
		}
		job := c.makeJob(t)
		if bytes.Equal(module, job.Module) {
			continue
		}
		t.Logf("%s is another module now", c.guest)
		want, err := e.Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		job.Module, job.ModuleDigest = module, sha256.Sum256(module)
		got, err := e.Run(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		a, b := want.Outcome, got.Outcome
		if a.Kind != b.Kind || a.ExitCode != b.ExitCode || a.Output != b.Output && !slices.Contains([]string{"allocate", "grow"}, c.arg) {
			t.Errorf("%s, built anew: outcome is\n%v\nwant\n%v\noutput %.300q", c.name(), b, a, got.Output)
		}
	}
}
