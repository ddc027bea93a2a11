package membership

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/dsse"
)

// The states that the rows of the table begin with.
const (
	beforeAll = "nothing: the log is empty"
	founded   = "founded"
	working   = "working"
	tight     = "tight"
	crowded   = "crowded"
)

var stateWords = [][2]string{
	{founded, "admins alice, bob and carol, 2 of whom must sign; node-0; node quorum 1; epoch 1"},
	{working, "founded, and tenant acme with one key, node-1; epoch 3"},
	{tight, "founded, but all 3 admins must sign; epoch 2"},
	{crowded, "founded, and node full with 8 keys; epoch 2. For `full`: 100,000 principals"},
}

func tableState(t testing.TB, name string) *State {
	switch name {
	case beforeAll:
		return nil
	case working:
		acme := Principal{ID: "acme", Kind: KindTenant, Keys: []Key{keyOf("acme", UseContract, UseSubmission)}}
		s := mustApply(t, mustGenesis(t), AddPrincipal{acme}, "acme")
		return mustApply(t, s, AddPrincipal{nodeOf("node-1")}, "node-1")
	case tight:
		return mustApply(t, mustGenesis(t), SetAdminThreshold{3})
	case crowded:
		full := Principal{ID: "full", Kind: KindNode}
		var names []string
		for i := range MaxKeys {
			names = append(names, fmt.Sprint("many ", i))
			full.Keys = append(full.Keys, keyOf(names[i], UseToken))
		}
		return mustApply(t, mustGenesis(t), AddPrincipal{full}, names...)
	}
	return mustGenesis(t)
}

// A tableRow is one row of docs/membership-rules.md, and how it is exercised.
type tableRow struct {
	kind    EffectKind
	before  string
	change  string // in words
	signers string // in words
	after   string // in words, of a lawful change
	code    RefusalCode

	effect Effect   // proposed to the state before, or forced when that is refused
	signed []string // keys that sign it
	// bend makes something else of the envelope, or of the payload before signing.
	bend    func(t testing.TB, s *State, envelope []byte) []byte
	payload func(c *Change)
	holds   func(s *State) bool // of the state after
}

// run hands the row's change in.
func (r tableRow) run(t testing.TB) (*State, error) {
	t.Helper()
	s := tableState(t, r.before)
	if s != nil && r.code == RefusedFull {
		s = s.light()
		s.members.n = MaxPrincipals
	}
	envelope := r.envelope(t, s)
	if r.bend != nil {
		envelope = r.bend(t, s, envelope)
	}
	var next *State
	var err error
	if s == nil {
		next, _, err = Genesis(envelope)
	} else {
		next, _, err = s.Apply(envelope)
	}
	return next, err
}

func (r tableRow) envelope(t testing.TB, s *State) []byte {
	t.Helper()
	var payload []byte
	var err error
	if s == nil {
		payload, err = ProposeGenesis(testCluster, r.effect.(Founding))
	} else {
		payload, err = s.Propose(r.effect)
	}
	if err != nil { // as a hostile proposer writes it
		c := Change{Cluster: testCluster, Effect: r.effect.normal(), Epoch: 1, ProtocolVersion: ProtocolVersion}
		if s != nil {
			c.Epoch, c.Previous, c.MembershipCount = s.Epoch()+1, s.PayloadDigest(), s.Count()
			c.MembershipHash, c.ClusterIdentityHash = s.MembershipHash(), s.IdentityHash()
		}
		if payload, err = c.payload(); err != nil {
			t.Fatal(err)
		}
	}
	if r.payload != nil {
		payload = altered(t, payload, r.payload)
	}
	return sign(t, payload, r.signed...)
}

