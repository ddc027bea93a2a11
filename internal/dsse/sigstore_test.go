package dsse

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"testing"

	securesystems "github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"
	sigstore "github.com/sigstore/sigstore/pkg/signature/dsse"
)

// sigstore's verifier accepts what we sign. keyid is a hint outside the
// signature. A verifier that is told our key id takes the envelope as it is;
// one that is not compares keyid with a fingerprint of its own making, so an
// export for it leaves keyid empty.
func TestSigstoreVerifiesOurEnvelope(t *testing.T) {
	data, err := signed(t, 1).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadVerifier(public(1), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	ev, err := securesystems.NewEnvelopeVerifier(&sigstore.VerifierAdapter{
		SignatureVerifier: v, Pub: public(1), PubKeyID: KeyID(public(1)),
	})
	if err != nil {
		t.Fatal(err)
	}
	var env securesystems.Envelope
	if err := json.Unmarshal(data, &env); err != nil {
		t.Fatal(err)
	}
	if _, payload, err := ev.VerifyAndDecode(context.Background(), &env); err != nil || string(payload) != `{"a":1}` {
		t.Errorf("sigstore, told the key id: %q, %v", payload, err)
	}

	exported := bytes.Replace(data, []byte(KeyID(public(1))), nil, 1)
	var payload []byte
	wrapped := sigstore.WrapVerifier(v, sigstore.WithExpectedPayloadType(testType), sigstore.WithDecodedPayload(&payload))
	if err := wrapped.VerifySignature(bytes.NewReader(exported), nil); err != nil || string(payload) != `{"a":1}` {
		t.Errorf("sigstore, keyid left empty: %q, %v", payload, err)
	}
	other, err := signature.LoadVerifier(public(2), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := sigstore.WrapVerifier(other).VerifySignature(bytes.NewReader(exported), nil); err == nil {
		t.Error("sigstore accepted the envelope under another key")
	}
}

// What sigstore signs, given our key id for its keyid, is an envelope of ours.
func TestWeVerifySigstoresEnvelope(t *testing.T) {
	s, err := signature.LoadSigner(key(1), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	es, err := securesystems.NewEnvelopeSigner(&sigstore.SignerAdapter{
		SignatureSigner: s, Pub: public(1), PubKeyID: KeyID(public(1)),
	})
	if err != nil {
		t.Fatal(err)
	}
	env, err := es.SignPayload(context.Background(), testType, []byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.VerifyWith(testType, []ed25519.PublicKey{public(1)}); err != nil {
		t.Error(err)
	}
}

// The plain wrapped signer leaves keyid empty; its signature is over the same bytes.
func TestSigstoreSignsOurPAE(t *testing.T) {
	s, err := signature.LoadSigner(key(1), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	data, err := sigstore.WrapSigner(s, testType).SignMessage(bytes.NewReader([]byte(`{"a":1}`)))
	if err != nil {
		t.Fatal(err)
	}
	var env securesystems.Envelope
	if err := json.Unmarshal(data, &env); err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(env.Signatures[0].Sig)
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(public(1), PAE(testType, []byte(`{"a":1}`)), sig) {
		t.Error("sigstore signed other bytes than our PAE")
	}
	if _, err := Parse(data); err == nil {
		t.Error("an envelope without keyid was accepted")
	}
}
