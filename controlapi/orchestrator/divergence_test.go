package orchestrator_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// says makes a worker attest an execution with an output of the test's choice.
func (w *world) says(node string, id digest.Digest, output string) *provenance.Statement {
	w.t.Helper()
	n := w.worker(node)
	n.run = func(*pb.Assignment, []byte) string { return output }
	a := n.await(func(a *pb.Assignment) bool { return a.GetExecutionId() == id.String() })
	s := n.statement(a)
	if _, _, _, err := w.Attest(ctx(w.t), actor(node), node, n.envelope(s)); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// What nodes said against others or themselves is counted and listed, to whoever
// may see the execution; and a restart finds the same in the log.
func TestDivergence(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	wrong := w.submit(hash, "wrong", 1)
	nodes := slices.Clone(must[*pb.ExecutionStatus](t)(w.Status(wrong, "")).GetAssignedNodes())
	liar := nodes[0]
	w.says(liar, wrong, "a lie")
	w.says(nodes[1], wrong, "true")
	w.says(nodes[2], wrong, "true")

	tie := w.submit(hash, "tie", 2)
	for _, node := range nodes {
		w.says(node, tie, "of "+node)
	}

	twice := w.submit(hash, "twice", 3)
	first := w.says(liar, twice, "true")
	second := *first
	second.Outcome = contract.Outcome{Kind: contract.OutcomeTrap, PeakPages: 1, OutputDigest: digest.Of(nil), DiagnosticsDigest: digest.Of(nil)}
	n := w.worker(liar)
	if _, _, _, err := w.Attest(ctx(t), actor(liar), liar, n.envelope(&second)); err != nil {
		t.Fatal(err)
	}
	w.says(nodes[1], twice, "true")
	w.says(nodes[2], twice, "true")

	right := w.submit(hash, "right", 4)
	w.says(liar, right, "true")
	w.says(nodes[1], right, "true")
	for _, id := range []digest.Digest{wrong, twice, right} {
		w.await(id, proofReady)
	}

	check := func() {
		t.Helper()
		for _, n := range w.Nodes().Nodes {
			want := "0 1"
			if n.Id == liar {
				want = "2 1"
			}
			if have := fmt.Sprint(n.ExecutionsDiffered, n.ExecutionsDisputed); have != want {
				t.Errorf("%s: differed and disputed %s, want %s", n.Id, have, want)
			}
		}
		for _, test := range []struct {
			filter orchestrator.Filter
			want   []digest.Digest
		}{
			{orchestrator.Filter{DivergentNode: liar}, []digest.Digest{twice, tie, wrong}},
			{orchestrator.Filter{DivergentNode: liar, Tenant: "acme"}, []digest.Digest{twice, tie, wrong}},
			{orchestrator.Filter{DivergentNode: liar, Tenant: "rival"}, nil},
			{orchestrator.Filter{DivergentNode: nodes[1]}, []digest.Digest{tie}},
			{orchestrator.Filter{DivergentNode: liar, State: pb.ExecutionState_EXECUTION_STATE_DIVERGED}, []digest.Digest{tie}},
			{orchestrator.Filter{DivergentNode: "nobody"}, nil},
		} {
			list, next, err := w.ListExecutions(test.filter, orchestrator.Page{})
			var have []digest.Digest
			for _, s := range list {
				have = append(have, must[digest.Digest](t)(digest.Parse(s.GetExecutionId())))
			}
			if err != nil || next != "" || !slices.Equal(have, test.want) {
				t.Errorf("%+v: %v, want %v (%v)", test.filter, have, test.want, err)
			}
		}
		for id, want := range map[digest.Digest][]provenance.Stance{
			wrong: {provenance.StanceDiffers, provenance.StanceAgrees, provenance.StanceAgrees},
			tie:   {provenance.StanceDisputed, provenance.StanceDisputed, provenance.StanceDisputed},
			twice: {provenance.StanceVoid, provenance.StanceVoid, provenance.StanceAgrees, provenance.StanceAgrees},
			right: {provenance.StanceAgrees, provenance.StanceAgrees},
		} {
			var have []provenance.Stance
			for _, r := range must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetReports() {
				have = append(have, provenance.Stance(r.GetStance()))
				if _, err := digest.Parse(r.GetAttestationDigest()); err != nil || r.GetEvidence() {
					t.Errorf("report %v", r)
				}
			}
			if !slices.Equal(have, want) {
				t.Errorf("stances %v, want %v", have, want)
			}
		}
	}
	check()
	w.restart()
	check()

	w.checkLog()
}
