package membership

import (
	"encoding/base64"
	"testing"
)

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// A life of a cluster, with a change of every kind that can be lawful.
func TestApplyEveryKind(t *testing.T) {
	s := mustGenesis(t)
	if s.Epoch() != 1 || s.Count() != 4 || s.AdminThreshold() != 2 || !s.MeetsQuorum() {
		t.Fatalf("genesis: epoch %d, %d principals, threshold %d", s.Epoch(), s.Count(), s.AdminThreshold())
	}
	s = mustApply(t, s, AddPrincipal{nodeOf("node-1")}, "node-1")
	s = mustApply(t, s, UpdatePrincipal{ID: "node-1", Name: "rack 4", TrustLevel: 1, Labels: map[string]string{"arch": "amd64"}})
	if p, ok := s.Principal("node-1"); !ok || p.Name != "rack 4" || p.TrustLevel != 1 || p.Labels["arch"] != "amd64" {
		t.Errorf("node-1 is %+v", p)
	}
	second := keyOf("node-1 second", UseAttestation)
	s = mustApply(t, s, RotateKey{ID: "node-1", Add: &second, Remove: keyOf("node-1").ID()}, "node-1 second")
	if p, ok := s.KeyHolder(second.ID()); !ok || p.ID != "node-1" || len(p.Keys) != 1 {
		t.Errorf("the holder of the new key is %+v", p)
	}
	if _, ok := s.KeyHolder(keyOf("node-1").ID()); ok {
		t.Error("the old key is still held")
	}
	s = mustApply(t, s, SetAdminThreshold{1})
	s = mustApply(t, s, SetNodeQuorum{2})
	if s.NodeQuorum() != 2 || !s.MeetsQuorum() {
		t.Errorf("node quorum is %d with 2 nodes, met: %t", s.NodeQuorum(), s.MeetsQuorum())
	}
	limits := s.Limits()
	limits.Gas++
	s = mustApply(t, s, SetClusterLimits{limits})
	if s.Limits() != limits {
		t.Error("limits are not those set")
	}
	audit := s.Logs().Audit
	keys := append([]string{vkeyOf(t, audit.Origin, "new audit key")}, audit.Keys...)
	s = mustApply(t, s, SetLogKeys{Log: LogAudit, Keys: keys})
	if len(s.Logs().Audit.Keys) != 2 || s.Logs().Audit.ReceiptKeys != nil || s.Logs().Audit.Origin != audit.Origin {
		t.Errorf("audit log is %+v", s.Logs().Audit)
	}
	s = mustApply(t, s, ConfirmSuccessorLog{
		Log:        LogAudit,
		Checkpoint: checkpointOf(t, audit.Origin, "log "+audit.Origin),
		NewOrigin:  "demo/audit.2",
		NewKeys:    []string{vkeyOf(t, "demo/audit.2", "audit.2")},
	})
	if s.Logs().Audit.Origin != "demo/audit.2" {
		t.Errorf("audit log is %+v", s.Logs().Audit)
	}
	s = mustApply(t, s, RemovePrincipal{ID: "node-1"})
	if s.MeetsQuorum() {
		t.Error("1 node meets a quorum of 2")
	}
	if _, ok := s.Principal("node-1"); ok || s.Epoch() != 10 || s.Count() != 4 {
		t.Errorf("epoch %d with %d principals, want 10 with 4", s.Epoch(), s.Count())
	}
}
