package provenance_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
)

// dump writes all that the fold tells about its state.
func dump(f *provenance.Fold) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d\n", f.Epoch())
	var contracts []string
	for c := range f.Contracts() {
		contracts = append(contracts, fmt.Sprintf("contract %s %d %d %s %v\n", c.Hash, c.Index, c.Epoch, c.KeyID, c.Retired))
	}
	slices.Sort(contracts)
	b.WriteString(strings.Join(contracts, ""))
	for ex := range f.Executions() {
		fmt.Fprintf(&b, "execution %s %s at %d attempt %d decided %d recorded %v derived %v chain %s of %d\n",
			ex.ID, ex.State, ex.RequestIndex, ex.Attempt, ex.DecidedAt, ex.Recorded, ex.Derived, ex.ChainHead(), len(ex.Chain))
		for _, a := range ex.Attestations {
			fmt.Fprintf(&b, "  %d %s %s agrees %v void %v evidence %v\n", a.Index, a.Node, a.Digest, a.Agrees, a.Void, a.Evidence)
		}
	}
	return b.String()
}

func TestCompleteExecution(t *testing.T) {
	s := newScene(t)
	nodes := s.nodes()
	ex := s.Execution(s.id)
	if ex.State != provenance.StateOpen || len(ex.Assigned()) != 3 || ex.DecidedAt != -1 || ex.Provenance() != nil {
		t.Fatalf("after the request: %+v", ex)
	}
	_, effect := s.Append(s.attestation(1, nil))
	if effect.Void || effect.Before != provenance.StateOpen || effect.After != provenance.StateOpen || effect.Derived != nil {
		t.Errorf("first attestation: %+v", effect)
	}
	index, effect := s.Append(s.attestation(0, nil))
	if effect.After != provenance.StateComplete || effect.Derived == nil || *effect.Execution != s.id {
		t.Fatalf("second attestation: %+v", effect)
	}
	p := effect.Derived.GetProvenance()
	want := slices.Sorted(slices.Values(nodes[:2]))
	if !slices.Equal(p.Nodes, want) || p.CompletedAt != uint64(index) || p.Tenant != testcluster.Tenant {
		t.Errorf("provenance record %v", p)
	}
	digests := map[string][]byte{}
	for _, a := range s.Execution(s.id).Attestations {
		digests[a.Node] = a.Digest[:]
	}
	if !bytes.Equal(p.AttestationDigests[0], digests[want[0]]) || !bytes.Equal(p.AttestationDigests[1], digests[want[1]]) {
		t.Error("attestation digests are not in the order of the nodes")
	}
	_, effect = s.Append(effect.Derived)
	if effect.Void || effect.Evidence || effect.After != provenance.StateComplete || effect.Derived != nil {
		t.Errorf("provenance record: %+v", effect)
	}
	head := s.Execution(s.id).ChainHead()

	// What comes later is evidence: it is kept and changes nothing.
	_, effect = s.Append(s.attestation(2, func(st *provenance.Statement) { st.Outcome = testcluster.OK("another") }))
	if effect.Void || !effect.Evidence || effect.After != provenance.StateComplete || effect.Derived != nil {
		t.Errorf("late attestation: %+v", effect)
	}
	_, effect = s.Append(s.attestation(0, func(st *provenance.Statement) { st.Outcome = testcluster.OK("another") }))
	if effect.Void || !effect.Evidence {
		t.Errorf("late attestation by one of the agreeing nodes: %+v", effect)
	}
	ex = s.Execution(s.id)
	if ex.ChainHead() != head || ex.State != provenance.StateComplete || ex.Outcome.OutputDigest != digest.Of([]byte("output")) {
		t.Errorf("evidence changed the execution: %+v", ex)
	}
	if a := ex.Attestations; len(a) != 4 || !a[0].Agrees || !a[1].Agrees || a[2].Agrees || !a[1].Void || a[0].Void || !a[3].Evidence {
		t.Errorf("attestations %+v", a)
	}
	kinds := []record.Kind{record.KindRequest, record.KindAttestation, record.KindAttestation, record.KindProvenance}
	hash := provenance.ChainStart(s.id)
	for i, link := range ex.Chain {
		opening, err := record.ParseOpening(s.Audit.Openings[link.Index])
		if err != nil {
			t.Fatal(err)
		}
		hash = provenance.ChainNext(hash, link.Index, opening.Entry())
		if link.Kind != kinds[i] || link.Hash != hash {
			t.Errorf("link %d is %+v, want %s with hash %s", i, link, kinds[i], hash)
		}
	}
	if len(ex.Chain) != len(kinds) {
		t.Errorf("%d links", len(ex.Chain))
	}
}

