package strictjson

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// A field is one member of an object, as its struct describes it.
type field struct {
	name     string
	index    int
	optional bool // omitempty or omitzero
}

// An object describes a struct: its members in ascending byte order of names,
// which is the order of the canonical form.
type object struct {
	fields []field
	byName map[string]int // position in fields
}

// objects caches *object by reflect.Type; entries are immutable.
var objects sync.Map

func objectOf(t reflect.Type) (*object, error) {
	if o, ok := objects.Load(t); ok {
		return o.(*object), nil
	}
	o := &object{byName: make(map[string]int)}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" && options == "" {
			continue
		}
		if name == "" || f.Anonymous {
			return nil, fmt.Errorf("%w: field %s of %v has no name in a json tag", ErrType, f.Name, t)
		}
		opts := strings.Split(options, ",")
		o.fields = append(o.fields, field{
			name:     name,
			index:    i,
			optional: slices.Contains(opts, "omitempty") || slices.Contains(opts, "omitzero"),
		})
	}
	slices.SortFunc(o.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	for i, f := range o.fields {
		if _, twice := o.byName[f.name]; twice {
			return nil, fmt.Errorf("%w: %v has two fields named %q", ErrType, t, f.name)
		}
		o.byName[f.name] = i
	}
	objects.Store(t, o)
	return o, nil
}

// isEmpty reports whether an optional member with this value is left out.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

// isBytes reports whether t is carried as base64.
func isBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

var (
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)
