package verifier_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

var (
	update = flag.Bool("update", false, "write the golden files again")
	every  = flag.Bool("every", false, "flip every byte of a bundle instead of some")
)

func trustOf(c *testcluster.Cluster) verifier.Trust {
	return verifier.Trust{AuditPolicy: c.AuditPolicy, MembershipPolicy: c.MembershipPolicy, Genesis: c.Genesis}
}

func format(t testing.TB, b *pb.ProofBundle) []byte {
	t.Helper()
	file, err := provenance.FormatBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// story makes a cluster with an execution that has everything a bundle can
// hold: a contract of an earlier epoch, a reschedule, an epoch in between, a
// dissenting node, parents, evidence after the end.
func story(t testing.TB) (*testcluster.Cluster, digest.Digest) {
	c := testcluster.New(t, testcluster.Options{Nodes: 5})
	hash := c.Register(nil)
	parent := c.Submit(hash, []byte("of the parent"))
	c.Run(parent, testcluster.OK("parent output"))
	c.AddNode("node-6")
	id := c.Submit(hash, []byte("input"), parent)
	nodes := c.Execution(id).Schedule.Ranking
	c.Attest(id, nodes[0], testcluster.OK("output"))
	c.Submit(hash, []byte("another"))
	c.Attest(id, nodes[1], testcluster.OK("lie"))
	c.Append(c.RescheduleRecord(id))
	c.AddNode("node-7")
	c.Attest(id, nodes[3], testcluster.OK("output"))
	c.Attest(id, nodes[2], testcluster.OK("output"))
	return c, id
}

func TestVerifyBundle(t *testing.T) {
	c, id := story(t)
	file := format(t, c.Bundle(id))
	report, err := verifier.VerifyBundle(file, trustOf(c), verifier.Options{Execution: id.String()})
	if err != nil {
		t.Fatal(err)
	}
	ex := c.Execution(id)
	e := report.Execution
	if !report.Verified || len(report.Steps) != 7 || report.Failure != nil || len(report.NotProven) != 8 {
		t.Errorf("report %+v", report)
	}
	if e.ID != id.String() || e.ChainHead != ex.ChainHead().String() || e.Outcome != *ex.Outcome || len(e.Nodes) != 2 ||
		e.Attempt != 1 || e.Contract.Name != "inventory" || e.Parents[0].OutputDigest != digest.Of([]byte("parent output")).String() {
		t.Errorf("execution %+v", e)
	}
	if len(report.AuditCheckpoint.Cosignatures) != 3 || report.RequestCheckpoint.Size >= report.AuditCheckpoint.Size {
		t.Errorf("checkpoints %+v %+v", report.AuditCheckpoint, report.RequestCheckpoint)
	}
	for _, step := range report.Steps {
		if !step.OK || step.Detail == "" || step.Title == "" {
			t.Errorf("step %+v", step)
		}
	}
	if _, err := verifier.VerifyBundle(file, trustOf(c), verifier.Options{}); err != nil {
		t.Errorf("any execution: %v", err)
	}
}

// The golden bundle, with what is needed to verify it and what comes out.
func TestGoldenBundle(t *testing.T) {
	dir := filepath.Join("..", "testdata", "bundle")
	c, id := story(t)
	report, err := verifier.VerifyBundle(format(t, c.Bundle(id)), trustOf(c), verifier.Options{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(report, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"golden.tallyproof": format(t, c.Bundle(id)),
		"genesis.json":      c.Genesis,
		"audit.policy":      c.PolicyText.Audit,
		"membership.policy": c.PolicyText.Membership,
		"report.json":       append(text, '\n'),
	} {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%s differs from what is made now", path)
		}
	}
}

// refusal is a bundle that must not verify.
type refusal struct {
	name string
	code verifier.Code
	rule provenance.Code // "" if the code says it all
	// make returns the bundle and may change trust and options.
	make func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, opts *verifier.Options) *pb.ProofBundle
}

type maker = func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, opts *verifier.Options) *pb.ProofBundle

