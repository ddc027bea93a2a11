package verifier_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
)

// diverged makes an execution of which every node says something else, one of
// them twice.
func diverged(t testing.TB) (*testcluster.Cluster, digest.Digest) {
	c := testcluster.New(t, testcluster.Options{Nodes: 5})
	con := c.Contract()
	con.MaxAssigned = 3
	id := c.Submit(c.Register(con), []byte("input"))
	nodes := c.Execution(id).Assigned()
	c.Attest(id, nodes[0], testcluster.OK("one"))
	c.Attest(id, nodes[0], testcluster.OK("another"))
	c.AddNode("node-6")
	c.Attest(id, nodes[1], testcluster.OK("two"))
	c.Attest(id, nodes[2], testcluster.OK("three"))
	return c, id
}

// cancelled makes an execution that its tenant cancels, one attestation in.
func cancelled(t testing.TB) (*testcluster.Cluster, digest.Digest) {
	c := testcluster.New(t, testcluster.Options{})
	hash := c.Register(nil)
	parent := c.Submit(hash, []byte("of the parent"))
	c.Run(parent, testcluster.OK("parent output"))
	id := c.Submit(hash, []byte("input"), parent)
	c.RequestCheckpoint(id)
	c.Append(c.CancellationRecord(id))
	return c, id
}

// expired makes an execution whose ranks are exhausted and silent but for one.
func expired(t testing.TB) (*testcluster.Cluster, digest.Digest) {
	c := testcluster.New(t, testcluster.Options{Nodes: 4})
	id := c.Submit(c.Register(nil), []byte("input"))
	c.Attest(id, c.Execution(id).Assigned()[1], testcluster.OK("alone"))
	c.Append(c.RescheduleRecord(id))
	c.Append(c.Fill(&pb.Record{Body: &pb.Record_Expired{Expired: &pb.ExpiredRecord{ExecutionId: id[:]}}}))
	return c, id
}

// pipeline makes four executions, of which two read the first and the fourth
// reads both. The first one's provenance record comes late, after all others:
// what is derived depends on the record that decided, not on it.
func pipeline(t testing.TB) (c *testcluster.Cluster, first, fourth digest.Digest) {
	c = testcluster.New(t, testcluster.Options{Nodes: 4})
	hash := c.Register(nil)
	first = c.Submit(hash, []byte("of the first"))
	nodes := c.Execution(first).Assigned()
	c.Append(c.AttestationRecord(c.Statement(first, nodes[0], testcluster.OK("1"))))
	_, decided := c.Append(c.AttestationRecord(c.Statement(first, nodes[1], testcluster.OK("1"))))
	second := c.Submit(hash, nil, first)
	c.AddNode("node-5")
	third := c.Submit(hash, []byte("of the third"), first)
	c.Run(third, testcluster.OK("3"))
	c.Run(second, testcluster.OK("2"))
	c.AddNode("node-6")
	fourth = c.Submit(hash, []byte("of the fourth"), third, second)
	c.Run(fourth, testcluster.OK("4"))
	c.AddNode("node-7")
	c.Append(decided.Derived)
	return c, first, fourth
}

// vector is one row of testdata/bundle/verified.json.
type vector struct {
	Name string `json:"name"`
	// File, under testdata/bundle/verified, has the bundle; Report what comes out.
	File             string        `json:"file"`
	Report           string        `json:"report"`
	Genesis          string        `json:"genesis"`
	AuditPolicy      string        `json:"audit_policy"`
	MembershipPolicy string        `json:"membership_policy"`
	Code             verifier.Code `json:"code,omitempty"`    // "no_result", or "" for a result
	Changes          []string      `json:"changes,omitempty"` // entries of the membership log, for a bundle without
}

