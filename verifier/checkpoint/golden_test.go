package checkpoint

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"filippo.io/mldsa"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The golden files are for other implementations: whoever derives the keys as
// they say can make every byte of them.
const (
	checkpointVectors = "../../testdata/checkpoint/vectors.json"
	policyVectors     = "../../testdata/policy/vectors.json"
)

const keyNote = `Private key seeds are SHA-256("tallystick test key " || seed_name). ` +
	`The entries of every log are the ASCII strings "entry 0", "entry 1", ... ` +
	`ML-DSA-44 signatures are of the deterministic variant (FIPS 204, rnd = 32 zero bytes).`

type goldenKey struct {
	SeedName string `json:"seed_name"`
	SeedHex  string `json:"seed_hex"`
	Type     string `json:"type"`
	Vkey     string `json:"vkey"`
}

// goldenRefusedVkey is right in form, key ID included, and no key to be used.
type goldenRefusedVkey struct {
	Name string `json:"name"`
	Vkey string `json:"vkey"`
}

type goldenCheckpoints struct {
	Comment      string              `json:"comment"`
	Keys         []goldenKey         `json:"keys"`
	RefusedVkeys []goldenRefusedVkey `json:"refused_vkeys"`
	Bodies       []goldenBody        `json:"bodies"`
	Signed       []goldenSigned      `json:"signed"`
	Cosignatures []goldenCosignature `json:"cosignatures"`
	Proofs       []goldenProof       `json:"proofs"`
}

// goldenBody is a note text, valid or not as a checkpoint without extension
// lines.
type goldenBody struct {
	Name  string `json:"name"`
	Body  string `json:"body"`
	Error string `json:"error,omitempty"` // malformed, extension
}

type goldenSigned struct {
	Name   string `json:"name"`
	Origin string `json:"origin"`
	Vkey   string `json:"vkey"`
	Note   string `json:"note"`
	Error  string `json:"error,omitempty"` // origin, log signature, malformed, too large
}

type goldenCosignature struct {
	Vkey       string `json:"vkey"`
	Timestamp  int64  `json:"timestamp"`
	Body       string `json:"body"`
	MessageHex string `json:"signed_message_hex"`
	Line       string `json:"line"`
}

type goldenProof struct {
	Name    string `json:"name"`
	Proof   string `json:"proof"`
	LeafHex string `json:"leaf_hash_hex"`
	Policy  string `json:"policy"`
	Error   string `json:"error,omitempty"` // malformed, proof, quorum, log signature
}

type goldenPolicies struct {
	Comment string             `json:"comment"`
	Parse   []goldenPolicy     `json:"parse"`
	Verify  []goldenPolicyNote `json:"verify"`
}

type goldenPolicy struct {
	Name   string `json:"name"`
	Policy string `json:"policy,omitempty"`
	Base64 string `json:"policy_base64,omitempty"` // instead, if it is not UTF-8
	Line   int    `json:"error_line,omitempty"`    // 0: the file as a whole
	Reason string `json:"reason,omitempty"`        // why it is invalid, in this implementation's words
}

type goldenPolicyNote struct {
	Name      string   `json:"name"`
	Policy    string   `json:"policy"`
	Note      string   `json:"note"`
	Now       int64    `json:"now,omitempty"`             // if not 0, cosignatures have to be fresh
	MaxAge    int64    `json:"max_age_seconds,omitempty"` // how fresh
	Witnesses []string `json:"witnesses"`                 // counted, if the result is valid
	Error     string   `json:"error,omitempty"`
}

// errorNames are the names of errors in golden files.
var errorNames = []struct {
	name string
	err  error
}{
	{"malformed", ErrMalformed}, {"too large", ErrTooLarge}, {"extension", ErrExtension}, {"origin", ErrOrigin},
	{"log signature", ErrLogSignature}, {"cosignature", ErrCosignature}, {"stale", ErrStale}, {"quorum", ErrQuorum},
	{"proof", ErrProof},
}

