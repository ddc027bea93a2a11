package token

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// maxSize bounds a token before anything is decoded. One made by [New] has
// under 600 bytes; two identifiers and a token id are all that can vary.
const maxSize = 2048

// Bounds of a token's id, in characters: enough for 80 random bits in the
// densest usual alphabet, and a bound on what records and logs must carry.
const (
	minIDLength = 16
	maxIDLength = 64
)

// Why a token is refused. Every error of [Verify] matches exactly one of these.
var (
	ErrMalformed = errors.New("token: not a token of the documented form")
	ErrKey       = errors.New("token: no valid token key with this key id")
	ErrSignature = errors.New("token: the signature does not verify")
	ErrAudience  = errors.New("token: made for another cluster")
	ErrExpired   = errors.New("token: expired")
	ErrEarly     = errors.New("token: issued in the future")
	ErrClaims    = errors.New("token: claims break their rules")
)

// A Key is what the membership state says about a key id.
type Key struct {
	Principal string            // whose key it is
	Public    ed25519.PublicKey // 32 bytes
}

// A Lookup returns the key with the given key id, if it is valid now and has
// use "token". The key id comes from a stranger.
type Lookup func(keyID string) (Key, bool)

// A Token is what a verified token says.
type Token struct {
	Principal string
	KeyID     string
	ID        string    // "jti": 16 to 64 printable ASCII characters without space
	Expires   time.Time // without the skew
}

// Verify checks a token from the network against the cluster's id, the clock
// and the keys that lookup knows. The result can be relied on: the holder of
// that key issued it for this cluster, and it has not expired.
func Verify(raw, cluster string, now time.Time, lookup Lookup) (Token, error) {
	if len(raw) > maxSize {
		return Token{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxSize)
	}
	if err := checkForm(raw); err != nil {
		return Token{}, err
	}
	var key Key
	claims := &claims{}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{"EdDSA"}), // never what the header asks for
		jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return now }),
		jwt.WithLeeway(Skew),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithAudience(cluster),
	)
	parsed, err := parser.ParseWithClaims(raw, claims, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		found, ok := lookup(id)
		if !ok {
			return nil, ErrKey
		}
		key = found
		return key.Public, nil
	})
	if err != nil {
		return Token{}, classify(err)
	}
	if err := claims.check(key.Principal); err != nil {
		return Token{}, err
	}
	keyID, _ := parsed.Header["kid"].(string)
	return Token{
		Principal: key.Principal,
		KeyID:     keyID,
		ID:        claims.ID,
		Expires:   time.Unix(claims.Expires, 0),
	}, nil
}

// claims are the members of the payload; checkForm has made sure that each is
// there, once, and that there is no other.
type claims struct {
	Audience string `json:"aud"`
	Expires  int64  `json:"exp"`
	IssuedAt int64  `json:"iat"`
	Issuer   string `json:"iss"`
	ID       string `json:"jti"`
	Subject  string `json:"sub"`
}

func (c *claims) check(principal string) error {
	if c.Issuer != principal || c.Subject != principal {
		return fmt.Errorf("%w: \"iss\" and \"sub\" must both name the key's principal", ErrClaims)
	}
	if life := c.Expires - c.IssuedAt; life <= 0 || life > int64(MaxLifetime/time.Second) {
		return fmt.Errorf("%w: \"exp\" must be within %v after \"iat\"", ErrClaims, MaxLifetime)
	}
	if len(c.ID) < minIDLength || len(c.ID) > maxIDLength {
		return fmt.Errorf("%w: \"jti\" must have %d to %d characters", ErrClaims, minIDLength, maxIDLength)
	}
	for _, r := range []byte(c.ID) {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("%w: \"jti\" must be printable ASCII without space", ErrClaims)
		}
	}
	return nil
}

// The methods below make claims a jwt.Claims.

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return date(c.Expires), nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return date(c.IssuedAt), nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return nil, nil }
func (c *claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error) {
	return jwt.ClaimStrings{c.Audience}, nil
}

func date(unix int64) *jwt.NumericDate { return jwt.NewNumericDate(time.Unix(unix, 0)) }

// classify maps what the JWT library found to one of this package's errors. It
// drops the library's text, which may quote the token.
func classify(err error) error {
	for _, pair := range []struct{ from, to error }{
		{ErrKey, ErrKey},
		{jwt.ErrTokenMalformed, ErrMalformed},
		{jwt.ErrTokenExpired, ErrExpired},
		{jwt.ErrTokenUsedBeforeIssued, ErrEarly},
		{jwt.ErrTokenInvalidAudience, ErrAudience},
	} {
		if errors.Is(err, pair.from) {
			return pair.to
		}
	}
	return ErrSignature
}

// checkForm holds a token to the documented members: the JWT library takes
// unknown and repeated ones, and every spelling of their case.
func checkForm(raw string) error {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return fmt.Errorf("%w: want three parts", ErrMalformed)
	}
	header, err := readObject(parts[0], []string{"alg", "kid", "typ"}, nil)
	if err != nil {
		return fmt.Errorf("%w: header: %v", ErrMalformed, err)
	}
	if header["alg"] != "EdDSA" || header["typ"] != "JWT" {
		return fmt.Errorf("%w: header: want \"alg\" EdDSA and \"typ\" JWT", ErrMalformed)
	}
	if _, err := readObject(parts[1], []string{"aud", "iss", "jti", "sub"}, []string{"exp", "iat"}); err != nil {
		return fmt.Errorf("%w: claims: %v", ErrMalformed, err)
	}
	return nil
}

// readObject reads a flat JSON object that must have exactly the named members:
// texts, and integers from 0 to 2^53-1. It returns the texts. Its errors quote
// nothing of the token.
func readObject(part string, texts, integers []string) (map[string]string, error) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errors.New("not unpadded base64url")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	found := make(map[string]string)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		value, err := d.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		key, _ := name.(string)
		if _, repeated := found[key]; repeated {
			return nil, errors.New("a member occurs twice")
		}
		switch v := value.(type) {
		case string:
			if !slices.Contains(texts, key) {
				return nil, errors.New("an unknown member, or one of the wrong type")
			}
			found[key] = v
		case json.Number:
			if !slices.Contains(integers, key) || !isInteger(v.String()) {
				return nil, errors.New("an unknown member, or a number that is no integer in range")
			}
			found[key] = ""
		default:
			return nil, errors.New("a member that is neither text nor integer")
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something after the object")
	}
	if len(found) != len(texts)+len(integers) {
		return nil, errors.New("a member is missing")
	}
	return found, nil
}

// isInteger reports whether s is an integer of at most 15 digits in minimal
// decimal: below 2^53, and as a time far beyond any clock.
func isInteger(s string) bool {
	if s == "" || len(s) > 15 || (s[0] == '0' && len(s) > 1) {
		return false
	}
	return strings.Trim(s, "0123456789") == ""
}