func TestDivergedExecution(t *testing.T) {
	s := newScene(t)
	var last provenance.Effect
	for s.Execution(s.id).Attempt < 2 {
		s.Append(s.RescheduleRecord(s.id))
	}
	for n := range 5 {
		if s.Execution(s.id).State == provenance.StateOpen {
			_, last = s.Append(s.attestation(n, func(st *provenance.Statement) { st.Outcome = testcluster.OK(fmt.Sprint("output ", n)) }))
		}
	}
	if last.After != provenance.StateDiverged || last.Derived.GetDivergence() == nil {
		t.Fatalf("five different results: %+v", last)
	}
	ex := s.Execution(s.id)
	if n := len(last.Derived.GetDivergence().AttestationDigests); n != len(ex.Attestations) {
		t.Errorf("%d of %d attestations in the divergence record", n, len(ex.Attestations))
	}
	if _, effect := s.Append(last.Derived); effect.Void {
		t.Errorf("divergence record: %+v", effect)
	}
	if chain := s.Execution(s.id).Chain; chain[len(chain)-1].Kind != record.KindDivergence {
		t.Errorf("the chain ends with %s", chain[len(chain)-1].Kind)
	}
	content, ok := s.Fold.BundleContent(s.id)
	if !ok || content.Records[len(content.Records)-1] != s.Audit.Size()-1 {
		t.Errorf("a bundle of the divergence has %v, %v", content, ok)
	}
}

func TestOtherEnds(t *testing.T) {
	s := newScene(t)
	_, effect := s.Append(s.cancellation(nil))
	if effect.Void || effect.After != provenance.StateCancelled || effect.Derived != nil {
		t.Errorf("cancellation: %+v", effect)
	}
	if _, effect = s.Append(s.attestation(0, nil)); effect.Void || !effect.Evidence {
		t.Errorf("attestation after the cancellation: %+v", effect)
	}
	s = newScene(t)
	s.Append(s.RescheduleRecord(s.id))
	s.Append(s.RescheduleRecord(s.id))
	if _, effect = s.Append(s.expired()); effect.Void || effect.After != provenance.StateExpired {
		t.Errorf("expired: %+v", effect)
	}
	if _, ok := s.Fold.Execution(digest.Digest{}); ok {
		t.Error("an execution that does not exist")
	}
	if _, ok := s.Fold.Contract(digest.Digest{}); ok {
		t.Error("a contract that does not exist")
	}
	if c, ok := s.Fold.Contract(s.contract); !ok || c.Contract.Name != "inventory" {
		t.Errorf("contract %+v", c)
	}
}

// A contract stays good when its key is rotated, not when the key is revoked,
// and an attestation key may be rotated in between as long as the old one stays
// until the node has attested.
func TestRotationIsNotRevocation(t *testing.T) {
	s := newScene(t)
	old, fresh := testcluster.NewKey(testcluster.Tenant+"/contract"), testcluster.NewKey("fresh", membership.UseContract)
	s.Change(membership.RotateKey{ID: testcluster.Tenant, Add: &fresh, Remove: old.ID()}, "fresh")
	id := s.Submit(s.contract, []byte("after the rotation"))
	s.Run(id, testcluster.OK("x"))
	s.Run(s.id, testcluster.OK("y"))
}

