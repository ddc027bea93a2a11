package rewrite

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

var update = flag.Bool("update", false, "write the golden files again")

const vectorsDir = "../../testdata/rewriting/"

// A vector is a module, what it becomes, and what running that costs.
type vector struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Module      string `json:"module,omitempty"` // hexadecimal, as Rewritten
	// Parts are the module where it is too long to be written out: each as often as
	// it says, one behind the other. Then Rewritten is left out too.
	Parts       []part `json:"parts,omitempty"`
	MemoryPages uint32 `json:"memory_pages"`
	Refused     Rule   `json:"refused,omitempty"`
	Rewritten   string `json:"rewritten,omitempty"`
	SHA256      string `json:"sha256,omitempty"`
	Calls       []call `json:"calls,omitempty"`
}

// A part is a piece of a module that repeats.
type part struct {
	Bytes string `json:"bytes"` // hexadecimal
	Times int    `json:"times"`
}

// bytes puts the module together.
func (v *vector) bytes(t *testing.T) []byte {
	t.Helper()
	var module []byte
	for _, p := range append([]part{{v.Module, 1}}, v.Parts...) {
		b, err := hex.DecodeString(p.Bytes)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		module = append(module, bytes.Repeat(b, p.Times)...)
	}
	return module
}

// longFunction is a module whose only function has n instructions, its end
// included: the first, and then nops.
func longFunction(first byte, n int) []part {
	const split = 0x55 // stands for the nops, to find where they go
	b := new(wasmtest.Builder)
	b.Func(":", "", []byte{first}, bytes.Repeat([]byte{split}, n-2))
	module := b.Bytes()
	at := bytes.Index(module, bytes.Repeat([]byte{split}, n-2))
	return []part{{hex.EncodeToString(module[:at]), 1}, {"01", n - 2}, {hex.EncodeToString(module[at+n-2:]), 1}}
}

// A call of an export is made in an instance of its own.
type call struct {
	Export    string   `json:"export"`
	Arguments []word   `json:"arguments"`
	Budget    int64    `json:"budget"`
	Frames    int32    `json:"frames"`
	Outcome   string   `json:"outcome"`
	Results   []string `json:"results,omitempty"` // in hexadecimal
	Gas       int64    `json:"gas"`
	Left      int32    `json:"frames_left"`
}

// A word is the bits of a value, in hexadecimal.
type word uint64

func (w word) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%x", uint64(w)), nil }

