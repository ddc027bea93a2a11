package main

import (
	"path/filepath"
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
