// Package dsse reads, writes, signs and verifies the envelopes that carry every
// signed statement of tallystick: DSSE v1 in strict JSON with Ed25519
// signatures (docs/formats/README.md, "Envelopes").
//
// # Trust
//
// An envelope comes from strangers. [Parse] bounds and checks its form and says
// nothing about who made it; only [Envelope.VerifyWith] does, for the keys that
// its caller takes from the membership. A keyid selects among these keys and is
// never trusted by itself. Unlike plain DSSE, a signature by a key that the
// caller does not name is an error: an envelope is valid as a whole or not at
// all, so nobody can attach signatures that some readers count and others skip.
//
// # Keys
//
// Public keys that every verifier treats alike are the only ones accepted:
// [CheckKey] refuses encodings that are not canonical, bytes that are no point
// of the curve, and points of small order, with which a signature can be valid
// for any message. Signatures are verified as crypto/ed25519 does it: without
// cofactor, S below the group order, R compared as bytes.
//
// Envelope values may be shared between goroutines while nobody calls Add.
package dsse

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strconv"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/edkey"
	"github.com/tallystick/tallystick/internal/strictjson"
)

// Bounds of docs/formats/README.md, "Limits".
const (
	// MaxEnvelope bounds a serialised envelope: the largest payload in base64
	// and some 60 signatures fit.
	MaxEnvelope = 98_304
	// MaxPayload bounds a payload in bytes.
	MaxPayload = 65_536
	// MaxSignatures bounds the signatures of one envelope.
	MaxSignatures = 64
	// maxPayloadType bounds the media type; the longest in use has 51 characters.
	maxPayloadType = 127
)

var (
	// ErrMalformed says that an envelope is not of the documented form.
	ErrMalformed = errors.New("malformed envelope")
	// ErrPayloadType says that an envelope carries another kind of payload.
	ErrPayloadType = errors.New("unexpected payload type")
	// ErrUnknownKey says that a signature is by none of the expected keys.
	ErrUnknownKey = errors.New("signature by a key that is not expected")
	// ErrBadSignature says that a signature does not verify.
	ErrBadSignature = errors.New("signature does not verify")
	// ErrDuplicateKey says that a key has signed already.
	ErrDuplicateKey = errors.New("key has signed twice")
	// ErrKey says that a key is not an Ed25519 key fit for signing statements.
	ErrKey = edkey.ErrKey
)

// A Signature is one signature of an envelope.
type Signature struct {
	KeyID string // 64 lowercase hexadecimal characters, see [KeyID]; untrusted
	Sig   []byte // 64 bytes
}

// An Envelope is a payload with the signatures over it. The payload is kept as
// received; hash and verify these bytes and no re-encoding of them.
type Envelope struct {
	PayloadType string
	Payload     []byte
	Signatures  []Signature // in the order of the text
}

// wireEnvelope is the JSON form.
type wireEnvelope struct {
	Payload     []byte          `json:"payload"`
	PayloadType string          `json:"payloadType"`
	Signatures  []wireSignature `json:"signatures"`
}

type wireSignature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// Parse reads an envelope. Errors wrap [ErrMalformed].
func Parse(data []byte) (*Envelope, error) {
	var w wireEnvelope
	if err := strictjson.Unmarshal(data, &w, MaxEnvelope); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	e := &Envelope{PayloadType: w.PayloadType, Payload: w.Payload, Signatures: make([]Signature, len(w.Signatures))}
	for i, s := range w.Signatures {
		e.Signatures[i] = Signature(s)
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return e, nil
}

// Marshal returns the canonical form. What [Parse] would refuse is an error.
func (e *Envelope) Marshal() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	w := wireEnvelope{Payload: e.Payload, PayloadType: e.PayloadType, Signatures: make([]wireSignature, len(e.Signatures))}
	for i, s := range e.Signatures {
		w.Signatures[i] = wireSignature(s)
	}
	data, err := strictjson.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(data) > MaxEnvelope {
		return nil, fmt.Errorf("%w: %d bytes, want at most %d", ErrMalformed, len(data), MaxEnvelope)
	}
	return data, nil
}

