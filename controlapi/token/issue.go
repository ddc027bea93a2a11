package token

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tallystick/tallystick/internal/digest"
)

const (
	// MaxLifetime is the longest accepted time between "iat" and "exp".
	MaxLifetime = 15 * time.Minute

	// Lifetime is what [New] gives a token: enough for a long poll, and a
	// clock that is a few minutes off still leaves a token usable.
	Lifetime = 10 * time.Minute

	// Skew is how far the clocks of client and server may differ.
	Skew = 60 * time.Second
)

// KeyID is the key id of an Ed25519 public key (docs/formats/README.md), which
// a token carries as "kid".
func KeyID(key ed25519.PublicKey) string {
	return digest.New("tallystick/v1/key-id").Text("ed25519").Bytes(key).Sum().String()
}

// New issues a token by which principal proves itself to the control plane of
// cluster for [Lifetime] from now on. The key is the principal's Ed25519 key
// with use "token"; any other kind of key is an error.
func New(principal, cluster string, key crypto.Signer, now time.Time) (string, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return "", fmt.Errorf("token: have a key of type %T: use the principal's ed25519 key", key.Public())
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": principal,
		"sub": principal,
		"aud": cluster,
		"iat": now.Unix(),
		"exp": now.Add(Lifetime).Unix(),
		"jti": rand.Text(),
	})
	t.Header["kid"] = KeyID(public)
	signed, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("token: signing for %q: %w", principal, err)
	}
	return signed, nil
}
