package checkpoint

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// TestKeysAgainstOracles: names, key IDs and texts of keys are those of
// golang.org/x/mod and transparency-dev/formats.
func TestKeysAgainstOracles(t *testing.T) {
	for _, name := range []string{"example.com/log", "é", strings.Repeat("n", 255)} {
		logKey := logSigner(t, name).Key
		oracle, err := note.NewVerifier(logKey.Vkey())
		if err != nil || oracle.Name() != logKey.Name() || oracle.KeyHash() != logKey.KeyHash() {
			t.Errorf("log key %q: %v, %v", logKey, oracle, err)
		}
		if got, err := ParseVkey(logKey.Vkey()); err != nil || got.Vkey() != logKey.Vkey() || got.Alg() != AlgEd25519 {
			t.Errorf("log key %q: %v, %v", logKey, got, err)
		}
		vkey, err := Vkey(name, logKey.PublicKey())
		if err != nil || vkey != logKey.Vkey() {
			t.Errorf("Vkey: %q, %v", vkey, err)
		}
		if converted, err := fnote.VKeyToCosignatureV1(vkey); err != nil || converted != edCosigner(t, name).Key().Vkey() {
			t.Errorf("cosigner key of %q: %q, %v", name, converted, err)
		}
		for _, key := range []*Key{edCosigner(t, name).Key(), mldsaCosigner(t, name).Key()} {
			oracle, err := fnote.NewVerifierForCosignatureV1(key.String())
			if err != nil || oracle.Name() != key.Name() || oracle.KeyHash() != key.KeyHash() {
				t.Errorf("cosigner key %q: %v, %v", key, oracle, err)
			}
			if got, err := ParseCosignerVkey(key.Vkey()); err != nil || got.Vkey() != key.Vkey() || got.Alg() != key.Alg() {
				t.Errorf("cosigner key %q: %v, %v", key, got, err)
			}
		}
	}
}

func TestParseVkeyRefuses(t *testing.T) {
	// The example of c2sp.org/signed-note, "Verifier keys".
	const good = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
	if _, err := ParseVkey(good); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCosignerVkey(good); !errors.Is(err, ErrKey) {
		t.Errorf("log key as cosigner key: %v", err)
	}
	for _, c := range []*Cosigner{edCosigner(t, "w"), mldsaCosigner(t, "w")} {
		if _, err := ParseVkey(c.Key().Vkey()); !errors.Is(err, ErrKey) {
			t.Errorf("cosigner key as log key: %v", err)
		}
	}
	material := func(alg byte, n int) string {
		return base64.StdEncoding.EncodeToString(append([]byte{alg}, make([]byte, n)...))
	}
	for _, vkey := range []string{
		"", "+", "++", "example.com/foo", "example.com/foo+530d903a", "example.com/foo+530d903a+",
		strings.Replace(good, "530d903a", "530D903A", 1),
		strings.Replace(good, "530d903a", "530d903b", 1),
		strings.Replace(good, "530d903a", "0530d903a", 1),
		strings.Replace(good, "foo", "bar", 1),
		strings.Replace(good, "foo", "f o", 1),
		strings.TrimSuffix(good, "k") + "l",
		good + "=", good + "\n", " " + good, good + "+", "PRIVATE+KEY+" + good,
		"x+00000000+" + material(AlgEd25519, 31),
		"x+00000000+" + material(AlgEd25519, 33),
		"x+00000000+" + material(0x02, 32),
		"x+00000000+" + material(AlgMLDSA44Cosignature, 1311),
		"x+00000000+AQ==", "x+00000000+!",
	} {
		if _, err := ParseVkey(vkey); !errors.Is(err, ErrKey) {
			t.Errorf("ParseVkey(%q): %v", vkey, err)
		}
		if _, err := ParseCosignerVkey(vkey); !errors.Is(err, ErrKey) {
			t.Errorf("ParseCosignerVkey(%q): %v", vkey, err)
		}
	}
}

