package verifier_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier"
)

// conspiracy is a server that owns both logs, with witnesses that cosign whatever
// extends them, one of the first max_assigned nodes, fewer than have to agree, and
// everybody beyond: nodes that no attempt can assign, one that joined later, one
// that was removed before, strangers, and the token keys of the honest. It
// writes whatever they sign, where and as often as it likes.
type conspiracy struct {
	*testcluster.Cluster
	rng   *rand.Rand
	id    digest.Digest
	ranks []string // that some attempt can assign; the first one lies
	// fixed are the records that every bundle needs, chosen those that it may have.
	fixed, chosen []int64
}

const truth, lie = "output", "lie"

func conspire(t *testing.T, seed uint64) *conspiracy {
	x := &conspiracy{Cluster: testcluster.New(t, testcluster.Options{Nodes: 8}), rng: rand.New(rand.NewPCG(seed, 5))}
	contract := x.Register(nil)
	x.Change(membership.RemovePrincipal{ID: "node-8"})
	epoch := x.Audit.Size() - 1
	sub := x.Submission(contract, []byte("input"))
	x.id = sub.ExecutionID()
	x.Append(x.RequestRecord(sub))
	ex := x.Execution(x.id)
	x.fixed = []int64{ex.ContractIndex, epoch, ex.RequestIndex}
	x.ranks = slices.Clone(ex.Schedule.Ranking)
	x.rng.Shuffle(len(x.ranks), func(i, j int) { x.ranks[i], x.ranks[j] = x.ranks[j], x.ranks[i] })
	x.RequestCheckpoint(x.id) // the one that honest nodes are shown

	deeds := []func() *pb.Record{
		func() *pb.Record { return x.RequestRecord(sub) }, // again: void in the whole log
		func() *pb.Record { return x.EpochRecord(1 + x.rng.Uint64N(x.History.Size())) },
		func() *pb.Record { return x.reschedule(1) },
		func() *pb.Record { return x.reschedule(2) },
		func() *pb.Record {
			return x.Fill(&pb.Record{Body: &pb.Record_Expired{Expired: &pb.ExpiredRecord{ExecutionId: x.id[:]}}})
		},
	}
	for _, node := range x.ranks[1:] {
		honest := x.Statement(x.id, node, testcluster.OK(truth))
		deeds = append(deeds, func() *pb.Record { return x.attestation(honest, node, node+"/attestation") })
	}
	for _, liar := range []string{x.ranks[0], x.outsider(), "node-8", "late-1", "stranger"} {
		deeds = append(deeds, func() *pb.Record { return x.attestation(x.lie(liar), liar, liar+"/attestation") })
	}
	deeds = append(deeds,
		func() *pb.Record { // in an honest node's name
			return x.attestation(x.lie(x.ranks[1]), x.ranks[1], x.ranks[0]+"/attestation")
		},
		func() *pb.Record { return x.attestation(x.lie(x.ranks[2]), x.ranks[2], x.ranks[2]+"/token") },
		func() *pb.Record { return x.attestation(x.lie(x.ranks[0]), x.ranks[1], x.ranks[0]+"/attestation") })
	for i := range 5 * len(deeds) {
		if i == 2*len(deeds) {
			x.AddNode("late-1")
			x.chosen = append(x.chosen, x.Audit.Size()-1)
		}
		index, _ := x.Append(deeds[x.rng.IntN(len(deeds))]())
		x.chosen = append(x.chosen, index)
	}
	return x
}

func (x *conspiracy) reschedule(attempt uint64) *pb.Record {
	return x.Fill(&pb.Record{Body: &pb.Record_Reschedule{Reschedule: &pb.RescheduleRecord{ExecutionId: x.id[:], Attempt: attempt}}})
}

// outsider is a member that no attempt can assign.
func (x *conspiracy) outsider() string {
	for _, p := range x.History.Current().Nodes() {
		if !slices.Contains(x.ranks, p.ID) {
			return p.ID
		}
	}
	panic("all are ranked")
}

