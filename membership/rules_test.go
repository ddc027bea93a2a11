package membership

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
)

// altered returns another payload, to be signed anew, so that nothing but the
// alteration can be the reason for a refusal.
func altered(t testing.TB, payload []byte, alter func(c *Change)) []byte {
	t.Helper()
	c, err := ParseChange(payload)
	if err != nil {
		t.Fatal(err)
	}
	alter(&c)
	payload, err = c.payload()
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

func mustPropose(t testing.TB, s *State, effect Effect) []byte {
	t.Helper()
	payload, err := s.Propose(effect)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// editEnvelope changes an envelope behind the back of its signers.
func editEnvelope(t testing.TB, data []byte, edit func(e *dsse.Envelope)) []byte {
	t.Helper()
	e, err := dsse.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	edit(e)
	data, err = e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Whatever is not signed as the rules ask is refused, each for its own reason.
func TestRefusedSignatures(t *testing.T) {
	s := mustGenesis(t)
	node := AddPrincipal{nodeOf("node-1")}
	payload := mustPropose(t, s, node)
	twoKeys := keyOf("alice second", UseChange)
	s2 := mustApply(t, s, RotateKey{ID: "alice", Add: &twoKeys}, "alice second")
	tokenOnly := keyOf("bob token", UseToken)
	s2 = mustApply(t, s2, RotateKey{ID: "bob", Add: &tokenOnly}, "bob token")
	s2 = mustApply(t, s2, RemovePrincipal{"carol"})
	payload2 := mustPropose(t, s2, gasLimit(3))
	adminPayload := mustPropose(t, s, AddPrincipal{adminOf("dave")})

	for _, test := range []struct {
		name     string
		state    *State
		envelope []byte
		want     RefusalCode
	}{
		{"k-1 admins", s, sign(t, payload, "alice", "node-1"), RefusedThreshold},
		{"no admin", s, sign(t, payload, "node-1"), RefusedThreshold},
		{"no proof of possession", s, sign(t, payload, "alice", "bob"), RefusedPossession},
		{"possession by another key", s, sign(t, payload, "alice", "bob", "node-2"), RefusedSigner},
		{"a stranger signs too", s, sign(t, payload, "alice", "bob", "node-1", "mallory"), RefusedSigner},
		{"a node signs for an admin", s, sign(t, payload, "alice", "node-0", "node-1"), RefusedSigner},
		{"the added admin counts as an admin", s, sign(t, adminPayload, "alice", "dave"), RefusedThreshold},
		{"one admin with two keys", s2, sign(t, payload2, "alice", "alice second"), RefusedThreshold},
		{"a key without use change", s2, sign(t, payload2, "alice", "bob token"), RefusedSigner},
		{"a removed admin", s2, sign(t, payload2, "alice", "bob", "carol"), RefusedSigner},
		{"a removed admin instead of a current one", s2, sign(t, payload2, "alice", "carol"), RefusedSigner},
		{"one key under two key ids", s, editEnvelope(t, sign(t, payload, "alice", "node-1"), func(e *dsse.Envelope) {
			e.Signatures = append(e.Signatures, dsse.Signature{KeyID: keyOf("bob").ID(), Sig: e.Signatures[0].Sig})
		}), RefusedSignature},
		{"signature of another payload", s, editEnvelope(t, sign(t, payload, "alice", "bob", "node-1"), func(e *dsse.Envelope) {
			other, err := dsse.Parse(sign(t, payload2, "alice"))
			if err != nil {
				t.Fatal(err)
			}
			e.Signatures[0] = other.Signatures[0]
		}), RefusedSignature},
		{"re-encoded payload", s, editEnvelope(t, sign(t, payload, "alice", "bob", "node-1"), func(e *dsse.Envelope) {
			e.Payload = bytes.Replace(e.Payload, []byte(`{"change"`), []byte(`{ "change"`), 1)
		}), RefusedSignature},
		{"altered payload", s, editEnvelope(t, sign(t, payload2, "alice", "bob"), func(e *dsse.Envelope) {
			e.Payload = altered(t, payload, func(c *Change) { c.Effect = SetAdminThreshold{1} })
		}), RefusedSignature},
		{"another payload type", s, func() []byte {
			e, err := dsse.Sign("application/vnd.tallystick.contract.v1+json", payload, signerOf(t, "alice"))
			if err != nil {
				t.Fatal(err)
			}
			data, err := e.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			return data
		}(), RefusedEnvelope},
	} {
		t.Run(test.name, func(t *testing.T) {
			next, info, err := test.state.Apply(test.envelope)
			wantRefusal(t, err, test.want)
			if next != nil || info != nil {
				t.Error("a refusal came with a state")
			}
		})
	}
	if _, _, err := s2.Apply(sign(t, payload2, "alice", "bob", "alice second")); err != nil {
		t.Errorf("one admin's second key beside enough admins: %v", err)
	}
}

// A payload that does not fit the state is refused however well it is signed.
func TestRefusedPayloads(t *testing.T) {
	s := mustGenesis(t)
	payload := mustPropose(t, s, SetAdminThreshold{3})
	next := mustApply(t, s, gasLimit(2))
	other, _, err := Genesis(genesisEnvelope(t, "other"))
	if err != nil {
		t.Fatal(err)
	}
	alter := func(alter func(c *Change)) []byte { return altered(t, payload, alter) }
	replace := func(old, new string) []byte {
		if !bytes.Contains(payload, []byte(old)) {
			t.Fatalf("payload has no %s", old)
		}
		return bytes.Replace(payload, []byte(old), []byte(new), 1)
	}
	flip := func(d digest.Digest) digest.Digest { d[31] ^= 1; return d }
	for _, test := range []struct {
		name    string
		state   *State
		payload []byte
		want    RefusalCode
	}{
		{"replayed", next, payload, RefusedReplay},
		{"stale epoch", next, alter(func(c *Change) { c.Epoch = 1 }), RefusedReplay},
		{"beyond the next epoch", s, alter(func(c *Change) { c.Epoch = 3 }), RefusedGap},
		{"another previous", s, alter(func(c *Change) { c.Previous = flip(c.Previous) }), RefusedPrevious},
		{"same epoch of another branch", next, alter(func(c *Change) { c.Epoch = 3 }), RefusedPrevious},
		{"another cluster", other, payload, RefusedCluster},
		{"another cluster's genesis", s, alter(func(c *Change) { c.Cluster = "other" }), RefusedCluster},
		{"second genesis", s, alter(func(c *Change) { c.Effect = foundingOf(t, testCluster).normal() }), RefusedGenesis},
		{"membership hash", s, alter(func(c *Change) { c.MembershipHash = flip(c.MembershipHash) }), RefusedHash},
		{"identity hash", s, alter(func(c *Change) { c.ClusterIdentityHash = flip(c.ClusterIdentityHash) }), RefusedHash},
		{"count", s, alter(func(c *Change) { c.MembershipCount++ }), RefusedHash},
		{"hash of another effect", s, alter(func(c *Change) { c.Effect = SetAdminThreshold{1} }), RefusedHash},
		{"another version", s, replace(`"protocol_version":"1.0"`, `"protocol_version":"1.1"`), RefusedVersion},
		{"another version with an unknown field", s, replace(`"protocol_version":"1.0"`, `"a":1,"protocol_version":"2.0"`), RefusedVersion},
		{"another version with an unknown kind", s, bytes.Replace(replace(`"1.0"`, `"2.0"`), []byte(`set_admin_threshold`), []byte(`set_admins`), 1), RefusedVersion},
		{"unknown field", s, replace(`{"change"`, `{"a":1,"change"`), RefusedSyntax},
		{"unknown field in the change", s, replace(`{"kind"`, `{"a":1,"kind"`), RefusedSyntax},
		{"a field of another kind", s, replace(`{"kind"`, `{"id":"bob","kind"`), RefusedSyntax},
		{"missing field", s, replace(`"threshold":3`, `"quorum":3`), RefusedSyntax},
		{"unknown kind", s, replace(`set_admin_threshold`, `set_admins`), RefusedSyntax},
		{"epoch 0", s, alter(func(c *Change) { c.Epoch = 0 }), RefusedValue},
		{"cluster is no identifier", s, alter(func(c *Change) { c.Cluster = "Demo" }), RefusedValue},
		{"no change", s, alter(func(c *Change) { c.Effect = SetAdminThreshold{2} }), RefusedNoChange},
		{"garbage", s, []byte("{"), RefusedSyntax},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := test.state.Apply(sign(t, test.payload, "alice", "bob"))
			wantRefusal(t, err, test.want)
		})
	}
	// Space is part of the payload as signed, and hashed with it.
	spaced := replace(`{"change"`, ` { "change"`)
	got, info, err := s.Apply(sign(t, spaced, "alice", "bob"))
	if err != nil {
		t.Fatal(err)
	}
	if got.PayloadDigest() != digest.Of(spaced) || info.PayloadDigest != digest.Of(spaced) {
		t.Error("the payload's digest is not of the bytes received")
	}
}

// What the state does not allow is refused when proposed and when applied.
func TestRefusedEffects(t *testing.T) {
	s := mustGenesis(t)
	s = mustApply(t, s, AddPrincipal{Principal{ID: "acme", Kind: KindTenant, Keys: []Key{keyOf("acme", UseContract, UseSubmission)}}}, "acme")
	audit, member := s.Logs().Audit, s.Logs().Membership
	good := ConfirmSuccessorLog{
		Log:        LogAudit,
		Checkpoint: checkpointOf(t, audit.Origin, "log "+audit.Origin),
		NewOrigin:  "demo/audit.2",
		NewKeys:    []string{vkeyOf(t, "demo/audit.2", "audit.2")},
	}
	successor := func(alter func(e *ConfirmSuccessorLog)) Effect { e := good; alter(&e); return e }
	fresh := func(name string, uses ...Use) *Key { k := keyOf(name, uses...); return &k }
	nodeKeys := func(n int) []Key {
		var keys []Key
		for i := range n {
			keys = append(keys, keyOf(fmt.Sprint("many ", i), UseToken))
		}
		return keys
	}
	full := mustApply(t, s, AddPrincipal{Principal{ID: "full", Kind: KindNode, Keys: nodeKeys(8)}},
		"many 0", "many 1", "many 2", "many 3", "many 4", "many 5", "many 6", "many 7")

	for _, test := range []struct {
		name   string
		state  *State
		effect Effect
		want   RefusalCode
	}{
		{"id is a member", s, AddPrincipal{Principal{ID: "bob", Kind: KindNode, Keys: []Key{keyOf("x", UseToken)}}}, RefusedExists},
		{"key of another principal", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{keyOf("bob", UseToken)}}}, RefusedKeyExists},
		{"key twice in one principal", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{keyOf("x", UseToken), keyOf("x", UseToken)}}}, RefusedValue},
		{"no keys", s, AddPrincipal{Principal{ID: "x", Kind: KindNode}}, RefusedValue},
		{"nine keys", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: nodeKeys(9)}}, RefusedValue},
		{"use of another kind", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{keyOf("x", UseChange)}}}, RefusedValue},
		{"unknown use", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{keyOf("x", "root")}}}, RefusedValue},
		{"use twice", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{keyOf("x", UseToken, UseToken)}}}, RefusedValue},
		{"no use", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{keyOf("x")}}}, RefusedValue},
		{"unknown kind", s, AddPrincipal{Principal{ID: "x", Kind: "root", Keys: []Key{keyOf("x", UseToken)}}}, RefusedValue},
		{"unknown algorithm", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{{"ed448", publicOf("x"), []Use{UseToken}}}}}, RefusedValue},
		{"key of small order", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{{AlgorithmEd25519, make([]byte, 32), []Use{UseToken}}}}}, RefusedValue},
		{"short key", s, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{{AlgorithmEd25519, make([]byte, 31), []Use{UseToken}}}}}, RefusedValue},
		{"upper case id", s, AddPrincipal{Principal{ID: "X", Kind: KindNode, Keys: []Key{keyOf("x", UseToken)}}}, RefusedValue},
		{"name of a tenant", s, AddPrincipal{Principal{ID: "x", Kind: KindTenant, Name: "x", Keys: []Key{keyOf("x", UseToken)}}}, RefusedValue},
		{"remove a stranger", s, RemovePrincipal{"nobody"}, RefusedUnknownPrincipal},
		{"remove no identifier", s, RemovePrincipal{"-"}, RefusedValue},
		{"update a stranger", s, UpdatePrincipal{ID: "nobody"}, RefusedUnknownPrincipal},
		{"update no identifier", s, UpdatePrincipal{ID: ""}, RefusedValue},
		{"update a tenant", s, UpdatePrincipal{ID: "acme", TrustLevel: 1}, RefusedKind},
		{"update nothing", s, UpdatePrincipal{ID: "node-0"}, RefusedNoChange},
		{"trust level", s, UpdatePrincipal{ID: "node-0", TrustLevel: 1001}, RefusedValue},
		{"name too long", s, UpdatePrincipal{ID: "node-0", Name: strings.Repeat("n", 64)}, RefusedValue},
		{"name not ASCII", s, UpdatePrincipal{ID: "node-0", Name: "räck"}, RefusedValue},
		{"empty label", s, UpdatePrincipal{ID: "node-0", Labels: map[string]string{"a": ""}}, RefusedValue},
		{"17 labels", s, UpdatePrincipal{ID: "node-0", Labels: func() map[string]string {
			m := map[string]string{}
			for i := range 17 {
				m[fmt.Sprint(i)] = "x"
			}
			return m
		}()}, RefusedValue},
		{"rotate nothing", s, RotateKey{ID: "acme"}, RefusedValue},
		{"rotate for a stranger", s, RotateKey{ID: "nobody", Add: fresh("x", UseToken)}, RefusedUnknownPrincipal},
		{"rotate for no identifier", s, RotateKey{ID: "?", Add: fresh("x", UseToken)}, RefusedValue},
		{"add a key of another", s, RotateKey{ID: "acme", Add: fresh("bob", UseToken)}, RefusedKeyExists},
		{"add its own key again", s, RotateKey{ID: "acme", Add: fresh("acme", UseToken), Remove: keyOf("acme").ID()}, RefusedKeyExists},
		{"add a key with a wrong use", s, RotateKey{ID: "acme", Add: fresh("x", UseAttestation)}, RefusedValue},
		{"remove a key of another", s, RotateKey{ID: "acme", Remove: keyOf("bob").ID()}, RefusedUnknownKey},
		{"remove the key just added", s, RotateKey{ID: "acme", Add: fresh("x", UseToken), Remove: keyOf("x").ID()}, RefusedUnknownKey},
		{"remove no key id", s, RotateKey{ID: "acme", Remove: "x"}, RefusedValue},
		{"remove the last key", s, RotateKey{ID: "acme", Remove: keyOf("acme").ID()}, RefusedKeyCount},
		{"add a ninth key", full, RotateKey{ID: "full", Add: fresh("x", UseToken)}, RefusedKeyCount},
		{"threshold above the admins", s, SetAdminThreshold{4}, RefusedLockOut},
		{"threshold 0", s, SetAdminThreshold{0}, RefusedValue},
		{"threshold that no envelope can carry", s, SetAdminThreshold{MaxAdminThreshold + 1}, RefusedValue},
		{"quorum 0", s, SetNodeQuorum{0}, RefusedValue},
		{"quorum above the nodes", s, SetNodeQuorum{2}, RefusedQuorum},
		{"quorum above all principals", s, SetNodeQuorum{MaxPrincipals + 1}, RefusedValue},
		{"limits 0", s, SetClusterLimits{}, RefusedValue},
		{"limits that no module meets", s, noModule(), RefusedValue},
		{"same limits", s, SetClusterLimits{s.Limits()}, RefusedNoChange},
		{"unknown version", s, SetProtocolVersion{"2.0"}, RefusedVersion},
		{"same version", s, SetProtocolVersion{"1.0"}, RefusedNoChange},
		{"no version", s, SetProtocolVersion{"01.0"}, RefusedValue},
		{"unknown log", s, SetLogKeys{Log: "other", Keys: audit.Keys}, RefusedValue},
		{"no log keys", s, SetLogKeys{Log: LogAudit}, RefusedValue},
		{"keys of the other log", s, SetLogKeys{Log: LogAudit, Keys: member.Keys}, RefusedValue},
		{"log key as receipt key", s, SetLogKeys{Log: LogAudit, Keys: audit.Keys,
			ReceiptKeys: []string{vkeyOf(t, audit.Origin+"/receipt", "log "+audit.Origin)}}, RefusedValue},
		{"receipt key without its name", s, SetLogKeys{Log: LogAudit, Keys: audit.Keys, ReceiptKeys: []string{vkeyOf(t, audit.Origin, "r")}}, RefusedValue},
		{"not a vkey", s, SetLogKeys{Log: LogAudit, Keys: []string{"x"}}, RefusedValue},
		{"vkey with an upper case hash", s, SetLogKeys{Log: LogAudit, Keys: []string{upperHash(audit.Keys[0])}}, RefusedValue},
		{"same log key twice", s, SetLogKeys{Log: LogAudit, Keys: []string{audit.Keys[0], audit.Keys[0]}}, RefusedValue},
		{"nine log keys", s, SetLogKeys{Log: LogAudit, Keys: func() (keys []string) {
			for i := range 9 {
				keys = append(keys, vkeyOf(t, audit.Origin, fmt.Sprint(i)))
			}
			return keys
		}()}, RefusedValue},
		{"same log keys", s, SetLogKeys{Log: LogAudit, Keys: audit.Keys, ReceiptKeys: audit.ReceiptKeys}, RefusedNoChange},
		{"successor of no log", s, successor(func(e *ConfirmSuccessorLog) { e.Log = "x" }), RefusedValue},
		{"successor with the old origin", s, successor(func(e *ConfirmSuccessorLog) {
			e.NewOrigin, e.NewKeys = audit.Origin, audit.Keys
		}), RefusedValue},
		{"successor with the other log's origin", s, successor(func(e *ConfirmSuccessorLog) {
			e.NewOrigin, e.NewKeys = member.Origin, member.Keys
		}), RefusedValue},
		{"successor outside the cluster", s, successor(func(e *ConfirmSuccessorLog) {
			e.NewOrigin, e.NewKeys = "other/audit", []string{vkeyOf(t, "other/audit", "x")}
		}), RefusedValue},
		{"successor origin with a space", s, successor(func(e *ConfirmSuccessorLog) { e.NewOrigin = "demo/a b" }), RefusedValue},
		{"successor origin too long", s, successor(func(e *ConfirmSuccessorLog) { e.NewOrigin = "demo/" + strings.Repeat("a", 251) }), RefusedValue},
		{"successor keys of another name", s, successor(func(e *ConfirmSuccessorLog) { e.NewKeys = audit.Keys }), RefusedValue},
		{"checkpoint of the other log", s, successor(func(e *ConfirmSuccessorLog) {
			e.Checkpoint = checkpointOf(t, member.Origin, "log "+member.Origin)
		}), RefusedCheckpoint},
		{"checkpoint by another key", s, successor(func(e *ConfirmSuccessorLog) { e.Checkpoint = checkpointOf(t, audit.Origin, "x") }), RefusedCheckpoint},
		{"no checkpoint", s, successor(func(e *ConfirmSuccessorLog) { e.Checkpoint = "" }), RefusedCheckpoint},
		{"second genesis", s, foundingOf(t, testCluster), RefusedGenesis},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.state.Propose(test.effect)
			wantRefusal(t, err, test.want)

			// The same through Apply: a payload as a hostile proposer writes it.
			payload, err := Change{
				Cluster: testCluster, Effect: test.effect, Epoch: test.state.Epoch() + 1, MembershipCount: test.state.Count(),
				MembershipHash: test.state.MembershipHash(), ClusterIdentityHash: test.state.IdentityHash(),
				Previous: test.state.PayloadDigest(), ProtocolVersion: ProtocolVersion,
			}.payload()
			if err != nil {
				return // has no payload at all
			}
			_, _, err = test.state.Apply(sign(t, payload, "alice", "bob"))
			var r *RefusalError
			if !errors.As(err, &r) {
				t.Errorf("applying it: %v", err)
			}
		})
	}
}

