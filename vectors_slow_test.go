//go:build slow

package tallystick_test

import (
	"os/exec"
	"testing"
)

// The golden vectors are held by two programs that share nothing: the Go code,
// package by package, and an implementation in Python that was written from
// docs/formats alone. A vector that only one of them agrees with, or a file
// that the second does not know, fails here.
func TestVectorsInAnotherLanguage(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed; it runs testdata/check_vectors.py")
	}
	out, err := exec.CommandContext(t.Context(), python, "testdata/check_vectors.py").CombinedOutput()
	if err != nil {
		t.Fatalf("testdata/check_vectors.py: %v\n%s", err, out)
	}
	t.Logf("\n%s", out)
}