// edit changes an honest bundle.
func edit(change func(c *testcluster.Cluster, b *pb.ProofBundle)) maker {
	return func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, opts *verifier.Options) *pb.ProofBundle {
		b := c.Bundle(id)
		change(c, b)
		return b
	}
}

// trusting verifies an honest bundle with another trust or other options.
func trusting(change func(c *testcluster.Cluster, trust *verifier.Trust, opts *verifier.Options)) maker {
	return func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, opts *verifier.Options) *pb.ProofBundle {
		change(c, trust, opts)
		return c.Bundle(id)
	}
}

// selecting makes a bundle, all proofs good, with another choice of records.
func selecting(change func(c *testcluster.Cluster, id digest.Digest, records []int64) []int64) maker {
	return func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, opts *verifier.Options) *pb.ProofBundle {
		content, _ := c.Fold.BundleContent(id)
		content.Records = change(c, id, slices.Clone(content.Records))
		slices.Sort(content.Records)
		content.Records = slices.Compact(content.Records)
		return c.BundleOf(id, content)
	}
}

// kindAt returns the kind of a record of the audit log.
func kindAt(c *testcluster.Cluster, index int64) record.Kind {
	opening, err := record.ParseOpening(c.Audit.Openings[index])
	if err != nil {
		panic(err)
	}
	r, err := record.Parse(opening.Record())
	if err != nil {
		panic(err)
	}
	return record.KindOf(r)
}

// without drops the n-th record of a kind.
func without(kind record.Kind, n int) maker {
	return selecting(func(c *testcluster.Cluster, id digest.Digest, records []int64) []int64 {
		seen := 0
		return slices.DeleteFunc(records, func(index int64) bool {
			if kindAt(c, index) != kind {
				return false
			}
			seen++
			return seen == n+1
		})
	})
}

// forging takes an execution that two of the nodes attested to up to the last
// record, lets the server append what it likes, and bundles it.
func forging(forge func(c *testcluster.Cluster, id digest.Digest, nodes []string, honest *pb.Record) []*pb.Record) maker {
	return func(t *testing.T, c *testcluster.Cluster, _ digest.Digest, trust *verifier.Trust, opts *verifier.Options) *pb.ProofBundle {
		con := c.Contract()
		con.Name = "forged"
		id := c.Submit(c.Register(con), []byte("input"))
		ex := c.Execution(id)
		nodes := ex.Assigned()
		content := provenance.BundleContent{Records: []int64{ex.ContractIndex, ex.RequestIndex}, Epoch: c.History.Size()}
		for index := ex.RequestIndex; ; index-- {
			if kindAt(c, index) == record.KindEpoch {
				content.Records = append(content.Records, index)
				break
			}
		}
		index, _ := c.Append(c.AttestationRecord(c.Statement(id, nodes[0], testcluster.OK("output"))))
		content.Records = append(content.Records, index)
		// The honest second attestation tells what would be derived.
		dry := c.AttestationRecord(c.Statement(id, nodes[1], testcluster.OK("output")))
		for _, r := range forge(c, id, nodes, dry) {
			index, _ := c.Append(r)
			content.Records = append(content.Records, index)
		}
		slices.Sort(content.Records)
		return c.BundleOf(id, content)
	}
}

// claim is a provenance record that a lying server might write.
func claim(c *testcluster.Cluster, id digest.Digest, nodes []string) *pb.Record {
	zero := make([]byte, 32)
	ex := c.Execution(id)
	nodes = slices.Sorted(slices.Values(nodes))
	return c.Fill(&pb.Record{Body: &pb.Record_Provenance{Provenance: &pb.ProvenanceRecord{
		ExecutionId: id[:], Tenant: ex.Tenant, ContractHash: ex.ContractHash[:], Nodes: nodes, ClusterScheduleHash: zero,
		AuditRoot:      &pb.CheckpointRef{Origin: c.Audit.Origin, Size: 1, RootHash: zero},
		ExecutionProof: zero, Epoch: ex.Epoch, MembershipHash: zero, InputDigest: zero, OutputDigest: zero, ResultDigest: zero,
		AttestationDigests: slices.Repeat([][]byte{zero}, len(nodes)), CompletedAt: 1}}})
}

