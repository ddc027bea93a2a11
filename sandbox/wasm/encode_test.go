package wasm

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// TestNumbersAgain encodes numbers and reads them back.
func TestNumbersAgain(t *testing.T) {
	for _, v := range []int64{0, 1, -1, 63, 64, -64, -65, 1 << 20, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64} {
		r := &reader{b: AppendS64(nil, v)}
		if got := r.signed(64); got != v || !r.done() {
			t.Errorf("%d became %d", v, got)
		}
		r = &reader{b: AppendU32(nil, uint32(v))}
		if got := r.u32(); got != uint32(v) || !r.done() {
			t.Errorf("%d became %d", uint32(v), got)
		}
	}
}

// TestSegmentsAgain encodes what was decoded: forms with the smallest flags
// come out as they were, others with smaller ones.
func TestSegmentsAgain(t *testing.T) {
	for _, test := range []struct{ in, want []byte }{
		{[]byte{0, 0x41, 1, 0x0b, 2, 0, 0}, nil},
		{[]byte{1, 0, 1, 0}, nil},
		{[]byte{2, 1, 0x41, 1, 0x0b, 0, 1, 0}, nil},
		{[]byte{2, 0, 0x41, 1, 0x0b, 0, 1, 0}, []byte{0, 0x41, 1, 0x0b, 1, 0}},
		{[]byte{3, 0, 1, 0}, nil},
		{[]byte{4, 0x41, 1, 0x0b, 2, 0xd2, 0, 0x0b, 0xd0, 0x70, 0x0b}, nil},
		{[]byte{5, 0x70, 1, 0xd2, 0, 0x0b}, nil},
		{[]byte{5, 0x6f, 0}, nil},
		{[]byte{6, 2, 0x23, 0, 0x0b, 0x6f, 1, 0xd0, 0x6f, 0x0b}, nil},
		{[]byte{6, 0, 0x41, 1, 0x0b, 0x70, 0}, []byte{4, 0x41, 1, 0x0b, 0}},
		{[]byte{7, 0x70, 1, 0xd0, 0x70, 0x0b}, nil},
	} {
		b := new(wasmtest.Builder).Table(1, 2).Table(1, -1).TableRaw(0x6f, 0, 1).ImportRaw("env", "g", 3, 0x7f, 0)
		b.Func(":", "")
		m, err := Decode(b.ElemRaw(test.in...).Bytes())
		if err == nil {
			err = m.Validate()
		}
		if err != nil {
			t.Errorf("%x: %v", test.in, err)
			continue
		}
		if test.want == nil {
			test.want = test.in
		}
		if got := AppendElem(nil, m.Elems[0]); !bytes.Equal(got, test.want) {
			t.Errorf("%x became %x, want %x", test.in, got, test.want)
		}
	}
	m, err := Decode(new(wasmtest.Builder).Table(1, 2).Table(3, -1).Global('f', 0x43, 1, 2, 3, 4).Global('F', 0x44, 1, 2, 3, 4, 5, 6, 7, 8).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got := AppendLimits(AppendLimits(nil, m.Tables[0].Limits), m.Tables[1].Limits); !bytes.Equal(got, []byte{1, 1, 2, 0, 3}) {
		t.Errorf("limits are %x", got)
	}
	if got := AppendConstExpr(AppendConstExpr(nil, m.Globals[0].Init), m.Globals[1].Init); !bytes.Equal(got, []byte{0x43, 1, 2, 3, 4, 0x0b, 0x44, 1, 2, 3, 4, 5, 6, 7, 8, 0x0b}) {
		t.Errorf("constants are %x", got)
	}
}

// TestKnown: an opcode is known exactly if the decoder knows it.
func TestKnown(t *testing.T) {
	for op := range 256 {
		b := wasmtest.Command()
		b.FuncRaw(":", []byte{0, byte(op)})
		m, err := Decode(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		err = m.Decode(&recorder{})
		f := (*FeatureError)(nil)
		refused := errors.As(err, &f) || (err != nil && strings.Contains(err.Error(), "unknown opcode"))
		if op != int(opPrefixed) && refused == Known(Opcode(op)) {
			t.Errorf("opcode %#x: %v, known %v", op, err, Known(Opcode(op)))
		}
	}
}