func noModule() Effect {
	limits := contract.DefaultClusterLimits()
	limits.ModuleBytes = contract.LeastModuleBytes - 1
	return SetClusterLimits{limits}
}

func upperHash(vkey string) string {
	parts := strings.SplitN(vkey, "+", 3)
	return parts[0] + "+" + strings.ToUpper(parts[1]) + "+" + parts[2]
}

// A node that must go goes at once, whatever the quorum: work waits then, and
// the quorum can be lowered to what is left, or nodes added.
func TestRemovalBelowQuorum(t *testing.T) {
	s := mustApply(t, mustGenesis(t), AddPrincipal{nodeOf("node-1")}, "node-1")
	s = mustApply(t, s, SetNodeQuorum{2})
	s = mustApply(t, s, RemovePrincipal{"node-0"})
	if s.MeetsQuorum() {
		t.Error("1 node meets a quorum of 2")
	}
	if s := mustApply(t, s, AddPrincipal{nodeOf("node-2")}, "node-2"); !s.MeetsQuorum() {
		t.Error("2 nodes do not meet a quorum of 2")
	}
	if s := mustApply(t, s, SetNodeQuorum{1}); !s.MeetsQuorum() {
		t.Error("1 node does not meet a quorum of 1")
	}
	s = mustApply(t, s, RemovePrincipal{"node-1"})
	if _, err := s.Propose(SetNodeQuorum{1}); !errors.Is(err, RefusedQuorum) {
		t.Errorf("a quorum of 1 without nodes: %v", err)
	}
}

