package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/verifier/member"
)

// Every refusal of a membership proof has an exit code.
func TestMemberExits(t *testing.T) {
	codes := readCodes(t, filepath.Join("..", "..", "verifier", "member", "errors.go"))
	for _, code := range codes {
		if memberExits[member.Code(code)] == 0 {
			t.Errorf("no exit code for %q", code)
		}
	}
	if len(codes) != len(memberExits) {
		t.Errorf("%d codes, %d exit codes", len(codes), len(memberExits))
	}
}

// Everything that can be wrong with a whole log has an exit code.
func TestWholeLogExits(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "..", "verifier", "wholelog", "errors.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\tErr\w+ += errors\.New\("(.+)"\)$`).FindAllSubmatch(source, -1)
	for _, m := range found {
		if !slices.ContainsFunc(wholeExits, func(e sentinelExit) bool { return e.err.Error() == string(m[1]) }) {
			t.Errorf("no exit code for %q", m[1])
		}
	}
	if len(found)+1 != len(wholeExits) { // and provenance.ErrOpening
		t.Errorf("%d errors, %d exit codes", len(found), len(wholeExits))
	}
}