// tableRows has every kind of change, lawful where it can be, and every refusal.
func tableRows(t testing.TB) []tableRow {
	two, all := []string{"alice", "bob"}, []string{"alice", "bob", "carol"}
	founding := foundingOf(t, testCluster)
	founders := append(slices.Clone(all), "node-0")
	with := func(names ...string) []string { return append(slices.Clone(two), names...) }
	key := func(name string, uses ...Use) *Key { k := keyOf(name, uses...); return &k }
	audit := logsOf(t, testCluster).Audit
	newAudit := vkeyOf(t, audit.Origin, "new audit")
	successor := ConfirmSuccessorLog{Log: LogAudit, Checkpoint: checkpointOf(t, audit.Origin, "log "+audit.Origin),
		NewOrigin: "demo/audit.2", NewKeys: []string{vkeyOf(t, "demo/audit.2", "audit.2")}}
	unsignedEnd := successor
	unsignedEnd.Checkpoint = checkpointOf(t, audit.Origin, "mallory")
	tenant := func(id, name string) AddPrincipal {
		return AddPrincipal{Principal{ID: id, Kind: KindTenant, Keys: []Key{keyOf(name, UseToken)}}}
	}
	lowered := contract.DefaultClusterLimits()
	lowered.Gas = 1000
	nothing := lowered
	nothing.MaxAssigned = 0
	replace := func(old, new string) func(testing.TB, *State, []byte) []byte {
		return func(t testing.TB, _ *State, envelope []byte) []byte {
			e, err := dsse.Parse(envelope)
			if err != nil || !bytes.Contains(e.Payload, []byte(old)) {
				t.Fatalf("no %s in %s", old, envelope)
			}
			return sign(t, bytes.Replace(e.Payload, []byte(old), []byte(new), 1), two...)
		}
	}
	who := map[string]string{"two": "2 of the admins", "added": "2 admins, and the added key"}
	add := tenant("new", "new")
	return []tableRow{
		{kind: KindGenesis, before: beforeAll, change: "found the cluster", signers: "every admin and every key in it", effect: founding, signed: founders,
			after: "epoch 1", holds: func(s *State) bool { return s.Epoch() == 1 && s.Count() == 4 }},
		{kind: KindGenesis, before: beforeAll, change: "found the cluster", signers: "all but one admin's key", effect: founding, signed: []string{"alice", "bob", "node-0"}, code: RefusedPossession},
		{kind: KindGenesis, before: beforeAll, change: "a threshold above the admins named", signers: "every key in it", code: RefusedLockOut, signed: founders,
			effect: func() Effect { f := founding; f.AdminThreshold = 4; return f }()},
		{kind: KindGenesis, before: beforeAll, change: "logs without keys", signers: "every key in it", code: RefusedValue, signed: founders,
			effect: func() Effect { f := founding; f.Logs.Audit.Keys = []string{}; return f }()},
		{kind: KindGenesis, before: founded, change: "a second genesis", signers: "every key in it", code: RefusedGenesis, effect: founding, signed: founders},

		{kind: KindAddPrincipal, before: founded, change: "a tenant whose id and keys are new", signers: who["added"], effect: add, signed: with("new"),
			after: "the tenant is a member", holds: func(s *State) bool { _, ok := s.Principal("new"); return ok }},
		{kind: KindAddPrincipal, before: founded, change: "the same", signers: "2 admins", code: RefusedPossession, effect: add, signed: two},
		{kind: KindAddPrincipal, before: founded, change: "the same", signers: "1 admin, and the added key", code: RefusedThreshold, effect: add, signed: []string{"alice", "new"}},
		{kind: KindAddPrincipal, before: founded, change: "an admin", signers: "1 admin, and the added admin", code: RefusedThreshold, effect: AddPrincipal{adminOf("dave")}, signed: []string{"alice", "dave"}},
		{kind: KindAddPrincipal, before: founded, change: "an id that is a member", signers: who["added"], code: RefusedExists, effect: tenant("node-0", "new"), signed: with("new")},
		{kind: KindAddPrincipal, before: founded, change: "a key that somebody holds", signers: who["added"], code: RefusedKeyExists, effect: tenant("new", "node-0"), signed: with("node-0")},
		{kind: KindAddPrincipal, before: founded, change: "a tenant's key for changes", signers: who["added"], code: RefusedValue, signed: with("new"),
			effect: AddPrincipal{Principal{ID: "new", Kind: KindTenant, Keys: []Key{keyOf("new", UseChange)}}}},
		{kind: KindAddPrincipal, before: crowded, change: "one more than 100,000 principals", signers: who["added"], code: RefusedFull, effect: add, signed: with("new")},

		{kind: KindRemovePrincipal, before: working, change: "a tenant or node", signers: who["two"], effect: RemovePrincipal{"node-1"}, signed: two,
			after: "it is no member, and every key that it ever had is revoked", holds: func(s *State) bool { _, ok := s.KeyHolder(keyOf("node-1").ID()); return !ok }},
		{kind: KindRemovePrincipal, before: founded, change: "the last node, below the node quorum", signers: who["two"], effect: RemovePrincipal{"node-0"}, signed: two,
			after: "no execution is accepted until nodes are added", holds: func(s *State) bool { return !s.MeetsQuorum() }},
		{kind: KindRemovePrincipal, before: founded, change: "an admin who is not needed", signers: "2 admins, the removed one or not", effect: RemovePrincipal{"bob"}, signed: two,
			after: "2 admins remain, both must sign", holds: func(s *State) bool { _, ok := s.Principal("bob"); return !ok && s.AdminThreshold() == 2 }},
		{kind: KindRemovePrincipal, before: tight, change: "an admin whom the threshold needs", signers: "all 3 admins", code: RefusedLockOut, effect: RemovePrincipal{"bob"}, signed: all},
		{kind: KindRemovePrincipal, before: founded, change: "somebody who is no member", signers: who["two"], code: RefusedUnknownPrincipal, effect: RemovePrincipal{"nobody"}, signed: two},

		{kind: KindUpdatePrincipal, before: working, change: "a node's whole description", signers: who["two"], effect: UpdatePrincipal{ID: "node-1", TrustLevel: 3}, signed: two,
			after: "described as stated; keys stay", holds: func(s *State) bool { p, _ := s.Principal("node-1"); return p.TrustLevel == 3 && len(p.Keys) == 1 }},
		{kind: KindUpdatePrincipal, before: working, change: "the description that it has", signers: who["two"], code: RefusedNoChange, effect: UpdatePrincipal{ID: "node-1"}, signed: two},
		{kind: KindUpdatePrincipal, before: working, change: "a tenant's description", signers: who["two"], code: RefusedKind, effect: UpdatePrincipal{ID: "acme", TrustLevel: 1}, signed: two},
		{kind: KindUpdatePrincipal, before: working, change: "a stranger's", signers: who["two"], code: RefusedUnknownPrincipal, effect: UpdatePrincipal{ID: "nobody"}, signed: two},

		{kind: KindRotateKey, before: working, change: "one key in place of another", signers: who["added"], effect: RotateKey{ID: "acme", Add: key("acme 2", UseContract), Remove: keyOf("acme").ID()}, signed: with("acme 2"),
			after: "the old key signs nothing more; what it signed stays good", holds: func(s *State) bool { _, ok := s.KeyHolder(keyOf("acme").ID()); return !ok }},
		{kind: KindRotateKey, before: tight, change: "an admin's only key, replaced", signers: "all 3 admins, one with the old key, and the added key",
			effect: RotateKey{ID: "alice", Add: key("alice 2", UseChange), Remove: keyOf("alice").ID()}, signed: append(slices.Clone(all), "alice 2"),
			after: "the admin signs with the new key only", holds: func(s *State) bool { _, k := s.changeKey(keyOf("alice 2").ID()); return k != nil }},
		{kind: KindRotateKey, before: working, change: "a key more", signers: who["added"], effect: RotateKey{ID: "acme", Add: key("acme 2", UseToken)}, signed: with("acme 2"),
			after: "both keys are valid", holds: func(s *State) bool { p, _ := s.Principal("acme"); return len(p.Keys) == 2 }},
		{kind: KindRotateKey, before: crowded, change: "a key removed", signers: who["two"], effect: RotateKey{ID: "full", Remove: keyOf("many 3").ID()}, signed: two,
			after: "the key is revoked: what it signed is not good any more", holds: func(s *State) bool { p, _ := s.Principal("full"); return len(p.Keys) == 7 }},
		{kind: KindRotateKey, before: working, change: "the only key removed", signers: who["two"], code: RefusedKeyCount, effect: RotateKey{ID: "acme", Remove: keyOf("acme").ID()}, signed: two},
		{kind: KindRotateKey, before: crowded, change: "a ninth key", signers: who["added"], code: RefusedKeyCount, effect: RotateKey{ID: "full", Add: key("ninth", UseToken)}, signed: with("ninth")},
		{kind: KindRotateKey, before: working, change: "a key that it does not hold removed", signers: who["two"], code: RefusedUnknownKey, effect: RotateKey{ID: "acme", Remove: keyOf("bob").ID()}, signed: two},
		{kind: KindRotateKey, before: working, change: "a key of somebody else added", signers: who["added"], code: RefusedKeyExists, effect: RotateKey{ID: "acme", Add: key("node-1", UseToken)}, signed: with("node-1")},
		{kind: KindRotateKey, before: tight, change: "an admin's only change key, replaced by one for tokens", signers: "all 3 admins, and the added key", code: RefusedLockOut,
			effect: RotateKey{ID: "alice", Add: key("alice token", UseToken), Remove: keyOf("alice").ID()}, signed: append(slices.Clone(all), "alice token")},

		{kind: KindSetAdminThreshold, before: founded, change: "3, with 3 admins", signers: "2 admins: the threshold before", effect: SetAdminThreshold{3}, signed: two,
			after: "3 must sign the next change", holds: func(s *State) bool { return s.AdminThreshold() == 3 }},
		{kind: KindSetAdminThreshold, before: tight, change: "1", signers: "all 3 admins: the threshold before", effect: SetAdminThreshold{1}, signed: all,
			after: "1 must sign the next change", holds: func(s *State) bool { return s.AdminThreshold() == 1 }},
		{kind: KindSetAdminThreshold, before: tight, change: "1", signers: "2 of the admins", code: RefusedThreshold, effect: SetAdminThreshold{1}, signed: two},
		{kind: KindSetAdminThreshold, before: founded, change: "4, with 3 admins", signers: who["two"], code: RefusedLockOut, effect: SetAdminThreshold{4}, signed: two},
		{kind: KindSetAdminThreshold, before: founded, change: "57: more signatures than an envelope can hold", signers: who["two"], code: RefusedValue, effect: SetAdminThreshold{57}, signed: two},

		{kind: KindSetNodeQuorum, before: working, change: "2, with 2 nodes", signers: who["two"], effect: SetNodeQuorum{2}, signed: two,
			after: "executions need 2 member nodes", holds: func(s *State) bool { return s.NodeQuorum() == 2 && s.MeetsQuorum() }},
		{kind: KindSetNodeQuorum, before: working, change: "3, with 2 nodes", signers: who["two"], code: RefusedQuorum, effect: SetNodeQuorum{3}, signed: two},
		{kind: KindSetNodeQuorum, before: working, change: "0", signers: who["two"], code: RefusedValue, effect: SetNodeQuorum{0}, signed: two},

		{kind: KindSetClusterLimits, before: founded, change: "other limits", signers: who["two"], effect: SetClusterLimits{lowered}, signed: two,
			after: "contracts and requests are held to them from now on", holds: func(s *State) bool { return s.Limits() == lowered }},
		{kind: KindSetClusterLimits, before: founded, change: "limits that no contract or module meets", signers: who["two"], code: RefusedValue, effect: SetClusterLimits{nothing}, signed: two},

		{kind: KindSetProtocolVersion, before: founded, change: "the version in force, the only one known", signers: who["two"], code: RefusedNoChange, effect: SetProtocolVersion{"1.0"}, signed: two},
		{kind: KindSetProtocolVersion, before: founded, change: "a version that the reader does not know", signers: who["two"], code: RefusedVersion, effect: SetProtocolVersion{"2.0"}, signed: two},

		{kind: KindSetLogKeys, before: founded, change: "a new key beside the old one", signers: "2 admins; the log's keys do not sign", effect: SetLogKeys{Log: LogAudit, Keys: append([]string{newAudit}, audit.Keys...)}, signed: two,
			after: "the log may sign with either", holds: func(s *State) bool { return len(s.Logs().Audit.Keys) == 2 }},
		{kind: KindSetLogKeys, before: founded, change: "no key", signers: who["two"], code: RefusedValue, effect: SetLogKeys{Log: LogAudit, Keys: []string{}}, signed: two},

		{kind: KindConfirmSuccessorLog, before: founded, change: "another log, with the old one's last checkpoint", signers: who["two"], effect: successor, signed: two,
			after: "the new origin and keys are the log's", holds: func(s *State) bool { return s.Logs().Audit.Origin == "demo/audit.2" }},
		{kind: KindConfirmSuccessorLog, before: founded, change: "the same with a checkpoint that the old log did not sign", signers: who["two"], code: RefusedCheckpoint, effect: unsignedEnd, signed: two},

		// Whatever the kind.
		{before: founded, change: "any", signers: "2 admins, and a stranger", code: RefusedSigner, effect: SetAdminThreshold{3}, signed: with("mallory")},
		{before: founded, change: "any", signers: "an admin, and a node for another", code: RefusedSigner, effect: SetAdminThreshold{3}, signed: []string{"alice", "node-0"}},
		{before: founded, change: "any, altered or written anew after it was signed", signers: "2 admins, of another payload", code: RefusedSignature, effect: SetAdminThreshold{3}, signed: two,
			bend: func(t testing.TB, _ *State, envelope []byte) []byte {
				return editEnvelope(t, envelope, func(e *dsse.Envelope) { e.Payload = append([]byte(" "), e.Payload...) })
			}},
		{before: founded, change: "any, cut off, or no envelope at all", signers: "2 admins", code: RefusedEnvelope, effect: SetAdminThreshold{3}, signed: two,
			bend: func(_ testing.TB, _ *State, envelope []byte) []byte { return envelope[:len(envelope)-1] }},
		{before: founded, change: "any with an unknown member", signers: "2 admins", code: RefusedSyntax, effect: SetAdminThreshold{3}, signed: two, bend: replace(`{"change"`, `{"a":1,"change"`)},
		{before: founded, change: "any under another protocol version", signers: "2 admins", code: RefusedVersion, effect: SetAdminThreshold{3}, signed: two, bend: replace(`"protocol_version":"1.0"`, `"protocol_version":"2.0"`)},
		{before: founded, change: "any, for another cluster", signers: "2 admins", code: RefusedCluster, effect: SetAdminThreshold{3}, signed: two, payload: func(c *Change) { c.Cluster = "other" }},
		{before: working, change: "any that was made already, or was proposed for an earlier epoch", signers: "2 admins", code: RefusedReplay, effect: SetAdminThreshold{3}, signed: two, payload: func(c *Change) { c.Epoch = 2 }},
		{before: founded, change: "any beyond the next epoch", signers: "2 admins", code: RefusedGap, effect: SetAdminThreshold{3}, signed: two, payload: func(c *Change) { c.Epoch = 3 }},
		{before: founded, change: "any that follows another change than the last", signers: "2 admins", code: RefusedPrevious, effect: SetAdminThreshold{3}, signed: two, payload: func(c *Change) { c.Previous[0] ^= 1 }},
		{before: founded, change: "any whose count or hashes are not those of the state it makes", signers: "2 admins", code: RefusedHash, effect: SetAdminThreshold{3}, signed: two, payload: func(c *Change) { c.MembershipHash[0] ^= 1 }},
	}
}

