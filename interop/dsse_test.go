package interop

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	attestation "github.com/in-toto/attestation/go/v1"
	"github.com/in-toto/in-toto-golang/in_toto"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
	"github.com/sigstore/sigstore/pkg/signature"
	sigstore "github.com/sigstore/sigstore/pkg/signature/dsse"
	"google.golang.org/protobuf/encoding/protojson"
)

// intoto is the DSSE payload type of in-toto statements.
const intoto = "application/vnd.in-toto+json"

// exported are the attestations of the golden bundle, as "verifier proof" writes
// them for other tools: the envelope and the PEM key of each node.
func exported(t *testing.T) (envelopes, keys map[string][]byte) {
	t.Helper()
	dir, golden := t.TempDir(), "../testdata/bundle/"
	cmd := exec.Command("../bin/verifier", "proof", golden+"golden.tallyproof", "--policy", golden+"audit.policy",
		"--membership-policy", golden+"membership.policy", "--genesis", golden+"genesis.json", "--attestations", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("verifier proof: %v (run scripts/build first)\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.intoto.json"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%d attestations, %v", len(files), err)
	}
	envelopes, keys = map[string][]byte{}, map[string][]byte{}
	for _, file := range files {
		node := file[:len(file)-len(".intoto.json")]
		if envelopes[node], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		if keys[node], err = os.ReadFile(node + ".pem"); err != nil {
			t.Fatal(err)
		}
	}
	return envelopes, keys
}

// forged is an envelope with another payload, which says the same in other bytes.
func forged(t *testing.T, envelope []byte) []byte {
	t.Helper()
	var e dsse.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	payload, err := e.DecodeB64Payload()
	if err != nil {
		t.Fatal(err)
	}
	forged, err := json.Marshal(dsse.Envelope{PayloadType: e.PayloadType, Signatures: e.Signatures,
		Payload: base64.StdEncoding.EncodeToString(append(payload, '\n'))})
	if err != nil {
		t.Fatal(err)
	}
	return forged
}

// sigstore's library, which cosign uses, verifies each attestation with the
// node's key, and refuses it with another's or with another payload.
func TestSigstoreVerifiesAttestations(t *testing.T) {
	envelopes, keys := exported(t)
	for node, envelope := range envelopes {
		for other, text := range keys {
			block, _ := pem.Decode(text)
			public, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			v, err := signature.LoadVerifier(public, crypto.Hash(0))
			if err != nil {
				t.Fatal(err)
			}
			var payload []byte
			wrapped := sigstore.WrapVerifier(v, sigstore.WithExpectedPayloadType(intoto), sigstore.WithDecodedPayload(&payload))
			err = wrapped.VerifySignature(bytes.NewReader(envelope), nil)
			if (err == nil) != (node == other) {
				t.Errorf("attestation of %s with the key of %s: %v", filepath.Base(node), filepath.Base(other), err)
			}
			if node == other && !json.Valid(payload) {
				t.Errorf("payload %q", payload)
			}
			if err := wrapped.VerifySignature(bytes.NewReader(forged(t, envelope)), nil); err == nil {
				t.Error("another payload was accepted")
			}
		}
	}
}

// in-toto's libraries verify the envelope, and find a valid statement with valid
// SLSA provenance in it.
func TestInTotoVerifiesAttestations(t *testing.T) {
	envelopes, keys := exported(t)
	for node, envelope := range envelopes {
		var inKey in_toto.Key
		if err := inKey.LoadKeyReaderDefaults(bytes.NewReader(keys[node])); err != nil || inKey.KeyType != "ed25519" {
			t.Errorf("in-toto-golang reads the key as %q: %v", inKey.KeyType, err)
		}
		key, err := signerverifier.LoadKey(keys[node])
		if err != nil {
			t.Fatal(err)
		}
		sv, err := signerverifier.NewED25519SignerVerifierFromSSLibKey(key)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := dsse.NewEnvelopeVerifier(sv)
		if err != nil {
			t.Fatal(err)
		}
		var e dsse.Envelope
		if err := json.Unmarshal(envelope, &e); err != nil {
			t.Fatal(err)
		}
		accepted, payload, err := ev.VerifyAndDecode(context.Background(), &e)
		if err != nil || len(accepted) != 1 || e.PayloadType != intoto {
			t.Fatalf("verifying: %v", err)
		}
		checkStatement(t, payload)
	}
}

func checkStatement(t *testing.T, payload []byte) {
	t.Helper()
	var s attestation.Statement
	if err := protojson.Unmarshal(payload, &s); err != nil {
		t.Fatalf("statement: %v", err)
	}
	if err := s.Validate(); err != nil {
		t.Errorf("statement: %v", err)
	}
	predicate, err := protojson.Marshal(s.GetPredicate())
	if err != nil {
		t.Fatal(err)
	}
	var p provenance.Provenance
	if err := protojson.Unmarshal(predicate, &p); err != nil {
		t.Fatalf("predicate: %v", err)
	}
	if err := p.Validate(); err != nil {
		t.Errorf("predicate: %v", err)
	}
	if s.GetType() != attestation.StatementTypeUri || s.GetPredicateType() != "https://slsa.dev/provenance/v1" {
		t.Errorf("type %q, predicate type %q", s.GetType(), s.GetPredicateType())
	}
	// The older library reads the same.
	var old in_toto.ProvenanceStatementSLSA1
	if err := json.Unmarshal(payload, &old); err != nil {
		t.Fatalf("in-toto-golang: %v", err)
	}
	if old.Predicate.RunDetails.BuildMetadata.InvocationID != p.GetRunDetails().GetMetadata().GetInvocationId() || len(old.Subject) != 1 ||
		old.Subject[0].Digest["sha256"] != s.GetSubject()[0].GetDigest()["sha256"] {
		t.Errorf("in-toto-golang reads %+v", old)
	}
}