func TestParents(t *testing.T) {
	s := newScene(t)
	s.Run(s.id, testcluster.OK("of the parent"))
	child := s.Submit(s.contract, nil, s.id)
	ex := s.Execution(child)
	if !slices.Equal(ex.ParentOutputs, []digest.Digest{digest.Of([]byte("of the parent"))}) {
		t.Fatalf("parent outputs %v", ex.ParentOutputs)
	}
	st := s.Statement(child, ex.Assigned()[0], testcluster.OK("x"))
	st.ParentOutputs = []digest.Digest{digest.Of([]byte("another"))}
	if effect := s.Fold.Check(s.AttestationRecord(st)); effect.Code != provenance.CodeAttestationDiffers {
		t.Errorf("wrong output of the parent: %q", effect.Code)
	}
	s.Run(child, testcluster.OK("of the child"))
	if p := s.Execution(child).Provenance(); len(p.Parents) != 1 || !bytes.Equal(p.Parents[0], s.id[:]) {
		t.Errorf("parents %x", p.Parents)
	}
}

// Random histories: whatever is appended, two folds agree, a partial fold of
// what a bundle holds agrees, and each end is the one that the counts imply.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 5))
		s := newScene(t)
		ids := []digest.Digest{s.id, s.Submit(s.contract, []byte("second")), s.Submit(s.contract, []byte("third"))}
		for range 40 {
			s.id = ids[rng.IntN(len(ids))]
			var r *pb.Record
			switch rng.IntN(12) {
			case 0:
				r = s.RescheduleRecord(s.id)
			case 1:
				r = s.expired()
			case 2:
				if rng.IntN(4) == 0 {
					r = s.cancellation(nil)
				}
			case 3:
				if rng.IntN(3) == 0 {
					s.AddNode(fmt.Sprint("late-", s.Audit.Size()))
				}
			default:
				n := rng.IntN(len(s.nodes()))
				output := fmt.Sprint(rng.IntN(4) / 3)
				r = s.attestation(n, func(st *provenance.Statement) { st.Outcome = testcluster.OK(output) })
			}
			if r == nil {
				continue
			}
			checked := s.Fold.Check(r)
			_, effect := s.Append(r)
			if checked.Void != effect.Void || checked.Code != effect.Code {
				t.Fatalf("Check says %+v, Apply %+v", checked, effect)
			}
			if effect.Derived != nil {
				if _, effect := s.Append(effect.Derived); effect.Void {
					t.Fatalf("derived record is void: %+v", effect)
				}
			}
		}
		again := provenance.NewFold(s.Name, s.History)
		for i, b := range s.Audit.Openings {
			opening, err := record.ParseOpening(b)
			if err != nil {
				t.Fatal(err)
			}
			r, err := record.Parse(opening.Record())
			if err != nil {
				t.Fatal(err)
			}
			again.Apply(int64(i), opening.Entry(), r)
		}
		if a, b := dump(s.Fold), dump(again); a != b {
			t.Fatalf("seed %d: two folds of one log differ:\n%s\n%s", seed, a, b)
		}
		for _, id := range ids {
			checkPartial(t, s, id)
		}
	}
}

// checkPartial folds the records of a bundle by themselves and expects the same
// execution.
func checkPartial(t *testing.T, s *scene, id digest.Digest) {
	t.Helper()
	content, ok := s.Fold.BundleContent(id)
	if ex := s.Execution(id); ok != (ex.State != provenance.StateOpen && (ex.Derived == nil || ex.Recorded)) {
		t.Fatalf("bundle %v for an execution that is %s", ok, ex.State)
	}
	if !ok {
		return
	}
	partial := provenance.NewPartialFold(s.Name, s.History)
	for _, index := range content.Records {
		opening, err := record.ParseOpening(s.Audit.Openings[index])
		if err != nil {
			t.Fatal(err)
		}
		r, err := record.Parse(opening.Record())
		if err != nil {
			t.Fatal(err)
		}
		if effect := partial.Apply(index, opening.Entry(), r); effect.Void || effect.Evidence {
			t.Fatalf("record %d (%s) in the bundle: %+v", index, record.KindOf(r), effect)
		}
	}
	whole := s.Execution(id)
	part, ok := partial.Execution(id)
	if !ok {
		t.Fatal("the bundle has no request")
	}
	if part.ChainHead() != whole.ChainHead() || part.DecidedAt != whole.DecidedAt || part.State != whole.State || part.Recorded != whole.Recorded ||
		part.Derived.String() != whole.Derived.String() {
		t.Fatalf("partial fold: %+v, whole fold: %+v", part, whole)
	}
}