// At the highest threshold a principal with all its keys can still be added,
// and the envelope that does it takes every signature that it needs.
func TestHighestThreshold(t *testing.T) {
	f := foundingOf(t, testCluster)
	f.Principals, f.AdminThreshold = nil, MaxAdminThreshold
	var names []string
	for i := range MaxAdminThreshold {
		names = append(names, fmt.Sprintf("admin-%02d", i))
		f.Principals = append(f.Principals, adminOf(names[i]))
	}
	payload, err := ProposeGenesis(testCluster, f)
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := Genesis(sign(t, payload, names...))
	if err != nil {
		t.Fatal(err)
	}
	p := Principal{ID: "node", Kind: KindNode}
	for i := range MaxKeys {
		name := fmt.Sprint("key ", i)
		names, p.Keys = append(names, name), append(p.Keys, keyOf(name, UseToken))
	}
	if _, _, err := s.Apply(sign(t, mustPropose(t, s, AddPrincipal{p}), names...)); err != nil {
		t.Errorf("%d signatures: %v", len(names), err)
	}
	f.AdminThreshold++
	f.Principals = append(f.Principals, adminOf("one-more"))
	_, err = ProposeGenesis(testCluster, f)
	wantRefusal(t, err, RefusedValue)
}

// What Propose lets pass fits its envelope with all signatures, to the byte.
func TestEnvelopeSize(t *testing.T) {
	payload := mustPropose(t, mustGenesis(t), AddPrincipal{nodeOf("node-1")})
	envelope := sign(t, payload, "alice", "bob", "node-1")
	want := base64.StdEncoding.EncodedLen(len(payload)) + envelopeFrame + 3*envelopeSignature - 1 // no comma before the first
	if len(envelope) != want {
		t.Errorf("envelope of %d bytes, counted are %d", len(envelope), want)
	}
}