const rulesPage = "../docs/membership-rules.md"

// TestRuleTable exercises every row of docs/membership-rules.md, and holds the
// page to the rows: every kind of change, every code.
func TestRuleTable(t *testing.T) {
	kinds, codes := map[EffectKind]bool{}, map[RefusalCode]bool{}
	for _, row := range tableRows(t) {
		name := fmt.Sprintf("%s %s by %s", row.kind, row.change, row.signers)
		next, err := row.run(t)
		var refusal *RefusalError
		switch {
		case row.code == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case row.code == "" && !row.holds(next):
			t.Errorf("%s: the state after is not %q", name, row.after)
		case row.code != "" && (!errors.As(err, &refusal) || refusal.Code != row.code):
			t.Errorf("%s: got %v, want code %q", name, err, row.code)
		}
		codes[row.code] = true
		kinds[row.kind] = true
	}
	for code := range hints {
		if !codes[code] {
			t.Errorf("no row is refused with code %q", code)
		}
	}
	for _, kind := range []EffectKind{KindGenesis, KindAddPrincipal, KindRemovePrincipal, KindUpdatePrincipal, KindRotateKey, KindSetAdminThreshold,
		KindSetNodeQuorum, KindSetClusterLimits, KindSetProtocolVersion, KindSetLogKeys, KindConfirmSuccessorLog} {
		if !kinds[kind] {
			t.Errorf("no row is of kind %q", kind)
		}
	}
	page := rulesText(tableRows(t))
	if *update {
		if err := os.WriteFile(rulesPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(rulesPage)
	if err != nil {
		t.Fatal(err)
	}
	if page != string(want) {
		t.Errorf("%s is not what the rows say; run the test with -update", rulesPage)
	}
}

func rulesText(rows []tableRow) string {
	var b strings.Builder
	b.WriteString(`# Who may change the membership, and how

Every kind of change with what it does, and every refusal, as rows that the tests of package membership exercise one by one; this page is written by them
(` + "`go test ./membership -run RuleTable -update`" + `). The format is in [formats/membership.md](formats/membership.md), which also says in which order the rules are
checked.

The states before:

`)
	for _, s := range stateWords {
		fmt.Fprintf(&b, "- **%s**: %s\n", s[0], s[1])
	}
	b.WriteString(`
No change can lock the cluster out: the threshold stays within the admins that can sign and within what an envelope can hold, no change sets a quorum above the
nodes there are (a genesis may, for nodes that are still to come), limits leave room for a contract, and a log keeps a key. Only a removal may go below the
quorum: a node that must go goes at once, and work waits.

In an emergency, remove the principal or the key: from the next epoch on it opens no session, and what it signs (contracts, retirements, submissions,
cancellations, attestations, changes) is void.

| kind | state before | change | signed by | state after, or refusal |
|---|---|---|---|---|
`)
	for _, r := range rows {
		kind, after := "any", r.after
		if r.kind != "" {
			kind = "`" + string(r.kind) + "`"
		}
		if r.code != "" {
			after = "refused: `" + string(r.code) + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", kind, r.before, r.change, r.signers, after)
	}
	b.WriteString("\n## What each refusal asks for\n\n| code | do |\n|---|---|\n")
	var codes []RefusalCode
	for code := range hints {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	for _, code := range codes {
		fmt.Fprintf(&b, "| `%s` | %s |\n", code, code.Hint())
	}
	return b.String()
}
