package provenance_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// scene is a cluster with a contract registered and an execution requested.
type scene struct {
	*testcluster.Cluster
	contract digest.Digest
	id       digest.Digest
}

func newScene(t *testing.T) *scene {
	c := testcluster.New(t, testcluster.Options{Nodes: 5})
	s := &scene{Cluster: c, contract: c.Register(nil)}
	s.id = c.Submit(s.contract, []byte("input"))
	return s
}

// nodes of the ranking, best first.
func (s *scene) nodes() []string { return s.Execution(s.id).Schedule.Ranking }

// attestation returns the record of the n-th ranked node, with its statement
// changed by edit.
func (s *scene) attestation(n int, edit func(st *provenance.Statement)) *pb.Record {
	st := s.Statement(s.id, s.nodes()[n], testcluster.OK("output"))
	if edit != nil {
		edit(st)
	}
	return s.AttestationRecord(st)
}

func (s *scene) expired() *pb.Record {
	return s.Fill(&pb.Record{Body: &pb.Record_Expired{Expired: &pb.ExpiredRecord{ExecutionId: s.id[:]}}})
}

func (s *scene) cancellation(edit func(c *contract.Cancellation)) *pb.Record {
	c := &contract.Cancellation{Cluster: s.Name, Execution: s.id, ProtocolVersion: "1.0", Tenant: testcluster.Tenant}
	if edit != nil {
		edit(c)
	}
	envelope, _, err := contract.Sign(c, testcluster.Key(c.Tenant+"/submission"))
	if err != nil {
		panic(err)
	}
	return s.Fill(&pb.Record{Body: &pb.Record_Cancellation{Cancellation: &pb.CancellationRecord{Tenant: c.Tenant,
		ExecutionId: c.Execution[:], Epoch: s.Fold.Epoch(), Envelope: envelope}}})
}

func (s *scene) retirement(edit func(r *contract.Retirement)) *pb.Record {
	r := &contract.Retirement{Cluster: s.Name, Contract: s.contract, ProtocolVersion: "1.0", Tenant: testcluster.Tenant}
	if edit != nil {
		edit(r)
	}
	envelope, _, err := contract.Sign(r, testcluster.Key(r.Tenant+"/contract"))
	if err != nil {
		panic(err)
	}
	return s.Fill(&pb.Record{Body: &pb.Record_Retirement{Retirement: &pb.RetirementRecord{Tenant: r.Tenant,
		ContractHash: r.Contract[:], Epoch: s.Fold.Epoch(), Envelope: envelope}}})
}

// derive makes the execution complete and returns the provenance record, not
// yet in the log.
func (s *scene) derive(t *testing.T) *pb.Record {
	for n := range 2 {
		if _, effect := s.Append(s.attestation(n, nil)); effect.Derived != nil {
			return effect.Derived
		}
	}
	t.Fatal("two of three did not complete the execution")
	return nil
}

