package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

var wide = Limits{Bytes: MaxSize, Elements: maxElements}

// everyForm is a schema with each form that the rules speak of, since the
// schemas of records and bundles do not need all of them.
func everyForm(t testing.TB) protoreflect.MessageDescriptor {
	field := func(name string, num int32, typ descriptorpb.FieldDescriptorProto_Type, repeated bool) *descriptorpb.FieldDescriptorProto {
		label := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		if repeated {
			label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
		}
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &num, Type: &typ, Label: &label}
		if typ == descriptorpb.FieldDescriptorProto_TYPE_MESSAGE {
			f.TypeName = proto.String(".test.Every")
		}
		return f
	}
	member := func(f *descriptorpb.FieldDescriptorProto) *descriptorpb.FieldDescriptorProto {
		f.OneofIndex = proto.Int32(0)
		return f
	}
	const (
		boolean = descriptorpb.FieldDescriptorProto_TYPE_BOOL
		u32     = descriptorpb.FieldDescriptorProto_TYPE_UINT32
		u64     = descriptorpb.FieldDescriptorProto_TYPE_UINT64
		text    = descriptorpb.FieldDescriptorProto_TYPE_STRING
		raw     = descriptorpb.FieldDescriptorProto_TYPE_BYTES
		message = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
		fixed   = descriptorpb.FieldDescriptorProto_TYPE_FIXED64
	)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("every.proto"), Package: proto.String("test"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("Every"),
			Field: []*descriptorpb.FieldDescriptorProto{
				field("flag", 1, boolean, false), field("small", 2, u32, false), field("large", 3, u64, false),
				field("text", 4, text, false), field("raw", 5, raw, false), field("nested", 6, message, false),
				field("flags", 7, boolean, true), field("larges", 8, u64, true), field("texts", 9, text, true),
				field("nesteds", 10, message, true), field("fixed", 15, fixed, false),
				member(field("one", 16, u64, false)), member(field("other", 17, text, false)),
			},
			OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: proto.String("choice")}},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().Get(0)
}

// refused is one vector of testdata/record/refused.json: bytes of the schema
// above, as text for people and in hexadecimal, and what is wrong with them.
type refused struct {
	Name  string `json:"name"`
	Bytes string `json:"bytes"`
	Error string `json:"error"`
}

func wireCases() (good map[string]string, bad []refused) {
	good = map[string]string{
		"empty message":               "",
		"true":                        "0801",
		"largest uint32":              "10ffffffff0f",
		"largest integer":             "18ffffffffffffffff7f",
		"text":                        "2202c3a9",
		"empty nested message":        "3200",
		"8 levels deep":               "320c320a3208320632043202" + "3200",
		"packed booleans, one false":  "3a020001",
		"packed integers with a zero": "42030001" + "05",
		"repeated text, one empty":    "4a00" + "4a0161",
		"oneof member with its zero":  "800100",
		"oneof member, empty text":    "8a0100",
		"everything in order":         "0801" + "1001" + "1801" + "220161" + "2a01ff" + "32020801" + "3a0100" + "420100" + "4a0161" + "52020801" + "5200" + "800101",
	}
	bad = []refused{
		{"unknown field", "5801", "unknown field 11"},
		{"field number 0", "0001", "unknown field 0"},
		{"field number beyond 2^29-1", "8080808010" + "01", "field number"},
		{"tag not minimal", "880001", "tag is not a minimal varint"},
		{"tag cut off", "80", "tag is not a minimal varint"},
		{"value not minimal", "088100", "not a minimal varint"},
		{"value cut off", "18ff", "not a minimal varint"},
		{"value of 65 bits", "18ffffffffffffffffff02", "not a minimal varint"},
		{"value missing", "18", "not a minimal varint"},
		{"length not minimal", "22810061", "not a minimal varint"},
		{"length beyond the end", "220261", "length 2, but 1 bytes remain"},
		{"huge length", "22ffffffffffffffffff01", "bytes remain"},
		{"boolean 2", "0802", "value 2 is over 1"},
		{"uint32 of 33 bits", "108080808010", "is over 4294967295"},
		{"integer over 2^63-1", "1880808080808080808001", "is over 9223372036854775807"},
		{"false encoded", "0800", "default value"},
		{"zero encoded", "1800", "default value"},
		{"empty text encoded", "2200", "default value"},
		{"empty bytes encoded", "2a00", "default value"},
		{"fields descending", "1801" + "1001", "not ascending"},
		{"scalar twice", "1801" + "1802", "occurs twice"},
		{"text twice", "220161" + "220162", "occurs twice"},
		{"nested message twice", "3200" + "3200", "occurs twice"},
		{"packed in two runs", "420101" + "420102", "occurs twice"},
		{"not packed", "4001", "wire type 0, want 2"},
		{"repeated field not contiguous", "4a0161" + "5200" + "4a0161", "not ascending"},
		{"empty packed run", "4200", "empty run"},
		{"packed value not minimal", "42028100", "not a minimal varint"},
		{"packed value cut off", "420180", "not a minimal varint"},
		{"packed boolean 2", "3a0102", "value 2 is over 1"},
		{"two members of a oneof", "800101" + "8a0161", "second member"},
		{"wrong wire type for text", "2001", "wire type 0, want 2"},
		{"wrong wire type for an integer", "1a0101", "wire type 2, want 0"},
		{"group", "0b0c", "wire type 3"},
		{"end group", "0c", "wire type 4"},
		{"fixed32", "1d00000000", "wire type 5"},
		{"wire type 7", "0f", "wire type 7"},
		{"text not UTF-8", "2201ff", "not UTF-8"},
		{"fault in a nested message", "320208" + "00", "nested.flag: default value"},
		{"9 levels deep", "320e320c320a3208320632043202" + "3200", "more than 8 deep"},
		{"nested 9 deep", strings.Join([]string{"3210", "320e", "320c", "320a", "3208", "3206", "3204", "3202", "3200"}, ""), "more than 8 deep"},
	}
	return good, bad
}

