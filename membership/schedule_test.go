package membership

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
)

// mixedNodes has nodes of several trust levels and labels, some of which cannot
// attest.
func mixedNodes(t testing.TB, n int) *State {
	s := mustGenesis(t)
	for i := range n {
		p := nodeOf(fmt.Sprintf("node-%d", i+1))
		if i%9 == 4 {
			p.Keys[0].Uses = []Use{UseToken}
		}
		p.TrustLevel, p.Labels = uint64(i%3), map[string]string{"arch": []string{"amd64", "arm64"}[i%2]}
		s = mustUnsigned(t, s, AddPrincipal{p})
	}
	return s
}

// randomRequest is a lawful request for a cluster of about 40 nodes.
func randomRequest(rng *rand.Rand) ScheduleRequest {
	r := ScheduleRequest{Nodes: uint64(1 + rng.IntN(5)), Step: uint64(1 + rng.IntN(4)), MinTrust: uint64(rng.IntN(3))}
	r.MaxAssigned = r.Nodes + uint64(rng.IntN(12))
	if rng.IntN(2) == 0 {
		r.Labels = map[string]string{"arch": []string{"amd64", "arm64"}[rng.IntN(2)]}
	}
	return r
}

// The explanation names every node once, and agrees with the schedule.
func TestExplainAgrees(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	s := mixedNodes(t, 40)
	for i := range 200 {
		id, req := digest.Of([]byte(fmt.Sprint(i))), randomRequest(rng)
		list, err := s.Explain(id, req)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != len(s.Nodes()) {
			t.Fatalf("%d candidates of %d nodes", len(list), len(s.Nodes()))
		}
		eligible := s.Eligible(req.MinTrust, req.Labels)
		sch, err := s.Schedule(id, req)
		if err != nil {
			continue // too few
		}
		for place, c := range list {
			if slices.Contains(eligible, c.Node) != (c.Rank >= 0) {
				t.Fatalf("%s has rank %d: %q", c.Node, c.Rank, c.Reasons)
			}
			if c.Rank >= 0 && c.Rank != place {
				t.Fatalf("rank %d at place %d", c.Rank, place)
			}
			attempt, assigned := sch.FirstAttempt(c.Node)
			if assigned != (c.Attempt >= 0) || assigned && attempt != uint64(c.Attempt) || assigned != (c.Reasons == nil) {
				t.Fatalf("%s is first assigned by %d, %t; explained as %+v", c.Node, attempt, assigned, c)
			}
			if place < len(sch.Ranking) && sch.Ranking[place] != c.Node {
				t.Fatalf("place %d is %s, want %s", place, c.Node, sch.Ranking[place])
			}
		}
	}
	if _, err := s.Explain(digest.Digest{}, ScheduleRequest{}); err == nil {
		t.Error("figures that do not fit were explained")
	}
}

func TestExplainReasons(t *testing.T) {
	s := mustGenesis(t)
	token := nodeOf("token")
	token.Keys[0].Uses, token.Labels = []Use{UseToken}, map[string]string{"arch": "arm64"}
	s = mustUnsigned(t, s, AddPrincipal{token})
	list, err := s.Explain(digest.Digest{}, ScheduleRequest{Nodes: 1, MaxAssigned: 1, MinTrust: 2, Labels: map[string]string{"arch": "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"node-0": `its trust level 0 is below 2; it has no label "arch", wanted is "amd64"`,
		"token":  `it holds no key for attestations; its trust level 0 is below 2; its label "arch" is "arm64", wanted is "amd64"`,
	}
	for _, c := range list {
		if got := strings.Join(c.Reasons, "; "); got != want[c.Node] {
			t.Errorf("%s: %s", c.Node, got)
		}
	}
}

// Whatever constraints a contract has: when a node joins, is removed or is
// described anew, every other node keeps its place relative to the rest in
// every ranking, and an assignment changes by that one node at most.
func TestMinimalMovement(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	before := mixedNodes(t, 40)
	nodes := before.Nodes()
	for i := range 300 {
		id, req := digest.Of([]byte(fmt.Sprint("execution ", i))), randomRequest(rng)
		node := nodes[rng.IntN(len(nodes))].ID
		var after *State
		switch rng.IntN(3) {
		case 0:
			node = fmt.Sprint("newcomer-", i)
			p := nodeOf(node)
			p.TrustLevel, p.Labels = 2, map[string]string{"arch": "amd64"}
			after = mustUnsigned(t, before, AddPrincipal{p})
		case 1:
			after = mustUnsigned(t, before, RemovePrincipal{node})
		default:
			after = mustUnsigned(t, before, UpdatePrincipal{ID: node, TrustLevel: 1, Labels: map[string]string{"arch": "riscv64"}})
		}
		a, errA := before.Schedule(id, req)
		b, errB := after.Schedule(id, req)
		if errA != nil || errB != nil {
			continue // too few in one of them
		}
		without := func(list []string) []string {
			return slices.DeleteFunc(slices.Clone(list), func(n string) bool { return n == node })
		}
		x, y := without(a.Ranking), without(b.Ranking)
		if n := min(len(x), len(y)); !slices.Equal(x[:n], y[:n]) {
			t.Fatalf("%s moved others: %q became %q", node, a.Ranking, b.Ranking)
		}
		for attempt := range max(a.Attempts(), b.Attempts()) {
			was, is := a.Assigned(attempt), b.Assigned(attempt)
			if gone := countMissing(was, is); gone > 1 {
				t.Fatalf("%s took the work of %d nodes in attempt %d: %q became %q", node, gone, attempt, was, is)
			}
			if came := countMissing(is, was); came > 1 {
				t.Fatalf("%s brought %d nodes into attempt %d: %q became %q", node, came, attempt, was, is)
			}
		}
		if !slices.Contains(a.Ranking, node) && !slices.Contains(b.Ranking, node) && !slices.Equal(a.Ranking, b.Ranking) {
			t.Fatalf("%s has no rank, and %q became %q", node, a.Ranking, b.Ranking)
		}
	}
}

// countMissing counts the elements of a that b lacks.
func countMissing(a, b []string) (n int) {
	for _, e := range a {
		if !slices.Contains(b, e) {
			n++
		}
	}
	return n
}
