package provenance_test

import (
	"testing"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// tenantKey is the id of the tenant's key for a use.
func tenantKey(use membership.Use) string {
	return testcluster.NewKey(testcluster.Tenant + "/" + string(use)).ID()
}

// Whoever has lost a key, or must go, is out with the very next epoch: what is
// signed by it from then on is void, whichever record it is in, and nothing that
// others sign is. Each record is valid in the same place without the change.
func TestRemovedKeysStopAtTheirEpoch(t *testing.T) {
	records := map[string]func(s *scene) *pb.Record{
		"contract": func(s *scene) *pb.Record {
			c := s.Contract()
			c.Name = "another"
			return s.ContractRecord(c)
		},
		"retirement":   func(s *scene) *pb.Record { return s.retirement(nil) },
		"request":      func(s *scene) *pb.Record { return s.RequestRecord(s.Submission(s.contract, nil)) },
		"cancellation": func(s *scene) *pb.Record { return s.cancellation(nil) },
		"attestation":  func(s *scene) *pb.Record { return s.attestation(0, nil) },
	}
	rotate := func(principal string, use membership.Use) func(s *scene) {
		return func(s *scene) {
			name := principal
			if principal == "" {
				name = s.nodes()[0]
			}
			fresh := testcluster.NewKey("fresh "+name, use)
			s.Change(membership.RotateKey{ID: name, Add: &fresh, Remove: testcluster.NewKey(name + "/" + string(use)).ID()}, "fresh "+name)
		}
	}
	revoke := func(use membership.Use) func(s *scene) {
		return func(s *scene) { s.Change(membership.RotateKey{ID: testcluster.Tenant, Remove: tenantKey(use)}) }
	}
	type codes map[string]provenance.Code
	for _, test := range []struct {
		name   string
		change func(s *scene)
		void   codes // by record; all others stay valid
	}{
		{"tenant removed", func(s *scene) { s.Change(membership.RemovePrincipal{ID: testcluster.Tenant}) }, codes{
			"contract":     provenance.CodeContractInvalid,
			"retirement":   provenance.CodeRetirementInvalid,
			"request":      provenance.CodeSubmissionInvalid,
			"cancellation": provenance.CodeCancellationInvalid,
		}},
		{"contract key revoked", revoke(membership.UseContract), codes{
			"contract":   provenance.CodeContractInvalid,
			"retirement": provenance.CodeRetirementInvalid,
			"request":    provenance.CodeContractRevoked,
		}},
		{"submission key revoked", revoke(membership.UseSubmission), codes{
			"request":      provenance.CodeSubmissionInvalid,
			"cancellation": provenance.CodeCancellationInvalid,
		}},
		{"token key revoked", revoke(membership.UseToken), nil},
		// A rotation is no revocation: what the old key signed before stays good.
		{"contract key rotated", rotate(testcluster.Tenant, membership.UseContract), codes{
			"contract":   provenance.CodeContractInvalid,
			"retirement": provenance.CodeRetirementInvalid,
		}},
		{"submission key rotated", rotate(testcluster.Tenant, membership.UseSubmission), codes{
			"request":      provenance.CodeSubmissionInvalid,
			"cancellation": provenance.CodeCancellationInvalid,
		}},
		{"node removed", func(s *scene) { s.Change(membership.RemovePrincipal{ID: s.nodes()[0]}) }, codes{
			"attestation": provenance.CodeAttestationInvalid,
		}},
		{"attestation key rotated", rotate("", membership.UseAttestation), codes{
			"attestation": provenance.CodeAttestationInvalid,
		}},
		{"another tenant removed", func(s *scene) { s.Change(membership.RemovePrincipal{ID: testcluster.Other}) }, nil},
		{"another node removed", func(s *scene) { s.Change(membership.RemovePrincipal{ID: s.nodes()[4]}) }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, record := range records {
				s := newScene(t)
				test.change(s)
				effect := s.Fold.Check(record(s))
				if effect.Code != test.void[name] || effect.Void != (test.void[name] != "") {
					t.Errorf("%s: void %t, code %q (%s); want code %q", name, effect.Void, effect.Code, effect.Detail, test.void[name])
				}
			}
		})
	}
	for name, record := range records {
		if effect := func() provenance.Effect { s := newScene(t); return s.Fold.Check(record(s)) }(); effect.Void {
			t.Errorf("%s is void without any change: %s", name, effect.Detail)
		}
	}
}

// The epoch before a removal cannot be claimed either: a record states the one
// in force.
func TestRemovedKeysCannotPinThePast(t *testing.T) {
	s := newScene(t)
	before := s.Fold.Epoch()
	s.Change(membership.RemovePrincipal{ID: testcluster.Tenant})
	r := s.RequestRecord(s.Submission(s.contract, nil))
	r.GetRequest().Epoch = before
	if effect := s.Fold.Check(r); effect.Code != provenance.CodeStaleEpoch {
		t.Errorf("a request that pins the past has code %q", effect.Code)
	}
	a := s.attestation(0, nil)
	a.GetAttestation().Epoch = before
	if effect := s.Fold.Check(a); effect.Code != provenance.CodeStaleEpoch {
		t.Errorf("an attestation that states the past has code %q", effect.Code)
	}
}

// Work that is under way when a node is removed is done by the others, and what
// the node attested before it was removed counts.
func TestRemovalDuringAnExecution(t *testing.T) {
	s := newScene(t)
	nodes := s.nodes()
	s.Append(s.attestation(0, nil))
	s.Change(membership.RemovePrincipal{ID: nodes[0]})
	s.Change(membership.RemovePrincipal{ID: nodes[1]})
	if _, effect := s.Append(s.attestation(1, nil)); effect.Code != provenance.CodeAttestationInvalid {
		t.Errorf("an attestation after the removal has code %q", effect.Code)
	}
	if _, effect := s.Append(s.attestation(2, nil)); effect.Void || effect.Derived == nil {
		t.Errorf("the third node's attestation: %+v", effect)
	}
	got := s.Execution(s.id).Provenance().GetNodes()
	if want := map[string]bool{nodes[0]: true, nodes[2]: true}; len(got) != 2 || !want[got[0]] || !want[got[1]] {
		t.Errorf("the result rests on %q, want %q and %q", got, nodes[0], nodes[2])
	}
}