// vectors are the cases; the call's last four fields, and what is rewritten,
// are filled in by running them.
func vectors() []vector {
	const budget, frames = 1_000_000, 10
	one := func(arguments ...word) []call {
		return []call{{Export: "f", Arguments: append([]word{}, arguments...), Budget: budget, Frames: frames}}
	}
	var list []vector
	add := func(name, description string, b *wasmtest.Builder, calls []call) {
		list = append(list, vector{Name: name, Description: description, Module: hex.EncodeToString(b.Bytes()), MemoryPages: 16, Calls: calls})
	}
	add("empty", "no sections but those of the rewriter", new(wasmtest.Builder), nil)

	b := new(wasmtest.Builder)
	b.Export("f", 0, b.Func("ii:i", "I", op(0x20, 0, 0x20, 1, 0x6a)))
	add("straight", "entry 4 + 1 local, then two local.get and i32.add: 8 gas", b, one(2, 3))

	b = new(wasmtest.Builder)
	b.Export("f", 0, b.Func("i:i", "", op(0x03, 0x40, 0x20, 0), i32(1), op(0x6b, 0x22, 0, 0x0d, 0, 0x0b, 0x20, 0)))
	add("loop", "entry 4; each time round 2 + 1+1+1+1+3; local.get 1", b, append(one(1), one(10)...))
	list[len(list)-1].Calls = append(list[len(list)-1].Calls, call{Export: "f", Arguments: []word{10}, Budget: 50, Frames: frames})

	b = new(wasmtest.Builder)
	b.Export("f", 0, b.Func("i:i", "",
		op(0x02, 0x40, 0x02, 0x40, 0x02, 0x40, 0x20, 0, 0x0e, 2, 0, 1, 2, 0x0b), i32(10), op(0x0f, 0x0b), i32(11), op(0x0f, 0x0b), i32(12), op(0x0f, 0x41, 0, 0x1a)))
	add("br_table", "regions after the ends that branches reach; the last two instructions cannot be reached", b, append(append(one(0), one(1)...), one(7)...))

	b = new(wasmtest.Builder)
	b.Export("f", 0, b.Func("i:i", "", op(0x20, 0, 0x04, 0x7f), i32(1), i32(2), op(0x6a, 0x05), op(0x20, 0, 0x0b), i32(1), op(0x6a)))
	add("if", "regions of both arms and after the end", b, append(one(0), one(1)...))

	add("recursion", "an import, a return that becomes a branch, and frames; with 10 of them 10 calls are open at most",
		recursionBuilder(), []call{
			{Export: "f", Arguments: []word{9}, Budget: budget, Frames: 10},
			{Export: "f", Arguments: []word{10}, Budget: budget, Frames: 10},
		})

	b = new(wasmtest.Builder)
	b.Export("f", 0, b.Func("i:i", "", op(0x02, 0x40, 0x20, 0, 0x10, 1, 0x0d, 0, 0x20, 0, 0x10, 1, 0x10, 1, 0x1a, 0x0b),
		op(0x20, 0, 0x04, 0x40, 0x20, 0, 0x0f, 0x0b, 0x20, 0, 0x10, 1)))
	b.Func("i:i", "", op(0x20, 0))
	add("reading back", "the gas left is read back after the first and the third call; the last region has nobody to keep it for, nor has the arm that returns",
		b, append(one(0), one(1)...))

	b = new(wasmtest.Builder)
	b.Export("f", 0, b.Func("i:i", strings.Repeat("I", 2047), // 2 times 2,048 values, and the instructions
		op(0x20, 0, 0x45, 0x04, 0x40, 0x41, 0, 0x0f, 0x0b, 0x20, 0, 0x41, 1, 0x6b, 0x10, 0, 0x41, 1, 0x6a)))
	add("heavy frames", "a function with 2,048 parameters and locals and one block takes two frames; with 10 of them 5 calls are open at most",
		b, []call{
			{Export: "f", Arguments: []word{4}, Budget: budget, Frames: 10},
			{Export: "f", Arguments: []word{5}, Budget: budget, Frames: 10},
		})

	b = new(wasmtest.Builder)
	b.Type("ii:ii")
	b.Export("f", 0, b.Func("ii:ii", "", op(0x20, 1, 0x20, 0, 0x02, 0, 0x20, 0, 0x0d, 1, 0x0b, 0x10, 1)))
	b.Func("ii:ii", "", op(0x20, 1, 0x20, 0))
	add("multi-value", "the block around the function has a type of its own", b, one(4, 5))

	b = new(wasmtest.Builder)
	b.Export("f", 0, b.Func("Ff:F", "", op(0x20, 0, 0x20, 1, 0xbb, 0xa0, 0x9f, 0x20, 1, 0x91, 0x8c, 0xbb, 0xa0)))
	add("not-a-number", "canonical after the square roots and the last addition; not after the first promotion and the addition, which a float operation takes",
		b, one(0xfff8000000000001, 0x7f800001))

	b = new(wasmtest.Builder)
	b.Export("f", 0, b.Func("iI:I", "", op(0x20, 0), i32(-7), op(0x6f, 0xac, 0x20, 1, 0x42, 9, 0x82, 0x7c, 0x20, 0), i32(3), op(0x70, 0xad, 0x7c)))
	add("remainders", "three helper functions, in the order of first use", b, one(100, 100))

	b = new(wasmtest.Builder).Memory(1, 3).Export("memory", 2, 0).Table(1, 20)
	b.Export("f", 0, b.Func("i:i", "", op(0x20, 0, 0x40, 0, 0x1a), i32(1), op(0x40, 0, 0x1a),
		i32(8), i32(7), i32(4000), op(0xfc, 11, 0), i32(9000), i32(8), i32(4001), op(0xfc, 10, 0, 0),
		op(0xd0, 0x70), i32(3), op(0xfc, 15, 0)))
	add("bulk", "f(1) grows by a page twice, f(2) by two at once and then by none, f(3) by none and then by one: what cannot grow is charged nothing; filling, copying and table.grow by length", b,
		append(append(one(1), one(2)...), one(3)...))

	b = wasmtest.Command()
	start := b.Func(":", "", i32(0), i32(77), op(0x36, 2, 0))
	f := b.Func(":i", "", i32(0), op(0x28, 2, 0, 0xd2, 0, 0xd1, 0x6a))
	b.Export("f", 0, f).StartSection(start).Table(4, -1).Elem(1, f, start).Global('r', 0xd2, byte(f))
	b.ElemRaw(wasmtest.Cat(op(5, 0x70, 2, 0xd2, byte(start), 0x0b, 0xd0, 0x70, 0x0b))...)
	b.ElemRaw(3, 0, 1, byte(start))
	add("indexes", "the start function becomes an export; functions move by one in ref.func, elements, exports and globals", b, one())

	b = wasmtest.Command().Data(100, "abc").Data(110, "defg").Data(8, "x").Data(90, "y").Data(112, "zz")
	add("data", "two segments are joined; overlapping and falling ones are not", b, nil)

	b = wasmtest.Command().Data(0, strings.Repeat("a", 100)).Data(150, "").Data(8, "bcde").Data(12, "fg")
	b.Data(140, "h").Data(144, "i").Data(160, "j").Data(160, "").Data(161, "").Data(162, "k")
	add("data without gaps", "a segment around an empty gap, or an empty one in a gap, has no byte in it; empty segments are joined as well", b, nil)

	list = append(list, vector{Name: "longest function", Description: "1,048,576 instructions, the end included",
		Parts: longFunction(0x01, MaxInstructions), MemoryPages: 16})

	refused := func(name, description string, rule Rule, b *wasmtest.Builder) {
		list = append(list, vector{Name: name, Description: description, Module: hex.EncodeToString(b.Bytes()), MemoryPages: 16, Refused: rule})
	}
	refused("imported memory", "only functions can be imported", RuleImport, new(wasmtest.Builder).ImportRaw("env", "m", 2, 0, 1))
	reserved := new(wasmtest.Builder)
	reserved.Import("tallystick", "x", ":")
	refused("reserved import", "the module tallystick is the rewriter's", RuleImport, reserved)
	refused("reserved export", "so are names that begin with tallystick:", RuleExport, new(wasmtest.Builder).Memory(1, 1).Export("tallystick:", 2, 0))
	refused("memory", "17 pages with a limit of 16", RuleMemory, new(wasmtest.Builder).Memory(17, -1))
	refused("table", "65,537 entries", RuleTable, new(wasmtest.Builder).Table(65_537, -1))
	initActive := wasmtest.Command().Data(0, "a").DataCount()
	initActive.Func(":", "", i32(0), i32(0), i32(0), op(0xfc, 8, 0, 0))
	refused("memory.init", "of an active segment", RuleSegment, initActive)
	dropActive := wasmtest.Command().Table(1, 1).Elem(0)
	dropActive.Func(":", "", op(0x00, 0xfc, 13, 0))
	refused("elem.drop", "of an active segment, though it cannot be reached", RuleSegment, dropActive)
	initExtern := wasmtest.Command().TableRaw(0x6f, 0, 1).ElemRaw(5, 0x6f, 1, 0xd0, 0x6f, 0x0b)
	initExtern.Func(":", "", i32(0), i32(0), i32(1), op(0xfc, 12, 0, 0))
	refused("table.init", "of a passive segment of externref", RuleSegment, initExtern)
	locals := new(wasmtest.Builder)
	locals.FuncRaw("i:", wasmtest.Cat([]byte{1}, wasmtest.U32(nil, MaxLocals), []byte{0x7f, 0x0b}))
	refused("locals", "49,997 parameters and locals", RuleLocals, locals)
	results := new(wasmtest.Builder)
	results.Type(":" + strings.Repeat("i", MaxArity+1))
	refused("results", "a type with 17 results, though nothing has it", RuleArity, results)
	shifting := new(wasmtest.Builder)
	shifts := byte(shifting.Type(strings.Repeat("i", MaxArity+1) + ":"))
	shifting.Func(":", "", op(slices.Repeat([]byte{0x41, 0}, MaxArity+1)...), op(0x03, shifts), i32(0), op(0x0c, 0, 0x0b))
	refused("parameters of a loop", "17, which each branch back would move for nothing", RuleArity, shifting)
	simd := new(wasmtest.Builder)
	simd.Func("v:", "")
	refused("simd", "a feature outside the set", RuleFeature, simd)
	untyped := new(wasmtest.Builder)
	untyped.Func(":i", "", op(0x42, 0))
	refused("invalid", "an i64 where the function has an i32 as result", RuleInvalid, untyped)
	refused("malformed", "an import of an unknown kind", RuleMalformed, new(wasmtest.Builder).ImportRaw("", "", 9))
	for i, name := range []string{"length, out of reach", "length"} {
		list = append(list, vector{Name: name, Description: "1,048,577 instructions in a function, those that cannot be reached included",
			Parts: longFunction(byte(i), MaxInstructions+1), MemoryPages: 16, Refused: RuleLength}) // unreachable is 0, nop 1
	}
	return list
}

