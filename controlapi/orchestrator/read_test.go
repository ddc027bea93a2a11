package orchestrator_test

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Another tenant's execution answers everywhere exactly as an unknown one.
func TestTenantsAreApart(t *testing.T) {
	w := newWorld(t, 3)
	id := w.submit(w.register(newContract()), "x", 1)
	w.complete(id)
	unknown := digestOf("nothing")
	for what, call := range map[string]func(id digest.Digest) error{
		"Status":     func(id digest.Digest) error { _, err := w.Status(id, "rival"); return err },
		"Watch":      func(id digest.Digest) error { _, err := w.Watch(ctx(t), id, "rival"); return err },
		"Bundle":     func(id digest.Digest) error { _, err := w.Bundle(ctx(t), id, "rival", false); return err },
		"Provenance": func(id digest.Digest) error { _, err := w.Provenance(ctx(t), id, "rival"); return err },
		"Chain":      func(id digest.Digest) error { _, err := w.Chain(ctx(t), id, "rival"); return err },
	} {
		foreign, none := call(id), call(unknown)
		wantCode(t, what, foreign, orchestrator.CodeExecutionUnknown)
		if none == nil || foreign == nil || foreign.Error() != none.Error() {
			t.Errorf("%s: a foreign execution answers %v, an unknown one %v", what, foreign, none)
		}
	}
	list, _, err := w.ListExecutions(orchestrator.Filter{Tenant: "rival"}, orchestrator.Page{})
	if err != nil || len(list) != 0 {
		t.Errorf("rival's executions: %v, %v", list, err)
	}
	_, err = w.GetBlob(ctx(t), "rival", digestOf("X"))
	wantCode(t, "another tenant's output", err, orchestrator.CodeBlobUnknown)
}

