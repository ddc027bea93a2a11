package strictjson

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

const (
	// MaxDepth is how deep arrays and objects may nest; the outermost is level 1.
	MaxDepth = 16
	// MaxInteger is the largest integer, 2^53 − 1: the largest that every JSON
	// reader, one that knows only doubles included, reads exactly.
	MaxInteger = 1<<53 - 1
)

var (
	// ErrSyntax says that the input is not strict JSON of the expected members.
	ErrSyntax = errors.New("not strict JSON of the documented form")
	// ErrTooLarge says that the input is longer than the caller's bound.
	ErrTooLarge = errors.New("JSON text is too long")
	// ErrType is a mistake of this program: a Go type this package cannot carry.
	ErrType = errors.New("unsupported Go type for strict JSON")
	// ErrValue says that a value has no strict JSON form, for example an integer
	// above MaxInteger or text that is not UTF-8.
	ErrValue = errors.New("value has no strict JSON form")
)

// Unmarshal reads data, at most maxBytes of it, into v, a non-nil pointer.
// Errors wrap [ErrSyntax] or [ErrTooLarge] and name the member and the byte
// offset at which reading stopped; *v is then unchanged.
func Unmarshal(data []byte, v any, maxBytes int) error {
	if len(data) > maxBytes {
		return fmt.Errorf("%w: %d bytes, want at most %d", ErrTooLarge, len(data), maxBytes)
	}
	dst := reflect.ValueOf(v)
	if dst.Kind() != reflect.Pointer || dst.IsNil() {
		return fmt.Errorf("%w: %T, want a non-nil pointer", ErrType, v)
	}
	d := decoder{data: data}
	tmp := reflect.New(dst.Type().Elem()).Elem()
	d.space()
	if err := d.value(tmp, 0); err != nil {
		return err
	}
	d.space()
	if d.pos != len(d.data) {
		return d.errorf("unexpected bytes after the value")
	}
	dst.Elem().Set(tmp)
	return nil
}

// A decoder is one pass over a text. path names the member being read.
type decoder struct {
	data []byte
	pos  int
	path []string
}

func (d *decoder) errorf(format string, args ...any) error {
	member := "top level"
	if len(d.path) > 0 {
		member = fmt.Sprintf("member %q", clip(strings.Join(d.path, ".")))
	}
	return fmt.Errorf("%w: %s, byte %d: %s", ErrSyntax, member, d.pos, fmt.Sprintf(format, args...))
}

// clip keeps untrusted text from making an error message as long as the input.
func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

func (d *decoder) enter(name string) { d.path = append(d.path, name) }
func (d *decoder) leave()            { d.path = d.path[:len(d.path)-1] }

