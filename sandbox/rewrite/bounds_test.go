package rewrite

import (
	"bytes"
	"errors"
	"strings"
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

// TestArity: a type has at most so many results and a block so many parameters,
// a function as many as it likes.
func TestArity(t *testing.T) {
	many := func(n int) string { return strings.Repeat("i", n) }
	for _, test := range []struct {
		signature string
		block     byte // opcode of a block of that type, if not 0
		want      Rule
	}{
		{many(1000) + ":", 0, ""},
		{":" + many(16), 0, ""},
		{":" + many(17), 0, RuleArity},
		{many(16) + ":" + many(16), 0x02, ""},
		{many(16) + ":" + many(16), 0x03, ""},
		{many(17) + ":", 0x02, RuleArity},
		{many(17) + ":", 0x03, RuleArity},
		{many(17) + ":", 0x04, RuleArity},
	} {
		b := new(wasmtest.Builder)
		typ := b.Type(test.signature)
		if test.block != 0 {
			b.Func(":", "", []byte{0x00, test.block, byte(typ), 0x00, 0x0b, 0x00})
		}
		if got := refusedBy(t, b); got != test.want {
			t.Errorf("%s of block %#x: %q, want %q", test.signature, test.block, got, test.want)
		}
	}
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
