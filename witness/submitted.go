package witness

import (
	"bytes"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// parseSubmitted takes a submitted checkpoint apart. Unlike a note it may come
// without any signature: the specification has an answer for that, and it is not
// "malformed".
func parseSubmitted(signed []byte) (*checkpoint.Note, error) {
	if text, ok := bytes.CutSuffix(signed, []byte("\n\n")); ok {
		return &checkpoint.Note{Text: append(bytes.Clone(text), '\n')}, nil
	}
	return checkpoint.ParseNote(signed)
}

// maxLogSignatures bounds the log signatures that a head keeps, so that with the
// cosignatures it stays a note that every reader accepts. A log that is changing
// its key has two.
const maxLogSignatures = 14

// assemble writes a note from its text and verified signatures, one of each key.
// A signature line that was repeated must not make the head unreadable.
func assemble(text []byte, sigs []checkpoint.Signature) []byte {
	out := append(bytes.Clone(text), '\n')
	type key struct {
		name string
		id   uint32
	}
	seen := map[key]bool{}
	for _, sig := range sigs {
		k := key{sig.Name, sig.KeyID}
		if !seen[k] && len(seen) < maxLogSignatures {
			seen[k] = true
			out = append(out, sig.Line()...)
		}
	}
	return out
}