// ruleCases has a record that breaks each rule, in a state where it would
// otherwise be valid.
var ruleCases = []struct {
	name   string
	code   provenance.Code
	record func(t *testing.T, s *scene) *pb.Record
}{
	{"no body", provenance.CodeNoRecord, func(t *testing.T, s *scene) *pb.Record { return s.Fill(&pb.Record{}) }},
	{"nil", provenance.CodeNoRecord, func(t *testing.T, s *scene) *pb.Record { return nil }},
	{"another cluster", provenance.CodeOtherCluster, func(t *testing.T, s *scene) *pb.Record {
		r := s.attestation(0, nil)
		r.Cluster = "other"
		return r
	}},

	{"epoch again", provenance.CodeEpochOrder, func(t *testing.T, s *scene) *pb.Record { return s.EpochRecord(1) }},
	{"epoch that membership lacks", provenance.CodeEpochUnknown, func(t *testing.T, s *scene) *pb.Record {
		r := s.EpochRecord(1)
		r.GetEpoch().Epoch = 2
		return r
	}},

	{"contract again", provenance.CodeContractKnown, func(t *testing.T, s *scene) *pb.Record { return s.ContractRecord(s.Contract()) }},
	{"contract of another epoch", provenance.CodeStaleEpoch, func(t *testing.T, s *scene) *pb.Record {
		r := s.ContractRecord(s.Contract())
		r.GetContract().Epoch = 2
		return r
	}},
	{"contract altered after signing", provenance.CodeContractInvalid, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		r := s.ContractRecord(c)
		c.Name = "altered"
		other := s.ContractRecord(c)
		// The payload of one with the signature of the other.
		mine, theirs := string(r.GetContract().Envelope), string(other.GetContract().Envelope)
		cut := strings.Index(mine, `"signatures"`)
		other.GetContract().Envelope = []byte(theirs[:strings.Index(theirs, `"signatures"`)] + mine[cut:])
		return other
	}},
	{"contract by another tenant", provenance.CodeContractInvalid, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.Name = "other"
		payload, _ := c.Marshal()
		r := s.ContractRecord(c)
		r.GetContract().Envelope = s.Envelope(contract.ContractType, payload, testcluster.Other+"/contract")
		return r
	}},
	{"contract by a submission key", provenance.CodeContractInvalid, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.Name = "other"
		payload, _ := c.Marshal()
		r := s.ContractRecord(c)
		r.GetContract().Envelope = s.Envelope(contract.ContractType, payload, testcluster.Tenant+"/submission")
		return r
	}},
	{"contract of a tenant that is none", provenance.CodeContractInvalid, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.Tenant = testcluster.Admin
		return s.ContractRecord(c)
	}},
	{"contract of another hash", provenance.CodeContractInvalid, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.Name = "other"
		r := s.ContractRecord(c)
		r.GetContract().ContractHash[0] ^= 1
		return r
	}},
	{"contract record of another tenant", provenance.CodeContractInvalid, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.Name = "other"
		r := s.ContractRecord(c)
		r.GetContract().Tenant = testcluster.Other
		return r
	}},
	{"contract above the limits", provenance.CodeContractLimits, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.Limits.MemoryPages = 4097
		return s.ContractRecord(c)
	}},
	{"module above the limits", provenance.CodeContractLimits, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.Name = "other"
		r := s.ContractRecord(c)
		r.GetContract().ModuleSize = 1 << 30
		return r
	}},

	{"retirement twice", provenance.CodeContractRetired, func(t *testing.T, s *scene) *pb.Record {
		s.Append(s.retirement(nil))
		return s.retirement(nil)
	}},
	{"retirement of an unknown contract", provenance.CodeContractUnknown, func(t *testing.T, s *scene) *pb.Record {
		return s.retirement(func(r *contract.Retirement) { r.Contract[0] ^= 1 })
	}},
	{"retirement by another tenant", provenance.CodeContractUnknown, func(t *testing.T, s *scene) *pb.Record {
		return s.retirement(func(r *contract.Retirement) { r.Tenant = testcluster.Other })
	}},
	{"retirement record of another contract", provenance.CodeRetirementInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.retirement(nil)
		r.GetRetirement().ContractHash = make([]byte, 32)
		return r
	}},
	{"retirement not signed", provenance.CodeRetirementInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.retirement(nil)
		r.GetRetirement().Envelope = []byte("{}")
		return r
	}},
	{"retirement of another epoch", provenance.CodeStaleEpoch, func(t *testing.T, s *scene) *pb.Record {
		r := s.retirement(nil)
		r.GetRetirement().Epoch = 7
		return r
	}},

	{"request again", provenance.CodeExecutionKnown, func(t *testing.T, s *scene) *pb.Record {
		return s.RequestRecord(s.Execution(s.id).Submission)
	}},
	{"request that pins an old epoch", provenance.CodeStaleEpoch, func(t *testing.T, s *scene) *pb.Record {
		r := s.RequestRecord(s.Submission(s.contract, nil))
		s.AddNode("node-9")
		return r
	}},
	{"request beyond its last epoch", provenance.CodeSubmissionExpired, func(t *testing.T, s *scene) *pb.Record {
		sub := s.Submission(s.contract, nil)
		sub.LastEpoch = 1
		s.AddNode("node-9")
		return s.RequestRecord(sub)
	}},
	{"request that the tenant did not sign", provenance.CodeSubmissionInvalid, func(t *testing.T, s *scene) *pb.Record {
		sub := s.Submission(s.contract, nil)
		payload, _ := sub.Marshal()
		r := s.RequestRecord(sub)
		r.GetRequest().Envelope = s.Envelope(contract.SubmissionType, payload, testcluster.Other+"/submission")
		return r
	}},
	{"request record of another execution", provenance.CodeSubmissionInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.RequestRecord(s.Submission(s.contract, nil))
		r.GetRequest().ExecutionId[0] ^= 1
		return r
	}},
	{"request for an unknown contract", provenance.CodeContractUnknown, func(t *testing.T, s *scene) *pb.Record {
		return s.RequestRecord(s.Submission(digest.Of(nil), nil))
	}},
	{"request for another tenant's contract", provenance.CodeContractUnknown, func(t *testing.T, s *scene) *pb.Record {
		sub := s.Submission(s.contract, nil)
		sub.Tenant = testcluster.Other
		return s.RequestRecord(sub)
	}},
	{"request for a retired contract", provenance.CodeContractRetired, func(t *testing.T, s *scene) *pb.Record {
		s.Append(s.retirement(nil))
		return s.RequestRecord(s.Submission(s.contract, nil))
	}},
	{"request for an expired contract", provenance.CodeContractExpired, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.ExpiresEpoch = 1
		hash := s.Register(c)
		s.AddNode("node-9")
		return s.RequestRecord(s.Submission(hash, nil))
	}},
	{"request for a contract whose key was revoked", provenance.CodeContractRevoked, func(t *testing.T, s *scene) *pb.Record {
		key := testcluster.NewKey(testcluster.Tenant + "/contract")
		s.Change(membership.RotateKey{ID: testcluster.Tenant, Remove: key.ID()})
		return s.RequestRecord(s.Submission(s.contract, nil))
	}},
	{"request above limits that shrank", provenance.CodeContractLimits, func(t *testing.T, s *scene) *pb.Record {
		limits := contract.DefaultClusterLimits()
		limits.MemoryPages = 100
		s.Change(membership.SetClusterLimits{Limits: limits})
		return s.RequestRecord(s.Submission(s.contract, nil))
	}},
	{"request with a module above limits that shrank", provenance.CodeContractLimits, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.Name = "larger"
		r := s.ContractRecord(c)
		r.GetContract().ModuleSize = contract.LeastModuleBytes + 1
		s.Append(r)
		limits := contract.DefaultClusterLimits()
		limits.ModuleBytes = contract.LeastModuleBytes
		s.Change(membership.SetClusterLimits{Limits: limits})
		return s.RequestRecord(s.Submission(digest.Digest(r.GetContract().GetContractHash()), nil))
	}},
	{"request with an unknown parent", provenance.CodeParent, func(t *testing.T, s *scene) *pb.Record {
		return s.RequestRecord(s.Submission(s.contract, nil, digest.Of(nil)))
	}},
	{"request with an open parent", provenance.CodeParent, func(t *testing.T, s *scene) *pb.Record {
		return s.RequestRecord(s.Submission(s.contract, nil, s.id))
	}},
	{"request with a failed parent", provenance.CodeParent, func(t *testing.T, s *scene) *pb.Record {
		outcome := testcluster.OK("x")
		outcome.Kind, outcome.ExitCode = contract.OutcomeExit, 1
		s.Run(s.id, outcome)
		return s.RequestRecord(s.Submission(s.contract, nil, s.id))
	}},
	{"request with another tenant's parent", provenance.CodeParent, func(t *testing.T, s *scene) *pb.Record {
		s.Run(s.id, testcluster.OK("x"))
		c := s.Contract()
		c.Tenant = testcluster.Other
		sub := s.Submission(s.Register(c), nil, s.id)
		sub.Tenant = testcluster.Other
		return s.RequestRecord(sub)
	}},
	{"request below the node quorum", provenance.CodeQuorum, func(t *testing.T, s *scene) *pb.Record {
		s.Change(membership.SetNodeQuorum{Quorum: 5})
		s.Change(membership.RemovePrincipal{ID: "node-5"})
		return s.RequestRecord(s.Submission(s.contract, nil))
	}},
	{"request with too few eligible nodes", provenance.CodeEligible, func(t *testing.T, s *scene) *pb.Record {
		c := s.Contract()
		c.NodeLabels = map[string]string{"arch": "arm64"}
		return s.RequestRecord(s.Submission(s.Register(c), nil))
	}},

	{"cancellation of an unknown execution", provenance.CodeExecutionUnknown, func(t *testing.T, s *scene) *pb.Record {
		return s.cancellation(func(c *contract.Cancellation) { c.Execution[0] ^= 1 })
	}},
	{"cancellation by another tenant", provenance.CodeExecutionUnknown, func(t *testing.T, s *scene) *pb.Record {
		return s.cancellation(func(c *contract.Cancellation) { c.Tenant = testcluster.Other })
	}},
	{"cancellation of a complete execution", provenance.CodeDecided, func(t *testing.T, s *scene) *pb.Record {
		s.derive(t)
		return s.cancellation(nil)
	}},
	{"cancellation record of another execution", provenance.CodeCancellationInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.cancellation(nil)
		r.GetCancellation().ExecutionId = make([]byte, 32)
		return r
	}},
	{"cancellation by the contract key", provenance.CodeCancellationInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.cancellation(nil)
		c := contract.Cancellation{Cluster: s.Name, Execution: s.id, ProtocolVersion: "1.0", Tenant: testcluster.Tenant}
		payload, _ := c.Marshal()
		r.GetCancellation().Envelope = s.Envelope(contract.CancellationType, payload, testcluster.Tenant+"/contract")
		return r
	}},
	{"cancellation of another epoch", provenance.CodeStaleEpoch, func(t *testing.T, s *scene) *pb.Record {
		r := s.cancellation(nil)
		r.GetCancellation().Epoch = 2
		return r
	}},

	{"reschedule of an unknown execution", provenance.CodeExecutionUnknown, func(t *testing.T, s *scene) *pb.Record {
		r := s.RescheduleRecord(s.id)
		r.GetReschedule().ExecutionId[0] ^= 1
		return r
	}},
	{"reschedule that skips an attempt", provenance.CodeAttempt, func(t *testing.T, s *scene) *pb.Record {
		r := s.RescheduleRecord(s.id)
		r.GetReschedule().Attempt = 2
		return r
	}},
	{"reschedule when all are assigned", provenance.CodeNobodyNew, func(t *testing.T, s *scene) *pb.Record {
		s.Append(s.RescheduleRecord(s.id))
		s.Append(s.RescheduleRecord(s.id))
		return s.RescheduleRecord(s.id)
	}},
	{"reschedule of a complete execution", provenance.CodeDecided, func(t *testing.T, s *scene) *pb.Record {
		s.derive(t)
		return s.RescheduleRecord(s.id)
	}},
	{"expired with ranks to come", provenance.CodeRanksRemain, func(t *testing.T, s *scene) *pb.Record {
		s.Append(s.RescheduleRecord(s.id))
		return s.expired()
	}},
	{"expired twice", provenance.CodeDecided, func(t *testing.T, s *scene) *pb.Record {
		s.Append(s.RescheduleRecord(s.id))
		s.Append(s.RescheduleRecord(s.id))
		s.Append(s.expired())
		return s.expired()
	}},

	{"attestation for an unknown execution", provenance.CodeExecutionUnknown, func(t *testing.T, s *scene) *pb.Record {
		r := s.attestation(0, nil)
		r.GetAttestation().ExecutionId[0] ^= 1
		return r
	}},
	{"attestation of another epoch", provenance.CodeStaleEpoch, func(t *testing.T, s *scene) *pb.Record {
		r := s.attestation(0, nil)
		r.GetAttestation().Epoch = 2
		return r
	}},
	{"attestation by a node of a later attempt", provenance.CodeNotAssigned, func(t *testing.T, s *scene) *pb.Record {
		return s.attestation(3, nil)
	}},
	{"attestation by somebody who is no node", provenance.CodeNotAssigned, func(t *testing.T, s *scene) *pb.Record {
		r := s.attestation(0, nil)
		r.GetAttestation().Node = testcluster.Tenant
		return r
	}},
	{"attestation signed by another node", provenance.CodeAttestationInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.attestation(0, nil)
		r.GetAttestation().Node = s.nodes()[1]
		return r
	}},
	{"attestation signed by a token key", provenance.CodeAttestationInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.attestation(0, nil)
		payload, _ := s.Statement(s.id, s.nodes()[0], testcluster.OK("output")).Marshal()
		r.GetAttestation().Envelope = s.Envelope(provenance.AttestationType, payload, s.nodes()[0]+"/token")
		return r
	}},
	{"attestation with two signatures", provenance.CodeAttestationInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.attestation(0, nil)
		payload, _ := s.Statement(s.id, s.nodes()[0], testcluster.OK("output")).Marshal()
		r.GetAttestation().Envelope = s.Envelope(provenance.AttestationType, payload, s.nodes()[0]+"/attestation", s.nodes()[1]+"/attestation")
		return r
	}},
	{"attestation that is no statement", provenance.CodeAttestationInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.attestation(0, nil)
		r.GetAttestation().Envelope = s.Envelope(provenance.AttestationType, []byte("{}"), s.nodes()[0]+"/attestation")
		return r
	}},
	{"attestation that is no envelope", provenance.CodeAttestationInvalid, func(t *testing.T, s *scene) *pb.Record {
		r := s.attestation(0, nil)
		r.GetAttestation().Envelope = []byte("{}")
		return r
	}},
	{"attestation by a removed node", provenance.CodeAttestationInvalid, func(t *testing.T, s *scene) *pb.Record {
		s.Change(membership.RemovePrincipal{ID: s.nodes()[0]})
		return s.attestation(0, nil)
	}},
	{"attestation by a key newer than the pin", provenance.CodeAttestationInvalid, func(t *testing.T, s *scene) *pb.Record {
		node := s.nodes()[0]
		old, fresh := testcluster.NewKey(node+"/attestation"), testcluster.NewKey(node+"/new", membership.UseAttestation)
		s.Change(membership.RotateKey{ID: node, Add: &fresh, Remove: old.ID()}, node+"/new")
		st := s.Statement(s.id, node, testcluster.OK("output"))
		payload, _ := st.Marshal()
		r := s.AttestationRecord(st)
		r.GetAttestation().Envelope = s.Envelope(provenance.AttestationType, payload, node+"/new")
		return r
	}},
	{"attestation twice", provenance.CodeRepeated, func(t *testing.T, s *scene) *pb.Record {
		s.Append(s.attestation(0, nil))
		return s.attestation(0, nil)
	}},
	{"attestation that says the same in other words", provenance.CodeRepeated, func(t *testing.T, s *scene) *pb.Record {
		s.Append(s.attestation(0, nil))
		return s.attestation(0, func(st *provenance.Statement) { st.SoftwareVersion = "v2" })
	}},
	{"attestation by a void node", provenance.CodeRepeated, func(t *testing.T, s *scene) *pb.Record {
		s.Append(s.attestation(0, nil))
		s.Append(s.attestation(0, func(st *provenance.Statement) { st.Outcome = testcluster.OK("b") }))
		return s.attestation(0, func(st *provenance.Statement) { st.Outcome = testcluster.OK("c") })
	}},

	{"provenance of an unknown execution", provenance.CodeExecutionUnknown, func(t *testing.T, s *scene) *pb.Record {
		r := s.derive(t)
		r.GetProvenance().ExecutionId[0] ^= 1
		return r
	}},
	{"provenance twice", provenance.CodeNotDerived, func(t *testing.T, s *scene) *pb.Record {
		r := s.derive(t)
		s.Append(r)
		return r
	}},
	{"divergence of a complete execution", provenance.CodeNotDerived, func(t *testing.T, s *scene) *pb.Record {
		s.derive(t)
		return s.Fill(&pb.Record{Body: &pb.Record_Divergence{Divergence: &pb.DivergenceRecord{ExecutionId: s.id[:],
			DivergedAt: 4, AttestationDigests: [][]byte{make([]byte, 32)}}}})
	}},
	{"divergence of an open execution", provenance.CodeNotDerived, func(t *testing.T, s *scene) *pb.Record {
		return s.Fill(&pb.Record{Body: &pb.Record_Divergence{Divergence: &pb.DivergenceRecord{ExecutionId: s.id[:],
			DivergedAt: 2, AttestationDigests: [][]byte{make([]byte, 32)}}}})
	}},
	{"provenance with an actor", provenance.CodeDiffers, func(t *testing.T, s *scene) *pb.Record {
		r := s.derive(t)
		r.Actor = &pb.Actor{Principal: testcluster.Tenant}
		return r
	}},
}

