package membership

import (
	"fmt"
	"strings"
	"testing"
)

// A signer reads what changes, with what it replaces, in one line of ASCII
// each; text from strangers is quoted.
func TestDescribe(t *testing.T) {
	s := mustGenesis(t)
	add := keyOf("node-0 second", UseToken)
	audit := s.Logs().Audit
	newKey := vkeyOf(t, "demo/audit.2", "audit.2")
	old := keyOf("node-0").ID()
	limits := s.Limits()
	limits.Gas = 5
	forged := keyOf("forged", UseToken, "\x1b[2J\nadd nothing")
	for _, test := range []struct {
		effect Effect
		plain  []string // in the description without a state
		known  []string // only with one
	}{
		{AddPrincipal{nodeOf("node-1")}, []string{
			`add node "node-1", 1 key: no name, trust level 0, no labels`, keyOf("node-1").ID() + " for attestation, token"}, nil},
		{RemovePrincipal{"node-0"}, []string{`remove "node-0"; every key that it ever had is revoked`},
			[]string{`it is node "node-0", 1 key`, "key " + old}},
		{UpdatePrincipal{ID: "node-0", Name: `a"b`, TrustLevel: 7, Labels: map[string]string{"zone": "a", "arch": "amd64"}},
			[]string{`describe node "node-0": name "a\"b", trust level 7, label "arch" = "amd64", label "zone" = "a"`},
			[]string{"it was: no name, trust level 0, no labels"}},
		{RotateKey{ID: "node-0", Add: &add, Remove: old},
			[]string{`replace a key of "node-0"; what the old key signed stays good`, "new key " + add.ID() + " for token", "old key " + old},
			[]string{"(kind node, 1 key)", "old key " + old + " for attestation, token"}},
		{RotateKey{ID: "node-0", Add: &add}, []string{`add a key to "node-0"`}, nil},
		{RotateKey{ID: "node-0", Remove: old}, []string{`remove a key of "node-0" and revoke it`}, nil},
		{SetAdminThreshold{1}, []string{"from now on 1 admin must sign each change"}, []string{"(so far 2, of 3)"}},
		{SetNodeQuorum{3}, []string{"executions need 3 member nodes"}, []string{"(so far 1; 1 are members)"}},
		{RotateKey{ID: "node-0", Add: &forged}, []string{`for token, "\x1b[2J\nadd nothing"`}, nil},
		{SetClusterLimits{limits}, []string{"gas 5, "}, []string{fmt.Sprintf("so far gas %d", s.Limits().Gas)}},
		{SetProtocolVersion{"2.0"}, []string{"move to protocol version 2.0"}, []string{"(so far 1.0)"}},
		{SetLogKeys{Log: LogAudit, Keys: audit.Keys, ReceiptKeys: audit.ReceiptKeys},
			[]string{"is from now on signed only by:", "  " + audit.Keys[0], "receipts only: " + audit.ReceiptKeys[0]}, []string{`"demo/audit"`}},
		{SetLogKeys{Log: LogAudit, Keys: []string{"\x1b[1A" + newKey}, ReceiptKeys: []string{"é\n"}},
			[]string{`"\x1b[1Ademo/audit.2+`, `receipts only: "\u00e9\n"`},
			[]string{"no longer: " + audit.Keys[0], "no longer, receipts: " + audit.ReceiptKeys[0]}},
		{ConfirmSuccessorLog{Log: LogAudit, Checkpoint: "demo/audit\n\x1b[2J\n", NewOrigin: "demo/audit.2", NewKeys: []string{newKey}},
			[]string{`continued by "demo/audit.2"`, newKey, `"demo/audit"`, `"\x1b[2J"`}, []string{`the audit log "demo/audit" ends`}},
		{foundingOf(t, testCluster), []string{
			"begin a new cluster with 4 principals; 2 admins must sign each change", "executions need 1 member node",
			`with admin "alice", 1 key`, `audit log "demo/audit" is signed by:`, "nothing comes before"}, nil},
	} {
		c := Change{Cluster: testCluster, Epoch: 2, Effect: test.effect, ProtocolVersion: ProtocolVersion}
		plain, known := strings.Join(c.Describe(), "\n"), strings.Join(s.Describe(c), "\n")
		for _, want := range test.plain {
			if !strings.Contains(plain, want) || !strings.Contains(known, want) {
				t.Errorf("%s: no %q in\n%s", test.effect.Kind(), want, plain)
			}
		}
		for _, want := range append(test.known, `cluster "demo", epoch 2`) {
			if !strings.Contains(known, want) {
				t.Errorf("%s: no %q in\n%s", test.effect.Kind(), want, known)
			}
		}
		for _, line := range s.Describe(c) {
			for _, r := range line {
				if r < ' ' || r > '~' {
					t.Errorf("%s: %q in %q", test.effect.Kind(), r, line)
				}
			}
		}
	}
}
