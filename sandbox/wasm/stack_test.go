package wasm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// A stacker follows the stack of every function.
type stacker struct {
	m       *Module
	s       Stack
	highest int
}

func (s *stacker) Function(_ int, code Code) error {
	s.s.Begin(s.m, code)
	return nil
}

func (s *stacker) Instr(in *Instr) error {
	s.highest = max(s.highest, s.s.Height())
	return s.s.Step(in)
}

func follow(module []byte) (*stacker, error) {
	m, err := Decode(module)
	if err != nil {
		return nil, err
	}
	s := &stacker{m: m}
	return s, m.Decode(s)
}

// TestStackOfCompilers follows modules that compilers made: the heights add up
// at every one of tens of thousands of block ends.
func TestStackOfCompilers(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/sandbox/guest-*.wasm")
	if err != nil || len(paths) == 0 {
		t.Fatal("no modules", err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := follow(b); err != nil || s.highest < 3 {
			t.Errorf("%s: %+v, %v", path, s, err)
		}
	}
}

func TestStack(t *testing.T) {
	const two = 0 // a function from two to two
	for name, test := range map[string]struct {
		sig  string
		code []byte
		want string // in the error, if any
	}{
		"multi-value block":        {":", []byte{0x41, 1, 0x02, 2, 0x41, 2, 0x0b, 0x1a, 0x1a}, ""},
		"multi-value if":           {":", []byte{0x41, 1, 0x41, 0, 0x04, 2, 0x41, 2, 0x05, 0x41, 3, 0x0b, 0x1a, 0x1a}, ""},
		"call":                     {":i", []byte{0x41, 1, 0x41, 2, 0x10, two, 0x6a}, ""},
		"call_indirect":            {":i", []byte{0x41, 1, 0x41, 2, 0x41, 0, 0x11, 0, 0, 0x6a}, ""},
		"select":                   {":i", []byte{0x41, 1, 0x41, 2, 0x41, 0, 0x1b}, ""},
		"unreachable":              {":i", []byte{0x00, 0x6a, 0x1a, 0x6a}, ""},
		"after br":                 {":i", []byte{0x02, 0x7f, 0x41, 1, 0x0c, 0, 0x6a, 0x0b}, ""},
		"dead block":               {":", []byte{0x00, 0x02, 2, 0x41, 1, 0x0b, 0x1a, 0x1a}, ""},
		"tables":                   {":", []byte{0x41, 0, 0x25, 0, 0x41, 1, 0xfc, 15, 0, 0xfc, 16, 0, 0x1a, 0x1a, 0x41, 0, 0xd0, 0x70, 0x26, 0}, ""},
		"memory":                   {":", []byte{0x41, 0, 0x41, 0, 0x28, 2, 0, 0x36, 2, 0, 0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 11, 0}, ""},
		"numbers":                  {":i", []byte{0x43, 0, 0, 0, 0, 0x8c, 0xa8, 0x67, 0x45, 0xc0, 0xb2, 0xfc, 0, 0x41, 0, 0x46}, ""},
		"missing":                  {":", []byte{0x1a}, "operand missing"},
		"missing for block":        {":", []byte{0x02, 2, 0x0b}, "operand missing"},
		"of the block below":       {":", []byte{0x41, 1, 0x02, 0x40, 0x1a, 0x0b, 0x1a}, "operand missing"},
		"left over":                {":", []byte{0x41, 1}, "0 results ends with 1"},
		"too few":                  {":i", nil, "1 results ends with 0"},
		"left over in dead code":   {":", []byte{0x00, 0x41, 1}, "0 results ends with 1"},
		"left over before an else": {":", []byte{0x41, 1, 0x04, 0x40, 0x41, 1, 0x05, 0x0b}, "0 results ends with 1"},
	} {
		b := wasmtest.Command().Table(1, 2)
		b.Func("ii:ii", "", []byte{0x20, 0, 0x20, 1})
		b.Type(":")
		b.Type("i:ii") // type 2
		b.Func(test.sig, "", test.code)
		_, err := follow(b.Bytes())
		if test.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if test.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want invalid with %q", name, err, test.want)
		}
	}
}