// TestVerifiedBundleVectors holds one bundle for each way that an execution may
// end and for each optional part, with its report.
func TestVerifiedBundleVectors(t *testing.T) {
	dir := filepath.Join("..", "testdata", "bundle")
	var list []vector
	for _, test := range []struct {
		name string
		code verifier.Code
		make func(t testing.TB) (*testcluster.Cluster, *pb.ProofBundle)
	}{
		{"diverged", verifier.CodeNoResult, bundled(diverged)},
		{"cancelled", verifier.CodeNoResult, bundled(cancelled)},
		{"expired", verifier.CodeNoResult, bundled(expired)},
		{"attempt-and-parent", "", bundled(story)},
		{"external-membership", "", func(t testing.TB) (*testcluster.Cluster, *pb.ProofBundle) {
			c, id := story(t)
			b := c.Bundle(id)
			b.MembershipChanges, b.ExternalMembership = nil, true
			return c, b
		}},
		{"ancestors", "", func(t testing.TB) (*testcluster.Cluster, *pb.ProofBundle) {
			c, _, fourth := pipeline(t)
			return c, c.BundleWithAncestors(fourth)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, b := test.make(t)
			opts := verifier.Options{}
			v := vector{Name: test.name, File: test.name + ".tallyproof", Report: test.name + ".json", Code: test.code, Genesis: string(c.Genesis),
				AuditPolicy: string(c.PolicyText.Audit), MembershipPolicy: string(c.PolicyText.Membership)}
			if b.ExternalMembership {
				opts.Changes = c.Membership.Entries
				for _, change := range opts.Changes {
					v.Changes = append(v.Changes, string(change))
				}
			}
			report, err := verifier.VerifyBundle(format(t, b), trustOf(c), opts)
			if (err == nil) != (test.code == "") || err != nil && !errors.Is(err, test.code) {
				t.Fatalf("%v, want code %q", err, test.code)
			}
			compareFile(t, filepath.Join(dir, "verified", v.File), format(t, b))
			compareFile(t, filepath.Join(dir, "verified", v.Report), asJSON(t, report))
			list = append(list, v)
		})
	}
	compareFile(t, filepath.Join(dir, "verified.json"), asJSON(t, list))
}

func bundled(make func(t testing.TB) (*testcluster.Cluster, digest.Digest)) func(t testing.TB) (*testcluster.Cluster, *pb.ProofBundle) {
	return func(t testing.TB) (*testcluster.Cluster, *pb.ProofBundle) {
		c, id := make(t)
		return c, c.Bundle(id)
	}
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// An end without a result is proven like one with, and is an error all the same:
// whoever looks at nothing else does not take it for a result.
func TestEndsWithoutResult(t *testing.T) {
	for _, test := range []struct {
		state   provenance.State
		make    func(t testing.TB) (*testcluster.Cluster, digest.Digest)
		dissent int
	}{{provenance.StateDiverged, diverged, 4}, {provenance.StateCancelled, cancelled, 0}, {provenance.StateExpired, expired, 1}} {
		c, id := test.make(t)
		report, err := verifier.VerifyBundle(format(t, c.Bundle(id)), trustOf(c), verifier.Options{})
		if !errors.Is(err, verifier.CodeNoResult) || report.Verified || report.Failure.Code != verifier.CodeNoResult {
			t.Fatalf("%s: %v", test.state, err)
		}
		e, ex := report.Execution, c.Execution(id)
		if len(report.Steps) != 7 || !report.Steps[6].OK || e.State != test.state || e.Outcome.Kind != "" || e.ExecutionProof != "" ||
			len(e.Nodes) != 0 || len(e.Dissent) != test.dissent || e.ChainHead != ex.ChainHead().String() || len(report.Proven) < 4 {
			t.Errorf("%s: %+v", test.state, e)
		}
	}
	c, id := diverged(t)
	report, _ := verifier.VerifyBundle(format(t, c.Bundle(id)), trustOf(c), verifier.Options{})
	for i, d := range report.Execution.Dissent {
		if d.Void != (i < 2) || d.Outcome.Kind != "ok" || len(d.Envelope) == 0 || len(d.Key) == 0 {
			t.Errorf("dissent %d: %+v", i, d)
		}
	}
	// No agreement is refused where the record that closes it claims another end.
	content, _ := c.Fold.BundleContent(id)
	content.Records = content.Records[:len(content.Records)-1]
	if _, err := verifier.VerifyBundle(format(t, c.BundleOf(id, content)), trustOf(c), verifier.Options{}); !errors.Is(err, verifier.CodeRules) {
		t.Errorf("without the divergence record: %v", err)
	}
	content, _ = c.Fold.BundleContent(id)
	content.Records = append(content.Records[:len(content.Records)-2:len(content.Records)-2], content.Records[len(content.Records)-1])
	if _, err := verifier.VerifyBundle(format(t, c.BundleOf(id, content)), trustOf(c), verifier.Options{}); !errors.Is(err, verifier.CodeIncomplete) {
		t.Errorf("divergence without its last attestation: %v", err)
	}
}

// A server that lies cannot cancel for the tenant, nor give up early.
func TestForgedEnds(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Nodes: 4})
	id := c.Submit(c.Register(nil), []byte("input"))
	ex := c.Execution(id)
	forged := c.CancellationRecord(id)
	forged.GetCancellation().Envelope = c.CancellationRecord(id).GetCancellation().Envelope
	forged.GetCancellation().Envelope = bytes.Replace(forged.GetCancellation().Envelope, []byte(`"sig":"`), []byte(`"sig":"AA`), 1)
	for _, r := range []*pb.Record{
		forged,
		c.Fill(&pb.Record{Body: &pb.Record_Expired{Expired: &pb.ExpiredRecord{ExecutionId: id[:]}}}),
		c.Fill(&pb.Record{Body: &pb.Record_Divergence{Divergence: &pb.DivergenceRecord{ExecutionId: id[:], DivergedAt: 1,
			AttestationDigests: [][]byte{make([]byte, 32)}}}}),
	} {
		index, effect := c.Append(r)
		if !effect.Void {
			t.Fatalf("record %d counts", index)
		}
		content := provenance.BundleContent{Records: []int64{0, ex.ContractIndex, ex.RequestIndex, index}, Epoch: 1}
		_, err := verifier.VerifyBundle(format(t, c.BundleOf(id, content)), trustOf(c), verifier.Options{})
		var refused *verifier.Error
		if !errors.As(err, &refused) || refused.Code == verifier.CodeNoResult {
			t.Errorf("record %d: %v", index, err)
		}
	}
}

