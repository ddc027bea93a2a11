package membership

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
)

// unsigned applies an effect without envelopes, for tests of what states are
// made of and not of who may make them.
func unsigned(t testing.TB, s *State, effect Effect) (*State, error) {
	t.Helper()
	d := newDraft(s)
	effect = effect.normal()
	if err := effect.validate(s.cluster); err != nil {
		return nil, err
	}
	if err := effect.apply(d); err != nil {
		return nil, err
	}
	if err := d.checkLockOut(); err != nil {
		return nil, err
	}
	next, err := d.seal()
	if err != nil {
		return nil, err
	}
	next.payloadDigest = digest.Of([]byte(fmt.Sprint(next.epoch)))
	return next, nil
}

func mustUnsigned(t testing.TB, s *State, effect Effect) *State {
	t.Helper()
	next, err := unsigned(t, s, effect)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// A random life of a cluster equals the reference after every change, and a
// refused change changes nothing.
func TestStateEqualsReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	s := mustGenesis(t)
	next := 0
	for range 600 {
		var ids []string
		for p := range s.Principals() {
			if p.Kind != KindAdmin {
				ids = append(ids, p.ID)
			}
		}
		pick := "nobody"
		if len(ids) > 0 {
			pick = ids[rng.IntN(len(ids))]
		}
		var effect Effect
		switch n := rng.IntN(10); {
		case n < 4:
			next++
			effect = AddPrincipal{nodeOf(fmt.Sprintf("n%d.%d", rng.IntN(1000), next))}
		case n < 6:
			effect = RemovePrincipal{pick}
		case n < 8:
			effect = UpdatePrincipal{ID: pick, TrustLevel: uint64(rng.IntN(3)), Name: []string{"", `a "quoted\" <name>`}[rng.IntN(2)]}
		case n < 9:
			next++
			k := keyOf(fmt.Sprint("rotated ", next), UseToken)
			effect = RotateKey{ID: pick, Add: &k}
		default:
			p, _ := s.Principal(pick)
			if len(p.Keys) > 0 {
				effect = RotateKey{ID: pick, Remove: p.Keys[rng.IntN(len(p.Keys))].ID()}
			} else {
				effect = SetNodeQuorum{uint64(1 + rng.IntN(9))}
			}
		}
		before := s.MembershipHash()
		if after, err := unsigned(t, s, effect); err == nil {
			checkHash := s.tree().root()
			if checkHash != before {
				t.Fatal("a change altered the state before it")
			}
			s = after
		}
		if s.Epoch()%16 == 0 {
			checkState(t, s)
		}
	}
	checkState(t, s)
	if s.Count() < 20 {
		t.Errorf("only %d principals: the walk does not try enough", s.Count())
	}
}

// The membership hash and the proofs do not depend on the order in which the
// state came about; neither does the cluster identity hash.
func TestAnyOrderSameHash(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const n = 40
	build := func() *State {
		s := mustGenesis(t)
		// The detours leave no trace in the hashes.
		s = mustUnsigned(t, s, gasLimit(7))
		detour := rng.IntN(n)
		for _, i := range rng.Perm(n) {
			p := nodeOf(fmt.Sprintf("node-%d", i+1))
			if i == detour {
				s = mustUnsigned(t, s, AddPrincipal{nodeOf("zz-detour")})
			}
			s = mustUnsigned(t, s, AddPrincipal{p})
			s = mustUnsigned(t, s, UpdatePrincipal{ID: p.ID, TrustLevel: uint64(i + 1)})
		}
		s = mustUnsigned(t, s, RemovePrincipal{"zz-detour"})
		return mustUnsigned(t, s, SetClusterLimits{contract.DefaultClusterLimits()})
	}
	first := build()
	checkState(t, first)
	for range 5 {
		s := build()
		if s.MembershipHash() != first.MembershipHash() || s.IdentityHash() != first.IdentityHash() {
			t.Fatal("another order of the same changes made other hashes")
		}
	}
}