// The last admins cannot lock the cluster out, whichever way they try.
func TestNoLockOut(t *testing.T) {
	s := mustGenesis(t)
	s = mustApply(t, s, SetAdminThreshold{3})
	token := keyOf("alice token", UseToken)
	for _, effect := range []Effect{
		RemovePrincipal{"alice"},
		SetAdminThreshold{4},
		RotateKey{ID: "alice", Add: &token, Remove: keyOf("alice").ID()},
	} {
		_, err := s.Propose(effect)
		wantRefusal(t, err, RefusedLockOut)
	}
	change := keyOf("alice new", UseChange)
	payload := mustPropose(t, s, RotateKey{ID: "alice", Add: &change, Remove: keyOf("alice").ID()})
	s, info, err := s.Apply(sign(t, payload, "alice", "bob", "carol", "alice new"))
	if err != nil {
		t.Fatalf("a rotation of an admin's only key: %v", err)
	}
	if fmt.Sprint(info.Admins) != "[alice bob carol]" || len(info.Added) != 1 || info.Added[0] != change.ID() {
		t.Errorf("signed by admins %q, added %q", info.Admins, info.Added)
	}
	// The old key is out at once.
	payload = mustPropose(t, s, gasLimit(2))
	_, _, err = s.Apply(sign(t, payload, "alice", "bob", "carol"))
	wantRefusal(t, err, RefusedSigner)
	if _, _, err = s.Apply(sign(t, payload, "alice new", "bob", "carol")); err != nil {
		t.Errorf("the new key: %v", err)
	}
}

