package provenance_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// A replica that reads entries and openings comes to the state of the writer,
// and stands still at an opening that is not the entry's.
func TestReadLog(t *testing.T) {
	s := newScene(t)
	s.Append(s.derive(t))
	s.Append(s.attestation(2, outputs("another")))
	replica := provenance.NewFold(s.Name, s.History)
	for i, opening := range s.Audit.Openings {
		at := dump(replica)
		for name, bad := range map[string][]byte{
			"an altered opening":        append(slices.Clone(opening[:len(opening)-1]), opening[len(opening)-1]^1),
			"another entry's opening":   s.Audit.Openings[(i+1)%len(s.Audit.Openings)],
			"a salt and nothing behind": opening[:record.SaltSize],
		} {
			if _, _, err := replica.Read(int64(i), s.Audit.Entries[i], bad); !errors.Is(err, provenance.ErrOpening) || dump(replica) != at {
				t.Fatalf("entry %d with %s: %v", i, name, err)
			}
		}
		effect, r, err := replica.Read(int64(i), s.Audit.Entries[i], opening)
		if err != nil || effect.Void || r == nil {
			t.Fatalf("entry %d: %+v, %v", i, effect, err)
		}
	}
	if have, want := dump(replica), dump(s.Fold); have != want {
		t.Errorf("the replica has\n%s\nthe writer\n%s", have, want)
	}
	_, _, err := provenance.OpenEntry(0, s.Audit.Entries[1], s.Audit.Openings[0])
	if !errors.Is(err, provenance.ErrOpening) {
		t.Errorf("another entry's opening: %v", err)
	}
}

// An entry that commits to bytes that are no record has its place in the log.
func TestReadNoRecord(t *testing.T) {
	s := newScene(t)
	opening, err := record.NewOpening([32]byte{1}, []byte("no record"))
	if err != nil {
		t.Fatal(err)
	}
	entry := opening.Entry()
	at := s.Audit.Size()
	effect, r, err := s.Fold.Read(at, entry[:], opening.Bytes())
	if err != nil || r != nil || effect.Code != provenance.CodeNoRecord || s.Fold.Size() != at+1 {
		t.Errorf("%+v, %v, %v", effect, r, err)
	}
}

// statusOf is what an honest control plane answers about an execution.
func statusOf(ex provenance.Execution) *pb.ExecutionStatus {
	s := &pb.ExecutionStatus{
		ExecutionId: ex.ID.String(), Tenant: ex.Tenant, ContractHash: ex.ContractHash.String(), Epoch: ex.Epoch,
		State:        pb.ExecutionState(pb.ExecutionState_value["EXECUTION_STATE_"+strings.ToUpper(string(ex.State))]),
		RequestIndex: uint64(ex.RequestIndex), Attempt: ex.Attempt, AssignedNodes: ex.Assigned(),
		ClusterScheduleHash: ex.Schedule.Hash().String(), InputDigest: ex.Submission.Input.String(),
		Witnessed: true, SubmittedUnixMs: 7, ProofReady: true,
	}
	for _, p := range ex.Submission.Parents {
		s.Parents = append(s.Parents, p.String())
	}
	for _, a := range ex.Attestations {
		s.Reports = append(s.Reports, &pb.NodeReport{Node: a.Node, Index: uint64(a.Index), Agrees: a.Agrees, Void: a.Void,
			ResultDigest: a.Statement.Outcome.ResultDigest().String(), Stance: string(ex.Stance(a)),
			AttestationDigest: a.Digest.String(), Evidence: a.Evidence})
	}
	s.Reports = append(s.Reports, &pb.NodeReport{Node: "node-9", Abandoned: "stopped"})
	if o := ex.Outcome; o != nil {
		s.ExecutionProof = fmt.Sprintf("%x", ex.Provenance().GetExecutionProof())
		s.Outcome = &pb.Outcome{Kind: string(o.Kind), Gas: o.Gas, PeakPages: o.PeakPages, OutputLength: o.OutputLength,
			OutputDigest: o.OutputDigest.String(), DiagnosticsLength: o.DiagnosticsLength,
			DiagnosticsDigest: o.DiagnosticsDigest.String(), ResultDigest: o.ResultDigest().String()}
		if o.Kind == contract.OutcomeExit {
			s.Outcome.ExitCode = proto.Uint32(uint32(o.ExitCode))
		}
	}
	return s
}

// answers plays histories and returns, for the execution of each, what an honest
// control plane has answered at every moment.
func answers(t *testing.T, visit func(name string, now provenance.Execution, earlier []*pb.ExecutionStatus)) {
	t.Helper()
	for name, records := range map[string]func(s *scene) []func() *pb.Record{
		"complete, then evidence": func(s *scene) []func() *pb.Record {
			at := func(n int, output string) func() *pb.Record {
				return func() *pb.Record { return s.attestation(n, outputs(output)) }
			}
			return []func() *pb.Record{at(0, "a"), at(1, "b"), at(1, "c"), func() *pb.Record { return s.RescheduleRecord(s.id) },
				at(3, "a"), at(2, "d"), at(3, "e")}
		},
		"diverged": func(s *scene) []func() *pb.Record {
			list := []func() *pb.Record{func() *pb.Record { return s.RescheduleRecord(s.id) }, func() *pb.Record { return s.RescheduleRecord(s.id) }}
			for n := range 5 {
				list = append(list, func() *pb.Record { return s.attestation(n, outputs(fmt.Sprint(n))) })
			}
			return list
		},
		"cancelled": func(s *scene) []func() *pb.Record {
			return []func() *pb.Record{func() *pb.Record { return s.attestation(0, nil) }, func() *pb.Record { return s.cancellation(nil) },
				func() *pb.Record { return s.attestation(1, nil) }}
		},
		"expired": func(s *scene) []func() *pb.Record {
			return []func() *pb.Record{func() *pb.Record { return s.RescheduleRecord(s.id) }, func() *pb.Record { return s.RescheduleRecord(s.id) }, s.expired}
		},
	} {
		s := newScene(t)
		s.Run(s.id, testcluster.OK("of the parent"))
		s.id = s.Submit(s.contract, nil, s.id)
		list := []*pb.ExecutionStatus{statusOf(s.Execution(s.id))}
		for _, next := range records(s) {
			s.Append(next())
			list = append(list, statusOf(s.Execution(s.id)))
		}
		visit(name, s.Execution(s.id), list)
	}
}