// Every single difference in a state changes the cluster identity hash, and
// differences of principals the membership hash too.
func TestAnyDifferenceChangesHash(t *testing.T) {
	base := func() Founding {
		f := foundingOf(t, testCluster)
		n := nodeOf("node-1")
		n.Name, n.TrustLevel, n.Labels = "rack 4", 3, map[string]string{"arch": "amd64", "zone": "a"}
		f.Principals = append(f.Principals, n)
		return f
	}
	type difference struct {
		name   string
		member bool // the membership hash differs too
		alter  func(f *Founding)
	}
	node := func(alter func(p *Principal)) func(*Founding) {
		return func(f *Founding) { alter(&f.Principals[len(f.Principals)-1]) }
	}
	audit := Origin(testCluster, LogAudit)
	differences := []difference{
		{name: "threshold", alter: func(f *Founding) { f.AdminThreshold = 1 }},
		{name: "quorum", alter: func(f *Founding) { f.NodeQuorum = 2 }},
		{name: "log key", alter: func(f *Founding) { f.Logs.Audit.Keys = []string{vkeyOf(t, audit, "other")} }},
		{name: "more log keys", alter: func(f *Founding) { f.Logs.Audit.Keys = append(f.Logs.Audit.Keys, vkeyOf(t, audit, "other")) }},
		{name: "no receipt key", alter: func(f *Founding) { f.Logs.Audit.ReceiptKeys = nil }},
		{name: "membership receipt key", alter: func(f *Founding) { f.Logs.Membership.ReceiptKeys = nil }},
		{name: "a principal more", member: true, alter: func(f *Founding) { f.Principals = append(f.Principals, nodeOf("node-2")) }},
		{name: "a principal fewer", member: true, alter: func(f *Founding) { f.Principals = f.Principals[:4] }},
		{name: "id", member: true, alter: node(func(p *Principal) { p.ID = "node-9" })},
		{name: "name", member: true, alter: node(func(p *Principal) { p.Name = "rack 5" })},
		{name: "no name", member: true, alter: node(func(p *Principal) { p.Name = "" })},
		{name: "trust level", member: true, alter: node(func(p *Principal) { p.TrustLevel = 4 })},
		{name: "label value", member: true, alter: node(func(p *Principal) { p.Labels["zone"] = "b" })},
		{name: "label key", member: true, alter: node(func(p *Principal) { delete(p.Labels, "zone"); p.Labels["zon"] = "a" })},
		{name: "label gone", member: true, alter: node(func(p *Principal) { delete(p.Labels, "zone") })},
		{name: "uses", member: true, alter: node(func(p *Principal) { p.Keys[0].Uses = []Use{UseAttestation} })},
		{name: "key", member: true, alter: node(func(p *Principal) { p.Keys[0] = keyOf("other", UseAttestation, UseToken) })},
		{name: "key more", member: true, alter: node(func(p *Principal) { p.Keys = append(p.Keys, keyOf("other", UseToken)) })},
		{name: "kind", member: true, alter: func(f *Founding) {
			f.Principals[3] = Principal{ID: "node-0", Kind: KindTenant, Keys: []Key{keyOf("node-0", UseToken)}}
		}},
		{name: "kind to auditor", member: true, alter: func(f *Founding) {
			f.Principals[3] = Principal{ID: "node-0", Kind: KindAuditor, Keys: []Key{keyOf("node-0", UseToken)}}
		}},
	}
	for i, name := range []string{"arguments", "diagnostics", "frames", "gas", "input", "assigned", "pages", "module", "output"} {
		differences = append(differences, difference{name: "limit " + name, alter: func(f *Founding) {
			l := &f.Limits
			*[]*uint64{&l.ArgumentBytes, &l.DiagnosticsBytes, &l.Frames, &l.Gas, &l.InputBytes, &l.MaxAssigned,
				&l.MemoryPages, &l.ModuleBytes, &l.OutputBytes}[i]--
		}})
	}
	seal := func(cluster string, f Founding) *State {
		d := newGenesisDraft(cluster)
		if err := f.normal().apply(d); err != nil {
			t.Fatal(err)
		}
		s, err := d.seal()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	plain := seal(testCluster, base())
	identities := map[digest.Digest]string{plain.IdentityHash(): "no difference"}
	for _, d := range differences {
		f := base()
		d.alter(&f)
		s := seal(testCluster, f)
		if got := s.MembershipHash() != plain.MembershipHash(); got != d.member {
			t.Errorf("%s: membership hash differs: %t, want %t", d.name, got, d.member)
		}
		if other, taken := identities[s.IdentityHash()]; taken {
			t.Errorf("%s: same cluster identity hash as %s", d.name, other)
		}
		identities[s.IdentityHash()] = d.name
	}
	if s := seal("other", base()); s.IdentityHash() == plain.IdentityHash() {
		t.Error("another cluster has the same identity hash")
	}
	if contract.DefaultClusterLimits() != base().Limits {
		t.Error("the fixture altered shared limits")
	}
}

// When one node joins or leaves, every other node keeps its rank relative to
// the rest: only the assignments that the node itself takes or leaves move.
func TestScheduleMovesLittle(t *testing.T) {
	s := mustGenesis(t)
	for i := range 30 {
		s = mustUnsigned(t, s, AddPrincipal{nodeOf(fmt.Sprintf("node-%d", i+1))})
	}
	joined := mustUnsigned(t, s, AddPrincipal{nodeOf("newcomer")})
	req := ScheduleRequest{Nodes: 3, Step: 2, MaxAssigned: 8}
	moved := 0
	const executions = 500
	for i := range executions {
		id := digest.Of([]byte{byte(i), byte(i >> 8)})
		before, err := s.Schedule(id, req)
		if err != nil {
			t.Fatal(err)
		}
		after, err := joined.Schedule(id, req)
		if err != nil {
			t.Fatal(err)
		}
		rest := slices.DeleteFunc(slices.Clone(after.Ranking), func(id string) bool { return id == "newcomer" })
		if !slices.Equal(rest, before.Ranking[:len(rest)]) {
			t.Fatalf("ranking %q became %q", before.Ranking, after.Ranking)
		}
		if len(rest) < len(before.Ranking) {
			moved++
		}
	}
	// The newcomer takes its share, 8 of 32, and not more.
	if moved < executions*15/100 || moved > executions*35/100 {
		t.Errorf("%d of %d schedules moved, want about a quarter", moved, executions)
	}
}

func TestScheduleEqualsReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	s := mustGenesis(t)
	for i := range 60 {
		p := nodeOf(fmt.Sprintf("node-%d", i+1))
		if i%7 == 0 {
			p.Keys[0].Uses = []Use{UseToken} // cannot attest
		}
		p.TrustLevel = uint64(i % 3)
		p.Labels = map[string]string{"arch": []string{"amd64", "arm64"}[i%2]}
		if i%5 == 0 {
			p.Labels["zone"] = "a"
		}
		s = mustUnsigned(t, s, AddPrincipal{p})
	}
	spread := map[string]int{}
	for i := range 400 {
		id := digest.Of([]byte(fmt.Sprint("execution ", i)))
		req := ScheduleRequest{
			Nodes: uint64(1 + rng.IntN(5)), Step: uint64(1 + rng.IntN(3)), MaxAssigned: uint64(5 + rng.IntN(60)), MinTrust: uint64(rng.IntN(3)),
		}
		switch rng.IntN(4) {
		case 0:
			req.Labels = map[string]string{"arch": "arm64"}
		case 1:
			req.Labels = map[string]string{"arch": "amd64", "zone": "a"}
		}
		want := refRanking(s, id, req)
		sch, err := s.Schedule(id, req)
		if uint64(len(want)) < req.Nodes {
			if err == nil {
				t.Fatalf("%+v: %d eligible nodes were enough", req, len(want))
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(slices.Values(want)); !slices.Equal(got, slices.Sorted(slices.Values(s.Eligible(req.MinTrust, req.Labels)))) {
			t.Fatalf("eligible are %q, want %q", s.Eligible(req.MinTrust, req.Labels), got)
		}
		if sch.Eligible != len(want) {
			t.Fatalf("%d eligible, want %d", sch.Eligible, len(want))
		}
		want = want[:min(len(want), int(req.MaxAssigned))]
		if !slices.Equal(sch.Ranking, want) {
			t.Fatalf("%+v: ranking %q, want %q", req, sch.Ranking, want)
		}
		for a := range sch.Attempts() + 2 {
			assigned := want[:min(uint64(len(want)), req.Nodes+a*req.Step)]
			if !slices.Equal(sch.Assigned(a), assigned) {
				t.Fatalf("attempt %d: %q, want %q", a, sch.Assigned(a), assigned)
			}
			all := len(assigned) == len(want)
			if last := a+1 >= sch.Attempts(); all != last {
				t.Fatalf("attempt %d of %d assigns %d of %d", a, sch.Attempts(), len(assigned), len(want))
			}
		}
		for rank, node := range want {
			a, ok := sch.FirstAttempt(node)
			if !ok || !slices.Contains(sch.Assigned(a), node) || a > 0 && slices.Contains(sch.Assigned(a-1), node) {
				t.Fatalf("rank %d is first assigned by attempt %d, %t", rank, a, ok)
			}
		}
		if got, want := sch.Hash(), refScheduleHash(s, id, sch.Assigned(0)); got != digest.Digest(want) {
			t.Fatalf("schedule hash %s, want %x", got, want)
		}
		spread[sch.Ranking[0]]++
	}
	if len(spread) < 30 {
		t.Errorf("only %d nodes ever came first", len(spread))
	}
}
