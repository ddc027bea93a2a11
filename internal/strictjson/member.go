package strictjson

import (
	"reflect"
)

// Text returns the string that an object has as the member of this name, at its
// outermost level. It knows none of the other members, and holds the whole text
// to every rule that needs no such knowledge; ok is false for a text that breaks
// one, and for one without the member or with another value in it. So it reads
// from a statement of another protocol version which version that is.
func Text(data []byte, name string, maxBytes int) (value string, ok bool) {
	if len(data) > maxBytes {
		return "", false
	}
	d := decoder{data: data}
	d.space()
	err := d.distinctMembers(1, func(member string) error {
		if member != name || d.peek() != '"' {
			return d.skip(1)
		}
		var err error
		value, err = d.text()
		ok = true
		return err
	})
	d.space()
	if err != nil || d.pos != len(d.data) {
		return "", false
	}
	return value, ok
}

// distinctMembers is members for an object whose names are not known.
func (d *decoder) distinctMembers(depth int, member func(name string) error) error {
	seen := make(map[string]bool)
	return d.members(depth, func(name string) error {
		if seen[name] {
			return d.errorf("member occurs twice")
		}
		seen[name] = true
		return member(name)
	})
}

// skip reads the next value, whatever it is. depth counts the arrays and
// objects that are open around it.
func (d *decoder) skip(depth int) error {
	switch c := d.peek(); c {
	case '{':
		return d.distinctMembers(depth+1, func(string) error { return d.skip(depth + 1) })
	case '[':
		return d.skipArray(depth + 1)
	case '"':
		_, err := d.text()
		return err
	case 't', 'f':
		return d.boolean(reflect.New(reflect.TypeFor[bool]()).Elem())
	default:
		return d.integer(reflect.New(reflect.TypeFor[uint64]()).Elem())
	}
}

func (d *decoder) skipArray(depth int) error {
	if err := d.open('[', depth); err != nil {
		return err
	}
	for first := true; ; first = false {
		d.space()
		if first && d.peek() == ']' {
			break
		}
		if err := d.skip(depth); err != nil {
			return err
		}
		d.space()
		if d.peek() != ',' {
			break
		}
		d.pos++
	}
	return d.expect(']')
}
