package wasm

import (
	"encoding/binary"
	"iter"
	"slices"
)

// Sections are the sections of a module that [Decode] takes, in their order: the
// number of each, and its bytes with number and size. They end before the first
// that is cut short, which such a module does not have.
func Sections(module []byte) iter.Seq2[byte, []byte] {
	return func(yield func(byte, []byte) bool) {
		rest := module[min(len(Header), len(module)):]
		for len(rest) > 0 {
			size, n := binary.Uvarint(rest[1:])
			if n <= 0 || size > uint64(len(rest)-1-n) {
				return
			}
			section := rest[: 1+n+int(size) : 1+n+int(size)]
			rest = rest[len(section):]
			if !yield(section[0], section) {
				return
			}
		}
	}
}

// WithoutCustom returns a module that [Decode] takes without its custom sections,
// which mean nothing: it is the module itself if it has none, or is none. What an
// engine says of the result depends on nothing that it would read for people, such
// as names.
func WithoutCustom(module []byte) []byte {
	all, custom := len(Header), 0
	for id, section := range Sections(module) {
		if all += len(section); id == SectionCustom {
			custom += len(section)
		}
	}
	if custom == 0 || all != len(module) {
		return module
	}
	out := slices.Grow([]byte(Header), len(module)-custom-len(Header))
	for id, section := range Sections(module) {
		if id != SectionCustom {
			out = append(out, section...)
		}
	}
	return out
}