var refusals = []refusal{
	// What the verifier is given.
	{"no policy", verifier.CodeTrust, "", trusting(func(c *testcluster.Cluster, trust *verifier.Trust, _ *verifier.Options) { trust.AuditPolicy = nil })},
	{"genesis that is none", verifier.CodeTrust, "", func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, _ *verifier.Options) *pb.ProofBundle {
		b := c.Bundle(id)
		trust.Genesis = []byte("{}")
		b.MembershipChanges = append([][]byte{trust.Genesis}, b.MembershipChanges[1:]...)
		return b
	}},
	{"cluster of another name", verifier.CodeOtherExecution, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) { b.Cluster = "other" })},
	{"policy of two origins", verifier.CodeTrust, "", trusting(func(c *testcluster.Cluster, trust *verifier.Trust, _ *verifier.Options) {
		a, _, _ := strings.Cut(string(c.PolicyText.Audit), "\n")
		p, err := checkpoint.ParsePolicy([]byte(a + "\n" + string(c.PolicyText.Membership)))
		if err != nil {
			panic(err)
		}
		trust.MembershipPolicy = p
	})},
	{"another execution", verifier.CodeOtherExecution, "", trusting(func(c *testcluster.Cluster, _ *verifier.Trust, opts *verifier.Options) {
		opts.Execution = strings.Repeat("0", 64)
	})},
	{"genesis of another cluster", verifier.CodeGenesis, "", func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, _ *verifier.Options) *pb.ProofBundle {
		trust.Genesis = testcluster.New(t, testcluster.Options{Name: "other"}).Genesis
		return c.Bundle(id)
	}},
	{"another genesis of the same cluster", verifier.CodeGenesis, "", func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, _ *verifier.Options) *pb.ProofBundle {
		trust.Genesis = testcluster.New(t, testcluster.Options{Nodes: 4}).Genesis
		return c.Bundle(id)
	}},
	{"audit policy of another cluster", verifier.CodeAuditCheckpoint, "", func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, _ *verifier.Options) *pb.ProofBundle {
		trust.AuditPolicy = testcluster.New(t, testcluster.Options{Name: "other"}).AuditPolicy
		return c.Bundle(id)
	}},
	{"policies mixed up", verifier.CodeAuditCheckpoint, "", trusting(func(c *testcluster.Cluster, trust *verifier.Trust, _ *verifier.Options) {
		trust.AuditPolicy, trust.MembershipPolicy = trust.MembershipPolicy, trust.AuditPolicy
	})},
	{"membership policy with other witnesses", verifier.CodeMembershipCheckpoint, "", trusting(func(c *testcluster.Cluster, trust *verifier.Trust, _ *verifier.Options) {
		text := strings.ReplaceAll(string(c.PolicyText.Membership), strings.Fields(string(c.PolicyText.Membership))[0], "log")
		var lines []string
		for _, line := range strings.Split(text, "\n") {
			if strings.HasPrefix(line, "witness") {
				key, _ := checkpoint.NewEd25519Cosigner("w", testcluster.Key(line))
				f := strings.Fields(line)
				f[2] = key.Key().Vkey()
				line = strings.Join(f, " ")
			}
			lines = append(lines, line)
		}
		p, err := checkpoint.ParsePolicy([]byte(strings.Join(lines, "\n")))
		if err != nil {
			panic(err)
		}
		trust.MembershipPolicy = p
	})},

	// Checkpoints.
	{"audit checkpoint with one cosignature", verifier.CodeAuditCheckpoint, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.AuditCheckpoint = c.Audit.Sign(c.Audit.Checkpoint(int64(b.Records[len(b.Records)-1].Index)+1), 1)
	})},
	{"request checkpoint with one cosignature", verifier.CodeRequestCheckpoint, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		cp, _ := c.AuditPolicy.Verify(b.RequestCheckpoint)
		b.RequestCheckpoint = c.Audit.Sign(cp.Checkpoint, 1)
	})},
	{"membership checkpoint with one cosignature", verifier.CodeMembershipCheckpoint, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.MembershipCheckpoint = c.Membership.Sign(c.Membership.Checkpoint(int64(len(b.MembershipChanges))), 1)
	})},
	{"audit checkpoint of another origin", verifier.CodeAuditCheckpoint, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.AuditCheckpoint = b.MembershipCheckpoint
	})},
	{"log key that membership does not name", verifier.CodeLogKeys, "", func(t *testing.T, c *testcluster.Cluster, id digest.Digest, trust *verifier.Trust, _ *verifier.Options) *pb.ProofBundle {
		vkey, err := checkpoint.Vkey(c.Audit.Origin, testcluster.Public("rogue"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := checkpoint.ParsePolicy([]byte("log " + vkey + "\n" + string(c.PolicyText.Audit)))
		if err != nil {
			t.Fatal(err)
		}
		trust.AuditPolicy = p
		b := c.Bundle(id)
		signer, err := checkpoint.NewSigner(c.Audit.Origin, testcluster.Key("rogue"))
		if err != nil {
			t.Fatal(err)
		}
		cp, err := c.AuditPolicy.Verify(b.AuditCheckpoint)
		if err != nil {
			t.Fatal(err)
		}
		rogue, err := checkpoint.Sign(cp.Checkpoint, signer)
		if err != nil {
			t.Fatal(err)
		}
		_, cosignatures, _ := bytes.Cut(b.AuditCheckpoint, []byte("\n\n"))
		_, cosignatures, _ = bytes.Cut(cosignatures, []byte("\n"))
		b.AuditCheckpoint = append(rogue, cosignatures...)
		return b
	}},

	// Membership.
	{"change left out", verifier.CodeMembership, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.MembershipChanges = b.MembershipChanges[:len(b.MembershipChanges)-1]
	})},
	{"unlawful change", verifier.CodeMembership, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.MembershipChanges = slices.Clone(b.MembershipChanges)
		b.MembershipChanges[1] = b.MembershipChanges[2]
	})},
	{"lawful change that the log does not hold", verifier.CodeMembership, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		state, _ := c.History.StateAt(uint64(len(b.MembershipChanges) - 1))
		payload, err := state.Propose(membership.SetNodeQuorum{Quorum: 2})
		if err != nil {
			panic(err)
		}
		b.MembershipChanges = slices.Clone(b.MembershipChanges)
		b.MembershipChanges[len(b.MembershipChanges)-1] = c.Envelope(membership.PayloadType, payload, testcluster.Admin+"/change")
	})},
	{"external membership without the changes", verifier.CodeExternalMembership, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.MembershipChanges, b.ExternalMembership = nil, true
	})},
	{"membership older than the epoch records", verifier.CodeRules, provenance.CodeEpochUnknown, edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.MembershipChanges = b.MembershipChanges[:2]
		b.MembershipCheckpoint = c.Membership.Signed(2)
	})},

	// Proofs.
	{"no consistency proof", verifier.CodeConsistency, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) { b.ConsistencyProof = nil })},
	{"consistency proof with a hash too many", verifier.CodeConsistency, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.ConsistencyProof = append(b.ConsistencyProof, make([]byte, 32))
	})},
	{"audit root of a fork", verifier.CodeConsistency, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		cp, _ := c.AuditPolicy.Verify(b.RequestCheckpoint)
		cp.Checkpoint.Root[0] ^= 1
		b.RequestCheckpoint = c.Audit.Sign(cp.Checkpoint, 3)
	})},
	{"record at another index", verifier.CodeInclusion, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.Records[0].Index--
	})},
	{"record beyond the checkpoint", verifier.CodeInclusion, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.Records[len(b.Records)-1].Index += 1000
	})},
	{"opening of another record", verifier.CodeInclusion, "", edit(func(c *testcluster.Cluster, b *pb.ProofBundle) {
		b.Records[0].Opening = b.Records[1].Opening
	})},
	{"record that is none", verifier.CodeRecord, "", func(t *testing.T, c *testcluster.Cluster, id digest.Digest, _ *verifier.Trust, _ *verifier.Options) *pb.ProofBundle {
		content, _ := c.Fold.BundleContent(id)
		opening, err := record.NewOpening([32]byte{1}, []byte("no record"))
		if err != nil {
			t.Fatal(err)
		}
		entry := opening.Entry()
		content.Records = append(content.Records, c.Audit.Append(entry[:], opening.Bytes()))
		return c.BundleOf(id, content)
	}},

	// Records.
	{"no contract", verifier.CodeRules, "", without(record.KindContract, 0)},
	{"no request", verifier.CodeRules, "", without(record.KindRequest, 0)},
	{"no epoch before the request", verifier.CodeRules, "", without(record.KindEpoch, 0)},
	{"a later epoch left out", verifier.CodeRules, provenance.CodeStaleEpoch, without(record.KindEpoch, 1)},
	{"no provenance record", verifier.CodeRules, "", without(record.KindProvenance, 0)},
	{"reschedule left out", verifier.CodeRules, provenance.CodeNotAssigned, without(record.KindReschedule, 0)},
	{"k-1 attestations", verifier.CodeIncomplete, "", without(record.KindAttestation, 0)},
	{"an older epoch record too", verifier.CodeRules, "", selecting(func(c *testcluster.Cluster, _ digest.Digest, records []int64) []int64 {
		return append(records, 0)
	})},
	{"every record of the log", verifier.CodeRules, "", selecting(func(c *testcluster.Cluster, _ digest.Digest, records []int64) []int64 {
		for index := range c.Audit.Size() {
			records = append(records, index)
		}
		return records
	})},
	{"evidence too", verifier.CodeRules, "", func(t *testing.T, c *testcluster.Cluster, _ digest.Digest, _ *verifier.Trust, _ *verifier.Options) *pb.ProofBundle {
		con := c.Contract()
		con.Name = "evidence"
		id := c.Submit(c.Register(con), []byte("input"))
		var effects []provenance.Effect
		for _, node := range c.Execution(id).Assigned() {
			_, effect := c.Append(c.AttestationRecord(c.Statement(id, node, testcluster.OK("output"))))
			effects = append(effects, effect)
		}
		c.Append(effects[1].Derived)
		content, _ := c.Fold.BundleContent(id)
		content.Records = append(content.Records, c.Execution(id).Attestations[2].Index)
		slices.Sort(content.Records)
		return c.BundleOf(id, content)
	}},
	{"attestation for another execution", verifier.CodeRules, "", func(t *testing.T, c *testcluster.Cluster, id digest.Digest, _ *verifier.Trust, _ *verifier.Options) *pb.ProofBundle {
		b := c.Bundle(id)
		for ex := range c.Fold.Executions() {
			if ex.Submission.Parents == nil && ex.State == provenance.StateComplete {
				// The parent's bundle under the child's id.
				b = c.Bundle(ex.ID)
				b.ExecutionId = id[:]
			}
		}
		return b
	}},

	// A server that lies, with proofs that are all good.
	{"provenance without agreement", verifier.CodeIncomplete, "", forging(func(c *testcluster.Cluster, id digest.Digest, nodes []string, _ *pb.Record) []*pb.Record {
		return []*pb.Record{claim(c, id, nodes[:2])}
	})},
	{"provenance that differs", verifier.CodeProvenance, provenance.CodeDiffers, forging(func(c *testcluster.Cluster, id digest.Digest, nodes []string, honest *pb.Record) []*pb.Record {
		return []*pb.Record{honest, claim(c, id, nodes[:2])}
	})},
	{"attestation by a non-member", verifier.CodeRules, provenance.CodeNotAssigned, forging(func(c *testcluster.Cluster, id digest.Digest, nodes []string, _ *pb.Record) []*pb.Record {
		s := c.Statement(id, nodes[1], testcluster.OK("output"))
		s.Node = "node-99"
		return []*pb.Record{c.AttestationRecord(s), claim(c, id, nodes[:2])}
	})},
	{"attestation by a non-member in a member's name", verifier.CodeRules, provenance.CodeAttestationInvalid, forging(func(c *testcluster.Cluster, id digest.Digest, nodes []string, _ *pb.Record) []*pb.Record {
		s := c.Statement(id, nodes[1], testcluster.OK("output"))
		payload, err := s.Marshal()
		if err != nil {
			panic(err)
		}
		r := c.AttestationRecord(s)
		r.GetAttestation().Envelope = c.Envelope(provenance.AttestationType, payload, "node-99/attestation")
		return []*pb.Record{r, claim(c, id, nodes[:2])}
	})},
	{"the same node twice", verifier.CodeRules, provenance.CodeRepeated, forging(func(c *testcluster.Cluster, id digest.Digest, nodes []string, _ *pb.Record) []*pb.Record {
		return []*pb.Record{c.AttestationRecord(c.Statement(id, nodes[0], testcluster.OK("output"))), claim(c, id, nodes[:2])}
	})},
	{"audit root that the nodes did not see", verifier.CodeProvenance, "", func(t *testing.T, c *testcluster.Cluster, id digest.Digest, _ *verifier.Trust, _ *verifier.Options) *pb.ProofBundle {
		b := c.Bundle(id)
		cp, err := c.AuditPolicy.Verify(b.RequestCheckpoint)
		if err != nil {
			t.Fatal(err)
		}
		size := cp.Checkpoint.Size + 1
		b.RequestCheckpoint = c.Audit.Signed(size)
		b.ConsistencyProof = c.Audit.Consistency(size, int64(b.Records[len(b.Records)-1].Index)+1)
		return b
	}},
}