// An auditor gets what a replay of an execution takes, by name of the execution,
// and nothing else of its tenant.
func TestAuditorsGetWhatReplaysTake(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	first := w.submit(hash, "x", 1)
	w.complete(first)
	child := w.submit(hash, "y", 2, func(s *contract.Submission) { s.Parents = []digest.Digest{first} })
	w.complete(child)
	must[digest.Digest](t)(w.PutBlob(ctx(t), "acme", []byte("unused")))
	for name, test := range map[string]struct {
		execution digest.Digest
		data      string
		want      orchestrator.Code // "" if it is to be had
	}{
		"the module":                          {first, string(testModule), ""},
		"the input":                           {first, "x", ""},
		"the output of a parent":              {child, "X", ""},
		"its own output":                      {first, "X", orchestrator.CodeBlobUnknown},
		"the input of another":                {first, "y", orchestrator.CodeBlobUnknown},
		"a payload that none takes":           {first, "unused", orchestrator.CodeBlobUnknown},
		"a payload of an unknown execution":   {digestOf("nothing"), "x", orchestrator.CodeExecutionUnknown},
		"a payload that was never even there": {first, "nothing", orchestrator.CodeBlobUnknown},
	} {
		b, err := w.GetExecutionBlob(ctx(t), test.execution, digestOf(test.data))
		if orchestrator.CodeOf(err) != test.want || err == nil && string(b) != test.data {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestProvenanceAndChain(t *testing.T) {
	w := newWorld(t, 3)
	id := w.submit(w.register(newContract()), "x", 1)
	if _, err := w.Provenance(ctx(t), id, "acme"); orchestrator.CodeOf(err) != orchestrator.CodeProofNotReady {
		t.Errorf("provenance of an open execution: %v", err)
	}
	w.complete(id)
	p := must[*pb.GetExecutionProvenanceResponse](t)(w.Provenance(ctx(t), id, "acme"))
	c := verified(t, w.audit.policy, p.GetCheckpoint())
	if got := provenRecord(t, p.GetRecord(), c).GetProvenance(); !bytes.Equal(got.GetExecutionProof(), p.GetProvenance().GetExecutionProof()) {
		t.Error("the record is not the provenance")
	}
	chain := must[*pb.VerifyProvenanceChainResponse](t)(w.Chain(ctx(t), id, ""))
	c = verified(t, w.audit.policy, chain.GetCheckpoint())
	hash := provenance.ChainStart(id)
	for _, link := range chain.GetLinks() {
		provenRecord(t, link.GetRecord(), c)
		o := must[record.Opening](t)(record.ParseOpening(link.GetRecord().GetOpening()))
		if hash = provenance.ChainNext(hash, int64(link.GetRecord().GetIndex()), o.Entry()); !bytes.Equal(hash[:], link.GetHash()) {
			t.Fatalf("link of record %d", link.GetRecord().GetIndex())
		}
	}
	if n := len(chain.GetLinks()); n != 4 {
		t.Errorf("%d links, want request, two attestations, provenance", n)
	}
}

func TestProofsOfTheLogs(t *testing.T) {
	w := newWorld(t, 3)
	w.register(newContract())
	w.change(membership.SetNodeQuorum{Quorum: 2})
	for name, l := range map[pb.LogName]*fakeLog{pb.LogName_LOG_NAME_AUDIT: w.audit, pb.LogName_LOG_NAME_MEMBERSHIP: w.members} {
		size := l.Size()
		if _, err := l.WaitPublished(ctx(t), size); err != nil {
			t.Fatal(err)
		}
		c := verified(t, l.policy, must[[]byte](t)(w.Checkpoint(name)))
		r := must[*pb.GetInclusionProofResponse](t)(w.InclusionProof(ctx(t), name, 0, 0))
		if err := checkpoint.VerifyInclusion(c.Tree(), 0, tlog.Hash(r.GetLeafHash()), hashes(r.GetProof())); err != nil {
			t.Errorf("%v: %v", name, err)
		}
		older := must[*pb.GetInclusionProofResponse](t)(w.InclusionProof(ctx(t), name, 0, 1))
		if len(older.GetProof()) != 0 || older.GetSize() != 1 {
			t.Errorf("%v: proof in the tree of size 1: %v", name, older)
		}
		cons := must[*pb.GetConsistencyProofResponse](t)(w.ConsistencyProof(name, 1, 0))
		if err := checkpoint.VerifyConsistency(tlog.Tree{N: 1, Hash: tlog.Hash(r.GetLeafHash())}, c.Tree(), hashes(cons.GetProof())); err != nil {
			t.Errorf("%v: %v", name, err)
		}
		p := must[*checkpoint.Proof](t)(checkpoint.ParseProof(must[[]byte](t)(w.TlogProof(ctx(t), name, size-1))))
		if _, err := l.policy.VerifyProof(p, tlog.RecordHash(l.disk.data[size-1])); err != nil {
			t.Errorf("%v: %v", name, err)
		}
		for what, err := range map[string]error{
			"size beyond":   second(w.InclusionProof(ctx(t), name, 0, size+1)),
			"negative size": second(w.InclusionProof(ctx(t), name, 0, -1)),
			"index beyond":  second(w.InclusionProof(ctx(t), name, size, 0)),
			"newer beyond":  second(w.ConsistencyProof(name, 0, size+1)),
			"older beyond":  second(w.ConsistencyProof(name, size, 1)),
			"proof beyond":  second(w.TlogProof(ctx(t), name, size)),
		} {
			wantCode(t, what, err, orchestrator.CodeIndexUnknown)
		}
	}
	_, err := w.Checkpoint(7)
	wantCode(t, "a third log", err, orchestrator.CodeArgument)
}

func second[T any](_ T, err error) error { return err }

// Before anything is published there is nothing to prove against.
func TestNothingPublished(t *testing.T) {
	w := prepare(t, 3)
	w.audit.manual, w.members.manual = true, true
	w.mustOpen()
	_, err := w.Checkpoint(pb.LogName_LOG_NAME_AUDIT)
	wantCode(t, "checkpoint", err, orchestrator.CodeProofNotReady)
	_, err = w.InclusionProof(ctx(t), pb.LogName_LOG_NAME_MEMBERSHIP, 0, 0)
	wantCode(t, "inclusion", err, orchestrator.CodeProofNotReady)
	root := must[*pb.GetClusterRootResponse](t)(w.ClusterRoot())
	if len(root.GetAuditCheckpoint()) != 0 || len(root.GetMembershipCheckpoint()) != 0 || root.GetAuditSize() != 1 {
		t.Errorf("root: %v", root)
	}
	hash := w.register(newContract())
	id := w.submit(hash, "x", 1)
	_, err = w.Chain(ctx(t), id, "acme")
	wantCode(t, "chain", err, orchestrator.CodeProofNotReady)
}

func TestMembershipReads(t *testing.T) {
	w := newWorld(t, 2)
	w.change(membership.RemovePrincipal{ID: "node-2"})
	w.change(membership.UpdatePrincipal{ID: "node-1", TrustLevel: 2})
	for _, tt := range []struct {
		id     string
		epoch  uint64
		member bool
	}{{"node-1", 0, true}, {"node-2", 1, true}, {"node-2", 2, false}, {"aaa", 0, false}, {"zzz", 2, false}} {
		r, err := w.VerifyMembership(ctx(t), tt.id, tt.epoch)
		if err != nil {
			t.Errorf("%+v: %v", tt, err)
			continue
		}
		c := verified(t, w.members.policy, r.GetMembershipCheckpoint())
		if err := checkpoint.VerifyInclusion(c.Tree(), int64(r.GetEpoch())-1, tlog.RecordHash(r.GetChange()), hashes(r.GetInclusionProof())); err != nil {
			t.Errorf("%+v: the change: %v", tt, err)
		}
		if err := checkpoint.VerifyInclusion(c.Tree(), 0, tlog.RecordHash(w.genesis), hashes(r.GetGenesisProof())); err != nil {
			t.Errorf("%+v: the genesis: %v", tt, err)
		}
		change := payloadOf(t, r.GetChange(), func(b []byte) (*membership.Change, error) {
			c, err := membership.ParseChange(b)
			return &c, err
		})
		var leaves []membership.Leaf
		for _, l := range r.GetLeaves() {
			leaves = append(leaves, membership.Leaf{Index: l.GetIndex(), Data: l.GetData(), Proof: l.GetInclusionProof()})
		}
		if r.GetMember() != tt.member {
			t.Errorf("%+v: member %v", tt, r.GetMember())
		} else if tt.member {
			if _, err := membership.CheckMember(change.MembershipHash, change.MembershipCount, tt.id, leaves[0]); err != nil {
				t.Errorf("%+v: %v", tt, err)
			}
		} else if err := membership.CheckAbsent(change.MembershipHash, change.MembershipCount, tt.id, leaves); err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
		if h := must[*pb.GetMembershipHashResponse](t)(w.MembershipHash(r.GetEpoch())); h.GetMembershipHash() != change.MembershipHash.String() {
			t.Errorf("%+v: hash %s", tt, h.GetMembershipHash())
		}
	}
	_, err := w.VerifyMembership(ctx(t), "node-1", 9)
	wantCode(t, "an epoch to come", err, orchestrator.CodeEpochUnknown)
	_, err = w.VerifyMembership(ctx(t), "Node 1", 0)
	wantCode(t, "no identifier", err, orchestrator.CodeArgument)

	changes, current, err := w.Changes(ctx(t), 2, 0)
	if err != nil || current != 3 || len(changes) != 2 {
		t.Errorf("changes from 2: %d, current %d, %v", len(changes), current, err)
	}
	changes, _, err = w.Changes(ctx(t), 0, 1)
	if err != nil || len(changes) != 1 || !bytes.Equal(changes[0], w.genesis) {
		t.Errorf("the first change: %d, %v", len(changes), err)
	}

	nodes := w.Nodes()
	if len(nodes.GetNodes()) != 1 || nodes.GetNodes()[0].GetId() != "node-1" || nodes.GetEpoch() != 3 {
		t.Errorf("nodes: %v", nodes)
	}
	if w.Kind("node-1") != "node" || w.Kind("node-2") != "" {
		t.Errorf("kinds %q and %q", w.Kind("node-1"), w.Kind("node-2"))
	}
	if id, key, ok := w.TokenKey(actor("acme").KeyID); !ok || id != "acme" || !key.Equal(publicKey("acme")) {
		t.Errorf("token key: %q, %v", id, ok)
	}
	if _, _, ok := w.TokenKey(actor("node-2").KeyID); ok {
		t.Error("the key of a node that is gone is valid")
	}
	if _, _, ok := w.TokenKey(digestOf("nothing").String()); ok {
		t.Error("an unknown key is valid")
	}
}

func TestLists(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	w.register(newContract(func(c *contract.Contract) { c.Name = "second" }))
	w.register(newContract(func(c *contract.Contract) { c.Tenant = "rival" }))
	var ids []digest.Digest
	for i := range 5 {
		ids = append(ids, w.submit(hash, "x", byte(i+1)))
	}
	w.cancel(ids[2])
	var got []string
	for page := (orchestrator.Page{Size: 2}); ; {
		list, next, err := w.ListExecutions(orchestrator.Filter{Tenant: "acme"}, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			got = append(got, s.GetExecutionId())
		}
		if next == "" {
			break
		}
		page.Token = next
	}
	for i, id := range ids {
		if len(got) != 5 || got[4-i] != id.String() {
			t.Fatalf("listed %v", got)
		}
	}
	list, _, err := w.ListExecutions(orchestrator.Filter{State: pb.ExecutionState_EXECUTION_STATE_CANCELLED}, orchestrator.Page{Size: 1000})
	if err != nil || len(list) != 1 || list[0].GetExecutionId() != ids[2].String() {
		t.Errorf("cancelled: %v, %v", list, err)
	}
	for _, token := range []string{"x", "-1", "6", "99999999999999999999"} {
		_, _, err := w.ListExecutions(orchestrator.Filter{Tenant: "acme"}, orchestrator.Page{Token: token})
		wantCode(t, "token "+token, err, orchestrator.CodeArgument)
	}
	contracts, _, err := w.ListContracts("acme", orchestrator.Page{})
	if err != nil || len(contracts) != 2 || contracts[0].GetName() != "second" {
		t.Errorf("contracts: %v, %v", contracts, err)
	}
	if contracts, _, err = w.ListContracts("", orchestrator.Page{}); err != nil || len(contracts) != 3 {
		t.Errorf("all contracts: %v, %v", contracts, err)
	}
}

// A tenant sees the records about itself and the epochs, an auditor all.
func TestRecords(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	id := w.submit(hash, "x", 1)
	w.complete(id)
	cancelled := w.submit(hash, "x", 2)
	w.cancel(cancelled)
	w.retire(hash)
	w.register(newContract(func(c *contract.Contract) { c.Tenant = "rival" }))
	if err := w.RecordOperation(ctx(t), actor("rival"), &pb.OperationRecord{Tenant: "rival", Code: "ok"}); err != nil {
		t.Fatal(err)
	}
	if err := w.RecordBatches(ctx(t), []*pb.OperationBatchRecord{{Tenant: "acme", Items: []*pb.OperationItem{{
		Principal: "acme", Method: "m", Code: "ok", Count: 2}}}}, []*pb.RefusalCount{{Code: "token_missing", Count: 3}}); err != nil {
		t.Fatal(err)
	}
	if err := w.RecordBatches(ctx(t), nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.EraseBlob(ctx(t), actor("acme"), "acme", digestOf("x"), "asked for"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.GetBlob(ctx(t), "acme", digestOf("x")); orchestrator.CodeOf(err) != orchestrator.CodeBlobUnknown {
		t.Errorf("after erasure: %v", err)
	}
	count := func(tenant string, n int) map[record.Kind]int {
		kinds := map[record.Kind]int{}
		for start := int64(0); ; {
			records, next, err := w.Records(ctx(t), tenant, start, n)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				kinds[record.KindOf(openingRecord(t, r.GetOpening()))]++
			}
			if next == 0 {
				return kinds
			}
			start = next
		}
	}
	all, acme, rival := count("", 3), count("acme", 1000), count("rival", 1)
	total := 0
	for _, n := range all {
		total += n
	}
	if int64(total) != w.audit.Size() {
		t.Errorf("an auditor sees %d of %d records", total, w.audit.Size())
	}
	want := map[record.Kind][2]int{
		record.KindEpoch: {1, 1}, record.KindContract: {1, 1}, record.KindRequest: {2, 0}, record.KindAttestation: {2, 0},
		record.KindProvenance: {1, 0}, record.KindCancellation: {1, 0}, record.KindRetirement: {1, 0}, record.KindErasure: {1, 0},
		record.KindOperation: {0, 1}, record.KindOperationBatch: {1, 0}, record.KindUnauthenticated: {0, 0},
	}
	for kind, n := range want {
		if acme[kind] != n[0] || rival[kind] != n[1] {
			t.Errorf("%s: acme sees %d, rival %d, want %v", kind, acme[kind], rival[kind], n)
		}
	}
	_, _, err := w.Records(ctx(t), "", -1, 1)
	wantCode(t, "negative start", err, orchestrator.CodeIndexUnknown)
	_, _, err = w.Records(ctx(t), "", w.audit.Size()+1, 1)
	wantCode(t, "start beyond", err, orchestrator.CodeIndexUnknown)
	w.checkLog()
}

// Nothing is appended while nothing happens: neither reads through this package
// nor witnesses make the audit log grow.
func TestIdle(t *testing.T) {
	w := newWorld(t, 3)
	id := w.submit(w.register(newContract()), "x", 1)
	w.complete(id)
	w.worker(must[*pb.ExecutionStatus](t)(w.Status(id, "")).GetAssignedNodes()[2])
	size := w.audit.Size()
	stream := must[<-chan *pb.Assignment](t)(w.Assignments(ctx(t), "node-1"))
	for range 3 {
		w.audit.round()
		w.members.round()
		if _, err := w.Status(id, "acme"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Bundle(ctx(t), id, "acme", false); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	if _, ok := <-stream; ok {
		t.Error("an assignment of nothing")
	}
	if w.audit.Size() != size {
		t.Errorf("the idle audit log grew by %d", w.audit.Size()-size)
	}
	w.restart()
	if w.audit.Size() != size {
		t.Errorf("a restart made the audit log grow by %d", w.audit.Size()-size)
	}
}

func TestOpenRefuses(t *testing.T) {
	for what, edit := range map[string]func(*orchestrator.Config){
		"no logs":            func(c *orchestrator.Config) { c.Audit = nil },
		"no policies":        func(c *orchestrator.Config) { c.AuditPolicy = nil },
		"negative deadline":  func(c *orchestrator.Config) { c.AttemptDeadline = -1 },
		"no genesis":         func(c *orchestrator.Config) { c.Genesis = nil },
		"another cluster":    func(c *orchestrator.Config) { c.Cluster = "other" },
		"policies exchanged": func(c *orchestrator.Config) { c.AuditPolicy = c.MembershipPolicy },
	} {
		w := prepare(t, 1)
		w.config = edit
		if err := w.open(); err == nil {
			t.Errorf("%s: opened", what)
		}
		if size := w.members.Size(); size != 0 {
			t.Errorf("%s: %d changes were appended", what, size)
		}
	}
	w := newWorld(t, 1)
	other := prepare(t, 2)
	w.Close()
	w.audit, w.members, w.genesis = w.audit.reopen(), w.members.reopen(), other.genesis
	if err := w.open(); err == nil {
		t.Error("opened with another genesis")
	}
}

// An opening that does not open its entry is a fault of the store.
func TestCorruptStore(t *testing.T) {
	w := newWorld(t, 1)
	w.Close()
	audit, members := w.audit.reopen(), w.members.reopen()
	audit.disk.openings[0][40] ^= 1
	w.audit, w.members = audit, members
	if err := w.open(); err == nil {
		t.Error("opened a corrupt store")
	}
}

// The blob store fails: operations say so, and nothing is appended.
func TestBlobFaults(t *testing.T) {
	w := newWorld(t, 3)
	hash := w.register(newContract())
	id := w.submit(hash, "x", 1)
	n := w.worker("node-1")
	attestation := n.envelope(n.statement(n.next()))
	size := w.audit.Size()
	w.blobs.failing(errors.New("disk on fire"))
	_, _, err := w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "y", 2), []byte("y"))
	wantCode(t, "submitting", err, orchestrator.CodeUnavailable)
	_, _, err = w.Submit(ctx(t), actor("acme"), "acme", w.newSubmission(hash, "x", 2), nil)
	wantCode(t, "submitting with a blob", err, orchestrator.CodeUnavailable)
	_, _, _, err = w.Attest(ctx(t), actor("node-1"), "node-1", attestation)
	wantCode(t, "attesting", err, orchestrator.CodeUnavailable)
	c, _, signErr := contract.Sign(newContract(func(c *contract.Contract) { c.Name = "other" }), testKey("acme"))
	if signErr != nil {
		t.Fatal(signErr)
	}
	_, _, err = w.RegisterContract(ctx(t), actor("acme"), "acme", c, nil)
	wantCode(t, "registering", err, orchestrator.CodeUnavailable)
	_, err = w.EraseBlob(ctx(t), actor("acme"), "acme", digestOf("x"), "")
	wantCode(t, "erasing", err, orchestrator.CodeUnavailable)
	if w.audit.Size() != size {
		t.Errorf("%d records of operations that failed", w.audit.Size()-size)
	}
	if w.Err() != nil {
		t.Errorf("a blob store that failed stopped everything: %v", w.Err())
	}
	w.blobs.failing(nil)
	if _, err := w.PutBlob(ctx(t), "acme", make([]byte, maxTestBlob+1)); orchestrator.CodeOf(err) != orchestrator.CodeTooLarge {
		t.Errorf("a large blob: %v", err)
	}
	if _, err := w.PutBlob(ctx(t), "acme", []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.complete(id)
	w.checkLog()
}
