package strictjson

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// text reads a string token and returns what it stands for.
func (d *decoder) text() (string, error) {
	if d.peek() != '"' {
		return "", d.errorf("want a string, have %s", d.have())
	}
	d.pos++
	var out []byte
	for {
		switch c := d.peek(); {
		case d.pos >= len(d.data):
			return "", d.errorf("unterminated string")
		case c == '"':
			d.pos++
			return string(out), nil
		case c == '\\':
			r, err := d.escape()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
		case c < 0x20:
			return "", d.errorf("control character 0x%02x in a string; escape it", c)
		case c < utf8.RuneSelf:
			out = append(out, c)
			d.pos++
		default:
			r, n := utf8.DecodeRune(d.data[d.pos:])
			if r == utf8.RuneError && n == 1 {
				return "", d.errorf("invalid UTF-8")
			}
			out = append(out, d.data[d.pos:d.pos+n]...)
			d.pos += n
		}
	}
}

// shortEscapes are the two-character escapes of RFC 8259.
var shortEscapes = map[byte]rune{
	'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

// escape reads an escape sequence, both halves of a surrogate pair included.
func (d *decoder) escape() (rune, error) {
	if r, ok := d.unicodeEscape(); ok {
		if !utf16.IsSurrogate(r) {
			return r, nil
		}
		low, _ := d.unicodeEscape()
		// DecodeRune gives the replacement character unless r, low are a pair.
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, nil
		}
		return 0, d.errorf("unpaired surrogate escape")
	}
	if d.pos+1 < len(d.data) {
		if r, ok := shortEscapes[d.data[d.pos+1]]; ok {
			d.pos += 2
			return r, nil
		}
	}
	return 0, d.errorf("unknown escape sequence")
}

// unicodeEscape reads \uXXXX if that is what comes next.
func (d *decoder) unicodeEscape() (rune, bool) {
	const length = len(`\uXXXX`)
	if d.pos+length > len(d.data) || d.data[d.pos] != '\\' || d.data[d.pos+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range d.data[d.pos+2 : d.pos+length] {
		var digit byte
		switch {
		case c >= '0' && c <= '9':
			digit = c - '0'
		case c >= 'a' && c <= 'f':
			digit = c - 'a' + 10
		case c >= 'A' && c <= 'F':
			digit = c - 'A' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(digit)
	}
	d.pos += length
	return r, true
}

// appendText writes s, valid UTF-8, with no escapes but those that JSON demands.
func appendText(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"', c == '\\':
			out = append(out, '\\', c)
		case c < 0x20:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}

func appendInteger(out []byte, n uint64) []byte { return strconv.AppendUint(out, n, 10) }