// lie is what a dishonest node says this time: mostly the lie that all tell, also
// under another checkpoint, or the truth.
func (x *conspiracy) lie(node string) *provenance.Statement {
	s := x.Statement(x.id, node, testcluster.OK(lie))
	switch x.rng.IntN(6) {
	case 0:
		s.Outcome = testcluster.OK(truth)
	case 1:
		size := x.Audit.Size()
		s.RequestCheckpoint = provenance.CheckpointRef{Origin: x.Audit.Origin, Size: size, RootHash: digest.Digest(x.Audit.Checkpoint(size).Root)}
	case 2:
		s.Attempt = x.rng.Uint64N(3)
	}
	return s
}

// attestation writes a statement down as a node's, signed by a key, at an epoch that
// need not be the one in force.
func (x *conspiracy) attestation(s *provenance.Statement, node, key string) *pb.Record {
	payload, err := s.Marshal()
	if err != nil {
		panic(err)
	}
	return x.Fill(&pb.Record{Body: &pb.Record_Attestation{Attestation: &pb.AttestationRecord{ExecutionId: x.id[:], Node: node,
		Epoch: x.History.Size() - x.rng.Uint64N(2), Envelope: x.Envelope(provenance.AttestationType, payload, key)}}})
}

// bundle makes one of a random selection, without records that are void in it,
// and closed as it has to be.
func (x *conspiracy) bundle() *pb.ProofBundle {
	content := provenance.BundleContent{Epoch: x.History.Size()}
	fold := provenance.NewPartialFold(x.Name, x.History)
	take := func(index int64) provenance.Effect {
		opening, _ := record.ParseOpening(x.Audit.Openings[index])
		r, _ := record.Parse(opening.Record())
		effect := fold.Apply(index, opening.Entry(), r)
		if !effect.Void && !effect.Evidence || x.rng.IntN(200) == 0 {
			content.Records = append(content.Records, index)
		}
		return effect
	}
	for _, index := range x.fixed {
		take(index)
	}
	share := 1 + x.rng.IntN(4)
	for _, index := range x.chosen {
		if kind := kindAt(x.Cluster, index); kind == record.KindExpired && x.rng.IntN(10) > 0 || x.rng.IntN(4) >= share {
			continue
		}
		effect := take(index)
		if effect.After == provenance.StateExpired {
			break
		}
		if effect.Derived != nil {
			last, _ := x.Append(effect.Derived)
			take(last)
			break
		}
	}
	b := x.BundleOf(x.id, content)
	if ex, ok := fold.Execution(x.id); ok && ex.State == provenance.StateComplete {
		root := int64(ex.Provenance().GetAuditRoot().GetSize())
		b.RequestCheckpoint = x.Audit.Signed(root)
		b.ConsistencyProof = x.Audit.Consistency(root, content.Records[len(content.Records)-1]+1)
	}
	return b
}

// Fewer nodes than have to agree cannot have a lie proven, whatever the server and
// everybody beyond the ranks do.
func TestFewerThanAgreementLie(t *testing.T) {
	verified, ended, refused := 0, 0, 0
	for seed := range uint64(4) {
		x := conspire(t, seed)
		for range 30 {
			report, err := verifier.VerifyBundle(format(t, x.bundle()), trustOf(x.Cluster), verifier.Options{Execution: x.id.String()})
			e := report.Execution
			var nodes []string
			if e != nil {
				for _, n := range e.Nodes {
					nodes = append(nodes, n.ID)
				}
			}
			switch {
			case errors.Is(err, verifier.CodeNoResult) && !report.Verified:
				ended++
			case err != nil && !report.Verified:
				refused++
			case err != nil || e.Outcome != testcluster.OK(truth) || len(nodes) < 2 || len(slices.Compact(nodes)) != len(e.Nodes) ||
				slices.ContainsFunc(nodes, func(id string) bool { return !slices.Contains(x.ranks, id) }):
				t.Fatalf("seed %d: %v: proven %+v by %v", seed, err, e.Outcome, nodes)
			default:
				verified++
			}
		}
	}
	if verified < 10 || ended < 1 || refused < 10 {
		t.Errorf("%d verified, %d ended without a result, %d were refused: the selections miss one of these", verified, ended, refused)
	}
	t.Logf("%d verified, %d ended, %d refused", verified, ended, refused)
}
