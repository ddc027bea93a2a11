//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// TestDroppedAttestations: a control plane that drops what nodes say, to come to
// those that it prefers, comes as far as max_assigned and not further. How far it
// came is in the log, and everybody who reads it names the nodes that were passed
// over; those say that they could not hand in what they have signed.
func TestDroppedAttestations(t *testing.T) {
	d := newDisputed(t, "--attempt-deadline", "1s")
	var err error
	if d.hash, err = d.admit(echo(), func(v *contract.Contract) {
		metered(v)
		v.Nodes, v.Agreement, v.Step, v.MaxAssigned = 1, 1, 1, 2 // of three nodes
	}); err != nil {
		t.Fatal(err)
	}

	// The first rank is dropped until the second has spoken: the attempt that a node
	// states is its rank, with one node each.
	d.script(func(s *provenance.Statement, signed []byte) [][]byte {
		if s.Attempt == 0 {
			return nil
		}
		return [][]byte{signed}
	})
	id := d.ask()
	first := d.status(id).AssignedNodes[0]
	s := d.decided(id)
	if s.State != pb.ExecutionState_EXECUTION_STATE_COMPLETE || s.Attempt != 1 || len(s.Reports) != 1 || s.Reports[0].Node == first {
		t.Fatalf("with the first rank dropped: %v", s)
	}
	_, proof := d.proof(id.String())
	execution := proof["execution"].(map[string]any)
	if got := fmt.Sprint(execution["attempt"], execution["passed_over"]); got != fmt.Sprintf("1 [%s]", first) {
		t.Errorf("the proof says attempt and passed over %s, want 1 [%s]", got, first)
	}
	d.says(first, id, "attestation kept, not delivered")
	if out := d.tally("auditor", "audit"); !strings.Contains(out, "passed over     "+first+" in 1 executions") {
		t.Errorf("tally audit does not name %s:\n%s", first, out)
	}

	// Everybody is dropped, in the hope for the last rank: it is never asked, and the
	// execution ends without a result.
	d.script(func(*provenance.Statement, []byte) [][]byte { return nil })
	id = d.ask()
	s = d.decided(id)
	if s.State != pb.ExecutionState_EXECUTION_STATE_EXPIRED || s.Attempt != 1 || len(s.AssignedNodes) != 2 || len(s.Reports) != 0 {
		t.Fatalf("with all dropped: %v", s)
	}
	kept := func(node string) error {
		_, err := os.Stat(d.dirOf(node, "attestations", id.String()[:2], id.String()))
		return err
	}
	for _, node := range foundedNodes {
		if slices.Contains(s.AssignedNodes, node) {
			d.eventually(node+" keeps what it has signed", func() error { return kept(node) })
		} else if err := kept(node); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was not assigned and has an attestation: %v", node, err)
		}
	}
	d.expiryProof(t, id, s.AssignedNodes[0])
	fold := d.replica(t)
	if ex, ok := fold.Execution(id); !ok || ex.State != provenance.StateExpired || len(ex.Schedule.Ranking) != 2 ||
		fmt.Sprint(ex.PassedOver()) != fmt.Sprintf("[%s]", s.AssignedNodes[0]) {
		t.Errorf("a replica says %+v", ex)
	}
	if out := d.tally("auditor", "audit"); !strings.Contains(out, "expired         1 executions") {
		t.Errorf("tally audit does not show the expiry:\n%s", out)
	}

	// What was signed is handed in as soon as it is taken, and changes nothing.
	d.script(nil)
	d.answer(id, s.AssignedNodes[0])
	if after := d.status(id); after.State != pb.ExecutionState_EXECUTION_STATE_EXPIRED {
		t.Errorf("a late attestation has made it %v", after.State)
	}
	d.replica(t)
}

// says waits until a node's log says something of an execution.
func (f *founded) says(node string, id digest.Digest, want string) {
	f.t.Helper()
	f.eventually(node+" says "+want, func() error {
		log, err := os.ReadFile(f.processes[node].log)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, id.String()) && strings.Contains(line, want) {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

// expiryProof has the bundle of an expired execution verified: it names who was
// passed over.
func (d *disputed) expiryProof(t *testing.T, id digest.Digest, passed string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "expired.tallyproof")
	d.eventually("the expiry is proven", func() error {
		_, errText, code := d.try("tally", "--profile", filepath.Join(d.dir, "tenant.json"), "proof", id.String(), "-o", file)
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("exit %d: %s", code, errText)
		}
		return nil
	})
	const noResult = 17 // of the verifier
	out, errText, code := d.try("verifier", append([]string{"proof", file, "--execution", id.String()}, d.trust()...)...)
	if code != noResult || !strings.Contains(out, "expired") || !strings.Contains(out, "passed over      "+passed+": a later attempt began") {
		t.Errorf("verifier proof of an expired execution: exit %d\n%s%s", code, out, errText)
	}
}
