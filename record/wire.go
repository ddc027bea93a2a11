package record

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxDepth is how deep messages may be nested, the outermost one included.
const MaxDepth = 8

// Limits bounds one message.
type Limits struct {
	// Bytes is the largest size of the whole message.
	Bytes int
	// Elements is the largest number of elements of repeated fields, all fields
	// of all nested messages together. It bounds what decoding allocates, since
	// an empty element costs two bytes on the wire and many in memory.
	Elements int
}

// Check reports whether b is the canonical wire form of a message with the
// given descriptor (docs/formats/record.md, "Canonical wire form"). It runs in
// time linear in len(b) and allocates nothing that depends on b's claims. The
// error is ErrTooLarge, ErrNotCanonical or ErrSchema and names the field.
func Check(b []byte, md protoreflect.MessageDescriptor, limits Limits) error {
	if len(b) > limits.Bytes {
		return fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTooLarge, md.Name(), len(b), limits.Bytes)
	}
	c := checker{elements: limits.Elements, maxElements: limits.Elements}
	return c.message(b, md, 1)
}

// checker walks one message. It is used once, by one goroutine.
type checker struct {
	elements    int      // how many more elements of repeated fields may come
	maxElements int      // for the error text
	path        []string // names of the fields around the current one
}

func (c *checker) message(b []byte, md protoreflect.MessageDescriptor, depth int) error {
	if depth > MaxDepth {
		return c.bad("messages nested more than %d deep", MaxDepth)
	}
	if md.Oneofs().Len() > 64 {
		return fmt.Errorf("%w: %s has more than 64 oneofs", ErrSchema, md.FullName())
	}
	var last protoreflect.FieldNumber
	var oneofs uint64 // bit i is set once a member of the oneof with index i was met
	for len(b) > 0 {
		tag, n := varint(b)
		if n == 0 {
			return c.bad("tag is not a minimal varint")
		}
		b = b[n:]
		if tag>>3 > uint64(protowire.MaxValidNumber) {
			return c.bad("field number %d", tag>>3)
		}
		num := protoreflect.FieldNumber(tag >> 3)
		fd := md.Fields().ByNumber(num)
		if fd == nil {
			return c.bad("unknown field %d", num)
		}
		c.path = append(c.path, string(fd.Name()))
		switch {
		case num < last:
			return c.bad("fields are not ascending")
		case num == last && (!fd.IsList() || isScalar(fd.Kind())):
			return c.bad("field occurs twice")
		case num != last && fd.ContainingOneof() != nil:
			bit := uint64(1) << fd.ContainingOneof().Index()
			if oneofs&bit != 0 {
				return c.bad("second member of %q", fd.ContainingOneof().Name())
			}
			oneofs |= bit
		}
		last = num
		rest, err := c.field(b, fd, protowire.Type(tag&7), depth)
		if err != nil {
			return err
		}
		b = rest
		c.path = c.path[:len(c.path)-1]
	}
	return nil
}

// field checks the value that b begins with and returns what follows it.
func (c *checker) field(b []byte, fd protoreflect.FieldDescriptor, typ protowire.Type, depth int) ([]byte, error) {
	if fd.IsMap() || !hasForm(fd.Kind()) {
		return nil, fmt.Errorf("%w: %s is a %v", ErrSchema, fd.FullName(), fd.Kind())
	}
	want := protowire.BytesType
	if isScalar(fd.Kind()) && !fd.IsList() {
		want = protowire.VarintType
	}
	if typ != want {
		return nil, c.bad("wire type %d, want %d", typ, want)
	}
	v, n := varint(b)
	if n == 0 {
		return nil, c.bad("value or length is not a minimal varint")
	}
	b = b[n:]
	if typ == protowire.VarintType {
		if v == 0 && !fd.HasPresence() {
			return nil, c.bad("default value is encoded")
		}
		return b, c.scalar(v, fd.Kind())
	}
	if v > uint64(len(b)) {
		return nil, c.bad("length %d, but %d bytes remain", v, len(b))
	}
	value, rest := b[:v], b[v:]
	if isScalar(fd.Kind()) {
		return rest, c.packed(value, fd.Kind())
	}
	if fd.IsList() {
		if err := c.count(); err != nil {
			return nil, err
		}
	} else if len(value) == 0 && !fd.HasPresence() {
		return nil, c.bad("default value is encoded")
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		if !utf8.Valid(value) {
			return nil, c.bad("text is not UTF-8")
		}
	case protoreflect.MessageKind:
		return rest, c.message(value, fd.Message(), depth+1)
	}
	return rest, nil
}

// packed checks the elements of a repeated scalar field.
func (c *checker) packed(b []byte, kind protoreflect.Kind) error {
	if len(b) == 0 {
		return c.bad("empty run of packed values")
	}
	for len(b) > 0 {
		v, n := varint(b)
		if n == 0 {
			return c.bad("packed value is not a minimal varint")
		}
		if err := c.count(); err != nil {
			return err
		}
		if err := c.scalar(v, kind); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (c *checker) scalar(v uint64, kind protoreflect.Kind) error {
	limit := uint64(math.MaxInt64)
	switch kind {
	case protoreflect.BoolKind:
		limit = 1
	case protoreflect.Uint32Kind:
		limit = math.MaxUint32
	}
	if v > limit {
		return c.bad("value %d is over %d", v, limit)
	}
	return nil
}

func (c *checker) count() error {
	if c.elements == 0 {
		return fmt.Errorf("%w: %s: more than %d elements of repeated fields", ErrTooLarge, strings.Join(c.path, "."), c.maxElements)
	}
	c.elements--
	return nil
}

func (c *checker) bad(format string, args ...any) error {
	where := ""
	if len(c.path) > 0 {
		where = strings.Join(c.path, ".") + ": "
	}
	return fmt.Errorf("%w: %s%s", ErrNotCanonical, where, fmt.Sprintf(format, args...))
}

// isScalar reports whether values of the kind are varints, and so packed when
// repeated.
func isScalar(k protoreflect.Kind) bool {
	return k == protoreflect.BoolKind || k == protoreflect.Uint32Kind || k == protoreflect.Uint64Kind
}

// hasForm reports whether the canonical form is defined for the kind.
func hasForm(k protoreflect.Kind) bool {
	return isScalar(k) || k == protoreflect.StringKind || k == protoreflect.BytesKind || k == protoreflect.MessageKind
}

// varint reads a minimal varint; n is 0 if b does not begin with one.
func varint(b []byte) (v uint64, n int) {
	v, n = protowire.ConsumeVarint(b)
	if n < 0 || n != protowire.SizeVarint(v) {
		return 0, 0
	}
	return v, n
}
