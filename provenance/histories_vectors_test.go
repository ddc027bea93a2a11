package provenance_test

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// historyFile is testdata/provenance/histories.json.
type historyFile struct {
	About string `json:"about"`
	// MembershipLogs are the entries of membership logs, which histories share.
	MembershipLogs [][]string `json:"membership_logs"`
	Histories      []history  `json:"histories"`
	codes          map[provenance.Code]bool
}

type history struct {
	Name       string             `json:"name"`
	Cluster    string             `json:"cluster"`
	Membership int                `json:"membership_log"`
	Records    []historyRecord    `json:"records"` // the whole audit log
	Executions []historyExecution `json:"executions"`
}

type historyRecord struct {
	Opening  string           `json:"opening"` // base64
	Kind     record.Kind      `json:"kind"`
	Void     provenance.Code  `json:"void,omitempty"`
	Evidence bool             `json:"evidence,omitempty"`
	State    provenance.State `json:"state,omitempty"` // of the execution that it is about, afterwards
}

type historyExecution struct {
	ID          string           `json:"id"`
	State       provenance.State `json:"state"`
	Attempt     uint64           `json:"attempt"`
	Ranking     []string         `json:"ranking"`
	Agreeing    []string         `json:"agreeing"`
	ChainHead   string           `json:"chain_head"`
	ChainLength int              `json:"chain_length"`
}

// add folds the audit log of a cluster anew and notes what the fold says.
func (f *historyFile) add(t *testing.T, name string, c *testcluster.Cluster) {
	t.Helper()
	var log []string
	for _, entry := range c.Membership.Entries {
		log = append(log, string(entry))
	}
	h := history{Name: name, Cluster: c.Name, Executions: []historyExecution{}}
	h.Membership = slices.IndexFunc(f.MembershipLogs, func(l []string) bool { return slices.Equal(l, log) })
	if h.Membership < 0 {
		h.Membership = len(f.MembershipLogs)
		f.MembershipLogs = append(f.MembershipLogs, log)
	}
	fold := provenance.NewFold(c.Name, c.History)
	for i, b := range c.Audit.Openings {
		opening, err := record.ParseOpening(b)
		if err != nil {
			t.Fatal(err)
		}
		r, err := record.Parse(opening.Record())
		if err != nil {
			t.Fatal(err)
		}
		effect := fold.Apply(int64(i), opening.Entry(), r)
		h.Records = append(h.Records, historyRecord{base64.StdEncoding.EncodeToString(b), record.KindOf(r), effect.Code, effect.Evidence, effect.After})
		f.codes[effect.Code] = true
	}
	for ex := range fold.Executions() {
		e := historyExecution{ID: ex.ID.String(), State: ex.State, Attempt: ex.Attempt, Ranking: ex.Schedule.Ranking, Agreeing: []string{},
			ChainHead: ex.ChainHead().String(), ChainLength: len(ex.Chain)}
		for _, a := range ex.Attestations {
			if a.Agrees {
				e.Agreeing = append(e.Agreeing, a.Node)
			}
		}
		slices.Sort(e.Agreeing)
		h.Executions = append(h.Executions, e)
	}
	slices.SortFunc(h.Executions, func(a, b historyExecution) int { return strings.Compare(a.ID, b.ID) })
	f.Histories = append(f.Histories, h)
}

func outputs(text string) func(st *provenance.Statement) {
	return func(st *provenance.Statement) { st.Outcome = testcluster.OK(text) }
}

