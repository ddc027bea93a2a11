package wasm

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// validate decodes a module and checks everything.
func validate(b []byte) error {
	m, err := Decode(b)
	if err == nil {
		err = m.Validate()
	}
	if err == nil {
		err = m.Decode(&stacker{m: m})
	}
	return err
}

// An oracle is the engine's validator.
type oracle struct{ r wazero.Runtime }

func newOracle(t testing.TB) oracle {
	r := wazero.NewRuntimeWithConfig(context.Background(),
		wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(api.CoreFeaturesV2&^api.CoreFeatureSIMD))
	t.Cleanup(func() { r.Close(context.Background()) })
	return oracle{r}
}

func (o oracle) validate(b []byte) error {
	m, err := o.r.CompileModule(context.Background(), b)
	if err == nil {
		m.Close(context.Background())
	}
	return err
}

func random(seed uint64) []byte {
	return wasmtest.Random(rand.NewPCG(seed, 7), wasmtest.RandomConfig{Start: seed%2 == 0}).Bytes
}

// TestRandomModulesAreValid: everything that the generator makes passes.
func TestRandomModulesAreValid(t *testing.T) {
	for seed := range uint64(200) {
		if err := validate(random(seed)); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// TestDamagedModules changes a byte of random modules: what passes, the engine
// accepts as well.
func TestDamagedModules(t *testing.T) {
	o := newOracle(t)
	r := rand.New(rand.NewPCG(1, 1))
	accepted := 0
	for seed := range uint64(60) {
		module := random(seed)
		for range 60 {
			b := slices.Clone(module)
			b[8+r.IntN(len(b)-8)] = byte(r.IntN(256))
			if validate(b) != nil {
				continue
			}
			accepted++
			if err := o.validate(b); err != nil {
				t.Errorf("seed %d: the engine refuses %x: %v", seed, b, err)
			}
		}
	}
	if accepted < 100 {
		t.Errorf("only %d were accepted", accepted)
	}
}

// TestInvalid: what the specification forbids is refused, by the engine too.
func TestInvalid(t *testing.T) {
	o := newOracle(t)
	base := func() *wasmtest.Builder {
		b := wasmtest.Command().Table(2, 4).Global('i', 0x41, 0)
		b.Func("ii:ii", "", []byte{0x20, 0, 0x20, 1})
		b.Type(":")
		return b
	}
	code := func(sig string, body ...byte) *wasmtest.Builder {
		b := base()
		b.Func(sig, "iIfFr", body)
		return b
	}
	extern := func(b *wasmtest.Builder) *wasmtest.Builder { return b.ElemRaw(5, 0x6f, 0) }
	for name, test := range map[string]struct {
		b    *wasmtest.Builder
		want string
	}{
		"add":                 {code(":i", 0x41, 1, 0x42, 1, 0x6a), "operand is i64, must be i32"},
		"result":              {code(":i", 0x42, 1), "operand is i64, must be i32"},
		"local.set":           {code(":", 0x41, 1, 0x21, 1), "operand is i32, must be i64"},
		"local.tee":           {code(":i", 0x41, 1, 0x22, 2), "operand is i32, must be f32"},
		"store":               {code(":", 0x41, 1, 0x41, 1, 0x37, 3, 0), "operand is i32, must be i64"},
		"alignment":           {code(":i", 0x41, 1, 0x28, 3, 0), "alignment 2^3"},
		"alignment of a byte": {code(":i", 0x41, 1, 0x2d, 1, 0), "alignment 2^1"},
		"if condition":        {code(":", 0x42, 1, 0x04, 0x40, 0x0b), "operand is i64"},
		"no condition":        {code(":", 0x04, 0x40, 0x0b), "operand missing"},
		"if without else":     {code(":", 0x41, 1, 0x04, 0x7f, 0x41, 1, 0x0b, 0x1a), "if without else"},
		"else arm":            {code(":", 0x41, 1, 0x04, 0x7f, 0x41, 1, 0x05, 0x42, 1, 0x0b, 0x1a), "operand is i64"},
		"block parameter":     {code(":", 0x41, 1, 0x42, 1, 0x02, 0, 0x1a, 0x1a, 0x0b), "operand is i64"},
		"br":                  {code(":", 0x02, 0x7f, 0x42, 1, 0x0c, 0, 0x0b, 0x1a), "operand is i64"},
		"br_if condition":     {code(":", 0x0d, 0), "operand missing"},
		"br_if value":         {code(":i", 0x41, 1, 0x0d, 0), "operand missing"},
		"br to a loop":        {code(":", 0x41, 1, 0x41, 1, 0x03, 0, 0x0c, 0, 0x0b, 0x1a, 0x1a), ""},
		"br_table arity":      {code(":", 0x02, 0x7f, 0x02, 0x40, 0x41, 0, 0x0e, 1, 0, 1, 0x0b, 0x41, 0, 0x0b, 0x1a), "targets take"},
		"br_table type":       {code(":", 0x02, 0x7e, 0x02, 0x7f, 0x41, 1, 0x41, 0, 0x0e, 1, 0, 1, 0x0b, 0x1a, 0x42, 0, 0x0b, 0x1a), "operand is i32, must be i64"},
		"br_table index":      {code(":", 0x42, 0, 0x0e, 0, 0), "operand is i64"},
		"return":              {code(":i", 0x0f), "operand missing"},
		"call":                {code(":", 0x41, 1, 0x42, 1, 0x10, 0, 0x1a, 0x1a), "operand is i64"},
		"call_indirect":       {code(":", 0x42, 1, 0x11, 1, 0), "operand is i64"},
		"call through extern": {code(":", 0x41, 1, 0x11, 1, 1), "call through a table of externref"},
		"drop":                {code(":", 0x1a), "operand missing"},
		"select types":        {code(":i", 0x41, 1, 0x42, 1, 0x41, 1, 0x1b), "select between"},
		"select references":   {code(":", 0x20, 4, 0x20, 4, 0x41, 1, 0x1b, 0x1a), "select between"},
		"select nothing":      {code(":", 0x41, 1, 0x41, 1, 0x1b, 0x1a), "operand missing"},
		"select one":          {code(":", 0x41, 1, 0x1b, 0x1a), "operand missing"},
		"select condition":    {code(":", 0x42, 1, 0x1b, 0x1a), "operand is i64"},
		"select two":          {code(":", 0x41, 1, 0x41, 1, 0x41, 1, 0x1c, 2, 0x7f, 0x7f, 0x1a), "select of 2 types"},
		"select typed":        {code(":", 0x41, 1, 0x41, 1, 0x41, 1, 0x1c, 1, 0x7e, 0x1a), "operand is i32"},
		"global.set":          {code(":", 0x42, 1, 0x24, 0), "operand is i64"},
		"ref.is_null":         {code(":", 0x41, 1, 0xd1, 0x1a), "must be a reference"},
		"ref.func":            {code(":", 0xd2, 0, 0x1a), "not declared"},
		"table.get":           {code(":", 0x42, 0, 0x25, 0, 0x1a), "operand is i64"},
		"table.set":           {code(":", 0x41, 0, 0xd0, 0x6f, 0x26, 0), "operand is externref, must be funcref"},
		"table.fill":          {code(":", 0x41, 0, 0xd0, 0x6f, 0x41, 0, 0xfc, 17, 0), "operand is externref"},
		"table.grow":          {code(":", 0xd0, 0x6f, 0x41, 0, 0xfc, 15, 0, 0x1a), "operand is externref"},
		"table.copy":          {code(":", 0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 14, 0, 1), "copying from a table of externref"},
		"table.init":          {extern(code(":", 0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 12, 0, 0)), "initialising a table of funcref"},
		"dead code":           {code(":", 0x00, 0x42, 1, 0x6a, 0x1a), "operand is i64"},
		"dead select":         {code(":", 0x00, 0x42, 1, 0xd0, 0x70, 0x41, 0, 0x1b, 0x1a), "select between"},
		"memory":              {new(wasmtest.Builder).Memory(65_537, -1), "more than 65536 pages"},
		"memory maximum":      {new(wasmtest.Builder).Memory(1, 65_537), "more than 65536 pages"},
		"global":              {base().Global('I', 0x41, 0), "is i64 and initialised with i32"},
		"start":               {base().StartSection(0), "start function"},
		"element offset":      {base().ElemRaw(0, 0x42, 0, 0x0b, 0), "offset is i64"},
		"element type":        {base().ElemRaw(6, 0, 0x41, 0, 0x0b, 0x6f, 0), "of externref for a table of funcref"},
		"element":             {base().ElemRaw(5, 0x70, 1, 0xd0, 0x6f, 0x0b), "element is externref"},
	} {
		if strings.Contains(name, "extern") || name == "table.copy" {
			test.b.TableRaw(0x6f, 0, 2)
		}
		b := test.b.Bytes()
		err := validate(b)
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if o.validate(b) == nil && name != "select typed" { // which the engine does not check
			t.Errorf("%s: the engine accepts it", name)
		}
	}
}
