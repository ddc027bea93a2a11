package membership

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
)

var update = flag.Bool("update", false, "write the golden vectors instead of comparing with them")

// golden compares v, as JSON, with a file under testdata.
func golden(t *testing.T, path string, v any) {
	t.Helper()
	var got bytes.Buffer
	e := json.NewEncoder(&got)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "testdata", path)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s is no longer what the code makes; a released format never changes", path)
	}
}

type vectorKey struct {
	Seed      string `json:"seed"`
	PublicKey string `json:"public_key"`
	KeyID     string `json:"keyid"`
}

func vectorKeys(names ...string) map[string]vectorKey {
	keys := make(map[string]vectorKey)
	for _, name := range names {
		keys[name] = vectorKey{hex.EncodeToString(seedOf(name)), hex.EncodeToString(publicOf(name)), dsse.KeyID(publicOf(name))}
	}
	return keys
}

type vectorLeaf struct {
	ID       string `json:"id"`
	LeafData string `json:"leaf_data"`
	LeafHash string `json:"leaf_hash"`
}

type vectorState struct {
	AdminThreshold      uint64        `json:"admin_threshold"`
	ClusterIdentityHash digest.Digest `json:"cluster_identity_hash"`
	Limits              string        `json:"limits"` // canonical JSON
	Logs                string        `json:"logs"`   // canonical JSON
	MembershipCount     uint64        `json:"membership_count"`
	MembershipHash      digest.Digest `json:"membership_hash"`
	NodeQuorum          uint64        `json:"node_quorum"`
	Principals          []vectorLeaf  `json:"principals"`
	ProtocolVersion     string        `json:"protocol_version"`
}

