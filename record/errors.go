package record

import (
	"errors"
	"fmt"
)

// The outcomes of this package. Every error that it returns matches exactly one
// of them with [errors.Is].
var (
	// ErrTooLarge: more bytes or elements than the limit for their kind.
	ErrTooLarge = errors.New("too large")
	// ErrNotCanonical: the bytes are not the canonical wire form of any message
	// of the schema.
	ErrNotCanonical = errors.New("not canonical protobuf")
	// ErrVersion: another protocol version. The text names it.
	ErrVersion = errors.New("unknown protocol version")
	// ErrField: a field's value is out of its range, or a required one is absent.
	ErrField = errors.New("invalid record field")
	// ErrOpening: the bytes cannot be an opening.
	ErrOpening = errors.New("malformed opening")
	// ErrSchema: the schema has a kind of field that has no canonical form. Only
	// a mistake in the program can cause it.
	ErrSchema = errors.New("schema without canonical form")
)

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrField, field, fmt.Sprintf(format, args...))
}
