package orchestrator_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// keyed is a world in which every key has one use, called "<principal>/<use>".
// The keys named by the principal alone had all uses of its kind and were rotated
// away; those of "gone" and "node-4" went with the principals.
type keyed struct {
	*world
	admin string // the key that signs changes
	n     byte   // of the next thing that must differ from the last
}

// keys are all keys of a keyed world, and one that never was in it.
var keyedKeys = []string{
	"acme/contract", "acme/submission", "acme/token", "admin/change", "admin/token", "node-1/attestation", "node-1/token", "auditor",
	"acme", "admin", "node-1", "gone", "node-4", "rival", "node-2", "nobody",
}

func newKeyed(t *testing.T) *keyed {
	w := &keyed{world: newWorld(t, 4), admin: "admin"}
	w.apply(membership.AddPrincipal{Principal: principal(membership.KindTenant, "gone")}, "gone")
	for _, p := range []struct {
		id   string
		uses []membership.Use
	}{
		{"acme", []membership.Use{membership.UseContract, membership.UseSubmission, membership.UseToken}},
		{"node-1", []membership.Use{membership.UseAttestation, membership.UseToken}},
		{"admin", []membership.Use{membership.UseChange, membership.UseToken}},
	} {
		for _, use := range p.uses {
			name := p.id + "/" + string(use)
			w.apply(membership.RotateKey{ID: p.id, Add: &membership.Key{Algorithm: membership.AlgorithmEd25519,
				PublicKey: publicKey(name), Uses: []membership.Use{use}}}, name)
		}
		if p.id == "admin" {
			w.admin = "admin/change"
		}
		w.apply(membership.RotateKey{ID: p.id, Remove: dsse.KeyID(publicKey(p.id))})
	}
	w.apply(membership.RemovePrincipal{ID: "gone"})
	return w
}

// changeBy proposes a change and signs it with one key as admin.
func (w *keyed) changeBy(effect membership.Effect, keys ...string) []byte {
	w.t.Helper()
	payload, err := w.state.Propose(effect)
	if err != nil {
		w.t.Fatal(err)
	}
	return signedBy(w.t, payload, keys...)
}

// apply applies a change that the admin signs.
func (w *keyed) apply(effect membership.Effect, newKeys ...string) {
	w.t.Helper()
	envelope := w.changeBy(effect, append([]string{w.admin}, newKeys...)...)
	next, _, err := w.state.Apply(envelope)
	if err == nil {
		_, _, _, err = w.ApplyChange(ctx(w.t), actor("admin"), envelope)
	}
	if err != nil {
		w.t.Fatalf("applying %s: %v", effect.Kind(), err)
	}
	w.state = next
}

func (w *keyed) contract() *contract.Contract {
	w.n++
	return newContract(func(c *contract.Contract) { c.Version = fmt.Sprintf("1.0.%d", w.n) })
}

// registerBy registers a contract that a key signs.
func (w *keyed) registerBy(key string) (digest.Digest, error) {
	envelope, _, err := contract.Sign(w.contract(), testKey(key))
	if err != nil {
		return digest.Digest{}, err
	}
	hash, _, err := w.RegisterContract(ctx(w.t), actor("acme"), "acme", envelope, testModule)
	return hash, err
}

// submitBy submits an execution that a key signs.
func (w *keyed) submitBy(hash digest.Digest, key string) (digest.Digest, error) {
	w.n++
	s := must[*contract.Submission](w.t)(contract.ParseSubmission(must[*dsse.Envelope](w.t)(dsse.Parse(w.newSubmission(hash, "x", w.n))).Payload))
	envelope, _, err := contract.Sign(s, testKey(key))
	if err != nil {
		return digest.Digest{}, err
	}
	id, _, err := w.Submit(ctx(w.t), actor("acme"), "acme", envelope, []byte("x"))
	return id, err
}

