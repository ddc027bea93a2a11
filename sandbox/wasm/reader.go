package wasm

import (
	"fmt"
	"unicode/utf8"
)

// A reader reads the primitive values of the binary format. Its methods do not
// return on malformed input: they panic with a bail.
type reader struct {
	b    []byte
	pos  int
	base int // offset of b in the module, for messages
}

func (r *reader) offset() int { return r.base + r.pos }

func (r *reader) done() bool { return r.pos == len(r.b) }

func (r *reader) left() int { return len(r.b) - r.pos }

func (r *reader) fail(format string, args ...any) {
	panic(bail{fmt.Errorf("%w: %s at offset %d", ErrMalformed, fmt.Sprintf(format, args...), r.offset())})
}

func (r *reader) refuse(f Feature, format string, args ...any) {
	panic(bail{&FeatureError{f, r.offset(), fmt.Sprintf(format, args...)}})
}

func (r *reader) byte() byte {
	if r.done() {
		r.fail("unexpected end")
	}
	c := r.b[r.pos]
	r.pos++
	return c
}

func (r *reader) take(n uint32) []byte {
	if uint64(n) > uint64(r.left()) {
		r.fail("length %d runs past the end", n)
	}
	b := r.b[r.pos : r.pos+int(n) : r.pos+int(n)]
	r.pos += int(n)
	return b
}

// sub is a reader of the next n bytes.
func (r *reader) sub(n uint32) *reader {
	base := r.offset()
	return &reader{b: r.take(n), base: base}
}

// u32 reads an unsigned LEB128 of at most 5 bytes whose unused bits are zero.
// Padding with zero groups is allowed: linkers emit it.
func (r *reader) u32() uint32 {
	var v uint32
	for shift := 0; ; shift += 7 {
		c := r.byte()
		if shift == 28 && c > 0x0f {
			r.fail("integer is longer than 32 bits")
		}
		v |= uint32(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
}

// signed reads a signed LEB128 of the given width in bits, whose unused bits
// repeat the sign.
func (r *reader) signed(bits int) int64 {
	var v int64
	for shift := 0; ; shift += 7 {
		c := r.byte()
		if rest := bits - shift; rest < 7 {
			// Only rest bits are left: no more bytes, and the bits above agree with
			// the sign.
			sign := int8(c<<1) >> rest
			if c >= 0x80 || (sign != 0 && sign != -1) {
				r.fail("integer is longer than %d bits", bits)
			}
		}
		v |= int64(c&0x7f) << shift
		if c < 0x80 {
			if s := shift + 7; s < 64 {
				v = v << (64 - s) >> (64 - s)
			}
			return v
		}
	}
}

// count reads the length of a vector and bounds it, also by what is left to
// read when an element takes at least the given bytes: so that what is made
// room for stays in proportion to the module.
func (r *reader) count(what string, limit, least uint32) uint32 {
	n := r.u32()
	if n > limit {
		r.fail("%d %s, at most %d are taken", n, what, limit)
	}
	if uint64(n)*uint64(least) > uint64(r.left()) {
		r.fail("%d %s in %d bytes", n, what, r.left())
	}
	return n
}

func (r *reader) name() string {
	b := r.take(r.u32())
	if !utf8.Valid(b) {
		r.fail("name is not UTF-8")
	}
	return string(b)
}

// end fails if a section or body has bytes left over.
func (r *reader) end(what string) {
	if !r.done() {
		r.fail("%d bytes left over after the %s", r.left(), what)
	}
}