// What an honest control plane has answered at any moment fits the log as it
// stands later; and once an answer has been, an earlier log does not have it.
func TestCompareStatus(t *testing.T) {
	answers(t, func(name string, now provenance.Execution, earlier []*pb.ExecutionStatus) {
		for i, s := range earlier {
			if detail := now.CompareStatus(s); detail != "" {
				t.Errorf("%s, answer %d: %s", name, i, detail)
			}
		}
	})
	s := newScene(t)
	before := s.Execution(s.id)
	s.Append(s.attestation(0, nil))
	if detail := before.CompareStatus(statusOf(s.Execution(s.id))); !strings.Contains(detail, "1 reports") {
		t.Errorf("a report that the log does not have: %q", detail)
	}
}

// Every member of an answer that the log determines is compared.
func TestCompareStatusNamesWhatDiffers(t *testing.T) {
	ignored := map[protoreflect.Name]bool{"witnessed": true, "submitted_unix_ms": true, "proof_ready": true, "reports": true, "outcome": true}
	answers(t, func(name string, now provenance.Execution, earlier []*pb.ExecutionStatus) {
		honest := statusOf(now)
		alter := func(what string, edit func(s *pb.ExecutionStatus)) {
			t.Helper()
			s := proto.CloneOf(honest)
			edit(s)
			if now.CompareStatus(s) == "" {
				t.Errorf("%s: %s is not compared", name, what)
			}
		}
		fields := honest.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			if fd := fields.Get(i); !ignored[fd.Name()] && honest.ProtoReflect().Has(fd) {
				alter(string(fd.Name()), func(s *pb.ExecutionStatus) { s.ProtoReflect().Clear(fd) })
			}
		}
		for i := range now.Attestations {
			alter("node", func(s *pb.ExecutionStatus) { s.Reports[i].Node = "node-9" })
			alter("result", func(s *pb.ExecutionStatus) { s.Reports[i].ResultDigest = digest.Of(nil).String() })
			alter("index", func(s *pb.ExecutionStatus) { s.Reports[i].Index++ })
			alter("agrees", func(s *pb.ExecutionStatus) { s.Reports[i].Agrees = !s.Reports[i].Agrees })
			alter("void", func(s *pb.ExecutionStatus) { s.Reports[i].Void = !s.Reports[i].Void })
			alter("attestation", func(s *pb.ExecutionStatus) { s.Reports[i].AttestationDigest = digest.Of(nil).String() })
			alter("evidence", func(s *pb.ExecutionStatus) { s.Reports[i].Evidence = !s.Reports[i].Evidence })
			alter("stance", func(s *pb.ExecutionStatus) { s.Reports[i].Stance = "forged" })
			if now.Attestations[i].Evidence { // of a moment before the last
				alter("stance, with fewer reports", func(s *pb.ExecutionStatus) {
					s.Reports = s.Reports[:i+1]
					s.Reports[i].Stance = "forged"
				})
			}
		}
		alter("a report too many", func(s *pb.ExecutionStatus) { s.Reports = append(s.Reports, &pb.NodeReport{Node: "node-1"}) })
		alter("a decision that is withheld", func(s *pb.ExecutionStatus) {
			s.State, s.Outcome, s.ExecutionProof = pb.ExecutionState_EXECUTION_STATE_OPEN, nil, ""
			for _, r := range s.Reports {
				r.Agrees = false
			}
			if now.State == provenance.StateExpired { // an earlier moment, unless it tells more
				s.Attempt++
			}
		})
		alter("an unknown state", func(s *pb.ExecutionStatus) { s.State = 99 })
		if now.State == provenance.StateComplete {
			alter("a missing report", func(s *pb.ExecutionStatus) { s.Reports = s.Reports[:2] })
			fields := honest.Outcome.ProtoReflect().Descriptor().Fields()
			for i := range fields.Len() {
				fd := fields.Get(i)
				alter("outcome "+string(fd.Name()), func(s *pb.ExecutionStatus) {
					m := s.Outcome.ProtoReflect()
					if !m.Has(fd) {
						m.Set(fd, m.NewField(fd))
						switch fd.Kind() {
						case protoreflect.Uint64Kind:
							m.Set(fd, protoreflect.ValueOfUint64(1))
						case protoreflect.Uint32Kind:
							m.Set(fd, protoreflect.ValueOfUint32(1))
						}
						return
					}
					m.Clear(fd)
				})
			}
			alter("outcome", func(s *pb.ExecutionStatus) { s.Outcome = nil })
			return
		}
		alter("outcome", func(s *pb.ExecutionStatus) { s.Outcome = &pb.Outcome{} })
	})
}
