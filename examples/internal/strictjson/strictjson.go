// Package strictjson reads JSON (RFC 8259) without the liberties that make two
// readers disagree, and writes it in the canonical form of RFC 8785 (JCS).
//
// It refuses duplicate names, invalid UTF-8, unpaired surrogates, integers that
// do not survive as IEEE 754 doubles, deep nesting, and anything after the
// value.
package strictjson

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects may be nested.
const MaxDepth = 200

// ErrSyntax is wrapped by every error of [Parse].
var ErrSyntax = errors.New("invalid JSON")

// Parse reads one JSON value with optional white space around it. The value is
// nil, a bool, a float64, a string, a []any or a map[string]any.
func Parse(data []byte) (any, error) {
	p := &parser{b: data}
	p.space()
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.pos < len(p.b) {
		return nil, p.fail("%d bytes after the value", len(p.b)-p.pos)
	}
	return v, nil
}

type parser struct {
	b   []byte
	pos int
}

func (p *parser) fail(format string, args ...any) error {
	return fmt.Errorf("%w: %s at offset %d", ErrSyntax, fmt.Sprintf(format, args...), p.pos)
}

func (p *parser) space() {
	for p.pos < len(p.b) {
		switch p.b[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

// next consumes c, after white space, if it comes next.
func (p *parser) next(c byte) bool {
	p.space()
	if p.pos < len(p.b) && p.b[p.pos] == c {
		p.pos++
		return true
	}
	return false
}

func (p *parser) value(depth int) (any, error) {
	if depth > MaxDepth {
		return nil, p.fail("nested deeper than %d", MaxDepth)
	}
	if p.pos == len(p.b) {
		return nil, p.fail("unexpected end")
	}
	switch c := p.b[p.pos]; {
	case c == '{':
		return p.object(depth)
	case c == '[':
		return p.array(depth)
	case c == '"':
		return p.string()
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	for word, v := range map[string]any{"true": true, "false": false, "null": nil} {
		if len(p.b)-p.pos >= len(word) && string(p.b[p.pos:p.pos+len(word)]) == word {
			p.pos += len(word)
			return v, nil
		}
	}
	return nil, p.fail("unexpected %q", p.b[p.pos])
}

func (p *parser) object(depth int) (any, error) {
	p.pos++
	m := map[string]any{}
	if p.next('}') {
		return m, nil
	}
	for {
		p.space()
		if p.pos == len(p.b) || p.b[p.pos] != '"' {
			return nil, p.fail("expected a name")
		}
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		if _, ok := m[name]; ok {
			return nil, p.fail("name %q is repeated", name)
		}
		if !p.next(':') {
			return nil, p.fail("expected ':'")
		}
		p.space()
		if m[name], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if p.next('}') {
			return m, nil
		}
		if !p.next(',') {
			return nil, p.fail("expected ',' or '}'")
		}
	}
}

func (p *parser) array(depth int) (any, error) {
	p.pos++
	list := []any{}
	if p.next(']') {
		return list, nil
	}
	for {
		p.space()
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if p.next(']') {
			return list, nil
		}
		if !p.next(',') {
			return nil, p.fail("expected ',' or ']'")
		}
	}
}

func (p *parser) digits() bool {
	start := p.pos
	for p.pos < len(p.b) && p.b[p.pos] >= '0' && p.b[p.pos] <= '9' {
		p.pos++
	}
	return p.pos > start
}

func (p *parser) is(set string) bool {
	if p.pos == len(p.b) {
		return false
	}
	for i := range len(set) {
		if p.b[p.pos] == set[i] {
			p.pos++
			return true
		}
	}
	return false
}

func (p *parser) number() (any, error) {
	start := p.pos
	p.is("-")
	if !p.is("0") && !p.digits() {
		return nil, p.fail("expected a digit")
	}
	integer := true
	if p.is(".") {
		integer = false
		if !p.digits() {
			return nil, p.fail("expected a digit")
		}
	}
	if p.is("eE") {
		integer = false
		p.is("+-")
		if !p.digits() {
			return nil, p.fail("expected a digit")
		}
	}
	text := string(p.b[start:p.pos])
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, p.fail("number %s is out of range", text)
	}
	if integer && f != 0 && strconv.FormatFloat(f, 'f', -1, 64) != text {
		return nil, p.fail("integer %s does not survive as a double; write it as a string", text)
	}
	return f, nil
}

var escapes = map[byte]rune{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func (p *parser) string() (string, error) {
	p.pos++
	var out []byte
	for {
		if p.pos == len(p.b) {
			return "", p.fail("unterminated string")
		}
		switch c := p.b[p.pos]; {
		case c == '"':
			p.pos++
			return string(out), nil
		case c < 0x20:
			return "", p.fail("control character in a string")
		case c == '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
		default:
			r, n := utf8.DecodeRune(p.b[p.pos:])
			if r == utf8.RuneError && n <= 1 {
				return "", p.fail("invalid UTF-8")
			}
			out = append(out, p.b[p.pos:p.pos+n]...)
			p.pos += n
		}
	}
}

func (p *parser) escape() (rune, error) {
	p.pos++
	if p.pos == len(p.b) {
		return 0, p.fail("unterminated string")
	}
	c := p.b[p.pos]
	if c != 'u' {
		r, ok := escapes[c]
		if !ok {
			return 0, p.fail("unknown escape %q", c)
		}
		p.pos++
		return r, nil
	}
	r, err := p.hex()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if p.pos+1 < len(p.b) && p.b[p.pos] == '\\' && p.b[p.pos+1] == 'u' {
		p.pos++
		low, err := p.hex()
		if err != nil {
			return 0, err
		}
		if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
			return r, nil
		}
	}
	return 0, p.fail("unpaired surrogate")
}

// hex reads the four digits after the 'u' that it stands on.
func (p *parser) hex() (rune, error) {
	if len(p.b)-p.pos < 5 {
		return 0, p.fail("unterminated string")
	}
	v := rune(0)
	for _, c := range p.b[p.pos+1 : p.pos+5] {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			v = v<<4 | rune(c-'A'+10)
		default:
			return 0, p.fail("%q is not a hexadecimal digit", c)
		}
	}
	p.pos += 5
	return v, nil
}
