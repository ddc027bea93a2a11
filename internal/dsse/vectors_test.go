package dsse

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
)

// Golden vectors are written by
//
//	go test ./internal/dsse -run TestVectors -update
var update = flag.Bool("update", false, "rewrite testdata/dsse")

const vectorPath = "../../testdata/dsse/envelope.json"

type vectorFile struct {
	About   string      `json:"about"`
	Keys    []vectorKey `json:"keys"`
	Valid   []vector    `json:"valid"`
	Invalid []vector    `json:"invalid"`
	WeakKey []string    `json:"weak_public_keys"` // hexadecimal, refused whatever they sign
}

type vectorKey struct {
	Seed   string `json:"seed"`       // hexadecimal
	Public string `json:"public_key"` // hexadecimal
	KeyID  string `json:"keyid"`
}

type vector struct {
	Name     string `json:"name"`
	Envelope string `json:"envelope"`
	Payload  string `json:"payload,omitempty"` // hexadecimal
	PAE      string `json:"pae,omitempty"`     // hexadecimal: what is signed
	Error    string `json:"error,omitempty"`   // malformed, payload_type, unknown_key or bad_signature
}

// weakKeys are the five y coordinates of points of small order (one of them with
// both signs of x), encodings of y at or above the field prime, and bytes that
// are no point of the curve.
var weakKeys = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0100000000000000000000000000000000000000000000000000000000000080",
	"f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0200000000000000000000000000000000000000000000000000000000000000",
	"0200000000000000000000000000000000000000000000000000000000000080",
}

var vectorErrors = map[string]error{
	"malformed": ErrMalformed, "payload_type": ErrPayloadType, "unknown_key": ErrUnknownKey, "bad_signature": ErrBadSignature,
}

func buildVectors(t *testing.T) *vectorFile {
	f := &vectorFile{About: "Golden vectors for envelopes, docs/formats/README.md. Every signature is verified with the keys of this file under payload type " + testType + "."}
	for n := byte(1); n <= 2; n++ {
		f.Keys = append(f.Keys, vectorKey{hex.EncodeToString(key(n).Seed()), hex.EncodeToString(public(n)), KeyID(public(n))})
	}
	encode := func(e *Envelope) string {
		data, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	sign := func(payloadType string, payload []byte, keys ...byte) string {
		var signers []Signer
		for _, n := range keys {
			signers = append(signers, signer(t, n))
		}
		e, err := Sign(payloadType, payload, signers...)
		if err != nil {
			t.Fatal(err)
		}
		return encode(e)
	}
	for _, v := range []struct {
		name    string
		payload []byte
		keys    []byte
	}{
		{"one signature", []byte(`{"a":1}`), []byte{1}},
		{"two signatures", []byte(`{"a":1}`), []byte{2, 1}},
		{"payload that is no JSON", []byte{0, 255}, []byte{1}},
		{"empty payload", nil, []byte{1}},
	} {
		f.Valid = append(f.Valid, vector{
			Name: v.name, Envelope: sign(testType, v.payload, v.keys...),
			Payload: hex.EncodeToString(v.payload), PAE: hex.EncodeToString(PAE(testType, v.payload)),
		})
	}
	good := f.Valid[0].Envelope
	f.Valid = append(f.Valid, vector{
		Name: "white space and another order", Payload: f.Valid[0].Payload, PAE: f.Valid[0].PAE,
		Envelope: "\n" + strings.Replace(strings.Replace(good, `"payload":"eyJhIjoxfQ==",`, ``, 1), `}]}`, "} ] ,\t\"payload\" : \"eyJhIjoxfQ==\" }\r\n", 1),
	})
	replace := func(old, new string) string {
		if strings.Count(good, old) != 1 {
			t.Fatalf("%q does not occur once in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	id := KeyID(public(1))
	sig := good[strings.Index(good, `"sig":"`)+len(`"sig":"`) : strings.LastIndex(good, `"`)]
	for _, v := range []struct{ name, envelope, err string }{
		{"empty", "", "malformed"},
		{"two values", good + good, "malformed"},
		{"unknown member", replace(`{"payload":`, `{"x":1,"payload":`), "malformed"},
		{"repeated member", replace(`{"payload":`, `{"payload":"","payload":`), "malformed"},
		{"member in another case", replace(`"payloadType"`, `"payloadtype"`), "malformed"},
		{"no signatures", good[:strings.Index(good, "[")] + "[]}", "malformed"},
		{"payload without padding", replace("fQ==", "fQ"), "malformed"},
		{"payload with loose bits", replace("fQ==", "fR=="), "malformed"},
		{"keyid left empty", replace(id, ""), "malformed"},
		{"keyid in upper case", replace(id, strings.ToUpper(id)), "malformed"},
		{"keyid twice", replace("[{", `[{"keyid":"`+id+`","sig":"`+sig+`"},{`), "malformed"},
		{"signature too short", replace(sig, sig[:len(sig)-4]), "malformed"},
		{"another payload type", sign("application/vnd.other+json", []byte(`{"a":1}`), 1), "payload_type"},
		{"payload type exchanged", strings.Replace(sign("application/vnd.other+json", []byte(`{"a":1}`), 1), "vnd.other", "vnd.example", 1), "bad_signature"},
		{"payload exchanged", replace("eyJhIjoxfQ==", "eyJhIjoyfQ=="), "bad_signature"},
		{"signed by an unknown key", sign(testType, []byte(`{"a":1}`), 3), "unknown_key"},
		{"signed by an unknown key too", sign(testType, []byte(`{"a":1}`), 1, 3), "unknown_key"},
		{"keyid of another key", replace(id, KeyID(public(2))), "bad_signature"},
	} {
		f.Invalid = append(f.Invalid, vector{Name: v.name, Envelope: v.envelope, Error: v.err})
	}
	f.WeakKey = weakKeys
	return f
}

func TestVectors(t *testing.T) {
	f := buildVectors(t)
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetIndent("", "  ")
	if err := enc.Encode(f); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(vectorPath, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(vectorPath)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want.Bytes()) {
		t.Errorf("%s differs from what the code makes; if the format was meant to change, run with -update", vectorPath)
	}
	f = new(vectorFile)
	if err := json.Unmarshal(data, f); err != nil {
		t.Fatal(err)
	}
	var keys []ed25519.PublicKey
	for _, k := range f.Keys {
		pub, err := hex.DecodeString(k.Public)
		if err != nil || KeyID(pub) != k.KeyID {
			t.Fatalf("key %s: %v, key id %s, want %s", k.Public, err, KeyID(pub), k.KeyID)
		}
		keys = append(keys, pub)
	}
	for _, v := range f.Valid {
		e, err := Parse([]byte(v.Envelope))
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if _, err := e.VerifyWith(testType, keys); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		if hex.EncodeToString(e.Payload) != v.Payload || hex.EncodeToString(PAE(e.PayloadType, e.Payload)) != v.PAE {
			t.Errorf("%s: payload %x", v.Name, e.Payload)
		}
	}
	for _, v := range f.Invalid {
		e, err := Parse([]byte(v.Envelope))
		if err == nil {
			_, err = e.VerifyWith(testType, keys)
		}
		if want := vectorErrors[v.Error]; want == nil || !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %s", v.Name, err, v.Error)
		}
	}
	for _, k := range f.WeakKey {
		if pub, err := hex.DecodeString(k); err != nil || !errors.Is(CheckKey(pub), ErrKey) {
			t.Errorf("weak key %s accepted", k)
		}
	}
}
