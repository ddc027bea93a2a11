package sandbox

import (
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// instr is an instruction with an index.
func instr(op byte, i int) []byte { return wasmtest.U32([]byte{op}, uint32(i)) }

// shifting sets each of n locals to the next one, in a loop: one merges no more
// only after the next does not.
func shifting(n int) []byte {
	var set, shift []byte
	for i := 1; i < n; i++ {
		set = append(append(set, instr(0x20, 0)...), instr(0x21, i)...)
	}
	for i := 1; i < n-1; i++ {
		shift = append(append(shift, instr(0x20, i+1)...), instr(0x21, i)...)
	}
	return command(func(b *wasmtest.Builder) {
		b.Func("i:", strings.Repeat("i", n-1), set, []byte{0x03, 0x40}, shift, []byte{0x20, 0, 0x0d, 0, 0x0b})
		b.Start("")
	})
}

// nesting reads n locals in the innermost of nested loops: they merge in one
// loop less after each pass.
func nesting(n, depth int) []byte {
	var read []byte
	for i := range n {
		read = append(append(read, instr(0x20, i)...), 0x1a)
	}
	return command(func(b *wasmtest.Builder) {
		b.Func("i:", strings.Repeat("i", n-1), []byte(strings.Repeat("\x03\x40", depth)), read,
			[]byte(strings.Repeat("\x20\x00\x0d\x00\x0b", depth)))
		b.Start("")
	})
}

// TestMerges: modules of 12 KB that take the engine 18 seconds and more are refused, and
// their likes of an ordinary size are admitted.
func TestMerges(t *testing.T) {
	for name, test := range map[string]struct {
		module []byte
		want   RefusalCode
	}{
		"shifting":        {shifting(1000), RefusedWork},
		"shifting less":   {shifting(100), ""},
		"nesting":         {nesting(1000, 50), RefusedWork},
		"nesting less":    {nesting(100, 50), ""},
		"nesting no more": {nesting(1000, 3), ""},
	} {
		got := RefusalCode("")
		if r := refusal(t, test.module); r != nil {
			got = r.Code
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestMergesWork checks the terms of the estimate.
func TestMergesWork(t *testing.T) {
	for name, test := range map[string]struct {
		signature string
		code      []byte
		want      merges
	}{
		"nothing":           {"ii:", nil, merges{}},
		"reading":           {"ii:", []byte{0x20, 0, 0x1a}, merges{}},
		"setting":           {"ii:", []byte{0x20, 0, 0x21, 1}, merges{locals: 1}},
		"reading in a loop": {"ii:", []byte{0x03, 0x40, 0x20, 0, 0x1a, 0x0b}, merges{locals: 1, nested: 1}},
		"copying in a loop": {"ii:", []byte{0x03, 0x40, 0x20, 0, 0x21, 1, 0x0b}, merges{locals: 2, nested: 1, copies: 1}},
		"computing":         {"ii:", []byte{0x03, 0x40, 0x20, 0, 0x45, 0x21, 1, 0x0b}, merges{locals: 2, nested: 1}},
		"swapping":          {"ii:", []byte{0x03, 0x40, 0x20, 0, 0x20, 1, 0x21, 0, 0x21, 1, 0x0b}, merges{locals: 2, nested: 1, copies: 2}},
		"out of a block":    {"ii:", []byte{0x03, 0x40, 0x02, 0x7f, 0x20, 0, 0x0b, 0x21, 1, 0x0b}, merges{locals: 2, nested: 1, copies: 1}},
		"of a call":         {"i:i", []byte{0x03, 0x40, 0x20, 0, 0x10, 0, 0x21, 0, 0x0b, 0x20, 0}, merges{locals: 1, nested: 1}},
		"two loops":         {"i:", []byte{0x03, 0x40, 0x0b, 0x03, 0x40, 0x0b}, merges{nested: 1}},
		"nested loops":      {"i:", []byte{0x03, 0x40, 0x02, 0x40, 0x03, 0x40, 0x0b, 0x0b, 0x0b}, merges{nested: 2}},
	} {
		b := wasmtest.Command()
		b.Func(test.signature, "", test.code)
		got := mergesOf(t, b.Bytes())
		if got.locals != test.want.locals || got.nested != test.want.nested || got.copies != test.want.copies || got.loops != 0 {
			t.Errorf("%s: %d locals, %d nested, %d copies", name, got.locals, got.nested, got.copies)
		}
	}
	m := merges{locals: 10, nested: 2, copies: 3}
	if got, want := m.work(96), uint64(11*11*6); got != want {
		t.Errorf("work is %d, want %d", got, want)
	}
}

func mergesOf(t *testing.T, module []byte) merges {
	t.Helper()
	m, err := wasm.Decode(module)
	if err != nil {
		t.Fatal(err)
	}
	c := &codeCheck{m: m}
	if err := m.Decode(c); err != nil {
		t.Fatal(err)
	}
	return c.merges
}
