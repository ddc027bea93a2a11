package checkpoint

import (
	"crypto"
	"encoding/binary"
	"fmt"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"
)

// Cosigner makes timestamped cosignatures of checkpoints according to
// c2sp.org/tlog-cosignature. It keeps no state: the caller must have checked
// that the checkpoint extends whatever was cosigned before, and stored that.
type Cosigner struct {
	key  *Key
	sign func(msg []byte) ([]byte, error)
}

// NewEd25519Cosigner returns a cosigner of type 0x04. The key must be used
// under this name only: the signed message does not commit to the name.
func NewEd25519Cosigner(name string, key crypto.Signer) (*Cosigner, error) {
	s, err := newEd25519Signer(name, key, AlgEd25519Cosignature)
	if err != nil {
		return nil, err
	}
	return &Cosigner{key: s.Key, sign: s.Sign}, nil
}

// NewMLDSACosigner returns a cosigner of type 0x06 for an ML-DSA-44 key.
func NewMLDSACosigner(name string, key *mldsa.PrivateKey) (*Cosigner, error) {
	if key == nil {
		return nil, unusable("key %q: no private key", name)
	}
	k, err := newKey(name, AlgMLDSA44Cosignature, key.PublicKey().Bytes())
	if err != nil {
		return nil, err
	}
	sign := func(msg []byte) ([]byte, error) { return key.Sign(nil, msg, nil) }
	return &Cosigner{key: k, sign: sign}, nil
}

// Key returns the public key of the cosigner.
func (c *Cosigner) Key() *Key { return c.key }

// Cosign returns the signature of a checkpoint's note text, extension lines
// included if it has any, as of timestamp, in seconds since the POSIX epoch,
// which must be positive: a witness always says when.
func (c *Cosigner) Cosign(body []byte, timestamp int64) (Signature, error) {
	if timestamp <= 0 {
		return Signature{}, fmt.Errorf("%w: cosignature timestamp %d is not positive", ErrSigning, timestamp)
	}
	if _, err := ParseAny(body); err != nil {
		return Signature{}, err
	}
	msg, err := c.key.cosignedMessage(body, timestamp)
	if err != nil {
		return Signature{}, err
	}
	sig, err := c.sign(msg)
	if err != nil {
		return Signature{}, fmt.Errorf("%w: cosigner %q: %w", ErrSigning, c.key.name, err)
	}
	stamped := binary.BigEndian.AppendUint64(nil, uint64(timestamp))
	return Signature{Name: c.key.name, KeyID: c.key.id, Bytes: append(stamped, sig...)}, nil
}

// cosignedMessage returns what a cosignature signs.
func (k *Key) cosignedMessage(body []byte, timestamp int64) ([]byte, error) {
	c, err := ParseAny(body)
	if err != nil {
		return nil, err
	}
	if k.alg == AlgMLDSA44Cosignature {
		return mldsaMessage(k.name, c, timestamp), nil
	}
	return ed25519Message(body, timestamp), nil
}

// ed25519Message is the message of c2sp.org/tlog-cosignature, "Ed25519 signed
// message": a header line, a time line, the whole note text.
func ed25519Message(body []byte, timestamp int64) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", timestamp, body)
}

// mldsaMessage is the cosigned_message structure of c2sp.org/tlog-cosignature,
// "ML-DSA-44 signed message", for the subtree that is the whole tree. Name and
// origin are at most MaxNameSize bytes, so their length prefixes fit.
func mldsaMessage(cosigner string, c Checkpoint, timestamp int64) []byte {
	msg := []byte("subtree/v1\n\x00")
	msg = append(msg, byte(len(cosigner)))
	msg = append(msg, cosigner...)
	msg = binary.BigEndian.AppendUint64(msg, uint64(timestamp))
	msg = append(msg, byte(len(c.Origin)))
	msg = append(msg, c.Origin...)
	msg = binary.BigEndian.AppendUint64(msg, 0) // start
	msg = binary.BigEndian.AppendUint64(msg, uint64(c.Size))
	return append(msg, c.Root[:]...)
}

// AddCosignatures adds to a signed checkpoint the cosignatures that a witness
// answered with. From lines it takes the valid cosignatures by the accepted
// keys and drops everything else, so that a witness can put nothing into a
// note but its own signature. A key signs once: of two cosignatures by one key,
// here or in signed already, the later one stays. Lines that are not signature
// lines are ErrMalformed; signed then stays what it was.
func AddCosignatures(signed, lines []byte, accept []note.Verifier) ([]byte, error) {
	n, err := ParseNote(signed)
	if err != nil {
		return nil, err
	}
	answer, err := ParseSignatures(lines)
	if err != nil {
		return nil, err
	}
	sigs := append([]Signature(nil), n.Signatures...)
	for _, sig := range answer {
		if verifies(n.Text, sig, accept) {
			sigs = mergeCosignature(sigs, sig)
		}
	}
	out := append([]byte(nil), n.Text...)
	out = append(out, '\n')
	for _, sig := range sigs {
		out = append(out, sig.Line()...)
	}
	if len(out) > MaxNoteSize || len(sigs) > MaxSignatures {
		return nil, fmt.Errorf("%w: cosigned note of %d bytes with %d signatures", ErrTooLarge, len(out), len(sigs))
	}
	return out, nil
}

// verifies reports whether sig is a valid signature of text by one of keys.
func verifies(text []byte, sig Signature, keys []note.Verifier) bool {
	for _, key := range keys {
		if key.Name() == sig.Name && key.KeyHash() == sig.KeyID && key.Verify(text, sig.Bytes) {
			return true
		}
	}
	return false
}

// CosignatureTime returns when a cosignature says that it was made, by the clock
// of its witness, in POSIX seconds. It reports false for 0, which makes no
// statement about time and is never a witness's answer (c2sp.org/tlog-witness),
// for more than 2^63-1, and for what is too short to be a cosignature. The
// signature is not verified.
func (s Signature) CosignatureTime() (int64, bool) {
	t, ok := cosignatureTimestamp(s.Bytes)
	return t, ok && t > 0
}

// mergeCosignature puts a verified cosignature in the place of an earlier one
// by the same key, or at the end.
func mergeCosignature(sigs []Signature, sig Signature) []Signature {
	for i, old := range sigs {
		if old.Name != sig.Name || old.KeyID != sig.KeyID {
			continue
		}
		oldTime, ok := cosignatureTimestamp(old.Bytes)
		newTime, _ := cosignatureTimestamp(sig.Bytes)
		if !ok || newTime > oldTime {
			sigs[i] = sig
		}
		return sigs
	}
	return append(sigs, sig)
}