// statementCases has, for each member of a statement that the records imply, a
// statement in which it differs.
var statementCases = map[string]func(s *scene, st *provenance.Statement){
	"cluster":               func(s *scene, st *provenance.Statement) { st.Cluster = "other" },
	"tenant":                func(s *scene, st *provenance.Statement) { st.Tenant = testcluster.Other },
	"invocationId":          func(s *scene, st *provenance.Statement) { st.Execution[0] ^= 1 },
	"contract":              func(s *scene, st *provenance.Statement) { st.Contract[0] ^= 1 },
	"submission":            func(s *scene, st *provenance.Statement) { st.Submission[0] ^= 1 },
	"input":                 func(s *scene, st *provenance.Statement) { st.Input[0] ^= 1 },
	"attempt":               func(s *scene, st *provenance.Statement) { st.Attempt++ },
	"epoch":                 func(s *scene, st *provenance.Statement) { st.Epoch++ },
	"membership_hash":       func(s *scene, st *provenance.Statement) { st.MembershipHash[0] ^= 1 },
	"cluster_schedule_hash": func(s *scene, st *provenance.Statement) { st.ScheduleHash[0] ^= 1 },
	"module":                func(s *scene, st *provenance.Statement) { st.Module[0] ^= 1 },
	"rewritten_module":      func(s *scene, st *provenance.Statement) { st.RewrittenModule = &st.Module },
	"parents": func(s *scene, st *provenance.Statement) {
		st.Parents, st.ParentOutputs = []digest.Digest{{}}, []digest.Digest{{}}
	},
	"gas": func(s *scene, st *provenance.Statement) { st.Outcome.Gas = new(uint64) },
	"request_checkpoint is of": func(s *scene, st *provenance.Statement) {
		st.RequestCheckpoint.Origin = s.Membership.Origin
	},
	"request_checkpoint has size 2": func(s *scene, st *provenance.Statement) {
		st.RequestCheckpoint.Size = s.Execution(s.id).RequestIndex
	},
	"request_checkpoint has size 4": func(s *scene, st *provenance.Statement) { st.RequestCheckpoint.Size = s.Audit.Size() + 1 },
	"membership_checkpoint is of": func(s *scene, st *provenance.Statement) {
		st.MembershipCheckpoint.Origin = s.Audit.Origin
	},
	"membership_checkpoint has size 2":    func(s *scene, st *provenance.Statement) { st.MembershipCheckpoint.Size = 2 },
	"membership_checkpoint has root hash": func(s *scene, st *provenance.Statement) { st.MembershipCheckpoint.RootHash[0] ^= 1 },
}