func TestCheckRules(t *testing.T) {
	md := everyForm(t)
	good, bad := wireCases()
	for name, text := range good {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(b, md, wide); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		checkAgainstProtobuf(t, b, md)
	}
	for _, test := range bad {
		b, err := hex.DecodeString(test.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(b, md, wide); !errors.Is(err, ErrNotCanonical) || !strings.Contains(err.Error(), test.Error) {
			t.Errorf("%s: %v, want %q", test.Name, err, test.Error)
		}
	}
	if err := Check([]byte{0x79, 1, 2, 3, 4, 5, 6, 7, 8}, md, wide); !errors.Is(err, ErrSchema) {
		t.Errorf("fixed-width field: %v", err)
	}
}

func TestRefusedVectors(t *testing.T) {
	_, bad := wireCases()
	out, err := json.MarshalIndent(bad, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, '\n')
	name := filepath.Join("..", "testdata", "record", "refused.json")
	if *update {
		if err := os.WriteFile(name, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, want) {
		t.Errorf("the cases of this test and %s differ", name)
	}
}

func TestCheckLimits(t *testing.T) {
	md := everyForm(t)
	b := bytes.Repeat([]byte{0x4a, 0}, 10)
	if err := Check(b, md, Limits{Bytes: 20, Elements: 10}); err != nil {
		t.Error(err)
	}
	if err := Check(b, md, Limits{Bytes: 19, Elements: 10}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("20 bytes with a limit of 19: %v", err)
	}
	if err := Check(b, md, Limits{Bytes: 20, Elements: 9}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("10 elements with a limit of 9: %v", err)
	}
	if err := Check([]byte{0x42, 2, 1, 1}, md, Limits{Bytes: 20, Elements: 1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("2 packed elements with a limit of 1: %v", err)
	}
}

// Every message that is hashed or kept for years uses only forms that have a
// canonical encoding.
func TestSchemasHaveCanonicalForm(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var visit func(md protoreflect.MessageDescriptor, depth int)
	visit = func(md protoreflect.MessageDescriptor, depth int) {
		if depth > MaxDepth {
			t.Errorf("%s is nested more than %d deep", md.FullName(), MaxDepth)
			return
		}
		seen[md.FullName()] = true
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			if fd.IsMap() || !hasForm(fd.Kind()) {
				t.Errorf("%s is a %v", fd.FullName(), fd.Kind())
			}
			if fd.Kind() == protoreflect.MessageKind {
				visit(fd.Message(), depth+1)
			}
		}
	}
	visit((*pb.Record)(nil).ProtoReflect().Descriptor(), 1)
	visit((*pb.ProofBundle)(nil).ProtoReflect().Descriptor(), 1)
	if len(seen) < 20 {
		t.Errorf("only %d messages were looked at", len(seen))
	}
}

// checkAgainstProtobuf holds accepted bytes against an independent encoder.
func checkAgainstProtobuf(t testing.TB, b []byte, md protoreflect.MessageDescriptor) {
	t.Helper()
	m := dynamicpb.NewMessage(md)
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatalf("Check accepted %x, which protobuf refuses: %v", b, err)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, b) {
		t.Fatalf("Check accepted %x, which encodes again as %x", b, again)
	}
}

// Whatever the checker accepts is what protobuf writes for the same message.
func FuzzCheck(f *testing.F) {
	md := everyForm(f)
	good, bad := wireCases()
	for _, text := range good {
		b, _ := hex.DecodeString(text)
		f.Add(b)
	}
	for _, test := range bad {
		b, _ := hex.DecodeString(test.Bytes)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if Check(b, md, wide) == nil {
			checkAgainstProtobuf(t, b, md)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, r := range samples() {
		b, err := Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Marshal(r)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x parses, and marshals as %x (%v)", b, again, err)
		}
	})
}

// Flipping any bit of a record never panics, and what is still accepted is
// another record.
func TestEveryBitFlip(t *testing.T) {
	for _, r := range samples() {
		b, err := Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 * len(b) {
			flipped := bytes.Clone(b)
			flipped[i/8] ^= 1 << (i % 8)
			if got, err := Parse(flipped); err == nil && proto.Equal(got, r) {
				t.Errorf("%s: bit %d does not matter", KindOf(r), i)
			}
		}
		for i := range b {
			if _, err := Parse(b[:i]); err == nil {
				t.Errorf("%s: the first %d bytes are a record", KindOf(r), i)
			}
		}
	}
}