// TestKeyUses tries every key wherever a signature is accepted. Exactly the keys
// that are valid now, have the use, and belong to who is entitled are accepted.
func TestKeyUses(t *testing.T) {
	w := newKeyed(t)
	hash := must[digest.Digest](t)(w.registerBy("acme/contract"))
	quorum := uint64(1)
	places := []struct {
		name   string
		accept string // the one key; "*/token" for any with that use
		try    func(key string) error
	}{
		{"contract", "acme/contract", func(key string) error { _, err := w.registerBy(key); return err }},
		{"retirement", "acme/contract", func(key string) error {
			h := must[digest.Digest](t)(w.registerBy("acme/contract"))
			envelope, _, err := contract.Sign(&contract.Retirement{Cluster: cluster, Contract: h, ProtocolVersion: "1.0", Tenant: "acme"}, testKey(key))
			if err == nil {
				_, _, err = w.RetireContract(ctx(t), actor("acme"), "acme", envelope)
			}
			return err
		}},
		{"submission", "acme/submission", func(key string) error { _, err := w.submitBy(hash, key); return err }},
		{"cancellation", "acme/submission", func(key string) error {
			id := must[digest.Digest](t)(w.submitBy(hash, "acme/submission"))
			envelope, _, err := contract.Sign(&contract.Cancellation{Cluster: cluster, Execution: id, ProtocolVersion: "1.0", Tenant: "acme"}, testKey(key))
			if err == nil {
				_, _, err = w.Cancel(ctx(t), actor("acme"), "acme", envelope)
			}
			return err
		}},
		{"attestation", "node-1/attestation", func(key string) error {
			all := must[digest.Digest](t)(w.registerBy("acme/contract"))
			id := w.assigned(all, "node-1")
			n := w.worker("node-1")
			s := n.statement(n.await(isOf(id)))
			_, _, _, err := w.Attest(ctx(t), actor("node-1"), "node-1", w.attestationBy(s, key))
			return err
		}},
		{"change", "admin/change", func(key string) error {
			quorum = 3 - quorum
			envelope := w.changeBy(membership.SetNodeQuorum{Quorum: quorum}, key)
			_, _, _, err := w.ApplyChange(ctx(t), actor("admin"), envelope)
			if err == nil {
				w.state, _, err = w.state.Apply(envelope)
			} else {
				quorum = 3 - quorum
			}
			return err
		}},
		{"token", "*/token", func(key string) error {
			holder, public, ok := w.TokenKey(dsse.KeyID(publicKey(key)))
			if !ok {
				return fmt.Errorf("no token key")
			}
			if !public.Equal(publicKey(key)) || holder != strings.TrimSuffix(key, "/token") {
				t.Errorf("the token key %s is said to be %s's", key, holder)
			}
			return nil
		}},
	}
	for _, place := range places {
		for _, key := range keyedKeys {
			if place.name == "attestation" && key == "node-4" {
				continue // still a member here
			}
			want := key == place.accept
			if place.accept == "*/token" {
				// Whoever has one key for everything has it for tokens too.
				want = strings.HasSuffix(key, "/token") || key == "auditor" || key == "rival" || key == "node-2" || key == "node-4"
			}
			if err := place.try(key); (err == nil) != want {
				t.Errorf("%s signed with the key %q: %v, accepted should be %t", place.name, key, err, want)
			} else if err != nil && place.name != "token" && orchestrator.CodeOf(err) == orchestrator.CodeUnavailable {
				t.Errorf("%s signed with the key %q: %v", place.name, key, err)
			}
		}
	}
	w.checkLog()
}

// TestKeysEndAtTheEpoch: what was accepted before a change is refused right after
// it, of a removed principal and of a key that was taken away, and nothing that
// ran before is lost with it.
func TestKeysEndAtTheEpoch(t *testing.T) {
	w := newKeyed(t)
	hash := must[digest.Digest](t)(w.registerBy("acme/contract"))
	id := w.assigned(hash, "node-1")
	n := w.worker("node-1")
	statement := n.statement(n.await(isOf(id)))

	// A node that was removed attests no more, also to what it was assigned before.
	w.apply(membership.RemovePrincipal{ID: "node-1"})
	_, _, _, err := w.Attest(ctx(t), actor("node-1"), "node-1", w.attestationBy(statement, "node-1/attestation"))
	wantRefused(t, "an attestation by a removed node", err)
	if _, _, ok := w.TokenKey(dsse.KeyID(publicKey("node-1/token"))); ok {
		t.Error("a removed node's token key is valid")
	}

	// A key that was revoked, one use at a time.
	w.apply(membership.RotateKey{ID: "acme", Remove: dsse.KeyID(publicKey("acme/submission"))})
	_, err = w.submitBy(hash, "acme/submission")
	wantRefused(t, "a submission by a revoked key", err)
	w.apply(membership.RotateKey{ID: "acme", Remove: dsse.KeyID(publicKey("acme/token"))})
	if _, _, ok := w.TokenKey(dsse.KeyID(publicKey("acme/token"))); ok {
		t.Error("a revoked token key is valid")
	}
	if _, err := w.registerBy("acme/contract"); err != nil {
		t.Errorf("the key that was left: %v", err)
	}

	// And of a tenant that was removed with all of its keys.
	w.apply(membership.RemovePrincipal{ID: "acme"})
	_, err = w.registerBy("acme/contract")
	wantRefused(t, "a contract of a removed tenant", err)

	// The other nodes finish what the tenant had asked for while it could.
	done := 0
	for _, node := range []string{"node-2", "node-3", "node-4"} {
		ex := must[bool](t)(w.isAssigned(id, node))
		if ex && done < 2 {
			other := w.worker(node)
			other.do(other.await(isOf(id)))
			done++
		}
	}
	w.await(id, proofReady)
	w.checkLog()
}

