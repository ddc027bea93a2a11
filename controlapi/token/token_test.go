package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const cluster = "example"

var (
	epochTime = time.Unix(1_800_000_000, 0)
	aliceKey  = ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))
	evilKey   = ed25519.NewKeyFromSeed([]byte(strings.Repeat("e", 32)))
)

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func lookup(id string) (Key, bool) {
	if id != KeyID(public(aliceKey)) {
		return Key{}, false
	}
	return Key{Principal: "alice", Public: public(aliceKey)}, true
}

// sign makes a token of arbitrary header and claims text, signed by key.
func sign(header, claims string, key ed25519.PrivateKey) string {
	e := base64.RawURLEncoding
	text := e.EncodeToString([]byte(header)) + "." + e.EncodeToString([]byte(claims))
	return text + "." + e.EncodeToString(ed25519.Sign(key, []byte(text)))
}

func header() string { return `{"alg":"EdDSA","kid":"` + KeyID(public(aliceKey)) + `","typ":"JWT"}` }

const goodClaims = `{"aud":"example","exp":1800000600,"iat":1800000000,"iss":"alice","jti":"0123456789abcdef","sub":"alice"}`

func TestIssuedTokenVerifies(t *testing.T) {
	raw, err := New("alice", cluster, aliceKey, epochTime)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Verify(raw, cluster, epochTime.Add(Lifetime-time.Second), lookup)
	if err != nil {
		t.Fatal(err)
	}
	if got.Principal != "alice" || got.KeyID != KeyID(public(aliceKey)) || !got.Expires.Equal(epochTime.Add(Lifetime)) {
		t.Errorf("Verify = %+v", got)
	}
	again, err := New("alice", cluster, aliceKey, epochTime)
	if err != nil || again == raw {
		t.Errorf("a second token is the same as the first (error %v); want a fresh jti", err)
	}
}

func TestNewRefusesOtherKeys(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New("alice", cluster, key, epochTime); err == nil {
		t.Error("New took an ECDSA key")
	}
	if _, err := New("alice", cluster, brokenSigner{public(aliceKey)}, epochTime); err == nil {
		t.Error("New hid its signer's error")
	}
}

// brokenSigner is a signer that is away, as a key service can be.
type brokenSigner struct{ ed25519.PublicKey }

func (b brokenSigner) Public() crypto.PublicKey { return b.PublicKey }
func (brokenSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("signer is away")
}

func TestVerifyRefuses(t *testing.T) {
	swap := func(old, new string) string { return strings.Replace(goodClaims, old, new, 1) }
	hmacToken := func() string {
		e := base64.RawURLEncoding
		h := strings.Replace(header(), "EdDSA", "HS256", 1)
		text := e.EncodeToString([]byte(h)) + "." + e.EncodeToString([]byte(goodClaims))
		mac := hmac.New(sha256.New, public(aliceKey))
		mac.Write([]byte(text))
		return text + "." + e.EncodeToString(mac.Sum(nil))
	}
	noneToken := sign(strings.Replace(header(), "EdDSA", "none", 1), goodClaims, aliceKey)
	for name, c := range map[string]struct {
		raw  string
		want error
	}{
		"empty":                 {"", ErrMalformed},
		"two parts":             {"a.b", ErrMalformed},
		"too long":              {sign(header(), swap("alice", strings.Repeat("a", maxSize)), aliceKey), ErrMalformed},
		"header not base64":     {"!." + strings.SplitN(sign(header(), goodClaims, aliceKey), ".", 2)[1], ErrMalformed},
		"padded base64":         {sign(header()+" ", goodClaims, aliceKey) + "=", ErrMalformed},
		"header not an object":  {sign(`["EdDSA"]`, goodClaims, aliceKey), ErrMalformed},
		"header cut":            {sign(`{"alg":"EdDSA"`, goodClaims, aliceKey), ErrMalformed},
		"algorithm none":        {noneToken, ErrMalformed},
		"algorithm HS256":       {hmacToken(), ErrMalformed},
		"other type":            {sign(strings.Replace(header(), "JWT", "at+jwt", 1), goodClaims, aliceKey), ErrMalformed},
		"critical header":       {sign(strings.Replace(header(), "{", `{"crit":"x",`, 1), goodClaims, aliceKey), ErrMalformed},
		"unknown claim":         {sign(header(), swap("{", `{"nbf":1,`), aliceKey), ErrMalformed},
		"claim twice":           {sign(header(), swap("{", `{"sub":"bob",`), aliceKey), ErrMalformed},
		"claim in other case":   {sign(header(), swap("sub", "SUB"), aliceKey), ErrMalformed},
		"claim missing":         {sign(header(), swap(`,"sub":"alice"`, ""), aliceKey), ErrMalformed},
		"claim of other type":   {sign(header(), swap(`"alice"`, `["alice"]`), aliceKey), ErrMalformed},
		"claims nested":         {sign(header(), swap(`"alice"`, `{}`), aliceKey), ErrMalformed},
		"claims cut in name":    {sign(header(), `{"aud`, aliceKey), ErrMalformed},
		"claims cut at value":   {sign(header(), `{"aud":`, aliceKey), ErrMalformed},
		"audience a list":       {sign(header(), swap(`"example"`, `["example","other"]`), aliceKey), ErrMalformed},
		"time with fraction":    {sign(header(), swap("1800000600", "1800000600.5"), aliceKey), ErrMalformed},
		"time negative":         {sign(header(), swap("1800000000", "-1"), aliceKey), ErrMalformed},
		"time with zeros":       {sign(header(), swap("1800000000", "00"), aliceKey), ErrMalformed},
		"time too large":        {sign(header(), swap("1800000600", "1000000000000000"), aliceKey), ErrMalformed},
		"trailing bytes":        {sign(header(), goodClaims+"{}", aliceKey), ErrMalformed},
		"unknown key":           {sign(strings.Replace(header(), KeyID(public(aliceKey)), KeyID(public(evilKey)), 1), goodClaims, evilKey), ErrKey},
		"another key's":         {sign(header(), goodClaims, evilKey), ErrSignature},
		"signature left out":    {sign(header(), goodClaims, aliceKey)[:strings.LastIndex(sign(header(), goodClaims, aliceKey), ".")+1], ErrSignature},
		"other cluster":         {sign(header(), swap("example", "elsewhere"), aliceKey), ErrAudience},
		"expired":               {sign(header(), swap("1800000600", "1799999900"), aliceKey), ErrExpired},
		"issued in the future":  {sign(header(), swap("1800000000", "1800000100"), aliceKey), ErrEarly},
		"issuer another":        {sign(header(), swap(`"iss":"alice"`, `"iss":"bob"`), aliceKey), ErrClaims},
		"subject another":       {sign(header(), swap(`"sub":"alice"`, `"sub":"bob"`), aliceKey), ErrClaims},
		"lives too long":        {sign(header(), swap("1800000600", "1800000901"), aliceKey), ErrClaims},
		"ends before it begins": {sign(header(), swap("1800000600", "1800000000"), aliceKey), ErrClaims},
		"id too short":          {sign(header(), swap("0123456789abcdef", "0123456789abcde"), aliceKey), ErrClaims},
		"id too long":           {sign(header(), swap("0123456789abcdef", strings.Repeat("x", 65)), aliceKey), ErrClaims},
		"id with space":         {sign(header(), swap("0123456789abcdef", "0123456789 abcdef"), aliceKey), ErrClaims},
	} {
		_, err := Verify(c.raw, cluster, epochTime, lookup)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "alice") || strings.Contains(err.Error(), "eyJ")) {
			t.Errorf("%s: the error quotes the token: %v", name, err)
		}
	}
}

