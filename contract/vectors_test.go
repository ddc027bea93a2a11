package contract

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
)

// Golden vectors are written by
//
//	go test ./contract -run TestVectors -update
//
// from the cases in this file. A difference without a change of protocol
// version is a break of the format: other implementations read these files.
var update = flag.Bool("update", false, "rewrite testdata/contract")

const vectorDir = "../testdata/contract"

type vectorKey struct {
	Seed   string `json:"seed"`       // Ed25519 private key seed, hexadecimal
	Public string `json:"public_key"` // hexadecimal
	KeyID  string `json:"keyid"`
}

type vectorFile struct {
	About   string               `json:"about"`
	Cluster string               `json:"cluster"`
	Keys    map[string]vectorKey `json:"keys"` // by tenant
	Valid   []validVector        `json:"valid"`
	Invalid []invalidVector      `json:"invalid"`
}

type validVector struct {
	Name        string `json:"name"`
	Payload     string `json:"payload"`  // the exact bytes, as text
	Envelope    string `json:"envelope"` // canonical, signed by the tenant's key
	Hash        string `json:"hash"`     // SHA-256 of the payload
	ExecutionID string `json:"execution_id,omitempty"`
}

type invalidVector struct {
	Name     string      `json:"name"`
	Envelope string      `json:"envelope"`
	Code     RefusalCode `json:"code"`
}

