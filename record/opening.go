package record

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"slices"
)

// SaltSize is the length of a salt in bytes.
const SaltSize = 32

// EntrySize is the length of an entry of the audit log in bytes.
const EntrySize = sha256.Size

// MaxOpeningSize is the largest opening, in bytes.
const MaxOpeningSize = SaltSize + MaxSize

// Commit returns the entry that commits to a record's bytes under a salt:
// HMAC-SHA256 keyed with the salt.
func Commit(salt [SaltSize]byte, record []byte) [EntrySize]byte {
	mac := hmac.New(sha256.New, salt[:])
	mac.Write(record)
	return [EntrySize]byte(mac.Sum(nil))
}

// An Opening is a salt and a record's bytes: what turns an entry back into its
// record. It is private to those who may see the record. The zero value is not
// an opening; make one with [NewOpening] or [ParseOpening].
type Opening struct {
	b []byte // salt ‖ record, never changed
}

// NewOpening joins a fresh salt and the canonical bytes of a record.
func NewOpening(salt [SaltSize]byte, record []byte) (Opening, error) {
	return ParseOpening(slices.Concat(salt[:], record))
}

// ParseOpening reads salt ‖ record. It bounds the record's size and no more:
// call [Opening.Record] for the content. It keeps a copy of b.
func ParseOpening(b []byte) (Opening, error) {
	if len(b) <= SaltSize || len(b) > MaxOpeningSize {
		return Opening{}, fmt.Errorf("%w: %d bytes, want %d to %d", ErrOpening, len(b), SaltSize+1, MaxOpeningSize)
	}
	return Opening{slices.Clone(b)}, nil
}

// Bytes returns a copy of salt ‖ record.
func (o Opening) Bytes() []byte { return slices.Clone(o.b) }

// Record returns a copy of the record's bytes. They are suspect: see [Parse].
func (o Opening) Record() []byte {
	if len(o.b) < SaltSize {
		return nil
	}
	return slices.Clone(o.b[SaltSize:])
}

// Entry recomputes the entry that the opening opens.
func (o Opening) Entry() [EntrySize]byte {
	if len(o.b) < SaltSize {
		return [EntrySize]byte{}
	}
	return Commit([SaltSize]byte(o.b), o.b[SaltSize:])
}
