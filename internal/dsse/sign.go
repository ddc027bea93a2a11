package dsse

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
)

// A Signer holds one Ed25519 private key, here or in a key service.
type Signer interface {
	// Public returns the public key that verifies what Sign makes.
	Public() ed25519.PublicKey
	// Sign returns the Ed25519 signature (RFC 8032, not prehashed) of message.
	Sign(message []byte) ([]byte, error)
}

// NewSigner adapts a crypto.Signer, for example an ed25519.PrivateKey or a key
// in a KMS. A key of another algorithm is refused with [ErrKey].
func NewSigner(key crypto.Signer) (Signer, error) {
	if key == nil {
		return nil, fmt.Errorf("%w: no key", ErrKey)
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: %T, want an Ed25519 key", ErrKey, key.Public())
	}
	if err := CheckKey(pub); err != nil {
		return nil, err
	}
	return &cryptoSigner{key: key, public: pub}, nil
}

type cryptoSigner struct {
	key    crypto.Signer
	public ed25519.PublicKey
}

func (s *cryptoSigner) Public() ed25519.PublicKey { return s.public }

func (s *cryptoSigner) Sign(message []byte) ([]byte, error) {
	return s.key.Sign(rand.Reader, message, crypto.Hash(0))
}

// Sign returns an envelope over payload signed by each of signers in turn, of
// which there must be at least one.
func Sign(payloadType string, payload []byte, signers ...Signer) (*Envelope, error) {
	if err := checkPayload(payloadType, payload); err != nil {
		return nil, err
	}
	e := &Envelope{PayloadType: payloadType, Payload: payload}
	for _, s := range signers {
		if err := e.Add(s); err != nil {
			return nil, err
		}
	}
	if len(e.Signatures) == 0 {
		return nil, fmt.Errorf("%w: no signer", ErrMalformed)
	}
	return e, nil
}

// Add appends one more signature. A key that has signed already is refused with
// [ErrDuplicateKey], a signature that does not verify (a faulty key service)
// with [ErrBadSignature]; the envelope is then unchanged.
func (e *Envelope) Add(s Signer) error {
	id := KeyID(s.Public())
	for _, have := range e.Signatures {
		if have.KeyID == id {
			return fmt.Errorf("%w: keyid %s", ErrDuplicateKey, id)
		}
	}
	if len(e.Signatures) == MaxSignatures {
		return fmt.Errorf("%w: more than %d signatures", ErrMalformed, MaxSignatures)
	}
	message := PAE(e.PayloadType, e.Payload)
	sig, err := s.Sign(message)
	if err != nil {
		return fmt.Errorf("signing with key %s: %w", id, err)
	}
	if !ed25519.Verify(s.Public(), message, sig) {
		return fmt.Errorf("%w: made by the signer of keyid %s itself", ErrBadSignature, id)
	}
	e.Signatures = append(e.Signatures, Signature{KeyID: id, Sig: sig})
	return nil
}