// TestLogKeysAreTheMemberships: a policy may accept keys that the membership
// named, now or before, and no others; and no change takes the name from all keys
// that sign.
func TestLogKeysAreTheMemberships(t *testing.T) {
	w := prepare(t, 1)
	signing := map[membership.LogName][]string{membership.LogAudit: {vkey(t, cluster+"/audit")}}
	w.config = func(c *orchestrator.Config) { c.SigningKeys = signing }
	w.mustOpen()
	second := testVkey(t, cluster+"/audit", "second")
	receipts := []string{vkey(t, cluster+"/audit/receipt")}
	replace := membership.SetLogKeys{Log: membership.LogAudit, Keys: []string{second}, ReceiptKeys: receipts}
	_, _, _, err := w.ApplyChange(ctx(t), actor("admin"), signedBy(t, must[[]byte](t)(w.state.Propose(replace)), "admin"))
	wantCode(t, "a change that leaves no signing key named", err, orchestrator.CodeChange)
	both := []string{second, vkey(t, cluster+"/audit")}
	if both[0] > both[1] {
		both[0], both[1] = both[1], both[0]
	}
	w.change(membership.SetLogKeys{Log: membership.LogAudit, Keys: both, ReceiptKeys: receipts})
	signing = map[membership.LogName][]string{membership.LogAudit: {second}}
	w.restart()
	w.change(replace)
	w.restart() // the policy still accepts the key that was named before

	signing = map[membership.LogName][]string{membership.LogAudit: {vkey(t, cluster+"/audit")}}
	w.Close()
	w.audit, w.members = w.audit.reopen(), w.members.reopen()
	if err := w.open(); err == nil || !strings.Contains(err.Error(), "nobody would accept its checkpoints") {
		t.Errorf("opened with a key that signs and is not named: %v", err)
	}
	signing = nil
	w.audit, w.members = w.audit.reopen(), w.members.reopen()
	w.audit.policy = policyOf(t, w.audit, testVkey(t, cluster+"/audit", "stranger"))
	if err := w.open(); err == nil || !strings.Contains(err.Error(), "which no change of the membership has named") {
		t.Errorf("opened with a policy that accepts a strange key: %v", err)
	}
}

// assigned submits until the node is among those that are asked first.
func (w *keyed) assigned(hash digest.Digest, node string) digest.Digest {
	w.t.Helper()
	for {
		id := must[digest.Digest](w.t)(w.submitBy(hash, "acme/submission"))
		if must[bool](w.t)(w.isAssigned(id, node)) {
			return id
		}
	}
}

func (w *keyed) isAssigned(id digest.Digest, node string) (bool, error) {
	s, err := w.Status(id, "")
	return contains(s.GetAssignedNodes(), node), err
}

func (w *keyed) attestationBy(s *provenance.Statement, key string) []byte {
	w.t.Helper()
	payload := must[[]byte](w.t)(s.Marshal())
	signer := must[dsse.Signer](w.t)(dsse.NewSigner(testKey(key)))
	e := must[*dsse.Envelope](w.t)(dsse.Sign(provenance.AttestationType, payload, signer))
	return must[[]byte](w.t)(e.Marshal())
}

func wantRefused(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || orchestrator.CodeOf(err) == orchestrator.CodeUnavailable {
		t.Errorf("%s: %v", what, err)
	}
}

func isOf(id digest.Digest) func(*pb.Assignment) bool {
	return func(a *pb.Assignment) bool { return a.GetExecutionId() == id.String() }
}

// testVkey is a log's verifier key of another key than its own.
func testVkey(t testing.TB, origin, key string) string {
	t.Helper()
	return must[string](t)(checkpoint.Vkey(origin, publicKey(key)))
}

// policyOf is the log's policy with one more key of it.
func policyOf(t testing.TB, l *fakeLog, vkey string) *checkpoint.Policy {
	t.Helper()
	witness := l.policy.Witnesses()[0]
	return must[*checkpoint.Policy](t)(checkpoint.ParsePolicy(fmt.Appendf(nil, "log %s\nlog %s\nwitness w1 %s\nquorum w1\n", l.policy.Logs()[0].Vkey, vkey, witness.Vkey)))
}