func TestRefusals(t *testing.T) {
	seen := map[verifier.Code]bool{
		verifier.CodeFormat: true, verifier.CodeDamaged: true, verifier.CodeVersion: true, // TestRefusesFiles
		verifier.CodeAncestor: true, verifier.CodeNoResult: true, // TestRefusesAncestors, TestEndsWithoutResult
	}
	for _, test := range refusals {
		t.Run(test.name, func(t *testing.T) {
			c, id := story(t)
			trust, opts := trustOf(c), verifier.Options{}
			file := format(t, test.make(t, c, id, &trust, &opts))
			report, err := verifier.VerifyBundle(file, trust, opts)
			var refused *verifier.Error
			if !errors.As(err, &refused) || report.Verified {
				t.Fatalf("verified: %v", err)
			}
			if refused.Code != test.code || refused.Rule != test.rule || !errors.Is(err, test.code) {
				t.Errorf("%v (rule %q), want code %q and rule %q", err, refused.Rule, test.code, test.rule)
			}
			last := report.Steps[len(report.Steps)-1]
			if last.OK || last.Name != refused.Step || report.Failure.Code != refused.Code || refused.Hint() == "" {
				t.Errorf("report ends with %+v, %+v", last, report.Failure)
			}
		})
		seen[test.code] = true
	}
	for _, code := range allCodes(t) {
		if !seen[code] {
			t.Errorf("no case for code %q", code)
		}
	}
}

