package strictjson

import (
	"encoding"
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Marshal returns the canonical form of v. What has none (an integer below 0 or
// above [MaxInteger], text that is not UTF-8, a required member that is nil,
// more than [MaxDepth] levels) is an error that wraps [ErrValue]. A nil slice
// or map that is required is written empty.
func Marshal(v any) ([]byte, error) {
	rv := reflect.ValueOf(v)
	if !rv.IsValid() {
		return nil, fmt.Errorf("%w: nil", ErrType)
	}
	return appendValue(nil, rv, 0)
}

func valueErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrValue, fmt.Sprintf(format, args...))
}

func appendValue(out []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil, valueErrorf("nil %v", v.Type())
		}
		return appendValue(out, v.Elem(), depth)
	}
	if v.Type().Implements(textMarshaler) {
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil {
			return nil, valueErrorf("%v: %v", v.Type(), err)
		}
		return appendString(out, string(text))
	}
	if depth == MaxDepth {
		switch v.Kind() {
		case reflect.Struct, reflect.Map, reflect.Slice, reflect.Array:
			if !isBytes(v.Type()) {
				return nil, valueErrorf("nested deeper than %d levels", MaxDepth)
			}
		}
	}
	switch k := v.Kind(); {
	case k == reflect.Struct:
		return appendObject(out, v, depth+1)
	case k == reflect.Map && v.Type().Key().Kind() == reflect.String:
		return appendDictionary(out, v, depth+1)
	case isBytes(v.Type()):
		return appendText(out, base64.StdEncoding.EncodeToString(v.Bytes())), nil
	case k == reflect.Slice, k == reflect.Array:
		return appendArray(out, v, depth+1)
	case k == reflect.String:
		return appendString(out, v.String())
	case k == reflect.Bool:
		return strconv.AppendBool(out, v.Bool()), nil
	case v.CanInt() && v.Int() >= 0 && v.Int() <= MaxInteger:
		return appendInteger(out, uint64(v.Int())), nil
	case v.CanUint() && v.Uint() <= MaxInteger:
		return appendInteger(out, v.Uint()), nil
	case v.CanInt(), v.CanUint():
		return nil, valueErrorf("integer %v is not in 0 to 2^53 - 1", v)
	}
	return nil, fmt.Errorf("%w: %v", ErrType, v.Type())
}

func appendString(out []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, valueErrorf("%q is not UTF-8", s)
	}
	return appendText(out, s), nil
}

func appendObject(out []byte, v reflect.Value, depth int) ([]byte, error) {
	o, err := objectOf(v.Type())
	if err != nil {
		return nil, err
	}
	out = append(out, '{')
	first := true
	for _, f := range o.fields {
		member := v.Field(f.index)
		if f.optional && isEmpty(member) {
			continue
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(appendText(out, f.name), ':')
		if out, err = appendValue(out, member, depth); err != nil {
			return nil, fmt.Errorf("member %q: %w", f.name, err)
		}
	}
	return append(out, '}'), nil
}

func appendDictionary(out []byte, v reflect.Value, depth int) ([]byte, error) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	out = append(out, '{')
	for i, key := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = appendString(out, key.String()); err != nil {
			return nil, err
		}
		out = append(out, ':')
		if out, err = appendValue(out, v.MapIndex(key), depth); err != nil {
			return nil, fmt.Errorf("member %q: %w", key.String(), err)
		}
	}
	return append(out, '}'), nil
}

func appendArray(out []byte, v reflect.Value, depth int) ([]byte, error) {
	out = append(out, '[')
	for i := range v.Len() {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = appendValue(out, v.Index(i), depth); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return append(out, ']'), nil
}