// check enforces the bounds that the JSON rules do not.
func (e *Envelope) check() error {
	if err := checkPayload(e.PayloadType, e.Payload); err != nil {
		return err
	}
	if n := len(e.Signatures); n < 1 || n > MaxSignatures {
		return fmt.Errorf("%w: %d signatures, want 1 to %d", ErrMalformed, n, MaxSignatures)
	}
	seen := make(map[string]bool, len(e.Signatures))
	for i, s := range e.Signatures {
		if _, err := digest.Parse(s.KeyID); err != nil {
			return fmt.Errorf("%w: keyid of signature %d is not 64 lowercase hexadecimal characters", ErrMalformed, i)
		}
		if len(s.Sig) != ed25519.SignatureSize {
			return fmt.Errorf("%w: signature %d has %d bytes, want %d", ErrMalformed, i, len(s.Sig), ed25519.SignatureSize)
		}
		if seen[s.KeyID] {
			return fmt.Errorf("%w: %w: keyid %s", ErrMalformed, ErrDuplicateKey, s.KeyID)
		}
		seen[s.KeyID] = true
	}
	return nil
}

func checkPayload(payloadType string, payload []byte) error {
	if payloadType == "" || len(payloadType) > maxPayloadType {
		return fmt.Errorf("%w: payload type of %d bytes, want 1 to %d", ErrMalformed, len(payloadType), maxPayloadType)
	}
	for _, c := range []byte(payloadType) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("%w: payload type %q is not printable ASCII", ErrMalformed, payloadType)
		}
	}
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: payload of %d bytes, want at most %d", ErrMalformed, len(payload), MaxPayload)
	}
	return nil
}

// PAE is the pre-authentication encoding of DSSE v1: the message that is signed.
func PAE(payloadType string, payload []byte) []byte {
	out := make([]byte, 0, len("DSSEv1    ")+len(payloadType)+len(payload)+2*20)
	out = append(out, "DSSEv1 "...)
	out = strconv.AppendInt(out, int64(len(payloadType)), 10)
	out = append(out, ' ')
	out = append(out, payloadType...)
	out = append(out, ' ')
	out = strconv.AppendInt(out, int64(len(payload)), 10)
	out = append(out, ' ')
	return append(out, payload...)
}

// KeyID is the key id of an Ed25519 public key: H("tallystick/v1/key-id",
// "ed25519", public key bytes) in hexadecimal.
func KeyID(pub ed25519.PublicKey) string {
	return digest.New("tallystick/v1/key-id").Text("ed25519").Bytes(pub).Sum().String()
}

// VerifyWith checks that the envelope carries payloadType, and that every
// signature is by one of keys, no key twice, and verifies. It returns the keys
// that signed, in the order of the signatures; whether they are enough is the
// caller's rule. Errors wrap [ErrPayloadType], [ErrUnknownKey],
// [ErrBadSignature], [ErrDuplicateKey], [ErrKey] or [ErrMalformed].
func (e *Envelope) VerifyWith(payloadType string, keys []ed25519.PublicKey) (signed []ed25519.PublicKey, err error) {
	if e.PayloadType != payloadType {
		return nil, fmt.Errorf("%w: %q, want %q", ErrPayloadType, e.PayloadType, payloadType)
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	byID := make(map[string]ed25519.PublicKey, len(keys))
	for _, k := range keys {
		if err := CheckKey(k); err != nil {
			return nil, err
		}
		byID[KeyID(k)] = k
	}
	message := PAE(e.PayloadType, e.Payload)
	for _, s := range e.Signatures {
		key, ok := byID[s.KeyID]
		if !ok {
			return nil, fmt.Errorf("%w: keyid %s", ErrUnknownKey, s.KeyID)
		}
		if !ed25519.Verify(key, message, s.Sig) {
			return nil, fmt.Errorf("%w: keyid %s", ErrBadSignature, s.KeyID)
		}
		signed = append(signed, key)
	}
	return signed, nil
}
