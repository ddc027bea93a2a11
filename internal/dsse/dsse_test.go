package dsse

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

const testType = "application/vnd.example+json"

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(n byte) ed25519.PublicKey { return key(n).Public().(ed25519.PublicKey) }

func signer(t testing.TB, n byte) Signer {
	t.Helper()
	s, err := NewSigner(key(n))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func signed(t testing.TB, keys ...byte) *Envelope {
	t.Helper()
	var signers []Signer
	for _, n := range keys {
		signers = append(signers, signer(t, n))
	}
	e, err := Sign(testType, []byte(`{"a":1}`), signers...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The example of the DSSE specification, protocol.md.
func TestPAEIsAsSpecified(t *testing.T) {
	got := string(PAE("http://example.com/HelloWorld", []byte("hello world")))
	if want := "DSSEv1 29 http://example.com/HelloWorld 11 hello world"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := string(PAE("", nil)), "DSSEv1 0  0 "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRoundTrip(t *testing.T) {
	e := signed(t, 1, 2)
	data, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data)
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Fatalf("got %+v, %v; want %+v", got, err, e)
	}
	by, err := got.VerifyWith(testType, []ed25519.PublicKey{public(3), public(2), public(1)})
	if err != nil || len(by) != 2 || !by[0].Equal(public(1)) || !by[1].Equal(public(2)) {
		t.Errorf("signed by %x, %v; want keys 1 and 2 in this order", by, err)
	}
}

func TestVerifyWithRefuses(t *testing.T) {
	keys := []ed25519.PublicKey{public(1), public(2)}
	for _, tc := range []struct {
		name   string
		change func(e *Envelope)
		typ    string
		keys   []ed25519.PublicKey
		want   error
	}{
		{"other payload type asked", func(*Envelope) {}, "application/other", keys, ErrPayloadType},
		{"payload type exchanged", func(e *Envelope) { e.PayloadType = "application/other" }, "application/other", keys, ErrBadSignature},
		{"payload changed", func(e *Envelope) { e.Payload = []byte(`{"a":2}`) }, testType, keys, ErrBadSignature},
		{"signature changed", func(e *Envelope) { e.Signatures[1].Sig[0] ^= 1 }, testType, keys, ErrBadSignature},
		{"keyid of another key", func(e *Envelope) { e.Signatures[0].KeyID = KeyID(public(2)); e.Signatures = e.Signatures[:1] }, testType, keys, ErrBadSignature},
		{"one signer unknown", func(*Envelope) {}, testType, keys[:1], ErrUnknownKey},
		{"no key expected", func(*Envelope) {}, testType, nil, ErrUnknownKey},
		{"signed twice", func(e *Envelope) { e.Signatures[1] = e.Signatures[0] }, testType, keys, ErrDuplicateKey},
		{"not signed", func(e *Envelope) { e.Signatures = nil }, testType, keys, ErrMalformed},
		{"short signature", func(e *Envelope) { e.Signatures[0].Sig = e.Signatures[0].Sig[:63] }, testType, keys, ErrMalformed},
		{"expected key is short", func(*Envelope) {}, testType, []ed25519.PublicKey{public(1)[:31]}, ErrKey},
		{"expected key is weak", func(*Envelope) {}, testType, []ed25519.PublicKey{make([]byte, 32)}, ErrKey},
	} {
		e := signed(t, 1, 2)
		tc.change(e)
		if by, err := e.VerifyWith(tc.typ, tc.keys); !errors.Is(err, tc.want) || by != nil {
			t.Errorf("%s: got %v, %v; want %v", tc.name, by, err, tc.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good, err := signed(t, 1).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	sig := string(good[bytes.Index(good, []byte(`[{`)):])
	sig = strings.TrimSuffix(strings.TrimPrefix(sig, "["), "]}")
	other := strings.Replace(sig, KeyID(public(1)), KeyID(public(2)), 1)
	for _, tc := range []struct{ name, text string }{
		{"empty", ``},
		{"unknown member", strings.Replace(string(good), `{`, `{"x":1,`, 1)},
		{"no payload type", `{"payload":"","payloadType":"","signatures":[` + sig + `]}`},
		{"payload type with a space", `{"payload":"","payloadType":"a b","signatures":[` + sig + `]}`},
		{"payload type not ASCII", `{"payload":"","payloadType":"é","signatures":[` + sig + `]}`},
		{"long payload type", `{"payload":"","payloadType":"` + strings.Repeat("a", 128) + `","signatures":[` + sig + `]}`},
		{"base64 for URLs", strings.Replace(string(good), `"payload":"`, `"payload":"__8=`, 1)},
		{"no signatures", `{"payload":"","payloadType":"a","signatures":[]}`},
		{"same keyid twice", `{"payload":"","payloadType":"a","signatures":[` + sig + `,` + sig + `]}`},
		{"65 signatures", `{"payload":"","payloadType":"a","signatures":[` + sig + strings.Repeat(`,`+other, 64) + `]}`},
		{"keyid empty", `{"payload":"","payloadType":"a","signatures":[` + strings.Replace(sig, KeyID(public(1)), "", 1) + `]}`},
		{"keyid upper case", `{"payload":"","payloadType":"a","signatures":[` + strings.Replace(sig, KeyID(public(1)), strings.Repeat("AB", 32), 1) + `]}`},
		{"short signature", `{"payload":"","payloadType":"a","signatures":[{"keyid":"` + KeyID(public(1)) + `","sig":"AAAA"}]}`},
		{"payload too large", `{"payload":"` + strings.Repeat("AAAA", MaxPayload/3+1) + `","payloadType":"a","signatures":[` + sig + `]}`},
		{"envelope too large", string(good) + strings.Repeat(" ", MaxEnvelope)},
	} {
		if _, err := Parse([]byte(tc.text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want ErrMalformed", tc.name, err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	if _, err := Sign(testType, nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("no signer: got %v", err)
	}
	if _, err := Sign("", nil, signer(t, 1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("no payload type: got %v", err)
	}
	if _, err := Sign(testType, make([]byte, MaxPayload+1), signer(t, 1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("large payload: got %v", err)
	}
	if _, err := Sign(testType, nil, signer(t, 1), signer(t, 1)); !errors.Is(err, ErrDuplicateKey) {
		t.Errorf("signer twice: got %v", err)
	}
	many := make([]Signer, MaxSignatures+1)
	for i := range many {
		many[i] = signer(t, byte(i))
	}
	if _, err := Sign(testType, nil, many...); !errors.Is(err, ErrMalformed) {
		t.Errorf("too many signers: got %v", err)
	}
	full, err := Sign(testType, make([]byte, MaxPayload), many[:MaxSignatures]...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := full.Marshal(); !errors.Is(err, ErrMalformed) {
		t.Errorf("envelope above its bound: got %v", err)
	}
	if _, err := (&Envelope{}).Marshal(); !errors.Is(err, ErrMalformed) {
		t.Errorf("zero envelope: got %v", err)
	}
}

// faultySigner stands for a key service that misbehaves.
type faultySigner struct {
	ed25519.PrivateKey
	err error
}

func (f faultySigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, ed25519.SignatureSize), f.err
}

func TestAddKeepsTheEnvelopeOnFailure(t *testing.T) {
	down := errors.New("key service is down")
	for _, tc := range []struct {
		fault error
		want  error
	}{{nil, ErrBadSignature}, {down, down}} {
		s, err := NewSigner(faultySigner{key(2), tc.fault})
		if err != nil {
			t.Fatal(err)
		}
		e := signed(t, 1)
		if err := e.Add(s); !errors.Is(err, tc.want) || len(e.Signatures) != 1 {
			t.Errorf("got %v with %d signatures, want %v with 1", err, len(e.Signatures), tc.want)
		}
	}
}

type weakSigner struct{ crypto.Signer }

func (weakSigner) Public() crypto.PublicKey { return make(ed25519.PublicKey, 32) }

func TestNewSignerRefuses(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []crypto.Signer{nil, p256, weakSigner{key(1)}} {
		if _, err := NewSigner(k); !errors.Is(err, ErrKey) {
			t.Errorf("%T: got %v, want ErrKey", k, err)
		}
	}
}

// FuzzParse: what parses re-encodes canonically and parses to the same value.
func FuzzParse(f *testing.F) {
	for _, keys := range [][]byte{{1}, {1, 2, 3}} {
		data, err := signed(f, keys...).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"payload":"","payloadType":"a","signatures":[{"keyid":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error outside the set: %v", err)
			}
			return
		}
		canonical, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(canonical)
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("canonical form reads as %+v, %v; want %+v", again, err, e)
		}
	})
}