func errorName(t testing.TB, err error) string {
	if err == nil {
		return ""
	}
	for _, e := range errorNames {
		if errors.Is(err, e.err) {
			return e.name
		}
	}
	t.Fatalf("error outside the set: %v", err)
	return ""
}

// deterministic makes a cosignature that can be made again.
func deterministic(t testing.TB, c *Cosigner, seedName string, body []byte, timestamp int64) Signature {
	t.Helper()
	if c.Key().Alg() != AlgMLDSA44Cosignature {
		sig, err := c.Cosign(body, timestamp)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed(seedName))
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.Key().cosignedMessage(body, timestamp)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.SignDeterministic(msg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Signature{Name: c.Key().Name(), KeyID: c.Key().KeyHash(), Bytes: append(binary.BigEndian.AppendUint64(nil, uint64(timestamp)), sig...)}
}

// golden holds what the vectors are made of.
type golden struct {
	testing.TB
	log       *ed25519Signer
	cosigners []*Cosigner // w.example/1 to 3, the second with an ML-DSA-44 key
	policy    string      // the log and two of the three
}

func newGolden(t testing.TB) *golden {
	g := &golden{TB: t, log: logSigner(t, testOrigin)}
	_, g.cosigners = policyOfThree(t, 2)
	var witnesses []Witness
	for i, c := range g.cosigners {
		witnesses = append(witnesses, Witness{Name: fmt.Sprintf("w%d", i+1), Vkey: c.Key().Vkey()})
	}
	text, err := FormatPolicy([]LogKey{{Vkey: g.log.Vkey()}}, witnesses, 2)
	if err != nil {
		t.Fatal(err)
	}
	g.policy = string(text)
	return g
}

// note is the checkpoint of a size, signed, with cosignatures of the numbered
// witnesses at the times given.
func (g *golden) note(size int64, times map[int]int64) string {
	g.Helper()
	c := testCheckpoint(g, testOrigin, size)
	out := cosigned(g, c, g.log, 0)
	for number := 1; number <= len(g.cosigners); number++ {
		if at, ok := times[number]; ok {
			name := fmt.Sprintf("w.example/%d", number)
			out = append(out, deterministic(g, g.cosigners[number-1], name, c.Body(), at).Line()...)
		}
	}
	return string(out)
}

func (g *golden) keys() []goldenKey {
	keys := []goldenKey{{SeedName: testOrigin, Type: "Ed25519 log key (0x01)", Vkey: g.log.Vkey()}}
	for i, c := range g.cosigners {
		kind := "Ed25519 cosigner key (0x04)"
		if c.Key().Alg() == AlgMLDSA44Cosignature {
			kind = "ML-DSA-44 cosigner key (0x06)"
		}
		keys = append(keys, goldenKey{SeedName: fmt.Sprintf("w.example/%d", i+1), Type: kind, Vkey: c.Key().Vkey()})
	}
	for i := range keys {
		keys[i].SeedHex = hex.EncodeToString(seed(keys[i].SeedName))
	}
	return keys
}

func (g *golden) checkpoints() goldenCheckpoints {
	out := goldenCheckpoints{Comment: keyNote, Keys: g.keys()}
	for what, point := range weakPoints {
		for _, alg := range []byte{AlgEd25519, AlgEd25519Cosignature} {
			name := fmt.Sprintf("%s, type %#02x", what, alg)
			out.RefusedVkeys = append(out.RefusedVkeys, goldenRefusedVkey{name, uncheckedVkey("example.com/weak", alg, point)})
		}
	}
	slices.SortFunc(out.RefusedVkeys, func(a, b goldenRefusedVkey) int { return strings.Compare(a.Name, b.Name) })
	out.Bodies = []goldenBody{
		{"size 5", string(testCheckpoint(g, testOrigin, 5).Body()), ""},
		{"empty tree", string(testCheckpoint(g, testOrigin, 0).Body()), ""},
		{"example of c2sp.org/tlog-checkpoint", "example.com/behind-the-sofa\n20852163\n" + rootLine, ""},
		{"extension line", "example.com/log\n1\n" + rootLine + "extension\n", "extension"},
		{"leading zero", "example.com/log\n01\n" + rootLine, "malformed"},
		{"size 2^63", "example.com/log\n9223372036854775808\n" + rootLine, "malformed"},
		{"root of 31 bytes", "example.com/log\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxqw==\n", "malformed"},
		{"spare bits in the base64", "example.com/log\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n", "malformed"},
		{"not terminated", "example.com/log\n1\n" + rootLine[:44], "malformed"},
		{"size 0 with another root", "example.com/log\n0\n" + rootLine, "malformed"},
		{"empty origin", "\n1\n" + rootLine, "malformed"},
	}
	signed := g.note(5, nil)
	others := func(n int) string { return strings.Repeat("— example.com/other AAAAAAA=\n", n) }
	_, other, _ := bytes.Cut([]byte(g.note(6, nil)), []byte("\n\n"))
	out.Signed = []goldenSigned{
		{"signed by the log", testOrigin, g.log.Vkey(), signed, ""},
		{"with cosignatures of others", testOrigin, g.log.Vkey(), g.note(5, map[int]int64{1: 1000, 2: 1000}), ""},
		{"another origin expected", "example.com/other", g.log.Vkey(), signed, "origin"},
		{"another key expected", testOrigin, renamed(g, testOrigin, "second key").Vkey(), signed, "log signature"},
		{"signature of another checkpoint", testOrigin, g.log.Vkey(), string(testCheckpoint(g, testOrigin, 5).Body()) + "\n" + string(other), "log signature"},
		{"bad signature after a good one", testOrigin, g.log.Vkey(), signed + string(other), "log signature"},
		{"100 signatures", testOrigin, g.log.Vkey(), signed + others(99), ""},
		{"101 signatures", testOrigin, g.log.Vkey(), signed + others(100), "too large"},
		{"unsigned", testOrigin, g.log.Vkey(), string(testCheckpoint(g, testOrigin, 5).Body()) + "\n", "malformed"},
	}
	for _, size := range []int64{0, 5} {
		for i, c := range g.cosigners[:2] {
			body := testCheckpoint(g, testOrigin, size).Body()
			msg, err := c.Key().cosignedMessage(body, 1679315147)
			if err != nil {
				g.Fatal(err)
			}
			sig := deterministic(g, c, fmt.Sprintf("w.example/%d", i+1), body, 1679315147)
			out.Cosignatures = append(out.Cosignatures, goldenCosignature{c.Key().Vkey(), 1679315147, string(body), hex.EncodeToString(msg), string(sig.Line())})
		}
	}
	out.Proofs = g.proofs()
	return out
}

func (g *golden) proofs() []goldenProof {
	hashes, err := tlog.ProveRecord(5, 3, newTestTree(g, 5))
	if err != nil {
		g.Fatal(err)
	}
	good := Proof{Index: 3, Hashes: hashes, Checkpoint: []byte(g.note(5, map[int]int64{1: 1000, 2: 1000}))}
	extra, otherIndex, cut, alone, unsigned := good, good, good, good, good
	extra.Extra = []byte("extra data")
	otherIndex.Index = 2
	cut.Hashes = hashes[1:]
	alone.Checkpoint = []byte(g.note(5, map[int]int64{1: 1000}))
	unsigned.Checkpoint = bytes.Replace(good.Checkpoint, []byte("— "+testOrigin), []byte("— example.com/other"), 1)
	leaf3, leaf4 := leafHash(3), leafHash(4)
	text := string(good.Format())
	return []goldenProof{
		{"valid", text, hex.EncodeToString(leaf3[:]), g.policy, ""},
		{"valid with extra data", string(extra.Format()), hex.EncodeToString(leaf3[:]), g.policy, ""},
		{"another leaf", text, hex.EncodeToString(leaf4[:]), g.policy, "proof"},
		{"another index", string(otherIndex.Format()), hex.EncodeToString(leaf3[:]), g.policy, "proof"},
		{"a hash less", string(cut.Format()), hex.EncodeToString(leaf3[:]), g.policy, "proof"},
		{"one cosignature of two", string(alone.Format()), hex.EncodeToString(leaf3[:]), g.policy, "quorum"},
		{"not signed by the log", string(unsigned.Format()), hex.EncodeToString(leaf3[:]), g.policy, "log signature"},
		{"carriage return", string(bytes.Replace(good.Format(), []byte("\n"), []byte("\r\n"), 1)), hex.EncodeToString(leaf3[:]), g.policy, "malformed"},
		{"index with a leading zero", string(bytes.Replace(good.Format(), []byte("index 3"), []byte("index 03"), 1)), hex.EncodeToString(leaf3[:]), g.policy, "malformed"},
		{"index beyond the tree", string(bytes.Replace(good.Format(), []byte("index 3"), []byte("index 5"), 1)), hex.EncodeToString(leaf3[:]), g.policy, "malformed"},
	}
}

func (g *golden) policies() goldenPolicies {
	out := goldenPolicies{Comment: keyNote}
	for _, c := range policyCases(g) {
		p := goldenPolicy{Name: c.name, Policy: c.text, Line: c.line, Reason: c.reason}
		if !utf8.ValidString(c.text) {
			p.Policy, p.Base64 = "", base64.StdEncoding.EncodeToString([]byte(c.text))
		}
		out.Parse = append(out.Parse, p)
	}
	both := map[int]int64{1: 1000, 2: 1000}
	_, w3OfOther, _ := bytes.Cut([]byte(g.note(6, map[int]int64{3: 1000})), []byte("\n— w.example"))
	badW3 := "— w.example" + string(w3OfOther)
	w1Again := string(deterministic(g, g.cosigners[0], "w.example/1", testCheckpoint(g, testOrigin, 5).Body(), 2000).Line())
	other := cosigned(g, testCheckpoint(g, "example.com/other", 5), g.log, 1000, g.cosigners[0], g.cosigners[2])
	noLog := bytes.Replace([]byte(g.note(5, both)), []byte("— "+testOrigin), []byte("— example.com/other"), 1)
	none := "log " + g.log.Vkey() + "\nquorum none\n"
	out.Verify = []goldenPolicyNote{
		{"two of three", g.policy, g.note(5, both), 0, 0, []string{"w1", "w2"}, ""},
		{"three of three", g.policy, g.note(5, map[int]int64{1: 1000, 2: 1000, 3: 1000}), 0, 0, []string{"w1", "w2", "w3"}, ""},
		{"one of three", g.policy, g.note(5, map[int]int64{1: 1000}), 0, 0, nil, "quorum"},
		{"one of three, twice", g.policy, g.note(5, map[int]int64{1: 1000}) + w1Again, 0, 0, nil, "quorum"},
		{"none of three", g.policy, g.note(5, nil), 0, 0, nil, "quorum"},
		{"no quorum asked", none, g.note(5, nil), 0, 0, []string{}, ""},
		{"no quorum asked, unknown cosignatures", none, g.note(5, both), 0, 0, []string{}, ""},
		{"a bad cosignature beside two good ones", g.policy, g.note(5, both) + badW3, 0, 0, nil, "cosignature"},
		{"another origin", g.policy, string(other), 0, 0, nil, "origin"},
		{"not signed by the log", g.policy, string(noLog), 0, 0, nil, "log signature"},
		{"no log in the policy", "quorum none\n", g.note(5, both), 0, 0, nil, "origin"},
		{"fresh at the limit", g.policy, g.note(5, both), 1600, 600, []string{"w1", "w2"}, ""},
		{"one second too old", g.policy, g.note(5, both), 1601, 600, nil, "stale"},
		{"one of two too old", g.policy, g.note(5, map[int]int64{1: 1000, 2: 2000}), 2000, 600, nil, "stale"},
		{"60 seconds ahead", g.policy, g.note(5, both), 940, 600, []string{"w1", "w2"}, ""},
		{"61 seconds ahead", g.policy, g.note(5, both), 939, 600, nil, "stale"},
		{"renewed cosignature counts by its later time", g.policy, g.note(5, map[int]int64{1: 1000, 3: 2000}) + w1Again, 2000, 600, []string{"w1", "w3"}, ""},
		{"too few however old", g.policy, g.note(5, map[int]int64{1: 1000}), 9000, 600, nil, "quorum"},
	}
	return out
}

// checkGolden compares a golden file with what it should be, byte for byte.
func checkGolden(t *testing.T, path string, vectors any) {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(vectors); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%s is not what this code makes; if that is meant, run: go test -update", path)
	}
}