func TestVerifyAllowsSkew(t *testing.T) {
	raw := sign(header(), goodClaims, aliceKey)
	issued, expires := epochTime, epochTime.Add(600*time.Second)
	for name, c := range map[string]struct {
		now  time.Time
		want error
	}{
		"a minute early":       {issued.Add(-Skew), nil},
		"more than a minute":   {issued.Add(-Skew - time.Second), ErrEarly},
		"within the last skew": {expires.Add(Skew - time.Second), nil},
		"after the skew":       {expires.Add(Skew + time.Second), ErrExpired},
	} {
		if _, err := Verify(raw, cluster, c.now, lookup); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
	}
}

func TestSourceRenews(t *testing.T) {
	now := epochTime
	s := &Source{Principal: "alice", Cluster: cluster, Key: aliceKey, Now: func() time.Time { return now }}
	get := func() string {
		t.Helper()
		raw, err := s.Token()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	first := get()
	now = now.Add(renewAfter - time.Second)
	if get() != first {
		t.Error("renewed before half of its life")
	}
	now = now.Add(time.Second)
	second := get()
	if second == first {
		t.Error("not renewed after half of its life")
	}
	now = epochTime.Add(-time.Hour)
	if get() == second {
		t.Error("not renewed after the clock was set back")
	}
}

func TestTransportAddsToken(t *testing.T) {
	var header string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		header = r.Header.Get("Authorization")
	}))
	defer server.Close()
	client := &http.Client{Transport: &Transport{Source: &Source{Principal: "alice", Cluster: cluster, Key: aliceKey}}}
	response, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	raw, ok := strings.CutPrefix(header, "Bearer ")
	if _, err := Verify(raw, cluster, time.Now(), lookup); err != nil || !ok {
		t.Errorf("the server got %q: %v", header, err)
	}
	client.Transport = &Transport{Source: &Source{Key: brokenSigner{public(aliceKey)}}}
	if _, err := client.Post(server.URL, "text/plain", strings.NewReader("x")); err == nil {
		t.Error("a request went out without a token")
	}
}

// FuzzVerify holds that no token is accepted but one that the key holder
// signed, whatever the bytes: the seeds' signature covers both parts.
func FuzzVerify(f *testing.F) {
	good := sign(header(), goodClaims, aliceKey)
	f.Add(good)
	f.Add(sign(header(), goodClaims, evilKey))
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		if got, err := Verify(raw, cluster, epochTime, lookup); err == nil && raw != good {
			t.Errorf("accepted %q as %+v", raw, got)
		}
	})
}