// TestHistoryVectors holds whole audit logs with what the fold says of each
// record: every end that an execution can have, and every reason to be void.
func TestHistoryVectors(t *testing.T) {
	f := &historyFile{codes: map[provenance.Code]bool{}, About: "Whole audit logs, as openings, and what the fold of docs/formats/execution.md says of each record: void " +
		"with its code, evidence, and the state of the execution that the record is about; then where every execution stands at the end."}

	s := newScene(t)
	s.Append(s.derive(t))
	s.Append(s.attestation(2, nil))
	s.Append(s.attestation(0, outputs("another")))
	f.add(t, "complete, then evidence", s.Cluster)

	s = newScene(t)
	s.Append(s.attestation(0, outputs("a lie")))
	s.Append(s.attestation(1, nil))
	s.Append(s.RescheduleRecord(s.id))
	s.AddNode("node-9")
	s.Append(s.attestation(0, nil)) // the node contradicts itself
	if _, effect := s.Append(s.attestation(3, nil)); effect.Derived != nil {
		s.Append(effect.Derived)
	}
	f.add(t, "complete after a reschedule, a new epoch and a node that contradicts itself", s.Cluster)

	s = newScene(t)
	s.Append(s.RescheduleRecord(s.id))
	s.Append(s.RescheduleRecord(s.id))
	for n := range 5 {
		if _, effect := s.Append(s.attestation(n, outputs(fmt.Sprint("output ", n)))); effect.Derived != nil {
			s.Append(effect.Derived)
		}
	}
	f.add(t, "diverged", s.Cluster)

	s = newScene(t)
	s.Append(s.attestation(0, nil))
	s.Append(s.cancellation(nil))
	s.Append(s.attestation(1, nil))
	f.add(t, "cancelled, then evidence", s.Cluster)

	s = newScene(t)
	s.Append(s.RescheduleRecord(s.id))
	s.Append(s.RescheduleRecord(s.id))
	s.Append(s.attestation(4, nil))
	s.Append(s.expired())
	f.add(t, "expired", s.Cluster)

	s = newScene(t)
	s.Run(s.id, testcluster.OK("of the parent"))
	s.Run(s.Submit(s.contract, nil, s.id), testcluster.OK("of the child"))
	f.add(t, "a parent and its child", s.Cluster)

	for _, test := range ruleCases {
		s := newScene(t)
		r := test.record(t, s)
		if r.GetBody() == nil || !writable(r) {
			continue
		}
		s.Append(r)
		f.add(t, "void: "+test.name, s.Cluster)
	}
	differing := map[string]func(s *scene) *pb.Record{
		"epoch with another root": func(s *scene) *pb.Record {
			payload, err := s.History.Current().Propose(membership.SetNodeQuorum{Quorum: 2})
			if err != nil {
				t.Fatal(err)
			}
			envelope := s.Envelope(membership.PayloadType, payload, testcluster.Admin+"/change")
			if _, err := s.History.Append(envelope); err != nil {
				t.Fatal(err)
			}
			s.Cluster.Membership.Append(envelope, nil)
			r := s.EpochRecord(2)
			r.GetEpoch().MembershipRoot[0] ^= 1
			return r
		},
		"provenance with another proof": func(s *scene) *pb.Record {
			r := s.derive(t)
			r.GetProvenance().ExecutionProof[0] ^= 1
			return r
		},
		"attestation of another input": func(s *scene) *pb.Record {
			return s.attestation(0, func(st *provenance.Statement) { st.Input[0] ^= 1 })
		},
		"attestation of another attempt": func(s *scene) *pb.Record { return s.attestation(0, func(st *provenance.Statement) { st.Attempt++ }) },
		"attestation of another module": func(s *scene) *pb.Record {
			return s.attestation(0, func(st *provenance.Statement) { st.Module[0] ^= 1 })
		},
		"attestation with gas though the contract is not metered": func(s *scene) *pb.Record {
			return s.attestation(0, func(st *provenance.Statement) { st.Outcome.Gas = new(uint64) })
		},
		"attestation with another membership root": func(s *scene) *pb.Record {
			return s.attestation(0, func(st *provenance.Statement) { st.MembershipCheckpoint.RootHash[0] ^= 1 })
		},
		"attestation with a request checkpoint before the request": func(s *scene) *pb.Record {
			return s.attestation(0, func(st *provenance.Statement) { st.RequestCheckpoint.Size = s.Execution(s.id).RequestIndex })
		},
	}
	for _, name := range slices.Sorted(maps.Keys(differing)) {
		s := newScene(t)
		s.Append(differing[name](s))
		f.add(t, "void: "+name, s.Cluster)
	}
	goldenJSON(t, "histories.json", f)
	for _, code := range allCodes(t) {
		switch code {
		case provenance.CodeNoRecord, provenance.CodeIndex, provenance.CodeNoEpoch: // no log in this form has them
		default:
			if !f.codes[code] {
				t.Errorf("no history for code %q", code)
			}
		}
	}
}

// writable reports whether a record can be in a log: some records of the rule
// cases break rules of their fields.
func writable(r *pb.Record) bool {
	_, err := record.Marshal(r)
	return err == nil
}