func readGolden(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		t.Fatal(err)
	}
}

// TestGoldenCheckpoints judges the file as another implementation would.
func TestGoldenCheckpoints(t *testing.T) {
	checkGolden(t, checkpointVectors, newGolden(t).checkpoints())
	var g goldenCheckpoints
	readGolden(t, checkpointVectors, &g)
	for _, v := range g.RefusedVkeys {
		if _, err := parseVkey(v.Vkey, AlgEd25519, AlgEd25519Cosignature); !errors.Is(err, ErrKey) {
			t.Errorf("vkey %q: %v", v.Name, err)
		}
	}
	for _, v := range g.Bodies {
		if _, err := Parse([]byte(v.Body)); errorName(t, err) != v.Error {
			t.Errorf("body %q: %v", v.Name, err)
		}
	}
	for _, v := range g.Signed {
		key, err := ParseVkey(v.Vkey)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open([]byte(v.Note), v.Origin, []note.Verifier{key}); errorName(t, err) != v.Error {
			t.Errorf("note %q: %v", v.Name, err)
		}
	}
	for _, v := range g.Cosignatures {
		key, err := ParseCosignerVkey(v.Vkey)
		if err != nil {
			t.Fatal(err)
		}
		n, err := ParseNote([]byte(v.Body + "\n" + v.Line))
		if err != nil {
			t.Fatal(err)
		}
		good, err := n.Verified([]note.Verifier{key})
		if err != nil || len(good) != 1 {
			t.Errorf("cosignature by %.40q: %v", v.Vkey, err)
		}
	}
	for _, v := range g.Proofs {
		policy, err := ParsePolicy([]byte(v.Policy))
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := hex.DecodeString(v.LeafHex)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParseProof([]byte(v.Proof))
		if err == nil {
			_, err = policy.VerifyProof(p, tlog.Hash(leaf))
		}
		if errorName(t, err) != v.Error {
			t.Errorf("proof %q: %v", v.Name, err)
		}
	}
}

