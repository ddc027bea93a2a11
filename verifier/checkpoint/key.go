package checkpoint

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/internal/edkey"
)

// Signature types of c2sp.org/signed-note that this package knows.
const (
	AlgEd25519            byte = 0x01 // note signature, for logs
	AlgEd25519Cosignature byte = 0x04 // timestamped cosignature, for witnesses
	AlgMLDSA44Cosignature byte = 0x06 // timestamped cosignature, for witnesses and logs
)

// timestampSize is the length of the timestamp before a cosignature, in bytes.
const timestampSize = 8

// Key is a public key with the name and the signature type it is used with, as
// a verifier key (vkey) writes it. It implements note.Verifier.
type Key struct {
	name   string
	id     uint32
	alg    byte
	public []byte
	mldsa  *mldsa.PublicKey // set for AlgMLDSA44Cosignature only
}

var _ note.Verifier = (*Key)(nil)

// newKey checks name and key material and computes the key ID.
func newKey(name string, alg byte, public []byte) (*Key, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	k := &Key{name: name, alg: alg, public: public}
	switch alg {
	case AlgEd25519, AlgEd25519Cosignature:
		if err := edkey.Check(public); err != nil {
			return nil, fmt.Errorf("key %q: %w", name, err)
		}
	case AlgMLDSA44Cosignature:
		var err error
		if k.mldsa, err = mldsa.NewPublicKey(mldsa.MLDSA44(), public); err != nil {
			return nil, unusable("key %q: not an ML-DSA-44 public key: %v", name, err)
		}
	default:
		return nil, unusable("key %q: signature type %#02x", name, alg)
	}
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write([]byte{alg})
	h.Write(public)
	k.id = binary.BigEndian.Uint32(h.Sum(nil))
	return k, nil
}

// Name returns the key name.
func (k *Key) Name() string { return k.name }

// KeyHash returns the key ID.
func (k *Key) KeyHash() uint32 { return k.id }

// Alg returns the signature type, one of the Alg constants.
func (k *Key) Alg() byte { return k.alg }

// PublicKey returns the public key material: 32 bytes for Ed25519, 1312 for
// ML-DSA-44.
func (k *Key) PublicKey() []byte { return append([]byte(nil), k.public...) }

// Vkey returns the key as a verifier key, the text that ParseVkey or
// ParseCosignerVkey reads.
func (k *Key) Vkey() string {
	material := append([]byte{k.alg}, k.public...)
	return fmt.Sprintf("%s+%08x+%s", k.name, k.id, base64.StdEncoding.EncodeToString(material))
}

// String returns the verifier key.
func (k *Key) String() string { return k.Vkey() }

// Verify reports whether sig is k's signature of a note text. For cosignature
// types the text must be a checkpoint.
func (k *Key) Verify(text, sig []byte) bool {
	if k.alg == AlgEd25519 {
		return ed25519.Verify(k.public, text, sig)
	}
	timestamp, ok := cosignatureTimestamp(sig)
	if !ok {
		return false
	}
	msg, err := k.cosignedMessage(text, timestamp)
	if err != nil {
		return false
	}
	if k.alg == AlgMLDSA44Cosignature {
		return mldsa.Verify(k.mldsa, msg, sig[timestampSize:], nil) == nil
	}
	return ed25519.Verify(k.public, msg, sig[timestampSize:])
}

// cosignatureTimestamp returns the POSIX timestamp before a cosignature, which
// must not exceed 2^63-1.
func cosignatureTimestamp(sig []byte) (int64, bool) {
	if len(sig) < timestampSize {
		return 0, false
	}
	t := binary.BigEndian.Uint64(sig)
	return int64(t), t <= math.MaxInt64
}

// validName reports whether s may be a key name: c2sp.org/signed-note, "Format",
// and the bound of c2sp.org/tlog-cosignature.
func validName(s string) bool {
	if s == "" || len(s) > MaxNameSize || !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r == '+' || r < 0x20 || unicode.IsSpace(r)
	})
}