// TestVectors holds the rewriter to the golden files, and the engine to their
// outcomes.
func TestVectors(t *testing.T) {
	list := vectors()
	engines := engines(t)
	for i := range list {
		v := &list[i]
		r, err := Rewrite(v.bytes(t), Config{MemoryPages: v.MemoryPages})
		if refusal := (*Refusal)(nil); v.Refused != "" {
			if !errors.As(err, &refusal) || refusal.Rule != v.Refused {
				t.Errorf("%s: %v, want %s", v.Name, err, v.Refused)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if v.SHA256 = hex.EncodeToString(r.Digest[:]); v.Parts == nil {
			v.Rewritten = hex.EncodeToString(r.Bytes)
		}
		for k := range v.Calls {
			c := &v.Calls[k]
			args := make([]uint64, len(c.Arguments))
			for n, a := range c.Arguments {
				args[n] = uint64(a)
			}
			var got [2]report
			for n, e := range engines {
				got[n] = e.run(t, r.Bytes, limit{gas: c.Budget, frames: c.Frames}, c.Export, args...)
			}
			if got[0] != got[1] {
				t.Errorf("%s: compiler %+v, interpreter %+v", v.Name, got[0], got[1])
			}
			c.Outcome, c.Results, c.Gas, c.Left = got[0].outcome, strings.Fields(strings.Trim(got[0].values, "[]")), got[0].gas, got[0].frames
		}
	}
	b, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "vectors.json", append(b, '\n'))
}

// TestCosts pins the cost table: to change a number is to make another version.
func TestCosts(t *testing.T) {
	golden(t, "costs.txt", []byte(CostText()))
	const want = "c14cc059184aad3ee8e7ad4290300c4365ddff1d163068656f48dded3f5655af" // of version 1
	if got := fmt.Sprintf("%x", sha256.Sum256([]byte(CostText()))); got != want {
		t.Errorf("cost table %d has the digest %s, must have %s", CostTable, got, want)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(vectorsDir+name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(vectorsDir + name)
	if err != nil {
		t.Fatalf("%v; make it with go test -update", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from the golden file", name)
	}
}