// weakPoints are no public keys, each for another reason.
var weakPoints = map[string][]byte{
	"y is 0: small order":           make([]byte, 32),
	"y is 1: neutral element":       append([]byte{1}, make([]byte, 31)...),
	"y is 2^255 - 16: above p":      append(append([]byte{0xf0}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f),
	"y is 2: no point of the curve": append([]byte{2}, make([]byte, 31)...),
}

// uncheckedVkey spells a verifier key of any bytes, with the right key ID.
func uncheckedVkey(name string, alg byte, public []byte) string {
	material := append([]byte{alg}, public...)
	id := sha256.Sum256(append([]byte(name+"\n"), material...))
	return fmt.Sprintf("%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(material))
}

// A key with which anybody can sign anything is no key, whatever its type: with
// a point of small order some signatures verify for every message.
func TestWeakEd25519KeysAreRefused(t *testing.T) {
	for what, point := range weakPoints {
		for _, alg := range []byte{AlgEd25519, AlgEd25519Cosignature} {
			vkey := uncheckedVkey("x", alg, point)
			parse, line := ParseVkey, "log "+vkey
			if alg == AlgEd25519Cosignature {
				parse, line = ParseCosignerVkey, "witness w "+vkey
			}
			if _, err := parse(vkey); !errors.Is(err, ErrKey) {
				t.Errorf("%s, type %#02x: got %v, want ErrKey", what, alg, err)
			}
			if _, err := ParsePolicy([]byte(line + "\nquorum none\n")); err == nil {
				t.Errorf("%s: a policy with %q was accepted", what, line)
			}
		}
		if _, err := Vkey("x", point); !errors.Is(err, ErrKey) {
			t.Errorf("%s: Vkey: got %v, want ErrKey", what, err)
		}
	}
}

// signerFunc is an Ed25519 key in a service that may misbehave.
type signerFunc struct {
	public crypto.PublicKey
	sign   func(msg []byte) ([]byte, error)
}

func (s signerFunc) Public() crypto.PublicKey { return s.public }
func (s signerFunc) Sign(_ io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("hashed")
	}
	return s.sign(msg)
}

func TestSignerOfAService(t *testing.T) {
	key, other := edKey("service"), edKey("other")
	c := testCheckpoint(t, testOrigin, 5)
	down := errors.New("service is down")
	tests := map[string]struct {
		sign func(msg []byte) ([]byte, error)
		want error
	}{
		"works":     {func(msg []byte) ([]byte, error) { return ed25519.Sign(key, msg), nil }, nil},
		"other key": {func(msg []byte) ([]byte, error) { return ed25519.Sign(other, msg), nil }, ErrSigning},
		"empty":     {func(msg []byte) ([]byte, error) { return nil, nil }, ErrSigning},
		"down":      {func(msg []byte) ([]byte, error) { return nil, down }, down},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			private := signerFunc{key.Public(), test.sign}
			s, err := NewSigner(testOrigin, private)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Sign(c, s); !errors.Is(err, test.want) || err != nil && !errors.Is(err, ErrSigning) {
				t.Errorf("Sign: %v", err)
			}
			cosigner, err := NewEd25519Cosigner("w", private)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cosigner.Cosign(c.Body(), 1); !errors.Is(err, test.want) || err != nil && !errors.Is(err, ErrSigning) {
				t.Errorf("Cosign: %v", err)
			}
		})
	}
}

func TestSignerRefusesOtherKeys(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mixed := append(edKey("a").Seed(), edKey("b").Public().(ed25519.PublicKey)...)
	for name, key := range map[string]crypto.Signer{
		"ECDSA": ec, "none": nil, "halves of two keys": ed25519.PrivateKey(mixed), "cut short": edKey("a")[:40],
	} {
		if _, err := NewSigner("name", key); !errors.Is(err, ErrKey) {
			t.Errorf("%s as log key: %v", name, err)
		}
		if _, err := NewEd25519Cosigner("name", key); !errors.Is(err, ErrKey) {
			t.Errorf("%s as cosigner key: %v", name, err)
		}
	}
	if _, err := NewMLDSACosigner("name", nil); !errors.Is(err, ErrKey) {
		t.Errorf("no ML-DSA-44 key: %v", err)
	}
	for _, name := range []string{"", "a b", "a+b", "a\tb", "a\u2003b", "\xff", strings.Repeat("n", 256)} {
		if _, err := NewSigner(name, edKey("x")); !errors.Is(err, ErrKey) {
			t.Errorf("name %q: %v", name, err)
		}
		if _, err := Vkey(name, edKey("x").Public().(ed25519.PublicKey)); !errors.Is(err, ErrKey) {
			t.Errorf("name %q: %v", name, err)
		}
		if err := CheckName(name); !errors.Is(err, ErrKey) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := Vkey("name", make([]byte, 31)); !errors.Is(err, ErrKey) {
		t.Errorf("short key: %v", err)
	}
}