// TestGoldenPolicies judges the file as another implementation would.
func TestGoldenPolicies(t *testing.T) {
	checkGolden(t, policyVectors, newGolden(t).policies())
	var g goldenPolicies
	readGolden(t, policyVectors, &g)
	for _, v := range g.Parse {
		text := []byte(v.Policy)
		if v.Base64 != "" {
			var err error
			if text, err = base64.StdEncoding.DecodeString(v.Base64); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ParsePolicy(text); (err == nil) != (v.Reason == "") {
			t.Errorf("policy %q: %v", v.Name, err)
		}
	}
	for _, v := range g.Verify {
		policy, err := ParsePolicy([]byte(v.Policy))
		if err != nil {
			t.Fatal(err)
		}
		var got *Verified
		if v.Now == 0 {
			got, err = policy.Verify([]byte(v.Note))
		} else {
			got, err = policy.VerifyFresh([]byte(v.Note), time.Unix(v.Now, 0), time.Duration(v.MaxAge)*time.Second)
		}
		if errorName(t, err) != v.Error {
			t.Errorf("note %q: %v", v.Name, err)
		}
		if err != nil {
			if err.Error() == "" {
				t.Errorf("note %q: empty error text", v.Name)
			}
			continue
		}
		var names []string
		for _, c := range got.Cosignatures {
			names = append(names, c.Witness)
		}
		if !slices.Equal(names, v.Witnesses) {
			t.Errorf("note %q: counted %v", v.Name, names)
		}
	}
}