func TestPartialFold(t *testing.T) {
	s := newScene(t)
	contractRecord := s.ContractRecord(s.Contract())
	s.AddNode("node-9")
	epoch := s.EpochRecord(2)

	f := provenance.NewPartialFold(s.Name, s.History)
	if effect := f.Apply(1, [32]byte{}, contractRecord); effect.Void {
		t.Fatalf("contract before the epoch record: %+v", effect)
	}
	if effect := f.Apply(1, [32]byte{}, epoch); effect.Code != provenance.CodeIndex {
		t.Errorf("same index twice: %+v", effect)
	}
	if effect := f.Apply(3, [32]byte{}, s.EpochRecord(1)); effect.Code != provenance.CodeEpochOrder {
		t.Errorf("epoch of a contract registered before: %+v", effect)
	}
	if effect := f.Apply(7, [32]byte{}, epoch); effect.Void {
		t.Errorf("first epoch record: %+v", effect)
	}
	if effect := f.Apply(8, [32]byte{}, epoch); effect.Code != provenance.CodeEpochOrder {
		t.Errorf("the same epoch again: %+v", effect)
	}
	unknown := s.ContractRecord(s.Contract())
	unknown.GetContract().Epoch = 99
	if effect := provenance.NewPartialFold(s.Name, s.History).Check(unknown); effect.Code != provenance.CodeEpochUnknown {
		t.Errorf("contract of an epoch that is not known: %+v", effect)
	}

	// Without the parents' records, attestations have to agree on their outputs.
	s.Run(s.id, testcluster.OK("of the parent"))
	child := s.Submit(s.contract, nil, s.id)
	nodes := s.Execution(child).Assigned()
	first := s.AttestationRecord(s.Statement(child, nodes[0], testcluster.OK("x")))
	st := s.Statement(child, nodes[1], testcluster.OK("x"))
	st.ParentOutputs = []digest.Digest{digest.Of([]byte("another"))}
	second := s.AttestationRecord(st)
	request := s.RequestRecord(s.Execution(child).Submission)
	at := s.Audit.Size()
	f = provenance.NewPartialFold(s.Name, s.History)
	f.Apply(1, [32]byte{}, contractRecord)
	f.Apply(4, [32]byte{}, epoch)
	f.Apply(s.Execution(child).RequestIndex, [32]byte{}, request)
	if effect := f.Apply(at, [32]byte{}, first); effect.Void {
		t.Errorf("first attestation: %+v", effect)
	}
	if effect := f.Apply(at+1, [32]byte{}, second); effect.Code != provenance.CodeAttestationDiffers {
		t.Errorf("attestation with another output of the parent: %+v", effect)
	}
	if _, ok := f.BundleContent(child); ok {
		t.Error("a partial fold says what a bundle holds")
	}
}

// A metered contract needs gas and the digest of the rewritten module.
func TestMeteredContract(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	con := c.Contract()
	con.Versions.Rewriter, con.Limits.Gas, con.Limits.Frames = 1, 1000, 100
	id := c.Submit(c.Register(con), nil)
	gas, rewritten := uint64(7), digest.Of([]byte("rewritten"))
	outcome := testcluster.OK("x")
	outcome.Gas = &gas
	st := c.Statement(id, c.Execution(id).Assigned()[0], outcome)
	r := c.AttestationRecord(st)
	if effect := c.Fold.Check(r); effect.Code != provenance.CodeAttestationDiffers {
		t.Errorf("without the rewritten module: %+v", effect)
	}
	st.RewrittenModule = &rewritten
	if _, effect := c.Append(c.AttestationRecord(st)); effect.Void {
		t.Errorf("with it: %+v", effect)
	}
}

