package membership

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
)

const testCluster = "demo"

// seedOf and signerOf make the same key for the same name on every run.
func seedOf(name string) []byte {
	seed := sha256.Sum256([]byte("tallystick membership test key " + name))
	return seed[:]
}

func privateOf(name string) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(seedOf(name)) }

func signerOf(t testing.TB, name string) dsse.Signer {
	t.Helper()
	s, err := dsse.NewSigner(privateOf(name))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keyOf(name string, uses ...Use) Key {
	return Key{Algorithm: AlgorithmEd25519, PublicKey: publicOf(name), Uses: uses}
}

func publicOf(name string) []byte { return privateOf(name).Public().(ed25519.PublicKey) }

func adminOf(id string) Principal {
	return Principal{ID: id, Kind: KindAdmin, Keys: []Key{keyOf(id, UseChange)}}
}

func nodeOf(id string) Principal {
	return Principal{ID: id, Kind: KindNode, Keys: []Key{keyOf(id, UseAttestation, UseToken)}}
}

func vkeyOf(t testing.TB, name, key string) string {
	t.Helper()
	vkey, err := note.NewEd25519VerifierKey(name, publicOf(key))
	if err != nil {
		t.Fatal(err)
	}
	return vkey
}

func logsOf(t testing.TB, cluster string) Logs {
	log := func(name LogName) Log {
		origin := Origin(cluster, name)
		return Log{
			Origin:      origin,
			Keys:        []string{vkeyOf(t, origin, "log "+origin)},
			ReceiptKeys: []string{vkeyOf(t, origin+"/receipt", "receipt "+origin)},
		}
	}
	return Logs{Audit: log(LogAudit), Membership: log(LogMembership)}
}

// foundingOf has three admins, two of whom must sign, and one node.
func foundingOf(t testing.TB, cluster string) Founding {
	return Founding{
		AdminThreshold: 2,
		Limits:         contract.DefaultClusterLimits(),
		Logs:           logsOf(t, cluster),
		NodeQuorum:     1,
		Principals:     []Principal{adminOf("alice"), adminOf("bob"), adminOf("carol"), nodeOf("node-0")},
	}
}

// gasLimit is a change that touches no principal, and another one for each gas.
func gasLimit(gas uint64) Effect {
	limits := contract.DefaultClusterLimits()
	limits.Gas = gas
	return SetClusterLimits{limits}
}

// sign returns the envelope over payload by the keys of these names.
func sign(t testing.TB, payload []byte, names ...string) []byte {
	t.Helper()
	signers := make([]dsse.Signer, len(names))
	for i, name := range names {
		signers[i] = signerOf(t, name)
	}
	e, err := dsse.Sign(PayloadType, payload, signers...)
	if err != nil {
		t.Fatal(err)
	}
	data, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func genesisEnvelope(t testing.TB, cluster string) []byte {
	t.Helper()
	f := foundingOf(t, cluster)
	payload, err := ProposeGenesis(cluster, f)
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, payload, "alice", "bob", "carol", "node-0")
}

func mustGenesis(t testing.TB) *State {
	t.Helper()
	s, _, err := Genesis(genesisEnvelope(t, testCluster))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// propose returns the envelope of a change to s signed by alice, bob and more.
func proposeSigned(t testing.TB, s *State, effect Effect, more ...string) []byte {
	t.Helper()
	payload, err := s.Propose(effect)
	if err != nil {
		t.Fatalf("proposing %s: %v", effect.Kind(), err)
	}
	return sign(t, payload, append([]string{"alice", "bob"}, more...)...)
}

// mustApply applies a change signed by alice, bob and more.
func mustApply(t testing.TB, s *State, effect Effect, more ...string) *State {
	t.Helper()
	next, _, err := s.Apply(proposeSigned(t, s, effect, more...))
	if err != nil {
		t.Fatalf("applying %s: %v", effect.Kind(), err)
	}
	return next
}

func wantRefusal(t testing.TB, err error, want RefusalCode) {
	t.Helper()
	var r *RefusalError
	if !errors.As(err, &r) {
		t.Errorf("got %v, want a refusal with code %q", err, want)
		return
	}
	if r.Code != want {
		t.Errorf("got code %q (%v), want %q", r.Code, err, want)
	}
}

// checkpointOf returns a checkpoint of a log signed by a key, with a
// cosignature that nobody here can check.
func checkpointOf(t testing.TB, origin, key string) string {
	t.Helper()
	skey := skeyOf(t, origin, key)
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	root := sha256.Sum256([]byte(origin))
	text := fmt.Sprintf("%s\n7\n%s\n", origin, b64(root[:]))
	witness, err := note.NewSigner(skeyOf(t, "witness.example", "witness"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: text}, s, witness)
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

func skeyOf(t testing.TB, name, key string) string {
	t.Helper()
	skey, _, err := note.GenerateKey(bytes.NewReader(seedOf(key)), name)
	if err != nil {
		t.Fatal(err)
	}
	return skey
}

// largeState has n nodes beside the admins, made without n signatures.
func largeState(t testing.TB, n int) *State {
	t.Helper()
	f := foundingOf(t, testCluster)
	for i := range n {
		seed := digest.Of([]byte(fmt.Sprint(i)))
		pub := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
		f.Principals = append(f.Principals, Principal{
			ID: fmt.Sprintf("node-%06d", 2*i+1), Kind: KindNode, TrustLevel: 1, Labels: map[string]string{"arch": "amd64"},
			Keys: []Key{{AlgorithmEd25519, pub, []Use{UseAttestation, UseToken}}},
		})
	}
	d := newGenesisDraft(testCluster)
	if err := f.normal().apply(d); err != nil {
		t.Fatal(err)
	}
	s, err := d.seal()
	if err != nil {
		t.Fatal(err)
	}
	return s
}