func TestAncestors(t *testing.T) {
	c, first, fourth := pipeline(t)
	report, err := verifier.VerifyBundle(format(t, c.BundleWithAncestors(fourth)), trustOf(c), verifier.Options{Execution: fourth.String()})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Steps) != 8 || len(report.Ancestors) != 3 || report.Ancestors[2].ID != first.String() {
		t.Errorf("%d steps, %d ancestors", len(report.Steps), len(report.Ancestors))
	}
	if strings.Contains(strings.Join(report.NotProven, "\n"), "parents") {
		t.Errorf("not proven: %q", report.NotProven)
	}
	// Without them their outputs are taken on the nodes' word, and the report says so.
	report, err = verifier.VerifyBundle(format(t, c.Bundle(fourth)), trustOf(c), verifier.Options{})
	if err != nil || !strings.Contains(strings.Join(report.NotProven, "\n"), "outputs of the parents") {
		t.Errorf("%v, not proven: %q", err, report.NotProven)
	}
}

func TestRefusesAncestors(t *testing.T) {
	for _, test := range []struct {
		name string
		code verifier.Code
		edit func(c *testcluster.Cluster, first digest.Digest, b *pb.ProofBundle)
	}{
		{"one left out", verifier.CodeAncestor, func(_ *testcluster.Cluster, _ digest.Digest, b *pb.ProofBundle) { b.Ancestors = b.Ancestors[1:] }},
		{"the furthest left out", verifier.CodeAncestor, func(_ *testcluster.Cluster, _ digest.Digest, b *pb.ProofBundle) { b.Ancestors = b.Ancestors[:2] }},
		{"under another's id", verifier.CodeRules, func(_ *testcluster.Cluster, _ digest.Digest, b *pb.ProofBundle) {
			b.Ancestors[0].ExecutionId = b.Ancestors[1].ExecutionId
		}},
		{"the execution itself", verifier.CodeAncestor, func(_ *testcluster.Cluster, _ digest.Digest, b *pb.ProofBundle) {
			self := &pb.ProvenExecution{ExecutionId: b.ExecutionId, RequestCheckpoint: b.RequestCheckpoint, ConsistencyProof: b.ConsistencyProof, Records: b.Records}
			b.Ancestors = []*pb.ProvenExecution{b.Ancestors[0], b.Ancestors[1], self, b.Ancestors[2]}
		}},
		{"inclusion proof of another", verifier.CodeInclusion, func(_ *testcluster.Cluster, _ digest.Digest, b *pb.ProofBundle) {
			b.Ancestors[1].Records[0].InclusionProof = b.Ancestors[1].Records[1].InclusionProof
		}},
		{"consistency proof of another", verifier.CodeConsistency, func(_ *testcluster.Cluster, _ digest.Digest, b *pb.ProofBundle) {
			b.Ancestors[0].ConsistencyProof = nil
		}},
		{"request checkpoint with one cosignature", verifier.CodeRequestCheckpoint, func(c *testcluster.Cluster, _ digest.Digest, b *pb.ProofBundle) {
			cp, _ := c.AuditPolicy.Verify(b.Ancestors[0].RequestCheckpoint)
			b.Ancestors[0].RequestCheckpoint = c.Audit.Sign(cp.Checkpoint, 1)
		}},
		{"audit root that its nodes did not see", verifier.CodeProvenance, func(_ *testcluster.Cluster, _ digest.Digest, b *pb.ProofBundle) {
			b.Ancestors[0].RequestCheckpoint, b.Ancestors[0].ConsistencyProof = b.AuditCheckpoint, nil
		}},
		{"an attestation left out", verifier.CodeIncomplete, func(_ *testcluster.Cluster, _ digest.Digest, b *pb.ProofBundle) {
			r := b.Ancestors[0].Records
			b.Ancestors[0].Records = append(r[:len(r)-2:len(r)-2], r[len(r)-1])
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, first, fourth := pipeline(t)
			b := c.BundleWithAncestors(fourth)
			test.edit(c, first, b)
			_, err := verifier.VerifyBundle(format(t, b), trustOf(c), verifier.Options{})
			if !errors.Is(err, test.code) {
				t.Errorf("%v, want code %q", err, test.code)
			}
		})
	}
}

