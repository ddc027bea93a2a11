package provenance_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/provenance"
)

// attestationFile is testdata/provenance/attestations.json.
type attestationFile struct {
	About string `json:"about"`
	Keys  map[string]struct {
		Seed   string `json:"seed"`       // hexadecimal
		Public string `json:"public_key"` // hexadecimal
		KeyID  string `json:"keyid"`
	} `json:"keys"`
	Valid   []validAttestation   `json:"valid"`
	Invalid []invalidAttestation `json:"invalid"`
}

type validAttestation struct {
	Name         string `json:"name"`
	Envelope     string `json:"envelope"`
	Payload      string `json:"payload"`
	Digest       string `json:"attestation_digest"`
	ResultDigest string `json:"result_digest"`
}

type invalidAttestation struct {
	Name     string          `json:"name"`
	Envelope string          `json:"envelope"`
	Code     provenance.Code `json:"code"`
	Reason   string          `json:"reason"` // of attestationReasons
}

// attestationReasons names what an attestation can be invalid for.
var attestationReasons = []struct {
	name string
	err  error
}{
	{"malformed", dsse.ErrMalformed}, {"payload_type", dsse.ErrPayloadType}, {"unknown_key", dsse.ErrUnknownKey},
	{"bad_signature", dsse.ErrBadSignature}, {"signatures", errSignatures}, {"statement", provenance.ErrStatement},
}

var errSignatures = errors.New("not exactly one signature")

// openAttestation does what the fold does with the keys of the file.
func openAttestation(data []byte, key ed25519.PublicKey) (*provenance.Statement, []byte, error) {
	e, err := dsse.Parse(data)
	if err != nil {
		return nil, nil, err
	}
	if len(e.Signatures) != 1 {
		return nil, nil, errSignatures
	}
	if _, err := e.VerifyWith(provenance.AttestationType, []ed25519.PublicKey{key}); err != nil {
		return nil, nil, err
	}
	s, err := provenance.ParseStatement(e.Payload)
	return s, e.Payload, err
}

// statementEdits make a statement that is not one, by its text.
func statementEdits(good string) map[string]string {
	d := func(s string) string { return digest.Of([]byte(s)).String() }
	zero := strings.Repeat("0", 64)
	edits := map[string]string{"no JSON": "statement", "bytes after it": good + "{}", "white space only": "   "}
	for name, e := range map[string][2]string{
		"another _type":                          {`Statement/v1"`, `Statement/v0.1"`},
		"another predicate type":                 {`slsa.dev/provenance/v1`, `slsa.dev/provenance/v0.2`},
		"another build type":                     {`/execution/v1"`, `/execution/v2"`},
		"another protocol version":               {`"protocol_version":"1.0"`, `"protocol_version":"1.1"`},
		"result digest of another outcome":       {`"result_digest":"` + sampleStatement().Outcome.ResultDigest().String(), `"result_digest":"` + zero},
		"outcome changed":                        {`"exit_code":3`, `"exit_code":4`},
		"impossible outcome":                     {`"kind":"exit"`, `"kind":"ok"`},
		"builder is another node":                {`/node/example/node-2"`, `/node/example/node-3"`},
		"builder of another cluster":             {`/node/example/node-2"`, `/node/other/node-2"`},
		"cluster is no identifier":               {`"cluster":"example"`, `"cluster":"Example"`},
		"tenant is no identifier":                {`"tenant":"tenant-1"`, `"tenant":"tenant-1-"`},
		"tenant is empty":                        {`"tenant":"tenant-1"`, `"tenant":""`},
		"subject of another name":                {`"name":"output"`, `"name":"out"`},
		"subject of another digest":              {`"subject":[{"digest":{"sha256":"` + d("output"), `"subject":[{"digest":{"sha256":"` + zero},
		"two subjects":                           {`"subject":[`, `"subject":[{"digest":{"sha256":"` + zero + `"},"name":"output"},`},
		"no subject":                             {`"subject":[{"digest":{"sha256":"` + d("output") + `"},"name":"output"}]`, `"subject":[]`},
		"parent of another name":                 {`"name":"parent-0"`, `"name":"parent-1"`},
		"dependencies exchanged":                 {`"name":"module"`, `"name":"input"`},
		"output of a parent missing":             {`,{"digest":{"sha256":"` + d("parent output") + `"},"name":"parent-0"}`, ``},
		"parent missing":                         {`"parents":["` + d("parent") + `"],`, ``},
		"empty parents":                          {`"parents":["` + d("parent") + `"]`, `"parents":[]`},
		"another input as dependency":            {`"input":"` + d("input"), `"input":"` + zero},
		"epoch 0":                                {`"epoch":3`, `"epoch":0`},
		"epoch as text":                          {`"epoch":3`, `"epoch":"3"`},
		"size 0":                                 {`"size":42`, `"size":0`},
		"size with a point":                      {`"size":42`, `"size":42.0`},
		"empty origin":                           {`"origin":"example/audit"`, `"origin":""`},
		"origin with a space":                    {`"origin":"example/audit"`, `"origin":"a b"`},
		"origin too long":                        {`"origin":"example/membership"`, `"origin":"` + strings.Repeat("a", 256) + `"`},
		"root hash too long":                     {`"root_hash":"`, `"root_hash":"AAAA`},
		"empty software version":                 {`"version":{"tallystick":"v1.0.0"}`, `"version":{"tallystick":""}`},
		"software version too long":              {`"tallystick":"v1.0.0"`, `"tallystick":"` + strings.Repeat("v", 64) + `"`},
		"version of other software":              {`"tallystick":"v1.0.0"}`, `"other":"1","tallystick":"v1.0.0"}`},
		"time of the end":                        {`"metadata":{`, `"metadata":{"finishedOn":"2026-01-01T00:00:00Z",`},
		"unknown internal parameter":             {`"attempt":1`, `"attempt":1,"cost":1`},
		"internal parameter missing":             {`"attempt":1,`, ``},
		"member in another case":                 {`{"_type"`, `{"_TYPE"`},
		"member twice":                           {`"attempt":1`, `"attempt":1,"attempt":1`},
		"execution id in upper case":             {`"invocationId":"` + d("execution"), `"invocationId":"` + strings.ToUpper(d("execution"))},
		"outcome of nothing with another digest": {`"output_length":6`, `"output_length":0`},
	} {
		if strings.Count(good, e[0]) < 1 {
			panic(name + ": " + e[0] + " is not in the statement")
		}
		edits[name] = strings.Replace(good, e[0], e[1], 1)
	}
	return edits
}

