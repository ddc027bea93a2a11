package rewrite

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// refusedBy returns the rule by which a module is refused, or none.
func refusedBy(t *testing.T, b *wasmtest.Builder) Rule {
	t.Helper()
	_, err := Rewrite(b.Bytes(), Config{})
	if r := (*Refusal)(nil); errors.As(err, &r) {
		return r.Rule
	} else if err != nil {
		t.Fatal(err)
	}
	return ""
}

// TestLongFunction: the instructions of each function count, those that cannot
// be reached too.
func TestLongFunction(t *testing.T) {
	nops := bytes.Repeat([]byte{0x01}, MaxInstructions-1)
	b := new(wasmtest.Builder)
	b.Func(":", "", nops)
	b.Func(":", "", nops)
	if got := refusedBy(t, b); got != "" {
		t.Errorf("%d instructions: %s", MaxInstructions, got)
	}
	b.Func(":", "", []byte{0x00}, nops)
	if got := refusedBy(t, b); got != RuleLength {
		t.Errorf("%d instructions: %q", MaxInstructions+1, got)
	}
}

// TestOutputBound: a function is not expanded beyond the bound before it is
// looked at.
func TestOutputBound(t *testing.T) {
	b := new(wasmtest.Builder)
	b.Func(":", "", bytes.Repeat([]byte{0x03, 0x40, 0x41, 0, 0x0d, 0, 0x0b}, 1000))
	module := b.Bytes()
	m, err := wasm.Decode(module)
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(module, m, Config{})
	const before = MaxOutput - 1000
	w.code = make([]byte, before)
	r := &rewriting{w: w}
	refusal := (*Refusal)(nil)
	if err := m.Decode(r); !errors.As(err, &refusal) || refusal.Rule != RuleSize {
		t.Fatalf("error is %v, want %s", err, RuleSize)
	}
	if len(w.code) != before || len(r.b.b) > 1100 {
		t.Errorf("%d bytes more than the bound of 1000 were written", len(w.code)-before+len(r.b.b))
	}
}