func vectorStateOf(t *testing.T, s *State) vectorState {
	t.Helper()
	canonical := func(v any) string {
		data, err := strictjson.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	v := vectorState{
		AdminThreshold: s.AdminThreshold(), ClusterIdentityHash: s.IdentityHash(), Limits: canonical(s.Limits()),
		Logs: canonical(s.Logs()), MembershipCount: s.Count(), MembershipHash: s.MembershipHash(),
		NodeQuorum: s.NodeQuorum(), ProtocolVersion: s.ProtocolVersion(),
	}
	for p := range s.Principals() {
		data, err := p.LeafData()
		if err != nil {
			t.Fatal(err)
		}
		v.Principals = append(v.Principals, vectorLeaf{p.ID, string(data), hashLeaf(data).String()})
	}
	return v
}

type vectorChange struct {
	Epoch         uint64        `json:"epoch"`
	Kind          EffectKind    `json:"kind"`
	SignedBy      []string      `json:"signed_by"` // names under keys, in order
	Payload       string        `json:"payload"`
	PayloadDigest digest.Digest `json:"payload_digest"`
	Envelope      string        `json:"envelope"` // the entry of the membership log
	LogRoot       string        `json:"log_root"` // root hash of the membership log with this entry, in hexadecimal
	Description   []string      `json:"description"`
	State         vectorState   `json:"state"`
}

// A step of the life that the vectors show.
type step struct {
	effect  Effect
	signers []string
}

// vectorLife has a change of every kind that can have an effect in version 1.0.
func vectorLife(t testing.TB) []step {
	tenant := Principal{ID: "acme", Kind: KindTenant, Keys: []Key{
		keyOf("acme contract", UseContract), keyOf("acme work", UseToken, UseSubmission),
	}}
	node := nodeOf("node-1")
	node.Name, node.TrustLevel, node.Labels = `rack 4 "left" \ <a&b>`, 1, map[string]string{"zone": "eu-1", "arch": "amd64"}
	auditor := Principal{ID: "eve", Kind: KindAuditor, Keys: []Key{keyOf("eve", UseToken)}}
	acmeNew, aliceNew := keyOf("acme contract 2", UseContract), keyOf("alice 2", UseChange, UseToken)
	audit := Origin(testCluster, LogAudit)
	limits := foundingOf(t, testCluster).Limits
	limits.Gas, limits.MaxAssigned = 1_000_000, 16
	both := []string{"alice", "bob"}
	with := func(more ...string) []string { return append(append([]string{}, both...), more...) }
	return []step{
		{AddPrincipal{node}, with("node-1")},
		{AddPrincipal{tenant}, []string{"acme work", "bob", "carol", "acme contract"}},
		{AddPrincipal{auditor}, with("eve")},
		{UpdatePrincipal{ID: "node-1", TrustLevel: 2, Labels: map[string]string{"arch": "arm64"}}, both},
		{RotateKey{ID: "acme", Add: &acmeNew, Remove: keyOf("acme contract").ID()}, with("acme contract 2")},
		{RotateKey{ID: "alice", Add: &aliceNew}, with("alice 2")},
		{RotateKey{ID: "alice", Remove: keyOf("alice").ID()}, []string{"alice 2", "carol"}},
		{SetAdminThreshold{3}, []string{"alice 2", "bob"}},
		{SetNodeQuorum{2}, []string{"alice 2", "bob", "carol"}},
		{SetClusterLimits{limits}, []string{"alice 2", "bob", "carol"}},
		{SetLogKeys{Log: LogAudit, Keys: []string{vkeyOf(t, audit, "log "+audit), vkeyOf(t, audit, "log 2")}}, []string{"alice 2", "bob", "carol"}},
		{ConfirmSuccessorLog{
			Log: LogAudit, Checkpoint: checkpointOf(t, audit, "log 2"), NewOrigin: "demo/audit.2",
			NewKeys:        []string{vkeyOf(t, "demo/audit.2", "log 3")},
			NewReceiptKeys: []string{vkeyOf(t, "demo/audit.2/receipt", "receipt 3")},
		}, []string{"alice 2", "bob", "carol"}},
		{RemovePrincipal{"acme"}, []string{"carol", "bob", "alice 2"}},
		{SetAdminThreshold{1}, []string{"alice 2", "bob", "carol"}},
		{RemovePrincipal{"bob"}, []string{"carol"}},
	}
}

var vectorNames = []string{"alice", "alice 2", "bob", "carol", "node-0", "node-1", "acme contract", "acme contract 2", "acme work", "eve", "mallory"}

// vectorHistory plays the life and returns what the vectors say of each change.
func vectorHistory(t *testing.T) (*History, []vectorChange) {
	t.Helper()
	h := NewHistory()
	var changes []vectorChange
	genesisSigners := []string{"alice", "bob", "carol", "node-0"}
	payload, err := ProposeGenesis(testCluster, foundingOf(t, testCluster))
	if err != nil {
		t.Fatal(err)
	}
	record := func(payload []byte, signers []string) {
		before := h.Current()
		envelope := sign(t, payload, signers...)
		info, err := h.Append(envelope)
		if err != nil {
			t.Fatal(err)
		}
		checkState(t, h.Current())
		root, err := h.Root(h.Size())
		if err != nil {
			t.Fatal(err)
		}
		description := info.Change.Describe()
		if before != nil {
			description = before.Describe(info.Change)
		}
		changes = append(changes, vectorChange{
			Epoch: h.Size(), Kind: info.Change.Effect.Kind(), SignedBy: signers, Payload: string(payload),
			PayloadDigest: info.PayloadDigest, Envelope: string(envelope), LogRoot: hex.EncodeToString(root[:]),
			Description: description, State: vectorStateOf(t, h.Current()),
		})
	}
	record(payload, genesisSigners)
	for _, s := range vectorLife(t) {
		payload, err := h.Current().Propose(s.effect)
		if err != nil {
			t.Fatal(err)
		}
		record(payload, s.signers)
	}
	return h, changes
}

func TestVectorsChain(t *testing.T) {
	h, changes := vectorHistory(t)
	type validity struct {
		Principal string   `json:"principal"`
		Key       string   `json:"key"` // name under keys
		Use       Use      `json:"use"`
		Epochs    []uint64 `json:"valid_epochs"`
	}
	type revocation struct {
		Key     string `json:"key"`
		From    uint64 `json:"from_epoch"`
		By      uint64 `json:"by_epoch"`
		Revoked bool   `json:"revoked"`
	}
	file := struct {
		About       string               `json:"about"`
		Cluster     string               `json:"cluster"`
		Keys        map[string]vectorKey `json:"keys"`
		Changes     []vectorChange       `json:"changes"`
		Validity    []validity           `json:"key_validity"`
		Revocations []revocation         `json:"revocations"`
	}{
		About: "A membership log with a change of every kind that can have an effect in protocol version 1.0, docs/formats/membership.md. " +
			"Entry i makes epoch i + 1. leaf_data, limits, logs, payload and envelope are the exact bytes, as text.",
		Cluster: testCluster,
		Keys:    vectorKeys(vectorNames...),
		Changes: changes,
	}
	for _, v := range []validity{
		{Principal: "acme", Key: "acme contract", Use: UseContract},
		{Principal: "acme", Key: "acme contract", Use: UseToken},
		{Principal: "acme", Key: "acme contract 2", Use: UseContract},
		{Principal: "acme", Key: "acme work", Use: UseSubmission},
		{Principal: "alice", Key: "alice", Use: UseChange},
		{Principal: "alice", Key: "alice 2", Use: UseChange},
		{Principal: "bob", Key: "alice", Use: UseChange},
		{Principal: "node-1", Key: "node-1", Use: UseAttestation},
	} {
		v.Epochs = []uint64{}
		for epoch := range h.Size() + 2 {
			if h.KeyValidAt(v.Principal, file.Keys[v.Key].KeyID, v.Use, epoch) {
				v.Epochs = append(v.Epochs, epoch)
			}
		}
		file.Validity = append(file.Validity, v)
	}
	for _, key := range []string{"acme contract", "acme contract 2", "acme work", "alice", "alice 2", "bob"} {
		for _, by := range []uint64{6, 8, 13, 14, 16} {
			file.Revocations = append(file.Revocations, revocation{key, 3, by, h.Revoked(file.Keys[key].KeyID, 3, by)})
		}
	}
	golden(t, "membership/chain.json", file)
}

func TestVectorsRefused(t *testing.T) {
	h, changes := vectorHistory(t)
	at := func(epoch uint64) *State {
		s, err := h.StateAt(epoch)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	type refused struct {
		Name     string      `json:"name"`
		After    uint64      `json:"after_epoch"` // 0: handed in as genesis
		Code     RefusalCode `json:"code"`
		Envelope string      `json:"envelope"`
	}
	var list []refused
	add := func(name string, after uint64, code RefusalCode, payload []byte, signers ...string) {
		envelope := sign(t, payload, signers...)
		list = append(list, refused{name, after, code, string(envelope)})
	}
	genesis := []byte(changes[0].Payload)
	founders := []string{"alice", "bob", "carol", "node-0"}
	add("genesis: an admin has not signed", 0, RefusedPossession, genesis, "alice", "bob", "node-0")
	add("genesis: a stranger has signed", 0, RefusedSigner, genesis, "alice", "bob", "carol", "node-0", "mallory")
	add("genesis: another kind comes first", 0, RefusedGenesis, []byte(changes[1].Payload), "alice", "bob", "node-1")
	add("genesis: count", 0, RefusedHash, altered(t, genesis, func(c *Change) { c.MembershipCount++ }), founders...)
	add("genesis: origin of another cluster", 0, RefusedValue, altered(t, genesis, func(c *Change) { c.Cluster = "other" }), founders...)

	threshold := mustPropose(t, at(1), SetAdminThreshold{3})
	alter := func(f func(c *Change)) []byte { return altered(t, threshold, f) }
	replace := func(old, new string) []byte { return bytes.Replace(threshold, []byte(old), []byte(new), 1) }
	add("the genesis again", 1, RefusedGenesis, genesis, founders...)
	add("epoch 1 again", 1, RefusedReplay, altered(t, genesis, func(c *Change) { c.Effect = SetNodeQuorum{2} }), "alice", "bob")
	add("genesis at epoch 2", 1, RefusedGenesis, altered(t, genesis, func(c *Change) { c.Epoch = 2 }), founders...)
	add("another cluster", 1, RefusedCluster, alter(func(c *Change) { c.Cluster = "other" }), "alice", "bob")
	add("stale epoch", 2, RefusedReplay, threshold, "alice", "bob")
	add("epoch beyond the next", 1, RefusedGap, alter(func(c *Change) { c.Epoch = 3 }), "alice", "bob")
	add("another previous", 1, RefusedPrevious, alter(func(c *Change) { c.Previous[0] ^= 1 }), "alice", "bob")
	add("another protocol version", 1, RefusedVersion, replace(`"protocol_version":"1.0"`, `"protocol_version":"1.1"`), "alice", "bob")
	add("another protocol version with new members", 1, RefusedVersion,
		bytes.Replace(replace(`"protocol_version":"1.0"`, `"protocol_version":"2.0"`), []byte(`{"change"`), []byte(`{"a":[{"b":true}],"change"`), 1), "alice", "bob")
	add("another protocol version with a new kind", 1, RefusedVersion,
		bytes.Replace(replace(`"protocol_version":"1.0"`, `"protocol_version":"2.0"`), []byte(`set_admin_threshold`), []byte(`set_admin_share`), 1), "alice", "bob")
	add("no protocol version to speak of", 1, RefusedVersion, replace(`"protocol_version":"1.0"`, `"protocol_version":"","x":1`), "alice", "bob")
	add("another protocol version in no strict JSON", 1, RefusedSyntax, replace(`"protocol_version":"1.0"`, `"protocol_version":"2.0","x":1.5`), "alice", "bob")
	add("another protocol version in another case", 1, RefusedSyntax, replace(`"protocol_version":"1.0"`, `"Protocol_version":"2.0"`), "alice", "bob")
	add("unknown member", 1, RefusedSyntax, replace(`{"change"`, `{"a":1,"change"`), "alice", "bob")
	add("member twice", 1, RefusedSyntax, replace(`{"change"`, `{"epoch":2,"change"`), "alice", "bob")
	add("member of another kind", 1, RefusedSyntax, replace(`{"kind"`, `{"id":"bob","kind"`), "alice", "bob")
	add("member missing", 1, RefusedSyntax, replace(`,"threshold":3`, ``), "alice", "bob")
	add("member in upper case", 1, RefusedSyntax, replace(`"threshold"`, `"Threshold"`), "alice", "bob")
	add("number with an exponent", 1, RefusedSyntax, replace(`"threshold":3`, `"threshold":3e0`), "alice", "bob")
	add("unknown kind", 1, RefusedSyntax, replace(`set_admin_threshold`, `set_threshold`), "alice", "bob")
	add("quorum 0", 1, RefusedValue, alter(func(c *Change) { c.Effect = SetNodeQuorum{0} }), "alice", "bob")
	add("threshold that no envelope can carry", 1, RefusedValue, alter(func(c *Change) { c.Effect = SetAdminThreshold{MaxAdminThreshold + 1} }), "alice", "bob")
	add("membership hash", 1, RefusedHash, alter(func(c *Change) { c.MembershipHash[31] ^= 1 }), "alice", "bob")
	add("cluster identity hash", 1, RefusedHash, alter(func(c *Change) { c.ClusterIdentityHash[31] ^= 1 }), "alice", "bob")
	add("no change", 1, RefusedNoChange, alter(func(c *Change) { c.Effect = SetAdminThreshold{2} }), "alice", "bob")
	add("k-1 signatures", 1, RefusedThreshold, threshold, "alice")
	add("a stranger instead of an admin", 1, RefusedSigner, threshold, "alice", "mallory")
	add("a node instead of an admin", 1, RefusedSigner, threshold, "alice", "node-0")
	add("one admin with two keys", 7, RefusedThreshold, mustPropose(t, at(7), SetNodeQuorum{2}), "alice", "alice 2")
	add("a removed key", 8, RefusedSigner, mustPropose(t, at(8), SetNodeQuorum{2}), "alice", "bob")
	add("a removed admin", 16, RefusedSigner, mustPropose(t, at(16), SetNodeQuorum{1}), "alice 2", "bob")
	add("no proof of possession", 1, RefusedPossession, []byte(changes[1].Payload), "alice", "bob")
	effect := func(name string, epoch uint64, code RefusalCode, e Effect, signers ...string) {
		s := at(epoch)
		payload, err := Change{
			Cluster: testCluster, ClusterIdentityHash: s.IdentityHash(), Effect: e, Epoch: epoch + 1, MembershipCount: s.Count(),
			MembershipHash: s.MembershipHash(), Previous: s.PayloadDigest(), ProtocolVersion: ProtocolVersion,
		}.payload()
		if err != nil {
			t.Fatal(err)
		}
		add(name, epoch, code, payload, signers...)
	}
	mallory := keyOf("mallory", UseToken)
	effect("id exists", 2, RefusedExists, AddPrincipal{Principal{ID: "node-1", Kind: KindNode, Keys: []Key{mallory}}}, "alice", "bob", "mallory")
	effect("key exists", 2, RefusedKeyExists, AddPrincipal{Principal{ID: "x", Kind: KindNode, Keys: []Key{keyOf("eve", UseToken), keyOf("node-1", UseToken)}}.normal()}, "alice", "bob", "eve", "node-1")
	effect("use of another kind", 2, RefusedValue, AddPrincipal{Principal{ID: "x", Kind: KindTenant, Keys: []Key{keyOf("mallory", UseChange)}}}, "alice", "bob", "mallory")
	effect("label with a control character", 2, RefusedValue, UpdatePrincipal{ID: "node-1", Labels: map[string]string{"a": "\n"}}, "alice", "bob")
	effect("remove a stranger", 2, RefusedUnknownPrincipal, RemovePrincipal{"nobody"}, "alice", "bob")
	effect("describe a tenant", 3, RefusedKind, UpdatePrincipal{ID: "acme", TrustLevel: 1}, "alice", "bob")
	effect("remove an unknown key", 3, RefusedUnknownKey, RotateKey{ID: "acme", Remove: keyOf("mallory").ID()}, "alice", "bob")
	effect("remove the last key", 2, RefusedKeyCount, RotateKey{ID: "node-1", Remove: keyOf("node-1").ID()}, "alice", "bob")
	effect("quorum above the nodes", 1, RefusedQuorum, SetNodeQuorum{2}, "alice", "bob")
	effect("limits that no module meets", 1, RefusedValue, noModule(), "alice", "bob")
	effect("threshold above the admins", 1, RefusedLockOut, SetAdminThreshold{4}, "alice", "bob")
	effect("remove an admin that the threshold needs", 9, RefusedLockOut, RemovePrincipal{"bob"}, "alice 2", "bob", "carol")
	effect("unknown protocol version", 1, RefusedVersion, SetProtocolVersion{"2.0"}, "alice", "bob")
	effect("same protocol version", 1, RefusedNoChange, SetProtocolVersion{"1.0"}, "alice", "bob")
	audit := at(1).Logs().Audit
	effect("log key of small order", 1, RefusedValue, SetLogKeys{Log: LogAudit, Keys: []string{smallOrderVkey(t, audit.Origin)}}, "alice", "bob")
	effect("receipt key of small order", 1, RefusedValue,
		SetLogKeys{Log: LogAudit, Keys: audit.Keys, ReceiptKeys: []string{smallOrderVkey(t, audit.Origin+receiptSuffix)}}, "alice", "bob")
	effect("log key named otherwise", 1, RefusedValue, SetLogKeys{Log: LogAudit, Keys: at(1).Logs().Membership.Keys}, "alice", "bob")
	effect("successor without a checkpoint", 1, RefusedCheckpoint, ConfirmSuccessorLog{
		Log: LogAudit, Checkpoint: checkpointOf(t, "demo/audit", "mallory"), NewOrigin: "demo/audit.2",
		NewKeys: []string{vkeyOf(t, "demo/audit.2", "log 3")},
	}, "alice", "bob")

	edit := func(name string, code RefusalCode, e func(e *dsse.Envelope)) {
		list = append(list, refused{name, 1, code, string(editEnvelope(t, sign(t, threshold, "alice", "bob"), e))})
	}
	edit("re-encoded payload", RefusedSignature, func(e *dsse.Envelope) { e.Payload = append([]byte(" "), e.Payload...) })
	edit("one signature under two key ids", RefusedSignature, func(e *dsse.Envelope) { e.Signatures[1].Sig = e.Signatures[0].Sig })
	edit("another payload type", RefusedEnvelope, func(e *dsse.Envelope) { e.PayloadType = "application/vnd.tallystick.contract.v1+json" })
	good := string(sign(t, threshold, "alice", "bob"))
	list = append(list,
		refused{"bytes after the envelope", 1, RefusedEnvelope, good + "x"},
		refused{"unknown member of the envelope", 1, RefusedEnvelope, `{"x":1,` + good[1:]},
		refused{"no signatures", 1, RefusedEnvelope, `{"payload":"` + b64(threshold) + `","payloadType":"` + PayloadType + `","signatures":[]}`})

	for _, r := range list {
		var err error
		if r.After == 0 {
			_, _, err = Genesis([]byte(r.Envelope))
		} else {
			_, _, err = at(r.After).Apply([]byte(r.Envelope))
		}
		var refusal *RefusalError
		if !errors.As(err, &refusal) || refusal.Code != r.Code {
			t.Errorf("%s: got %v, want code %q", r.Name, err, r.Code)
		}
	}
	golden(t, "membership/refused.json", struct {
		About   string    `json:"about"`
		Refused []refused `json:"refused"`
	}{"Changes that are not lawful after the given epoch of chain.json, each with the code of the first rule that it breaks.", list})
}

type vectorProofLeaf struct {
	Index uint64   `json:"index"`
	Data  string   `json:"leaf_data"`
	Proof []string `json:"inclusion_proof"` // hexadecimal
}

func vectorProofLeaves(leaves ...Leaf) []vectorProofLeaf {
	out := []vectorProofLeaf{}
	for _, l := range leaves {
		v := vectorProofLeaf{Index: l.Index, Data: string(l.Data), Proof: []string{}}
		for _, h := range l.Proof {
			v.Proof = append(v.Proof, hex.EncodeToString(h))
		}
		out = append(out, v)
	}
	return out
}

func TestVectorsProofs(t *testing.T) {
	h, _ := vectorHistory(t)
	type proofVector struct {
		Epoch  uint64            `json:"epoch"`
		Hash   digest.Digest     `json:"membership_hash"`
		Count  uint64            `json:"membership_count"`
		ID     string            `json:"id"`
		Leaves []vectorProofLeaf `json:"leaves"`
	}
	file := struct {
		About   string        `json:"about"`
		Members []proofVector `json:"members"`
		Absent  []proofVector `json:"absent"`
		Refused []proofVector `json:"refused_absent"`
	}{About: "Proofs that a principal is a member, or is not, at an epoch of chain.json. Those under refused_absent show nothing."}
	for _, epoch := range []uint64{1, 5, 16} {
		s, err := h.StateAt(epoch)
		if err != nil {
			t.Fatal(err)
		}
		var all []Leaf
		for p := range s.Principals() {
			leaf, err := s.ProveMember(p.ID)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, leaf)
			file.Members = append(file.Members, proofVector{epoch, s.MembershipHash(), s.Count(), p.ID, vectorProofLeaves(leaf)})
		}
		for _, id := range []string{"aaron", "dave", "zoe"} {
			leaves, err := s.ProveAbsent(id)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckAbsent(s.MembershipHash(), s.Count(), id, leaves); err != nil {
				t.Error(err)
			}
			file.Absent = append(file.Absent, proofVector{epoch, s.MembershipHash(), s.Count(), id, vectorProofLeaves(leaves...)})
		}
		for _, leaves := range [][]Leaf{{all[0]}, {all[0], all[2]}, {all[1], all[0]}, {all[0], all[0]}, {}, {all[len(all)-1]}} {
			if CheckAbsent(s.MembershipHash(), s.Count(), "carol", leaves) == nil {
				t.Error("absence of a member was shown")
			}
			file.Refused = append(file.Refused, proofVector{epoch, s.MembershipHash(), s.Count(), "carol", vectorProofLeaves(leaves...)})
		}
	}
	golden(t, "membership/proofs.json", file)
}