// space skips the four characters that RFC 8259 calls white space.
func (d *decoder) space() {
	for d.pos < len(d.data) {
		switch d.data[d.pos] {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end (NUL itself is never legal).
func (d *decoder) peek() byte {
	if d.pos < len(d.data) {
		return d.data[d.pos]
	}
	return 0
}

func (d *decoder) expect(c byte) error {
	if d.peek() != c {
		return d.errorf("want %q, have %s", string(c), d.have())
	}
	d.pos++
	return nil
}

func (d *decoder) have() string {
	if d.pos >= len(d.data) {
		return "the end"
	}
	return fmt.Sprintf("%q", d.data[d.pos:d.pos+1])
}

// value reads the next value into v. depth counts the arrays and objects that
// are open around it.
func (d *decoder) value(v reflect.Value, depth int) error {
	if d.peek() == 'n' && bytes.HasPrefix(d.data[d.pos:], []byte("null")) {
		return d.errorf("null is not allowed; leave the member out")
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(v.Elem(), depth)
	}
	if reflect.PointerTo(v.Type()).Implements(textUnmarshaler) {
		s, err := d.text()
		if err != nil {
			return err
		}
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
			return d.errorf("%q: %v", clip(s), err)
		}
		return nil
	}
	switch k := v.Kind(); {
	case k == reflect.Struct:
		return d.object(v, depth+1)
	case k == reflect.Map && v.Type().Key().Kind() == reflect.String:
		return d.dictionary(v, depth+1)
	case isBytes(v.Type()):
		return d.base64(v)
	case k == reflect.Slice, k == reflect.Array:
		return d.array(v, depth+1)
	case k == reflect.String:
		s, err := d.text()
		v.SetString(s)
		return err
	case k == reflect.Bool:
		return d.boolean(v)
	case v.CanInt(), v.CanUint():
		return d.integer(v)
	}
	return fmt.Errorf("%w: %v", ErrType, v.Type())
}

func (d *decoder) object(v reflect.Value, depth int) error {
	o, err := objectOf(v.Type())
	if err != nil {
		return err
	}
	seen := make([]bool, len(o.fields))
	err = d.members(depth, func(name string) error {
		i, ok := o.byName[name]
		if !ok {
			for _, f := range o.fields {
				if strings.EqualFold(f.name, name) {
					return d.errorf("unknown member, spelled %q", f.name)
				}
			}
			return d.errorf("unknown member")
		}
		if seen[i] {
			return d.errorf("member occurs twice")
		}
		seen[i] = true
		f := v.Field(o.fields[i].index)
		if err := d.value(f, depth); err != nil {
			return err
		}
		if o.fields[i].optional && isEmpty(f) {
			return d.errorf("empty; leave the member out")
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, f := range o.fields {
		if !seen[i] && !f.optional {
			d.enter(f.name)
			return d.errorf("required member is missing")
		}
	}
	return nil
}

// dictionary reads an object whose names are data.
func (d *decoder) dictionary(v reflect.Value, depth int) error {
	m := reflect.MakeMap(v.Type())
	err := d.members(depth, func(name string) error {
		key := reflect.ValueOf(name).Convert(v.Type().Key())
		if m.MapIndex(key).IsValid() {
			return d.errorf("member occurs twice")
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(elem, depth); err != nil {
			return err
		}
		m.SetMapIndex(key, elem)
		return nil
	})
	v.Set(m)
	return err
}

// members reads the braces, names and commas of an object and calls member
// where each value begins.
func (d *decoder) members(depth int, member func(name string) error) error {
	if err := d.open('{', depth); err != nil {
		return err
	}
	for first := true; ; first = false {
		d.space()
		if first && d.peek() == '}' {
			break
		}
		name, err := d.text()
		if err != nil {
			return err
		}
		d.enter(name)
		d.space()
		if err := d.expect(':'); err != nil {
			return err
		}
		d.space()
		if err := member(name); err != nil {
			return err
		}
		d.leave()
		d.space()
		if d.peek() != ',' {
			break
		}
		d.pos++
	}
	return d.expect('}')
}

func (d *decoder) array(v reflect.Value, depth int) error {
	if err := d.open('[', depth); err != nil {
		return err
	}
	list := reflect.MakeSlice(reflect.SliceOf(v.Type().Elem()), 0, 0)
	for n := 0; ; n++ {
		d.space()
		if n == 0 && d.peek() == ']' {
			break
		}
		d.enter(strconv.Itoa(n))
		if v.Kind() == reflect.Array && n == v.Len() {
			return d.errorf("want exactly %d elements", v.Len())
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(elem, depth); err != nil {
			return err
		}
		list = reflect.Append(list, elem)
		d.leave()
		d.space()
		if d.peek() != ',' {
			break
		}
		d.pos++
	}
	if v.Kind() == reflect.Slice {
		v.Set(list.Convert(v.Type()))
	} else if reflect.Copy(v, list) != v.Len() {
		return d.errorf("want exactly %d elements", v.Len())
	}
	return d.expect(']')
}

func (d *decoder) open(c byte, depth int) error {
	if d.peek() == c && depth > MaxDepth {
		return d.errorf("nested deeper than %d levels", MaxDepth)
	}
	return d.expect(c)
}

func (d *decoder) boolean(v reflect.Value) error {
	for _, b := range []bool{true, false} {
		if word := strconv.FormatBool(b); bytes.HasPrefix(d.data[d.pos:], []byte(word)) {
			d.pos += len(word)
			v.SetBool(b)
			return nil
		}
	}
	return d.errorf("want true or false, have %s", d.have())
}

func (d *decoder) integer(v reflect.Value) error {
	start := d.pos
	var n uint64
	for c := d.peek(); c >= '0' && c <= '9'; c = d.peek() {
		if n = n*10 + uint64(c-'0'); n > MaxInteger {
			return d.errorf("integer above 2^53 - 1")
		}
		d.pos++
	}
	switch digits := d.pos - start; {
	case digits == 0:
		return d.errorf("want an integer without sign, have %s", d.have())
	case digits > 1 && d.data[start] == '0':
		return d.errorf("integer with a leading zero")
	}
	switch d.peek() {
	case '.', 'e', 'E':
		return d.errorf("want an integer without point and exponent")
	}
	if v.CanInt() && !v.OverflowInt(int64(n)) {
		v.SetInt(int64(n))
	} else if v.CanUint() && !v.OverflowUint(n) {
		v.SetUint(n)
	} else {
		return d.errorf("integer %d is out of range", n)
	}
	return nil
}

func (d *decoder) base64(v reflect.Value) error {
	s, err := d.text()
	if err != nil {
		return err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	// The decoder skips line breaks, the re-encoding does not.
	if err != nil || base64.StdEncoding.EncodedLen(len(b)) != len(s) {
		return d.errorf("want canonical standard base64 with padding")
	}
	v.SetBytes(b)
	return nil
}