func attestationVectors(t *testing.T) *attestationFile {
	f := &attestationFile{About: "Signed attestations, docs/formats/execution.md: envelopes by the attestation key \"node-2\", the only one expected. " +
		"code is the fold's; reason says which part is at fault: malformed, payload_type, unknown_key and bad_signature as in dsse/envelope.json, " +
		"signatures (not exactly one), statement."}
	raw, err := json.Marshal(map[string]any{"keys": map[string]any{"node-2": vectorKey("node-2/attestation"), "node-3": vectorKey("node-3/attestation")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, f); err != nil {
		t.Fatal(err)
	}
	c := testcluster.New(t, testcluster.Options{})
	sign := func(payload string, names ...string) string {
		return string(c.Envelope(provenance.AttestationType, []byte(payload), names...))
	}
	const signer = "node-2/attestation"
	small := sampleStatement()
	small.Parents, small.ParentOutputs, small.RewrittenModule, small.SoftwareVersion = nil, nil, nil, ""
	small.Outcome = contract.Outcome{Kind: contract.OutcomeOK, OutputDigest: digest.Of(nil), DiagnosticsDigest: digest.Of(nil)}
	for _, v := range []struct {
		name string
		s    *provenance.Statement
	}{{"every member", sampleStatement()}, {"no optional member", small}} {
		payload, err := v.s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		f.Valid = append(f.Valid, validAttestation{v.name, sign(string(payload), signer), string(payload),
			digest.Of(payload).String(), v.s.Outcome.ResultDigest().String()})
	}
	good := f.Valid[0].Payload
	spaced := strings.ReplaceAll(good, `,"`, ",\n \"")
	f.Valid = append(f.Valid, validAttestation{"white space", sign(spaced, signer), spaced, digest.Of([]byte(spaced)).String(), f.Valid[0].ResultDigest})
	add := func(name, envelope, reason string) {
		f.Invalid = append(f.Invalid, invalidAttestation{name, envelope, provenance.CodeAttestationInvalid, reason})
	}
	add("payload without envelope", good, "malformed")
	add("signed by another node", sign(good, "node-3/attestation"), "unknown_key")
	add("signed by two nodes", sign(good, signer, "node-3/attestation"), "signatures")
	add("payload type of a contract", string(c.Envelope(contract.ContractType, []byte(good), signer)), "payload_type")
	add("signature of another statement", strings.Replace(f.Valid[1].Envelope, signatureOf(t, f.Valid[1].Envelope), signatureOf(t, f.Valid[0].Envelope), 1), "bad_signature")
	edits := statementEdits(good)
	for _, name := range slices.Sorted(maps.Keys(edits)) {
		add(name, sign(edits[name], signer), "statement")
	}
	return f
}

func vectorKey(name string) map[string]string {
	key := testcluster.Key(name)
	return map[string]string{"seed": hex.EncodeToString(key.Seed()), "public_key": hex.EncodeToString(testcluster.Public(name)),
		"keyid": dsse.KeyID(testcluster.Public(name))}
}

func signatureOf(t *testing.T, envelope string) string {
	t.Helper()
	_, after, ok := strings.Cut(envelope, `"sig":"`)
	if !ok {
		t.Fatalf("no signature in %s", envelope)
	}
	sig, _, _ := strings.Cut(after, `"`)
	return sig
}

func TestAttestationVectors(t *testing.T) {
	f := attestationVectors(t)
	goldenJSON(t, "attestations.json", f)
	key, err := hex.DecodeString(f.Keys["node-2"].Public)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range f.Valid {
		s, payload, err := openAttestation([]byte(v.Envelope), key)
		if err != nil || string(payload) != v.Payload || digest.Of(payload).String() != v.Digest || s.Outcome.ResultDigest().String() != v.ResultDigest {
			t.Errorf("%s: %v, payload %s", v.Name, err, payload)
		}
	}
	for _, v := range f.Invalid {
		_, _, err := openAttestation([]byte(v.Envelope), key)
		got := ""
		for _, r := range attestationReasons {
			if got == "" && errors.Is(err, r.err) {
				got = r.name
			}
		}
		if got != v.Reason {
			t.Errorf("%s: %v, want %s", v.Name, err, v.Reason)
		}
	}
}

// goldenJSON compares a file under testdata/provenance with a value.
func goldenJSON(t *testing.T, name string, v any) {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	golden(t, name, b.Bytes())
}