// A brokenFile is an honest bundle's file, broken.
type brokenFile struct {
	name string
	file []byte
	want verifier.Code
}

func brokenFiles(file []byte) []brokenFile {
	flipped := bytes.Clone(file)
	flipped[len(flipped)/2] ^= 1
	_, body, _ := bytes.Cut(file, []byte("\n"))
	return []brokenFile{
		{"flipped byte", flipped, verifier.CodeDamaged},
		{"cut off", file[:len(file)/2], verifier.CodeDamaged},
		{"first line cut off", file[:60], verifier.CodeFormat},
		{"empty file", nil, verifier.CodeFormat},
		{"body without first line", body, verifier.CodeFormat},
		{"empty body", provenance.SealBundle(nil), verifier.CodeVersion},
		{"not canonical", provenance.SealBundle(append(bytes.Clone(body), 0x40, 0)), verifier.CodeFormat},
		{"version 2.0", append([]byte("tallystick-bundle/2.0"), file[21:]...), verifier.CodeVersion},
		{"version 2.0 within", provenance.SealBundle(bytes.Replace(body, []byte("1.0"), []byte("2.0"), 1)), verifier.CodeVersion},
		{"terminal codes", []byte("tallystick-bundle/\x1b[2J\u202e"), verifier.CodeVersion},
	}
}

