// Package digest is H, the domain-separated hash of docs/formats/README.md:
// every identifier and hash of the protocol that is not a plain SHA-256 or an
// RFC 6962 hash is made by it.
//
// The encoding is injective: domain and fields are length-prefixed, integers
// have eight bytes, lists carry their length and optional values a flag, so no
// two different inputs of one domain meet in the same bytes.
package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
)

// Size is the length of a digest in bytes.
const Size = sha256.Size

// Digest is a SHA-256 value. Its text form, also in JSON, is 64 lowercase
// hexadecimal characters.
type Digest [Size]byte

// ErrFormat says that text or bytes are not a digest.
var ErrFormat = errors.New("digest: want 64 lowercase hexadecimal characters")

// Of returns SHA-256 of data.
func Of(data []byte) Digest { return sha256.Sum256(data) }

// Parse reads the text form; upper case and any other length are refused.
func Parse(s string) (Digest, error) {
	var d Digest
	if err := d.UnmarshalText([]byte(s)); err != nil {
		return Digest{}, err
	}
	return d, nil
}

// FromBytes reads 32 raw bytes.
func FromBytes(b []byte) (Digest, error) {
	if len(b) != Size {
		return Digest{}, fmt.Errorf("digest: want %d bytes, have %d", Size, len(b))
	}
	return Digest(b), nil
}

// String returns the text form.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether d is 32 zero bytes, which stands for "none".
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText writes the text form.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the text form.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != 2*Size {
		return ErrFormat
	}
	for _, c := range text {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ErrFormat
		}
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// Hasher collects the fields of one H. Every method adds one field unless it
// says otherwise; the zero value is not usable, call [New].
type Hasher struct{ h hash.Hash }

// New starts H in the given domain, for example "tallystick/v1/execution-id".
func New(domain string) *Hasher {
	h := &Hasher{sha256.New()}
	h.field([]byte(domain))
	return h
}

// Bytes adds b as one field.
func (h *Hasher) Bytes(b []byte) *Hasher { return h.field(b) }

// Text adds the UTF-8 bytes of s as one field.
func (h *Hasher) Text(s string) *Hasher { return h.field([]byte(s)) }

// Digest adds the 32 raw bytes of d as one field.
func (h *Hasher) Digest(d Digest) *Hasher { return h.field(d[:]) }

// Uint adds n as a field of eight bytes, big-endian.
func (h *Hasher) Uint(n uint64) *Hasher {
	return h.field(binary.BigEndian.AppendUint64(nil, n))
}

// OptionalUint adds one field 0 when n is nil, else a field 1 and n.
func (h *Hasher) OptionalUint(n *uint64) *Hasher {
	if n == nil {
		return h.Uint(0)
	}
	return h.Uint(1).Uint(*n)
}

// OptionalDigest adds one field 0 when d is nil, else a field 1 and d.
func (h *Hasher) OptionalDigest(d *Digest) *Hasher {
	if d == nil {
		return h.Uint(0)
	}
	return h.Uint(1).Digest(*d)
}

// Digests adds the length of the list, then each element.
func (h *Hasher) Digests(list []Digest) *Hasher {
	h.Uint(uint64(len(list)))
	for _, d := range list {
		h.Digest(d)
	}
	return h
}

// Texts adds the length of the list, then each element.
func (h *Hasher) Texts(list []string) *Hasher {
	h.Uint(uint64(len(list)))
	for _, s := range list {
		h.Text(s)
	}
	return h
}

// Sum returns the hash of what was added.
func (h *Hasher) Sum() Digest { return Digest(h.h.Sum(nil)) }

func (h *Hasher) field(b []byte) *Hasher {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(b)))
	h.h.Write(n[:])
	h.h.Write(b)
	return h
}