func TestGenesisRules(t *testing.T) {
	all := []string{"alice", "bob", "carol", "node-0"}
	propose := func(alter func(f *Founding)) (payload []byte, err error) {
		f := foundingOf(t, testCluster)
		alter(&f)
		return ProposeGenesis(testCluster, f)
	}
	plain, err := propose(func(*Founding) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		payload []byte
		signers []string
		want    RefusalCode
	}{
		{"an admin has not signed", plain, []string{"alice", "bob", "node-0"}, RefusedPossession},
		{"a node has not signed", plain, all[:3], RefusedPossession},
		{"a stranger signs", plain, append([]string{"x"}, all...), RefusedSigner},
		{"epoch 2", altered(t, plain, func(c *Change) { c.Epoch = 2 }), all, RefusedGenesis},
		{"a previous", altered(t, plain, func(c *Change) { c.Previous[0] = 1 }), all, RefusedGenesis},
		{"another kind", altered(t, plain, func(c *Change) { c.Effect = SetNodeQuorum{2} }), all, RefusedGenesis},
		{"hash", altered(t, plain, func(c *Change) { c.MembershipHash[0] ^= 1 }), all, RefusedHash},
		{"principals out of order", altered(t, plain, func(c *Change) {
			f := c.Effect.(Founding)
			f.Principals[0], f.Principals[1] = f.Principals[1], f.Principals[0]
		}), all, RefusedValue},
		{"another cluster's logs", altered(t, plain, func(c *Change) { c.Cluster = "other" }), all, RefusedValue},
		{"garbage", []byte("x"), all, RefusedSyntax},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := Genesis(sign(t, test.payload, test.signers...))
			wantRefusal(t, err, test.want)
		})
	}

	tokenAdmin := Principal{ID: "dave", Kind: KindAdmin, Keys: []Key{keyOf("dave", UseToken)}}
	payload, err := propose(func(f *Founding) { f.Principals = append(f.Principals, tokenAdmin) })
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Genesis(sign(t, payload, append([]string{"dave"}, all...)...))
	wantRefusal(t, err, RefusedThreshold) // dave cannot sign changes

	for _, test := range []struct {
		name  string
		alter func(f *Founding)
		want  RefusalCode
	}{
		{"threshold above the admins", func(f *Founding) { f.AdminThreshold = 4 }, RefusedLockOut},
		{"threshold 0", func(f *Founding) { f.AdminThreshold = 0 }, RefusedValue},
		{"quorum 0", func(f *Founding) { f.NodeQuorum = 0 }, RefusedValue},
		{"no admin", func(f *Founding) { f.Principals = f.Principals[3:] }, RefusedLockOut},
		{"nobody", func(f *Founding) { f.Principals = nil }, RefusedLockOut},
		{"limits", func(f *Founding) { f.Limits.Gas = 0 }, RefusedValue},
		{"log without keys", func(f *Founding) { f.Logs.Audit.Keys = nil }, RefusedValue},
		{"logs swapped", func(f *Founding) { f.Logs.Audit, f.Logs.Membership = f.Logs.Membership, f.Logs.Audit }, RefusedValue},
		{"bad principal", func(f *Founding) { f.Principals[0].Kind = "x" }, RefusedValue},
		{"id twice", func(f *Founding) { f.Principals[1].ID = "alice" }, RefusedValue},
		{"key twice", func(f *Founding) { f.Principals[1].Keys = f.Principals[0].Keys }, RefusedKeyExists},
		{"more keys than an envelope has signatures", func(f *Founding) {
			for i := range 61 {
				f.Principals = append(f.Principals, nodeOf(fmt.Sprint("n", i)))
			}
		}, RefusedValue},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := propose(test.alter)
			wantRefusal(t, err, test.want)
		})
	}
	_, err = ProposeGenesis("No Identifier", foundingOf(t, testCluster))
	wantRefusal(t, err, RefusedValue)
}