func TestRefusesFiles(t *testing.T) {
	c, id := story(t)
	for _, test := range brokenFiles(format(t, c.Bundle(id))) {
		_, err := verifier.VerifyBundle(test.file, trustOf(c), verifier.Options{})
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
			continue
		}
		if strings.ContainsAny(err.Error(), "\x1b\u202e") {
			t.Errorf("%s: the error may act on a terminal: %q", test.name, err)
		}
	}
}

// A bundle without the changes verifies with a copy of the membership log,
// which may be longer.
func TestExternalMembership(t *testing.T) {
	c, id := story(t)
	b := c.Bundle(id)
	b.MembershipChanges, b.ExternalMembership = nil, true
	c.AddNode("node-8")
	opts := verifier.Options{Changes: c.Membership.Entries}
	if _, err := verifier.VerifyBundle(format(t, b), trustOf(c), opts); err != nil {
		t.Error(err)
	}
}

// The log keys may change, and what the old key signed stays good; a new policy
// may list both.
func TestRotatedLogKey(t *testing.T) {
	c, id := story(t)
	b := c.Bundle(id)
	vkey, err := checkpoint.Vkey(c.Audit.Origin, testcluster.Public("next audit key"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := checkpoint.ParsePolicy([]byte("log " + vkey + "\n" + string(c.PolicyText.Audit)))
	if err != nil {
		t.Fatal(err)
	}
	trust := trustOf(c)
	trust.AuditPolicy = p
	if _, err := verifier.VerifyBundle(format(t, b), trust, verifier.Options{}); err != nil {
		t.Error(err)
	}
}

// Every byte of the body is flipped, with the digest line repaired. What still
// verifies can only be a part of a cosignature that the quorum does not need:
// its name or key ID, so that it becomes a signature by nobody in particular,
// which the note specification says to ignore.
func TestEveryByteMatters(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	hash := c.Register(nil)
	parent := c.Submit(hash, []byte("input of the parent"))
	c.Run(parent, testcluster.OK("output of the parent"))
	id := c.Submit(hash, []byte("input"), parent)
	c.Run(id, testcluster.OK("output"))
	b := c.BundleWithAncestors(id)
	trust := trustOf(c)
	file := format(t, b)
	_, body, _ := bytes.Cut(file, []byte("\n"))
	spare := spareBytes(body, b)
	step := 127 // every byte takes minutes; run with -every before a release
	if *every {
		step = 1
	}
	accepted := 0
	for i := 0; i < len(body); i += step {
		flipped := bytes.Clone(body)
		flipped[i] ^= 1
		report, err := verifier.VerifyBundle(provenance.SealBundle(flipped), trust, verifier.Options{})
		if err == nil && !report.Verified || err != nil && report.Verified {
			t.Fatalf("byte %d: report and error contradict each other", i)
		}
		if err != nil {
			continue
		}
		accepted++
		if !spare[i] {
			t.Errorf("byte %d (%q) does not matter", i, body[max(0, i-20):i+20])
		}
	}
	if accepted == 0 {
		t.Error("no flip was accepted: the list of spare bytes is out of date")
	}
}

// spareBytes marks the names and key IDs of cosignatures: "— name keyID…".
func spareBytes(body []byte, b *pb.ProofBundle) map[int]bool {
	spare := map[int]bool{}
	notes := [][]byte{b.AuditCheckpoint, b.RequestCheckpoint, b.MembershipCheckpoint}
	for _, a := range b.Ancestors {
		notes = append(notes, a.RequestCheckpoint)
	}
	for _, signed := range notes {
		start := bytes.Index(body, signed)
		for offset := 0; ; {
			n := bytes.Index(signed[offset:], []byte("— witness-"))
			if n < 0 {
				break
			}
			offset += n + len("— ")
			name := bytes.IndexByte(signed[offset:], ' ')
			// Four bytes of key ID take the first six characters of base64.
			for i := range name + 1 + 6 {
				spare[start+offset+i] = true
			}
		}
	}
	return spare
}

// Whatever the bytes, a bundle either verifies or is refused with a code, and
// the report agrees with the error.
func FuzzVerifyBundle(f *testing.F) {
	c := testcluster.New(f, testcluster.Options{})
	hash := c.Register(nil)
	parent := c.Submit(hash, []byte("input of the parent"))
	c.Run(parent, testcluster.OK("output of the parent"))
	id := c.Submit(hash, []byte("input"), parent)
	c.Run(id, testcluster.OK("output"))
	for _, b := range []*pb.ProofBundle{c.Bundle(id), c.BundleWithAncestors(id)} {
		_, body, _ := bytes.Cut(format(f, b), []byte("\n"))
		f.Add(body)
	}
	trust := trustOf(c)
	f.Fuzz(func(t *testing.T, body []byte) {
		report, err := verifier.VerifyBundle(provenance.SealBundle(body), trust, verifier.Options{})
		var refused *verifier.Error
		if (err == nil) != report.Verified || err != nil && !errors.As(err, &refused) {
			t.Fatalf("%v, verified %v", err, report.Verified)
		}
		if err == nil && report.Execution.ID != id.String() {
			t.Fatal("another execution verified")
		}
	})
}

// What a bundle cannot show, as its report says: a server may leave out an
// attestation that did not matter. The chain's head then differs from that of
// the log.
func TestOmittedAttestation(t *testing.T) {
	c, id := story(t)
	trust, opts := trustOf(c), verifier.Options{}
	whole, err := verifier.VerifyBundle(format(t, c.Bundle(id)), trust, opts)
	if err != nil {
		t.Fatal(err)
	}
	part, err := verifier.VerifyBundle(format(t, without(record.KindAttestation, 1)(t, c, id, &trust, &opts)), trust, opts)
	if err != nil {
		t.Fatal(err)
	}
	if part.Execution.ChainHead == whole.Execution.ChainHead || part.Execution.ExecutionProof != whole.Execution.ExecutionProof {
		t.Errorf("without the dissenting attestation: %+v", part.Execution)
	}
}

// allCodes reads the codes from the source, so that none is forgotten here.
func allCodes(t *testing.T) (codes []verifier.Code) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Code") {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			codes = append(codes, verifier.Code(text))
		}
		return true
	})
	if len(codes) < 18 {
		t.Fatalf("only %d codes found", len(codes))
	}
	return codes
}
