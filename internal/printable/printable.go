// Package printable makes text that strangers wrote fit for a terminal, a log or
// a report. It is pure.
package printable

import (
	"strconv"
	"unicode/utf8"
)

// most bounds what is repeated of a stranger's text, in characters: a message of
// ours with two long names in it is shorter.
const most = 1000

// Text returns s with everything replaced that a terminal might act on or that no
// reader could see, line ends too, and cut after 1,000 characters.
func Text(s string) string {
	out := make([]rune, 0, min(len(s), most+1))
	for _, r := range s {
		if len(out) == most {
			return string(append(out, '…'))
		}
		if !strconv.IsPrint(r) {
			r = utf8.RuneError
		}
		out = append(out, r)
	}
	return string(out)
}