func TestVoidRecords(t *testing.T) {
	seen := map[provenance.Code]bool{provenance.CodeIndex: true, provenance.CodeNoEpoch: true, provenance.CodeEpochDiffers: true,
		provenance.CodeAttestationDiffers: true} // have tests of their own
	for _, test := range ruleCases {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t)
			seen[test.code] = true
			r := test.record(t, s)
			before := dump(s.Fold)
			checked := s.Fold.Check(r)
			index := s.Audit.Size()
			effect := s.Fold.Apply(index, [32]byte{}, r)
			if !effect.Void || effect.Code != test.code || effect.Detail == "" {
				t.Errorf("void %v, code %q, detail %q; want code %q", effect.Void, effect.Code, effect.Detail, test.code)
			}
			if checked.Code != effect.Code || checked.Void != effect.Void {
				t.Errorf("Check says %q, Apply %q", checked.Code, effect.Code)
			}
			if after := dump(s.Fold); after != before {
				t.Errorf("a void record changed the state from\n%s\nto\n%s", before, after)
			}
		})
	}
	for _, code := range allCodes(t) {
		if !seen[code] {
			t.Errorf("no case for code %q", code)
		}
	}
}

func TestStatementsThatDoNotFit(t *testing.T) {
	for member, edit := range statementCases {
		t.Run(member, func(t *testing.T) {
			s := newScene(t)
			node := s.nodes()[0]
			st := s.Statement(s.id, node, testcluster.OK("output"))
			edit(s, st)
			r := s.AttestationRecord(st)
			r.GetAttestation().ExecutionId = s.id[:]
			effect := s.Fold.Check(r)
			if effect.Code != provenance.CodeAttestationDiffers || !strings.Contains(effect.Detail, member) {
				t.Errorf("code %q, %q; want %q to name %q", effect.Code, effect.Detail, provenance.CodeAttestationDiffers, member)
			}
		})
	}
	s := newScene(t)
	st := s.Statement(s.id, s.nodes()[1], testcluster.OK("output"))
	payload, err := st.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r := s.AttestationRecord(st)
	r.GetAttestation().Node = s.nodes()[0]
	r.GetAttestation().Envelope = s.Envelope(provenance.AttestationType, payload, s.nodes()[0]+"/attestation")
	if effect := s.Fold.Check(r); effect.Code != provenance.CodeAttestationDiffers || !strings.Contains(effect.Detail, "node is") {
		t.Errorf("a node that signs another's statement: %q, %q", effect.Code, effect.Detail)
	}
}

