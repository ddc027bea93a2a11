//go:build unix

package sandbox

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasm"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// A dense function is one of many equal units of code between a beginning and
// an end: what the engine takes most for.
type dense struct {
	begin, unit, end []byte
	globals          int // mutable ones besides the first
}

// denseKinds are units that take much of different things. Local 0 is an i32,
// 1 an i64, 2 an f32 and 3 an f64.
func denseKinds() map[string]dense {
	op := wasmtest.Op
	zero, keep := op(0x41, 0), op(0x24, 0) // keep: what is dropped is not compiled
	long, keepLong := op(0x42, 0), op(0xa7, 0x24, 0)
	double, keepDouble := op(0x44, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f), op(0xbd, 0xa7, 0x24, 0)
	three := op(0x20, 0, 0x20, 0, 0x20, 0)
	return map[string]dense{
		"nop":                {nil, op(0x01), nil, 0},
		"add":                {zero, op(0x20, 0, 0x6a), keep, 0},
		"compare":            {zero, op(0x45), keep, 0},
		"constants":          {double, wasmtest.Cat(op(0x44, 1, 2, 3, 4, 5, 6, 7, 8), op(0xa6)), keepDouble, 0},
		"load":               {zero, op(0x28, 2, 0), keep, 0},
		"store":              {nil, op(0x20, 0, 0x28, 2, 0, 0x22, 0, 0x20, 0, 0x36, 2, 0), nil, 0},
		"divide":             {long, op(0x20, 1, 0x7f), keepLong, 0},
		"remainder":          {long, op(0x20, 1, 0x81), keepLong, 0},
		"minimum":            {double, op(0x20, 3, 0xa4), keepDouble, 0},
		"canonical":          {double, op(0x9b, 0xbd, 0xbf), keepDouble, 0},
		"convert":            {long, op(0xba, 0xbd), keepLong, 0},
		"truncate":           {long, op(0xba, 0xb1), keepLong, 0},
		"saturate":           {long, op(0xba, 0xfc, 7), keepLong, 0},
		"call":               {zero, op(0x10, 1), keep, 0},
		"call of many":       {bytes.Repeat(zero, 16), op(0x10, 2), bytes.Repeat(keep, 16), 0},
		"call indirect":      {nil, op(0x41, 0, 0x11, 0, 0), nil, 0},
		"grow":               {zero, op(0x40, 0), keep, 0},
		"fill":               {nil, slices.Concat(three, op(0xfc, 11, 0)), nil, 0},
		"copy":               {nil, slices.Concat(three, op(0xfc, 10, 0, 0)), nil, 0},
		"init":               {nil, slices.Concat(three, op(0xfc, 8, 0, 0)), nil, 0},
		"drop":               {nil, op(0xfc, 9, 0), nil, 0},
		"table.get":          {nil, op(0x20, 0, 0x25, 0, 0x1a), nil, 0},
		"table.set":          {nil, op(0x20, 0, 0xd0, 0x70, 0x26, 0), nil, 0},
		"table.grow":         {nil, op(0xd0, 0x70, 0x20, 0, 0xfc, 15, 0, 0x1a), nil, 0},
		"table.copy":         {nil, slices.Concat(three, op(0xfc, 14, 0, 0)), nil, 0},
		"table.init":         {nil, slices.Concat(three, op(0xfc, 12, 0, 0)), nil, 0},
		"ref.func":           {nil, op(0xd2, 0, 0x1a), nil, 0},
		"blocks":             {nil, op(0x02, 0x40, 0x20, 0, 0x0d, 0, 0x0b), nil, 0},
		"br_table":           {nil, slices.Concat(op(0x02, 0x40, 0x20, 0, 0x0e, 100), make([]byte, 101), op(0x0b)), nil, 0},
		"call, globals":      {nil, op(0x10, 0), nil, 1000},
		"remainder, globals": {zero, op(0x20, 0, 0x6f), keep, 1000},
		"loops, globals":     {nil, op(0x03, 0x40, 0x20, 0, 0x0d, 0, 0x0b), nil, 1000},
		"loads, then blocks": {slices.Concat(zero, loads(40_000), keep), op(0x02, 0x40, 0x20, 0, 0x0d, 0, 0x0b), nil, 0},
		"loads, then loops":  {slices.Concat(zero, loads(10_000), keep), op(0x03, 0x40, 0x20, 0, 0x0d, 0, 0x0b), nil, 0},
	}
}

// loads are n loads, each from where the one before says.
func loads(n int) []byte { return bytes.Repeat(wasmtest.Op(0x28, 2, 0), n) }

// module is a command with functions of n units each.
func (d dense) module(n, functions int) []byte {
	b := wasmtest.Command()
	b.Func(":", "")                         // 0
	b.Func("i:i", "", wasmtest.Op(0x20, 0)) // 1
	sixteen := strings.Repeat("i", 16)
	var all []byte
	for i := range sixteen {
		all = append(all, 0x20, byte(i))
	}
	b.Func(sixteen+":"+sixteen, "", all) // 2
	b.Table(1, 8).ElemRaw(1, 0, 1, 0).Global('i', 0x41, 0).PassiveData("xyz")
	for range d.globals {
		b.Global('i', 0x41, 0)
	}
	body := slices.Concat(d.begin, bytes.Repeat(d.unit, n), d.end)
	for range functions {
		b.Func(":", "iIfF", body)
	}
	b.Start("")
	return b.Bytes()
}

// most is how many units a function, or functions a module, may have: the least
// that is refused, less one.
func most(t *testing.T, module func(n int) []byte, limit int) int {
	t.Helper()
	low, high := 1, limit
	for low < high {
		n := (low + high + 1) / 2
		if _, err := Admit(module(n), nil, meteredJob(nil).Limits); err != nil {
			high = n - 1
		} else {
			low = n
		}
	}
	return low
}

// TestMixtures: of what is cheap alone, little is admitted together.
func TestMixtures(t *testing.T) {
	kinds := denseKinds()
	for name, want := range map[string]int{ // units, at most
		"call, globals": 3_200, "remainder, globals": 3_100, "loops, globals": 3_200,
		"loads, then blocks": 32, "loads, then loops": 70,
	} {
		kind := kinds[name]
		if got := most(t, func(n int) []byte { return kind.module(n, 1) }, 1<<14); got > want || got < want/2 {
			t.Errorf("%s: %d are admitted, want %d", name, got, want)
		}
	}
}

// TestLargestFunctions: what is far below the bound of a function's work are
// those of real programs.
func TestLargestFunctions(t *testing.T) {
	for _, guest := range []string{"go", "words", "mean", "probe"} {
		m, err := wasm.Decode(guestModule(t, guest))
		if err != nil {
			t.Fatal(err)
		}
		largest := &largestFunction{codeCheck: codeCheck{m: m, module: moduleWorkOf(m)}}
		if err := m.Decode(largest); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: instructions of weight %d in the largest of %d functions", guest, largest.most, len(m.Funcs))
		if largest.most > MaxFunctionWork/8 {
			t.Errorf("%s has a function of weight %d", guest, largest.most)
		}
	}
}

// A largestFunction is a check that keeps the most work of a function.
type largestFunction struct {
	codeCheck
	most uint64
}

func (l *largestFunction) Instr(in *wasm.Instr) error {
	err := l.codeCheck.Instr(in)
	l.most = max(l.most, l.memory())
	return err
}