// TestForgedParents has parents that a lying server might claim, all of whose
// own proofs are good.
func TestForgedParents(t *testing.T) {
	for _, test := range []struct {
		name string
		// parent makes what the child names; late runs it after the child is requested.
		parent func(c *testcluster.Cluster, hash digest.Digest) digest.Digest
		late   func(c *testcluster.Cluster, parent digest.Digest)
		output string // that the nodes of the child say it had
		want   string
	}{
		{"another output", func(c *testcluster.Cluster, hash digest.Digest) digest.Digest {
			id := c.Submit(hash, []byte("p"))
			c.Run(id, testcluster.OK("true"))
			return id
		}, nil, "false", "read output"},
		{"not ok", func(c *testcluster.Cluster, hash digest.Digest) digest.Digest {
			id := c.Submit(hash, []byte("p"))
			out := testcluster.OK("x")
			out.Kind = "trap"
			c.Run(id, out)
			return id
		}, nil, "x", `outcome "trap"`},
		{"complete too late", func(c *testcluster.Cluster, hash digest.Digest) digest.Digest { return c.Submit(hash, []byte("p")) },
			func(c *testcluster.Cluster, parent digest.Digest) { c.Run(parent, testcluster.OK("x")) }, "x", "was complete at index"},
		{"cancelled", func(c *testcluster.Cluster, hash digest.Digest) digest.Digest {
			id := c.Submit(hash, []byte("p"))
			c.Append(c.CancellationRecord(id))
			return id
		}, nil, "x", "ended as cancelled"},
		{"another tenant's", func(c *testcluster.Cluster, _ digest.Digest) digest.Digest {
			con := c.Contract()
			con.Tenant = testcluster.Other
			sub := c.Submission(c.Register(con), []byte("p"))
			sub.Tenant = testcluster.Other
			c.Append(c.RequestRecord(sub))
			c.Run(sub.ExecutionID(), testcluster.OK("x"))
			return sub.ExecutionID()
		}, nil, "x", "is of tenant"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := testcluster.New(t, testcluster.Options{})
			hash := c.Register(nil)
			parent := test.parent(c, hash)
			sub := c.Submission(hash, []byte("c"), parent)
			child := sub.ExecutionID()
			// The whole fold refuses the request, so the liar's looks at no parents.
			c.Refold(true)
			request, effect := c.Append(c.RequestRecord(sub))
			if effect.Void {
				t.Fatal(effect.Detail)
			}
			if test.late != nil {
				test.late(c, parent)
			}
			records := []int64{0, c.Execution(child).ContractIndex, request}
			for _, node := range c.Execution(child).Assigned()[:2] {
				s := c.Statement(child, node, testcluster.OK("of the child"))
				s.ParentOutputs = []digest.Digest{digest.Of([]byte(test.output))}
				index, effect := c.Append(c.AttestationRecord(s))
				records = append(records, index)
				if effect.Derived != nil {
					index, _ = c.Append(effect.Derived)
					records = append(records, index)
				}
			}
			c.Refold(false)
			b := c.BundleOf(child, provenance.BundleContent{Records: records, Epoch: 1})
			if _, err := verifier.VerifyBundle(format(t, b), trustOf(c), verifier.Options{}); err != nil {
				t.Fatalf("the child alone: %v", err)
			}
			c.RequestCheckpoint(parent)
			content, ok := c.Fold.BundleContent(parent)
			if !ok {
				t.Fatal("no content of the parent")
			}
			b.Ancestors = []*pb.ProvenExecution{c.ProvenExecution(parent, content, records[len(records)-1]+1)}
			_, err := verifier.VerifyBundle(format(t, b), trustOf(c), verifier.Options{})
			if !errors.Is(err, verifier.CodeAncestor) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}