// Every field of a provenance record is compared.
func TestProvenanceThatDiffers(t *testing.T) {
	fields := (&pb.ProvenanceRecord{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Name() == "execution_id" {
			continue // names another execution
		}
		s := newScene(t)
		r := s.derive(t)
		m := r.GetProvenance().ProtoReflect()
		if m.Has(fd) {
			m.Clear(fd)
		} else {
			r.GetProvenance().Parents = [][]byte{make([]byte, 32)}
		}
		effect := s.Fold.Check(r)
		if effect.Code != provenance.CodeDiffers || !strings.Contains(effect.Detail, string(fd.Name())) {
			t.Errorf("%s: code %q, %q", fd.Name(), effect.Code, effect.Detail)
		}
	}
}

func TestEpochRecords(t *testing.T) {
	for name, edit := range map[string]func(e *pb.EpochRecord){
		"size":          func(e *pb.EpochRecord) { e.MembershipSize++ },
		"root":          func(e *pb.EpochRecord) { e.MembershipRoot[0] ^= 1 },
		"hash":          func(e *pb.EpochRecord) { e.MembershipHash[0] ^= 1 },
		"identity hash": func(e *pb.EpochRecord) { e.ClusterIdentityHash[0] ^= 1 },
	} {
		c := testcluster.New(t, testcluster.Options{})
		f := provenance.NewFold(c.Name, c.History)
		r := c.EpochRecord(1)
		edit(r.GetEpoch())
		if effect := f.Check(r); effect.Code != provenance.CodeEpochDiffers {
			t.Errorf("%s: %q", name, effect.Code)
		}
		if effect := f.Check(c.ContractRecord(c.Contract())); effect.Code != provenance.CodeNoEpoch {
			t.Errorf("contract before the first epoch record: %q", effect.Code)
		}
	}
}

func TestIndexes(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	f := provenance.NewFold(c.Name, c.History)
	r := c.EpochRecord(1)
	for _, index := range []int64{-1, 1, 7} {
		if effect := f.Apply(index, [32]byte{}, r); effect.Code != provenance.CodeIndex || f.Size() != 0 {
			t.Errorf("index %d: %q, size %d", index, effect.Code, f.Size())
		}
	}
	if effect := f.Apply(0, [32]byte{}, r); effect.Void || f.Size() != 1 || f.Epoch() != 1 {
		t.Errorf("index 0: %+v", effect)
	}
}

// allCodes reads the codes from the source, so that none is forgotten here.
func allCodes(t *testing.T) (codes []provenance.Code) {
	file, err := parser.ParseFile(token.NewFileSet(), "effect.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Code") {
			return true
		}
		text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		codes = append(codes, provenance.Code(text))
		return true
	})
	if len(codes) < 30 {
		t.Fatalf("only %d codes found", len(codes))
	}
	return codes
}