// Bytes that are no envelope of a change are refused before anything else.
func TestRefusedEnvelopes(t *testing.T) {
	s := mustGenesis(t)
	good := proposeSigned(t, s, gasLimit(2))
	for name, data := range map[string][]byte{
		"empty":     nil,
		"garbage":   []byte("garbage"),
		"truncated": good[:len(good)-1],
		"trailing":  append(bytes.Clone(good), '}'),
		"too large": append(bytes.Clone(good), bytes.Repeat([]byte(" "), MaxChangeEnvelope)...),
	} {
		_, _, err := s.Apply(data)
		if !errors.Is(err, RefusedEnvelope) {
			t.Errorf("%s: got %v, want %v", name, err, RefusedEnvelope)
		}
		if _, _, err := Genesis(data); !errors.Is(err, RefusedEnvelope) {
			t.Errorf("%s as genesis: got %v, want %v", name, err, RefusedEnvelope)
		}
	}
}

// A payload that its envelope could not carry into the log is refused early.
func TestProposeRefusesOversize(t *testing.T) {
	f := foundingOf(t, testCluster)
	labels := map[string]string{}
	for i := range MaxLabels {
		labels[fmt.Sprintf("%063d", i)] = strings.Repeat("v", 63)
	}
	for i := range 30 {
		n := nodeOf(fmt.Sprint("n", i))
		n.Labels = labels
		f.Principals = append(f.Principals, n)
	}
	_, err := ProposeGenesis(testCluster, f)
	wantRefusal(t, err, RefusedValue)
	f.Principals = f.Principals[:20]
	if _, err := ProposeGenesis(testCluster, f); err != nil {
		t.Error(err)
	}
}

// Each code says what to do, in its error text too.
func TestEveryCodeHasHint(t *testing.T) {
	for code := range hints {
		if code.Hint() == "" || !strings.Contains(refuse(code, "x").Error(), code.Hint()) {
			t.Errorf("%s has no hint", code)
		}
		if !strings.Contains(code.Error(), string(code)) {
			t.Errorf("%s is not in its text", code)
		}
	}
}