func seededKey(name string) ed25519.PrivateKey {
	seed := digest.Of([]byte("tallystick test vector key " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// vectorTenants have the keys of the vectors; "acme" signs unless told otherwise.
var vectorTenants = []string{"acme", "globex"}

const vectorCluster = "c1.example"

func vectorKeys() map[string]vectorKey {
	keys := make(map[string]vectorKey)
	for _, tenant := range vectorTenants {
		key := seededKey(tenant)
		pub := key.Public().(ed25519.PublicKey)
		keys[tenant] = vectorKey{hex.EncodeToString(key.Seed()), hex.EncodeToString(pub), dsse.KeyID(pub)}
	}
	return keys
}

// authority answers with the keys of a vector file.
func (f *vectorFile) authority(t testing.TB) Authority {
	return Authority{Cluster: f.Cluster, Keys: func(tenant string) []ed25519.PublicKey {
		key, ok := f.Keys[tenant]
		if !ok {
			return nil
		}
		pub, err := hex.DecodeString(key.Public)
		if err != nil {
			t.Fatal(err)
		}
		return []ed25519.PublicKey{pub}
	}}
}

// envelope signs arbitrary payload bytes, valid or not.
func envelope(t testing.TB, payloadType, payload string, signers ...string) string {
	t.Helper()
	var list []dsse.Signer
	for _, name := range signers {
		s, err := dsse.NewSigner(seededKey(name))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	e, err := dsse.Sign(payloadType, []byte(payload), list...)
	if err != nil {
		t.Fatal(err)
	}
	data, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A variant is a payload derived from a base by replacing text once.
type variant struct {
	name, old, new string
	code           RefusalCode // empty: valid
}

func (v variant) apply(t testing.TB, base string) string {
	t.Helper()
	if strings.Count(base, v.old) != 1 {
		t.Fatalf("%s: %q occurs %d times in the base payload, want once", v.name, v.old, strings.Count(base, v.old))
	}
	return strings.Replace(base, v.old, v.new, 1)
}

// envelopeVariants are refused whatever the kind.
func envelopeVariants(t testing.TB, payloadType, base string) []invalidVector {
	good := envelope(t, payloadType, base, "acme")
	sig := good[strings.LastIndex(good, `"sig":"`)+len(`"sig":"`):]
	flipped := "A"
	if sig[0] == 'A' {
		flipped = "B"
	}
	return []invalidVector{
		{"empty", "", RefusedEnvelope},
		{"payload without envelope", base, RefusedEnvelope},
		{"bytes after the envelope", good + "x", RefusedEnvelope},
		{"another payload type", envelope(t, "application/vnd.tallystick.change.v1+json", base, "acme"), RefusedEnvelope},
		{"signed by another tenant", envelope(t, payloadType, base, "globex"), RefusedSigner},
		{"signed by two keys", envelope(t, payloadType, base, "acme", "globex"), RefusedSigner},
		{"altered signature", strings.Replace(good, sig, flipped+sig[1:], 1), RefusedSignature},
		{"tenant that does not exist", envelope(t, payloadType, strings.Replace(base, `"acme"`, `"initech"`, 1), "acme"), RefusedSigner},
		{"another cluster", envelope(t, payloadType, strings.Replace(base, vectorCluster, "c2.example", 1), "acme"), RefusedCluster},
		{"another protocol version", envelope(t, payloadType, strings.Replace(base, `"1.0"`, `"1.1"`, 1), "acme"), RefusedVersion},
		{"another protocol version with new members", envelope(t, payloadType, strings.Replace(base, `"1.0"`, `"2.0","x":[{"y":true}]`, 1), "acme"), RefusedVersion},
		{"no protocol version to speak of", envelope(t, payloadType, strings.Replace(base, `"1.0"`, `"","x":1`, 1), "acme"), RefusedVersion},
		{"another protocol version in no strict JSON", envelope(t, payloadType, strings.Replace(base, `"1.0"`, `"2.0","x":[null]`, 1), "acme"), RefusedSyntax},
		{"another protocol version in bad UTF-8", envelope(t, payloadType, strings.Replace(base, `"1.0"`, "\"2.0\",\"x\":\"\xff\"", 1), "acme"), RefusedSyntax},
		{"another protocol version and this one", envelope(t, payloadType, strings.Replace(base, `"1.0"`, `"2.0","protocol_version":"1.0"`, 1), "acme"), RefusedSyntax},
		{"another protocol version in another case", envelope(t, payloadType, strings.Replace(base, `"1.0"`, `"1.0","Protocol_Version":"2.0"`, 1), "acme"), RefusedSyntax},
		{"protocol version in another case", envelope(t, payloadType, strings.Replace(base, `"protocol_version":"1.0"`, `"Protocol_version":"2.0"`, 1), "acme"), RefusedSyntax},
		{"unknown member", envelope(t, payloadType, strings.Replace(base, `"1.0"`, `"1.0","x":1`, 1), "acme"), RefusedSyntax},
		{"repeated member", envelope(t, payloadType, strings.Replace(base, `"1.0"`, `"1.0","protocol_version":"1.0"`, 1), "acme"), RefusedSyntax},
		{"malformed tenant", envelope(t, payloadType, strings.Replace(base, `"acme"`, `"Acme"`, 1), "acme"), RefusedIdentifier},
		{"malformed cluster", envelope(t, payloadType, strings.Replace(base, vectorCluster, "c1.", 1), "acme"), RefusedIdentifier},
	}
}

// checkVectors builds the file of one kind from base and variants, compares it
// with the committed one and holds the package to every case in that.
func checkVectors[T any, P statement[T]](t *testing.T, kind, base string, variants []variant) {
	t.Helper()
	payloadType := P(nil).payloadType()
	f := vectorFile{
		About: "Golden vectors for the " + kind + " payload, docs/formats/contract.md. Every envelope under \"valid\" verifies with the key of the " +
			"tenant that its payload names; every one under \"invalid\" is refused with the code.",
		Cluster: vectorCluster, Keys: vectorKeys(), Invalid: envelopeVariants(t, payloadType, base),
	}
	for _, v := range append([]variant{{name: "base"}}, variants...) {
		payload := base
		if v.old != "" {
			payload = v.apply(t, base)
		}
		env := envelope(t, payloadType, payload, "acme")
		if v.code != "" {
			f.Invalid = append(f.Invalid, invalidVector{v.name, env, v.code})
			continue
		}
		valid := validVector{Name: v.name, Payload: payload, Envelope: env, Hash: digest.Of([]byte(payload)).String()}
		if s, err := ParseSubmission([]byte(payload)); err == nil {
			valid.ExecutionID = s.ExecutionID().String()
		}
		f.Valid = append(f.Valid, valid)
	}
	golden(t, kind, &f)

	a := f.authority(t)
	for _, v := range f.Valid {
		s, err := open[T, P]([]byte(v.Envelope), a)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if string(s.Payload) != v.Payload || s.Hash.String() != v.Hash || hex.EncodeToString(s.Key) != f.Keys["acme"].Public {
			t.Errorf("%s: opened as %q, hash %s, key %x", v.Name, s.Payload, s.Hash, s.Key)
		}
		canonical, err := marshal[T](P(s.Value))
		if err != nil || v.Name == "base" && string(canonical) != base {
			t.Errorf("%s: re-encoded as %s, %v", v.Name, canonical, err)
		}
	}
	for _, v := range f.Invalid {
		s, err := open[T, P]([]byte(v.Envelope), a)
		var refusal *RefusalError
		if s != nil || !errors.Is(err, v.Code) || !errors.As(err, &refusal) || refusal.Code != v.Code {
			t.Errorf("%s: got %v, want code %q", v.Name, err, v.Code)
		}
	}
}

// golden compares f with the committed file and then reads the latter into f.
func golden(t *testing.T, name string, f any) {
	t.Helper()
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(f); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(vectorDir, name+".json")
	if *update {
		if err := os.MkdirAll(vectorDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want.Bytes()) {
		t.Errorf("%s differs from what the code makes; if the format was meant to change, run with -update", path)
	}
	if err := json.Unmarshal(data, f); err != nil {
		t.Fatal(err)
	}
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

const contractPayload = `{"agreement":2,"argv":["inventory","--json"],"capabilities":["args","stdio"],"cluster":"c1.example",` +
	`"environment":[["TZ","UTC"],["A","é"]],"expires_epoch":40,` +
	`"limits":{"diagnostics_bytes":65536,"input_bytes":4194304,"memory_pages":1024,"output_bytes":1048576},` +
	`"max_assigned":5,"min_trust_level":1,"module":"` + zeros + `","name":"inventory","node_labels":{"arch":"amd64"},"nodes":3,` +
	`"protocol_version":"1.0","seed":"` + zeros + `","step":1,"tenant":"acme","version":"1.2.0",` +
	`"versions":{"cost_table":0,"host_interface":1,"rewriter":0}}`

func TestVectorsContract(t *testing.T) {
	long := strings.Repeat("a", 16_000)
	labels := make([]string, MaxLabels+1)
	for i := range labels {
		labels[i] = `"k` + string(rune('a'+i)) + `":"v"`
	}
	checkVectors[Contract](t, "contract", contractPayload, []variant{
		{"no optional member but one", `"argv":["inventory","--json"],`, ``, ""},
		{"white space between tokens", `{"agreement":2,`, "\t{ \"agreement\" :\r\n2 ,", ""},
		{"all nodes at once, step 0", `"max_assigned":5,`, `"max_assigned":3,`, ""},
		{"argument bytes at the bound", `"--json"`, `"` + strings.Repeat("x", MaxArgumentBytes-len("inventoryTZUTCAé")) + `"`, ""},

		{"agreement is half", `"nodes":3`, `"nodes":4`, RefusedScheduling},
		{"agreement 0", `"agreement":2`, `"agreement":0`, RefusedScheduling},
		{"agreement above nodes", `"agreement":2`, `"agreement":4`, RefusedScheduling},
		{"nodes above max_assigned", `"max_assigned":5`, `"max_assigned":2`, RefusedScheduling},
		{"max_assigned above 64", `"max_assigned":5`, `"max_assigned":65`, RefusedScheduling},
		{"step 0 with nodes to add", `"step":1`, `"step":0`, RefusedScheduling},

		{"capability unknown", `["args","stdio"]`, `["args","filesystem","stdio"]`, RefusedCapabilities},
		{"capabilities unordered", `["args","stdio"]`, `["stdio","args"]`, RefusedCapabilities},
		{"capability repeated", `["args","stdio"]`, `["stdio","stdio"]`, RefusedCapabilities},
		{"no stdio", `["args","stdio"]`, `["args"]`, RefusedCapabilities},
		{"no capability", `["args","stdio"]`, `[]`, RefusedCapabilities},

		{"argv empty", `["inventory","--json"]`, `[]`, RefusedSyntax},
		{"argv with NUL", `"--json"`, `"a\u0000"`, RefusedArguments},
		{"argv of 65", `"--json"`, `"a"` + strings.Repeat(`,""`, 63), RefusedArguments},
		{"argument bytes above the bound", `"--json"`, `"` + strings.Repeat("x", MaxArgumentBytes-len("inventoryTZUTCAé")+1) + `"`, RefusedArguments},
		{"environment of 65", `["TZ","UTC"],`, strings.Repeat(`["TZ","UTC"],`, 64), RefusedArguments},
		{"environment too long", `"UTC"`, `"` + long + `1234"],["B","` + long + `"`, RefusedArguments},
		{"variable name with a digit first", `"TZ"`, `"1Z"`, RefusedArguments},
		{"variable name with a dash", `"TZ"`, `"T-Z"`, RefusedArguments},
		{"variable name empty", `"TZ"`, `""`, RefusedArguments},
		{"variable twice", `["A","é"]`, `["TZ","é"]`, RefusedArguments},
		{"variable with NUL", `"UTC"`, `"U\u0000"`, RefusedArguments},
		{"variable of three", `["TZ","UTC"]`, `["TZ","UTC","x"]`, RefusedSyntax},

		{"limit 0", `"memory_pages":1024`, `"memory_pages":0`, RefusedLimits},
		{"more pages than there are", `"memory_pages":1024`, `"memory_pages":65537`, RefusedLimits},
		{"limit missing", `"memory_pages":1024,`, ``, RefusedSyntax},
		{"limit above 2^53-1", `"input_bytes":4194304`, `"input_bytes":9007199254740992`, RefusedSyntax},
		{"gas without rewriter", `"input_bytes":4194304`, `"gas":1,"input_bytes":4194304`, RefusedMetering},
		{"frames without rewriter", `"input_bytes":4194304`, `"frames":1,"input_bytes":4194304`, RefusedMetering},
		{"cost table without rewriter", `"cost_table":0`, `"cost_table":1`, RefusedMetering},
		{"rewriter without gas and frames", `"rewriter":0`, `"rewriter":1`, RefusedMetering},
		{"host interface 0", `"host_interface":1`, `"host_interface":0`, RefusedMetering},

		{"trust level above 1000", `"min_trust_level":1`, `"min_trust_level":1001`, RefusedValue},
		{"trust level 0 written", `"min_trust_level":1`, `"min_trust_level":0`, RefusedSyntax},
		{"version with a space", `"version":"1.2.0"`, `"version":"1 2"`, RefusedValue},
		{"version empty", `"version":"1.2.0"`, `"version":""`, RefusedValue},
		{"version too long", `"version":"1.2.0"`, `"version":"` + strings.Repeat("1", 64) + `"`, RefusedValue},
		{"labels empty", `{"arch":"amd64"}`, `{}`, RefusedSyntax},
		{"label value empty", `"amd64"`, `""`, RefusedValue},
		{"label value not ASCII", `"amd64"`, `"é"`, RefusedValue},
		{"17 labels", `"arch":"amd64"`, strings.Join(labels, ","), RefusedValue},
		{"expires at epoch 0", `"expires_epoch":40`, `"expires_epoch":0`, RefusedSyntax},
		{"name malformed", `"name":"inventory"`, `"name":"in/ventory"`, RefusedIdentifier},
		{"name too long", `"name":"inventory"`, `"name":"` + strings.Repeat("a", 64) + `"`, RefusedIdentifier},
		{"module in upper case", `"module":"` + zeros, `"module":"` + strings.Repeat("AB", 32), RefusedSyntax},
		{"module too short", `"module":"00`, `"module":"`, RefusedSyntax},
		{"member in another case", `"agreement"`, `"Agreement"`, RefusedSyntax},
		{"member null", `"agreement":2`, `"agreement":null`, RefusedSyntax},
		{"number as text", `"agreement":2`, `"agreement":"2"`, RefusedSyntax},
	})
}

const meteredPayload = `{"agreement":1,"capabilities":["stdio"],"cluster":"c1.example",` +
	`"limits":{"diagnostics_bytes":1,"frames":1000,"gas":1000000000,"input_bytes":1,"memory_pages":1,"output_bytes":1},` +
	`"max_assigned":1,"module":"` + zeros + `","name":"m","nodes":1,` +
	`"protocol_version":"1.0","seed":"` + zeros + `","step":0,"tenant":"acme","version":"1",` +
	`"versions":{"cost_table":3,"host_interface":1,"rewriter":2}}`

func TestVectorsMeteredContract(t *testing.T) {
	checkVectors[Contract](t, "contract-metered", meteredPayload, []variant{
		{"no gas", `"gas":1000000000,`, ``, RefusedMetering},
		{"no frames", `"frames":1000,`, ``, RefusedMetering},
		{"gas 0", `"gas":1000000000`, `"gas":0`, RefusedSyntax},
	})
}

const submissionPayload = `{"cluster":"c1.example","contract":"` + zeros + `","input":"` + zeros + `","last_epoch":9,` +
	`"nonce":"000102030405060708090a0b0c0d0e0f",` +
	`"parents":["1000000000000000000000000000000000000000000000000000000000000000","0000000000000000000000000000000000000000000000000000000000000002"],` +
	`"protocol_version":"1.0","tenant":"acme"}`

func TestVectorsSubmission(t *testing.T) {
	eight := `"` + strings.Repeat("0", 63)
	var more []string
	for _, d := range "3456789" {
		more = append(more, eight+string(d)+`"`)
	}
	const first = `"1000000000000000000000000000000000000000000000000000000000000000"`
	checkVectors[Submission](t, "submission", submissionPayload, []variant{
		{"no parents", submissionPayload[strings.Index(submissionPayload, `"parents"`):strings.Index(submissionPayload, `"protocol`)], ``, ""},
		{"parents in the other order", `"parents":[` + first + `,"0000000000000000000000000000000000000000000000000000000000000002"]`,
			`"parents":["0000000000000000000000000000000000000000000000000000000000000002",` + first + `]`, ""},
		{"eight parents", first, strings.Join(append([]string{first}, more[:6]...), ","), ""},
		{"longest nonce", `000102030405060708090a0b0c0d0e0f`, strings.Repeat("ff", 32), ""},
		{"another last epoch", `"last_epoch":9`, `"last_epoch":10`, ""},
		{"nine parents", first, strings.Join(append([]string{first}, more...), ","), RefusedParents},
		{"parent twice", first, first + "," + first, RefusedParents},
		{"parents empty", submissionPayload[strings.Index(submissionPayload, `[`) : strings.Index(submissionPayload, `]`)+1], `[]`, RefusedSyntax},
		{"last epoch 0", `"last_epoch":9`, `"last_epoch":0`, RefusedValue},
		{"nonce too short", `000102030405060708090a0b0c0d0e0f`, strings.Repeat("ff", 15), RefusedValue},
		{"nonce too long", `000102030405060708090a0b0c0d0e0f`, strings.Repeat("ff", 33), RefusedValue},
		{"nonce in upper case", `000102030405060708090a0b0c0d0e0f`, strings.Repeat("FF", 16), RefusedSyntax},
		{"nonce of odd length", `000102030405060708090a0b0c0d0e0f`, strings.Repeat("f", 33), RefusedSyntax},
	})
}

func TestVectorsRetirement(t *testing.T) {
	checkVectors[Retirement](t, "retirement",
		`{"cluster":"c1.example","contract":"`+zeros+`","protocol_version":"1.0","tenant":"acme"}`,
		[]variant{{"no contract", `"contract":"` + zeros + `",`, ``, RefusedSyntax}})
}

func TestVectorsCancellation(t *testing.T) {
	checkVectors[Cancellation](t, "cancellation",
		`{"cluster":"c1.example","execution":"`+zeros+`","protocol_version":"1.0","tenant":"acme"}`,
		[]variant{{"names a contract", `"execution"`, `"contract"`, RefusedSyntax}})
}
