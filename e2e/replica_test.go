//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// replica folds the whole audit log as an auditor can: the openings that the
// control plane hands out, held to the root hash of a witnessed checkpoint, under
// a membership replayed from the genesis. Then it compares every answer that the
// control plane had given about an execution with what the log says.
func (c *cluster) replica(t *testing.T) *provenance.Fold {
	t.Helper()
	ctx := context.Background()
	auditor := c.agent("auditor")

	// The answers first: the log may only be newer.
	var answers []*pb.ExecutionStatus
	for req := (&pb.ListExecutionsRequest{PageSize: 200}); ; {
		res, err := auditor.Control.ListExecutions(ctx, connect.NewRequest(req))
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, res.Msg.Executions...)
		if req.PageToken = res.Msg.NextPageToken; req.PageToken == "" {
			break
		}
	}

	genesis, err := os.ReadFile(filepath.Join(c.dir, "genesis.json"))
	if err != nil {
		t.Fatal(err)
	}
	history := membership.NewHistory()
	changes, err := auditor.Membership.ListChanges(ctx, connect.NewRequest(&pb.ListChangesRequest{PageSize: 256}))
	if err != nil {
		t.Fatal(err)
	}
	for i, change := range changes.Msg.Changes {
		if i == 0 && !bytes.Equal(bytes.TrimSpace(change), bytes.TrimSpace(genesis)) {
			t.Fatal("the membership log begins with another genesis")
		}
		if _, err := history.Append(change); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
	}

	openings := auditor.openings(t, nil, 0)
	var tree tlog.Tree
	c.eventually("a witnessed checkpoint covers all answers", func() error {
		tree, err = c.auditTree()
		if err == nil && tree.N < int64(len(openings)) {
			err = fmt.Errorf("it has size %d, the log %d", tree.N, len(openings))
		}
		return err
	})
	openings = auditor.openings(t, openings, tree.N)[:tree.N]
	fold := provenance.NewFold("dev", history)
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			out[i] = hashes[index]
		}
		return out, nil
	})
	for i, opening := range openings {
		o, err := record.ParseOpening(opening)
		if err != nil {
			t.Fatal(err)
		}
		entry := o.Entry() // that it is the log's is seen below
		more, err := tlog.StoredHashes(int64(i), entry[:], reader)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, more...)
		effect, _, err := fold.Read(int64(i), entry[:], opening)
		if err != nil || effect.Void {
			t.Errorf("record %d: %+v, %v", i, effect, err)
		}
	}
	if root, err := tlog.TreeHash(tree.N, reader); err != nil || root != tree.Hash {
		t.Fatalf("the openings make root %v at size %d, the checkpoint says %v (%v)", root, tree.N, tree.Hash, err)
	}
	seen := 0
	for range fold.Executions() {
		seen++
	}
	if seen < len(answers) {
		t.Errorf("the log has %d executions, the control plane lists %d", seen, len(answers))
	}
	for _, s := range answers {
		id, err := digest.Parse(s.ExecutionId)
		if err != nil {
			t.Fatal(err)
		}
		ex, ok := fold.Execution(id)
		if !ok {
			t.Errorf("the log does not have execution %s", s.ExecutionId)
			continue
		}
		if detail := ex.CompareStatus(s); detail != "" {
			t.Errorf("execution %s: %s", s.ExecutionId, detail)
		}
	}
	// The command line comes to the same.
	if out := c.tally("auditor", "audit"); !strings.Contains(out, " 0 differ\n") || strings.Contains(out, "void records") {
		t.Errorf("tally audit says\n%s", out)
	}
	return fold
}

// openings adds the openings of the audit log that are missing, up to a size; 0
// means up to the end.
func (a *agent) openings(t *testing.T, have [][]byte, size int64) [][]byte {
	t.Helper()
	for next := uint64(len(have)); size == 0 || int64(len(have)) < size; {
		res, err := a.Log.ListRecords(context.Background(), connect.NewRequest(&pb.ListRecordsRequest{Start: next, PageSize: 1000}))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range res.Msg.Records {
			if r.Index != uint64(len(have)) {
				t.Fatalf("record %d after %d records", r.Index, len(have))
			}
			have = append(have, r.Opening)
		}
		if next = res.Msg.Next; next == 0 {
			break
		}
	}
	if int64(len(have)) < size {
		t.Fatalf("%d records, the checkpoint covers %d", len(have), size)
	}
	return have
}

// auditTree is the tree of the published checkpoint, verified under the policy.
func (c *cluster) auditTree() (tlog.Tree, error) {
	note, err := get(c.server + "/audit/checkpoint")
	if err != nil {
		return tlog.Tree{}, err
	}
	text, err := os.ReadFile(filepath.Join(c.dir, "audit.policy"))
	if err != nil {
		return tlog.Tree{}, err
	}
	policy, err := checkpoint.ParsePolicy(text)
	if err != nil {
		return tlog.Tree{}, err
	}
	verified, err := policy.Verify(note)
	if err != nil {
		return tlog.Tree{}, err
	}
	return verified.Checkpoint.Tree(), nil
}

// payloadOf is what an envelope signs.
func payloadOf(t *testing.T, envelope []byte) []byte {
	t.Helper()
	e, err := dsse.Parse(envelope)
	if err != nil {
		t.Fatal(err)
	}
	return e.Payload
}