// Records without content, and honest records with any one field taken out, are
// judged like all others.
func TestFoldIsTotal(t *testing.T) {
	s := newScene(t)
	honest := []*pb.Record{s.EpochRecord(1), s.ContractRecord(s.Contract()), s.retirement(nil), s.cancellation(nil),
		s.RequestRecord(s.Submission(s.contract, nil)), s.RescheduleRecord(s.id), s.expired(), s.attestation(0, nil)}
	oneof := (&pb.Record{}).ProtoReflect().Descriptor().Oneofs().ByName("body")
	for i := range oneof.Fields().Len() {
		r := s.Fill(&pb.Record{})
		r.ProtoReflect().Mutable(oneof.Fields().Get(i))
		honest = append(honest, r)
	}
	honest = append(honest, s.derive(t))
	before := dump(s.Fold)
	for _, r := range honest {
		r.Cluster = s.Name
		m := r.ProtoReflect()
		body := m.Get(m.WhichOneof(oneof)).Message()
		for i := range body.Descriptor().Fields().Len() {
			c := proto.CloneOf(r)
			fd := body.Descriptor().Fields().Get(i)
			c.ProtoReflect().Mutable(m.WhichOneof(oneof)).Message().Clear(fd)
			s.Fold.Check(c)
		}
		s.Fold.Check(r)
	}
	if dump(s.Fold) != before {
		t.Error("Check changed the state")
	}
}

// Every tenant erases its own copy of a payload, the last record about one counts,
// and no execution depends on any.
func TestErased(t *testing.T) {
	s := newScene(t)
	mine, theirs := digest.Of([]byte("mine")), digest.Of([]byte("theirs"))
	erase := func(tenant string, d []byte) *pb.Record {
		return &pb.Record{Body: &pb.Record_Erasure{Erasure: &pb.ErasureRecord{Tenant: tenant, Digest: d, Reason: "asked for"}}}
	}
	before := dump(s.Fold)
	if _, ok := s.Fold.Erased(testcluster.Tenant, mine); ok {
		t.Error("erased before any record")
	}
	s.Append(erase(testcluster.Tenant, mine[:]))
	last, effect := s.Append(erase(testcluster.Tenant, mine[:]))
	if effect.Void || effect.Execution != nil {
		t.Errorf("%+v", effect)
	}
	if effect := s.Fold.Check(s.Fill(erase(testcluster.Tenant, theirs[:]))); effect.Void {
		t.Errorf("%+v", effect)
	}
	other := erase(testcluster.Tenant, theirs[:])
	other.Cluster = "another"
	// Neither what is void nor what names no payload says anything.
	if effect := s.Fold.Apply(s.Fold.Size(), [record.EntrySize]byte{}, other); !effect.Void {
		t.Errorf("%+v", effect)
	}
	if effect := s.Fold.Apply(s.Fold.Size(), [record.EntrySize]byte{}, s.Fill(erase(testcluster.Tenant, theirs[:5]))); effect.Void {
		t.Errorf("%+v", effect)
	}
	for _, test := range []struct {
		tenant  string
		payload digest.Digest
		want    int64
		ok      bool
	}{
		{testcluster.Tenant, mine, last, true},
		{testcluster.Other, mine, 0, false},
		{testcluster.Tenant, theirs, 0, false},
	} {
		if index, ok := s.Fold.Erased(test.tenant, test.payload); index != test.want || ok != test.ok {
			t.Errorf("%s of %s: %d, %t", test.payload, test.tenant, index, ok)
		}
	}
	if after := dump(s.Fold); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// A run takes the module, the input and what the parents have put out.
func TestPayloads(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	contract := c.Register(nil)
	parent := c.Submit(contract, []byte("input"))
	c.Run(parent, testcluster.OK("output"))
	child := c.Submit(contract, []byte("more"), parent)
	module := c.Execution(parent).Contract.Module
	for id, want := range map[digest.Digest][]digest.Digest{
		parent: {module, digest.Of([]byte("input"))},
		child:  {module, digest.Of([]byte("more")), digest.Of([]byte("output"))},
	} {
		if got := c.Execution(id).Payloads(); !slices.Equal(got, want) {
			t.Errorf("%s takes %v, want %v", id, got, want)
		}
	}
}
