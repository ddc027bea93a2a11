//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// governance is a cluster's membership as its admins see it.
type governance struct {
	t       *testing.T
	admin   *agent
	history *membership.History
}

// govern folds the changes that the control plane lists.
func (c *cluster) govern() *governance {
	c.t.Helper()
	g := &governance{t: c.t, admin: c.agent("admin"), history: membership.NewHistory()}
	g.catchUp()
	return g
}

// catchUp folds what was applied since.
func (g *governance) catchUp() {
	g.t.Helper()
	res, err := g.admin.Membership.ListChanges(context.Background(), connect.NewRequest(&pb.ListChangesRequest{FromEpoch: g.history.Size() + 1}))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, envelope := range res.Msg.Changes {
		if _, err := g.history.Append(envelope); err != nil {
			g.t.Fatal(err)
		}
	}
}

// payload is what admins sign for an effect on the present state.
func (g *governance) payload(effect membership.Effect) []byte {
	g.t.Helper()
	payload, err := g.history.Current().Propose(effect)
	if err != nil {
		g.t.Fatal(err)
	}
	return payload
}

// apply hands in a change.
func (g *governance) apply(envelope []byte) (*pb.ApplyChangeResponse, error) {
	res, err := g.admin.Membership.ApplyChange(context.Background(), connect.NewRequest(&pb.ApplyChangeRequest{Envelope: envelope}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// change makes a change that must be lawful, and returns its envelope.
func (g *governance) change(effect membership.Effect, keys ...crypto.Signer) []byte {
	g.t.Helper()
	envelope := signed(g.t, membership.PayloadType, g.payload(effect), keys...)
	if _, err := g.apply(envelope); err != nil {
		g.t.Fatalf("%T: %v", effect, err)
	}
	g.catchUp()
	return envelope
}

// edited changes an envelope behind the back of its signers.
func edited(t *testing.T, envelope []byte, edit func(*dsse.Envelope)) []byte {
	t.Helper()
	e, err := dsse.Parse(envelope)
	if err != nil {
		t.Fatal(err)
	}
	edit(e)
	if envelope, err = e.Marshal(); err != nil {
		t.Fatal(err)
	}
	return envelope
}

// signWith adds a signature to a change file, whosever the key is.
func (c *cluster) signWith(file, keyFile string) {
	c.t.Helper()
	key, err := loadKey(keyFile)
	if err != nil {
		c.t.Fatal(err)
	}
	envelope, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	envelope = edited(c.t, envelope, func(e *dsse.Envelope) {
		more, err := dsse.Parse(signed(c.t, e.PayloadType, e.Payload, key))
		if err != nil {
			c.t.Fatal(err)
		}
		e.Signatures = append(e.Signatures, more.Signatures...)
	})
	if err := os.WriteFile(file, envelope, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// TestForgedChanges: whatever somebody hands in who is short of an admin
// threshold, or who edits, repeats, moves or re-encodes what admins have signed,
// the membership stays as it is and the refusal names the rule. What it is all
// derived from is lawful and is applied in the end.
func TestForgedChanges(t *testing.T) {
	c := start(t, t.TempDir())
	g := c.govern()

	// Three admins of whom two must sign, one of whom has a second key; one was
	// removed.
	admin := c.key("admin", "change")
	key := func(name string) crypto.Signer { return testcluster.Key(name) }
	changeOf := func(id string) crypto.Signer { return key(id + "/change") }
	for _, id := range []string{"deputy", "third", "gone"} {
		g.change(membership.AddPrincipal{Principal: testcluster.NewPrincipal(id, membership.KindAdmin, membership.UseChange)}, admin, changeOf(id))
	}
	second := testcluster.NewKey("deputy second", membership.UseChange)
	g.change(membership.RotateKey{ID: "deputy", Add: &second}, admin, key("deputy second"))
	stale := signed(t, membership.PayloadType, g.payload(membership.SetNodeQuorum{Quorum: 1}), admin, changeOf("deputy"))
	g.change(membership.SetAdminThreshold{Threshold: 2}, admin)
	old := g.change(membership.RemovePrincipal{ID: "gone"}, admin, changeOf("deputy"))

	base := g.payload(membership.SetNodeQuorum{Quorum: 3})
	good := signed(t, membership.PayloadType, base, admin, changeOf("deputy"))
	newcomer := g.payload(membership.AddPrincipal{Principal: testcluster.NewNode("new")})
	proof := []crypto.Signer{key("new/attestation"), key("new/token")}
	epoch, hash := g.history.Size(), g.history.Current().MembershipHash()

	by := func(payload []byte, keys ...crypto.Signer) []byte {
		return signed(t, membership.PayloadType, payload, keys...)
	}
	byBoth := func(payload []byte) []byte { return by(payload, admin, changeOf("deputy")) }
	replaced := func(from, to string) []byte {
		if bytes.Count(base, []byte(from)) != 1 {
			t.Fatalf("%q is not once in %s", from, base)
		}
		return bytes.Replace(base, []byte(from), []byte(to), 1)
	}
	// altered has another value for a member of the payload.
	altered := func(member string, value any) []byte {
		var all map[string]any
		if err := json.Unmarshal(base, &all); err != nil {
			t.Fatal(err)
		}
		if _, ok := all[member]; !ok {
			t.Fatalf("no member %q in %s", member, base)
		}
		all[member] = value
		payload, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return payload
	}
	zero := strings.Repeat("0", 64)
	signatureOf := func(k crypto.Signer) dsse.Signature {
		e, err := dsse.Parse(by(base, k))
		if err != nil {
			t.Fatal(err)
		}
		return e.Signatures[0]
	}

	for _, test := range []struct {
		what     string
		envelope []byte
		code     string // of the API
		rule     string // of membership, in the message
	}{
		{"forged by strangers", by(base, key("mallory"), key("mallet")), "change_refused", "signer"},
		{"forged by a stranger in an admin's name", edited(t, by(base, admin, key("mallory")), func(e *dsse.Envelope) {
			e.Signatures[1].KeyID = dsse.KeyID(testcluster.Public("deputy/change"))
		}), "change_refused", "signature"},
		{"a stranger beside enough admins", by(base, admin, changeOf("deputy"), key("mallory")), "change_refused", "signer"},
		{"signed by a tenant", by(base, admin, c.key("tenant", "contract")), "change_refused", "signer"},
		{"signed by a node", by(base, admin, c.key("node-1", "attestation")), "change_refused", "signer"},
		{"signed by an admin's token key", by(base, changeOf("deputy"), c.key("admin", "token")), "change_refused", "signer"},
		{"k-1 admins", by(base, admin), "change_refused", "threshold"},
		{"one admin with two keys", by(base, changeOf("deputy"), key("deputy second")), "change_refused", "threshold"},
		{"one signature under two names", edited(t, by(base, admin), func(e *dsse.Envelope) {
			twin := e.Signatures[0]
			twin.KeyID = dsse.KeyID(testcluster.Public("deputy/change"))
			e.Signatures = append(e.Signatures, twin)
		}), "change_refused", "signature"},
		{"one signature twice", bytes.Replace(by(base, admin), []byte(`"signatures":[`), fmtSignature(signatureOf(admin)), 1), "envelope_malformed", ""},
		{"a removed admin", by(base, admin, changeOf("gone")), "change_refused", "signer"},
		{"a removed admin beside enough", by(base, admin, changeOf("deputy"), changeOf("gone")), "change_refused", "signer"},
		{"an admin that it would add", by(g.payload(membership.AddPrincipal{Principal: testcluster.NewPrincipal("self", membership.KindAdmin, membership.UseChange)}),
			admin, changeOf("self")), "change_refused", "threshold"},
		{"no proof of possession", by(newcomer, admin, changeOf("deputy")), "change_refused", "possession"},
		{"proof of possession of one key of two", by(newcomer, admin, changeOf("deputy"), proof[0]), "change_refused", "possession"},

		{"stale epoch", stale, "change_refused", "replay"},
		{"epoch of the last change", byBoth(altered("epoch", epoch)), "change_refused", "replay"},
		{"an epoch too far", byBoth(altered("epoch", epoch+2)), "change_refused", "gap"},
		{"after another change", byBoth(altered("previous", zero)), "change_refused", "previous"},
		{"for another cluster", byBoth(replaced(`"cluster":"dev"`, `"cluster":"prod"`)), "change_refused", "cluster"},
		{"a second genesis", byBoth(altered("change", founding(t, g))), "change_refused", "genesis"},
		{"another membership hash", byBoth(altered("membership_hash", zero)), "change_refused", "hash"},
		{"another cluster identity hash", byBoth(altered("cluster_identity_hash", zero)), "change_refused", "hash"},
		{"another count", byBoth(altered("membership_count", 1)), "change_refused", "hash"},
		{"another effect than it is hashed for", byBoth(replaced(`"quorum":3`, `"quorum":1`)), "change_refused", "hash"},
		{"an effect that locks the admins out", byBoth(altered("change", map[string]any{"kind": "set_admin_threshold", "threshold": 4})), "change_refused", "lock_out"},
		{"an effect that is none", byBoth(replaced(`"quorum":3`, `"quorum":2`)), "change_refused", "no_change"},

		{"unknown field", byBoth(replaced(`{"change"`, `{"also":1,"change"`)), "change_refused", "syntax"},
		{"unknown field of the effect", byBoth(replaced(`"quorum":3`, `"quorum":3,"threshold":1`)), "change_refused", "syntax"},
		{"unknown kind", byBoth(replaced(`set_node_quorum`, `set_everything`)), "change_refused", "syntax"},
		{"a field twice", byBoth(replaced(`"quorum":3`, `"quorum":3,"quorum":1`)), "change_refused", "syntax"},
		{"a missing field", byBoth(replaced(`"quorum":3`, `"threshold":3`)), "change_refused", "syntax"},
		{"trailing bytes", byBoth(append(bytes.Clone(base), " {}"...)), "change_refused", "syntax"},
		{"protocol version of the future", byBoth(altered("protocol_version", "2.0")), "protocol_version", "protocol_version"},

		{"re-encoded payload", edited(t, good, func(e *dsse.Envelope) { e.Payload = replaced(`{"change"`, `{ "change"`) }), "change_refused", "signature"},
		{"altered payload", edited(t, good, func(e *dsse.Envelope) { e.Payload = replaced(`"quorum":3`, `"quorum":1`) }), "change_refused", "signature"},
		{"signatures of another change", edited(t, good, func(e *dsse.Envelope) {
			other, err := dsse.Parse(old)
			if err != nil {
				t.Fatal(err)
			}
			e.Signatures = other.Signatures
		}), "change_refused", "signature"},
		{"another payload type", signed(t, contract.ContractType, base, admin, changeOf("deputy")), "envelope_malformed", "envelope"},
		{"re-encoded envelope", bytes.Replace(good, []byte(`"payload":`), []byte(`"Payload":`), 1), "envelope_malformed", ""},
		{"unknown field of the envelope", bytes.Replace(good, []byte(`{"payload"`), []byte(`{"x":1,"payload"`), 1), "envelope_malformed", ""},
		{"no signature", bytes.Replace(good, good[bytes.Index(good, []byte(`"signatures"`)):], []byte(`"signatures":[]}`), 1), "envelope_malformed", ""},
		{"cut off", good[:len(good)-2], "envelope_malformed", ""},
		{"two envelopes", append(bytes.Clone(good), good...), "envelope_malformed", ""},
		{"garbage", []byte("garbage"), "envelope_malformed", ""},
		{"too large", bytes.Repeat([]byte(" "), membership.MaxChangeEnvelope+1), "too_large", ""},
	} {
		t.Run(test.what, func(t *testing.T) {
			res, err := g.apply(test.envelope)
			refused(t, test.what, test.code, err)
			if err == nil {
				t.Errorf("answer %v", res)
			} else if rule := "(" + test.rule + ")"; test.rule != "" && !strings.Contains(err.Error(), rule) {
				t.Errorf("the refusal does not name the rule %s: %v", rule, err)
			}
		})
	}

	// Nor by another way in, or as somebody else.
	_, err := g.admin.Membership.RegisterTrustedNode(context.Background(), connect.NewRequest(&pb.RegisterTrustedNodeRequest{Envelope: good}))
	refused(t, "a quorum as a trusted node", "invalid_argument", err)
	_, err = g.admin.Membership.RegisterTrustedNode(context.Background(), connect.NewRequest(&pb.RegisterTrustedNodeRequest{Envelope: by(newcomer, append(proof, admin)...)}))
	refused(t, "a node by k-1 admins", "change_refused", err)
	_, err = c.agent("tenant").Membership.ApplyChange(context.Background(), connect.NewRequest(&pb.ApplyChangeRequest{Envelope: good}))
	refused(t, "handed in by a tenant", "permission_denied", err)

	// A change that was applied is not applied again.
	if res, err := g.apply(old); err != nil || !res.Duplicate || res.Epoch != epoch {
		t.Errorf("replayed: %v, %v", res, err)
	}
	g.catchUp()
	if now := g.history.Current(); g.history.Size() != epoch || now.MembershipHash() != hash {
		t.Fatalf("epoch %d with hash %s after refusals only, was %d with %s", g.history.Size(), now.MembershipHash(), epoch, hash)
	}
	if res, err := g.apply(good); err != nil || res.Duplicate || res.Epoch != epoch+1 {
		t.Errorf("the change that all of these are derived from: %v, %v", res, err)
	}
	c.healthy()
	auditTree(t, c)
}

// fmtSignature is the beginning of an envelope's signatures with one more.
func fmtSignature(s dsse.Signature) []byte {
	return []byte(`"signatures":[{"keyid":"` + s.KeyID + `","sig":"` + base64.StdEncoding.EncodeToString(s.Sig) + `"},`)
}

// founding is the effect of the cluster's genesis.
func founding(t *testing.T, g *governance) any {
	t.Helper()
	_, envelope, err := g.history.Change(1)
	if err != nil {
		t.Fatal(err)
	}
	e, err := dsse.Parse(envelope)
	if err != nil {
		t.Fatal(err)
	}
	var payload struct {
		Change any `json:"change"`
	}
	if err := json.Unmarshal(e.Payload, &payload); err != nil {
		t.Fatal(err)
	}
	return payload.Change
}