// parseVkey reads a verifier key of one of the given signature types. It
// accepts one spelling only: what Vkey writes.
func parseVkey(vkey string, algs ...byte) (*Key, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	_, b64, ok := strings.Cut(rest, "+")
	material, err := strictBase64.DecodeString(b64)
	if !ok || err != nil || len(material) < 2 {
		return nil, unusable("%.80q is not a verifier key: <name>+<key ID>+<base64>", vkey)
	}
	if bytes.IndexByte(algs, material[0]) < 0 {
		return nil, unusable("verifier key %.80q has signature type %#02x, which is none of % #02x", vkey, material[0], algs)
	}
	k, err := newKey(name, material[0], material[1:])
	if err != nil {
		return nil, err
	}
	if k.Vkey() != vkey {
		return nil, unusable("verifier key %.80q: its key ID should be %08x", vkey, k.id)
	}
	return k, nil
}

// ParseVkey reads the verifier key of a log of this project: Ed25519, signature
// type 0x01.
func ParseVkey(vkey string) (*Key, error) {
	return parseVkey(vkey, AlgEd25519)
}

// ParseCosignerVkey reads the verifier key of a witness: signature type 0x04
// (Ed25519) or 0x06 (ML-DSA-44). A key of type 0x01 is not a witness's: it
// would have another key ID and another signed message.
func ParseCosignerVkey(vkey string) (*Key, error) {
	return parseVkey(vkey, AlgEd25519Cosignature, AlgMLDSA44Cosignature)
}

// ParseLogVkey reads the verifier key of any log, as a policy may name it: of
// signature type 0x01 (Ed25519) or 0x06 (ML-DSA-44), which the checkpoint
// specification recommends for logs too.
func ParseLogVkey(vkey string) (*Key, error) {
	return parseVkey(vkey, AlgEd25519, AlgMLDSA44Cosignature)
}

// Vkey returns the verifier key of a log's Ed25519 key.
func Vkey(name string, pub ed25519.PublicKey) (string, error) {
	k, err := newKey(name, AlgEd25519, pub)
	if err != nil {
		return "", err
	}
	return k.Vkey(), nil
}

// NewSigner returns a note signer of type 0x01 for an Ed25519 key, which may
// live in a file or a key management service. A key in memory is checked here,
// once; of any other each signature is verified before it is returned, so a
// service that signs with another key is found out.
func NewSigner(name string, key crypto.Signer) (note.Signer, error) {
	return newEd25519Signer(name, key, AlgEd25519)
}

// ed25519Signer signs bytes with an Ed25519 key. It implements note.Signer.
type ed25519Signer struct {
	*Key
	private crypto.Signer
	// suspect means that each signature has to be verified, which costs twice
	// as much as making one: the key is not in this process.
	suspect bool
}

func newEd25519Signer(name string, private crypto.Signer, alg byte) (*ed25519Signer, error) {
	if private == nil {
		return nil, unusable("key %q: no private key", name)
	}
	inMemory, isInMemory := private.(ed25519.PrivateKey)
	if isInMemory && len(inMemory) != ed25519.PrivateKeySize {
		return nil, unusable("key %q: a private key of %d bytes", name, len(inMemory))
	}
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return nil, unusable("key %q: %T is not an Ed25519 key", name, private.Public())
	}
	k, err := newKey(name, alg, public)
	if err != nil {
		return nil, err
	}
	// The halves of a key that was put together by hand may not match, and
	// signing with such a key gives it away.
	if isInMemory && !inMemory.Equal(ed25519.NewKeyFromSeed(inMemory.Seed())) {
		return nil, unusable("key %q: the public half is not that of the private one", name)
	}
	return &ed25519Signer{Key: k, private: private, suspect: !isInMemory}, nil
}

// Sign returns the Ed25519 signature of msg.
func (s *ed25519Signer) Sign(msg []byte) ([]byte, error) {
	sig, err := s.private.Sign(rand.Reader, msg, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("%w: key %q: %w", ErrSigning, s.name, err)
	}
	if s.suspect && !ed25519.Verify(s.public, msg, sig) {
		return nil, fmt.Errorf("%w: key %q: the signature does not verify with its public key", ErrSigning, s.name)
	}
	return sig, nil
}

// CheckName reports whether name may be the name of a key, and if not, what a
// name has to be. The error is ErrKey.
func CheckName(name string) error {
	if !validName(name) {
		return unusable("%.300q is not a key name: 1 to %d bytes of UTF-8 without spaces, control characters and plus", name, MaxNameSize)
	}
	return nil
}
