package sandbox

import (
	"bytes"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// TestAccesses checks what is known at the end, and what blocks have kept.
func TestAccesses(t *testing.T) {
	load := []byte{0x20, 0, 0x28, 2, 0, 0x1a}
	store := []byte{0x20, 0, 0x20, 0, 0x36, 2, 0}
	leave := []byte{0x20, 0, 0x0d, 0} // br_if 0
	for name, test := range map[string]struct {
		code        [][]byte
		known, kept uint64
	}{
		"nothing":               {nil, 0, 0},
		"accesses":              {[][]byte{load, store, load}, 3, 0},
		"block":                 {[][]byte{load, {0x02, 0x40}, load, {0x0b}, load}, 3, 2},
		"block that is left":    {[][]byte{load, {0x02, 0x40}, leave, load, {0x0b}}, 1, 1 + 2},
		"block left later":      {[][]byte{load, {0x02, 0x40}, load, leave, load, {0x0b}}, 2, 2 + 3},
		"block always left":     {[][]byte{load, {0x02, 0x40}, load, {0x0c, 0}, load, {0x0b}}, 2, 2},
		"two blocks left":       {[][]byte{load, {0x02, 0x40, 0x02, 0x40}, {0x20, 0, 0x0d, 1}, load, {0x0b}, load, {0x0b}}, 1, 1 + 2 + 3},
		"loop":                  {[][]byte{load, {0x03, 0x40}, load, leave, load, {0x0b}, load}, 4, loopBlocks*1 + 2 + 3},
		"endless loop":          {[][]byte{load, {0x03, 0x40}, load, {0x0c, 0, 0x0b}, load}, 2, loopBlocks*1 + 2},
		"if":                    {[][]byte{load, {0x20, 0, 0x04, 0x40}, load, {0x0b}, load}, 1, 1 + 2},
		"if else":               {[][]byte{load, {0x20, 0, 0x04, 0x40}, load, load, {0x05}, load, {0x0b}, load}, 3, 1 + 3 + 2},
		"if else that returns":  {[][]byte{load, {0x20, 0, 0x04, 0x40}, load, load, {0x05, 0x0f}, load, {0x0b}}, 3, 1 + 3 + 1},
		"if that traps, else":   {[][]byte{load, {0x20, 0, 0x04, 0x40}, load, load, {0x00, 0x05}, load, {0x0b}}, 2, 1 + 3 + 2},
		"table":                 {[][]byte{load, {0x02, 0x40}, load, {0x20, 0, 0x0e, 1, 0, 0, 0x0b}, load}, 1, 2},
		"table of one":          {[][]byte{load, {0x02, 0x40}, load, {0x20, 0, 0x0e, 0, 0, 0x0b}, load}, 3, 2},
		"what nothing gets to":  {[][]byte{load, {0x0f}, load, {0x02, 0x40}, load, {0x20, 0, 0x04, 0x40}, load, {0x05, 0x0b, 0x0b}, load}, 1, 0},
		"blocks without an end": {[][]byte{load, {0x02, 0x40}, load, {0x00, 0x0b}, load}, 2, 2},
		"fill":                  {[][]byte{load, {0x20, 0, 0x20, 0, 0x20, 0, 0xfc, 11, 0}, load}, 2, fillsBlocks},
	} {
		b := wasmtest.Command()
		b.Func("i:", "", test.code...)
		m, err := wasm.Decode(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		c := &codeCheck{m: m}
		if err := m.Decode(c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.accesses.known != test.known || c.accesses.kept != test.kept {
			t.Errorf("%s: %d known and %d kept, want %d and %d", name, c.accesses.known, c.accesses.kept, test.known, test.kept)
		}
	}
}

// TestInterpreter: a loop around a table of branches, with 8,000 accesses and
// 6,000 other branches, as interpreters have it, is admitted.
func TestInterpreter(t *testing.T) {
	const cases = 500
	load := []byte{0x20, 0, 0x28, 2, 0, 0x21, 0}
	one := slices.Concat(bytes.Repeat(load, 10), bytes.Repeat(slices.Concat([]byte{0x20, 0, 0x04, 0x40}, load, []byte{0x0b}), 6),
		bytes.Repeat([]byte{0x02, 0x40, 0x20, 0, 0x0d, 0, 0x0b}, 6))
	code := append([]byte{0x03, 0x40}, bytes.Repeat([]byte{0x02, 0x40}, cases)...)
	code = wasmtest.U32(append(code, 0x20, 0, 0x0e), cases-1)
	for i := range cases {
		code = wasmtest.U32(code, uint32(i))
	}
	for i := range cases {
		code = wasmtest.U32(slices.Concat(code, []byte{0x0b}, one, []byte{0x0c}), uint32(cases-1-i))
	}
	module := command(func(b *wasmtest.Builder) { b.Start("i", code, []byte{0x0b}) })
	if r := refusal(t, module); r != nil {
		t.Error(r)
	}
}
