package witness

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestSetPolicy: logs come and go while the witness serves, and none of them
// gets a second history by leaving and returning.
func TestSetPolicy(t *testing.T) {
	l, other := newTestLog(testOrigin, "entry", 12), newTestLog(otherOrigin, "entry", 3)
	f := newFixture(t, osDisk{})
	f.mustAdd(l, 0, 9)
	only := must(checkpoint.ParsePolicy([]byte("log " + must(checkpoint.Vkey(otherOrigin, edKey(otherOrigin).Public().(ed25519.PublicKey))) + "\nquorum none\n")))
	if err := f.SetPolicy(only); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := f.post("", l.request(9, 12)); status != 404 {
		t.Errorf("a log that the policy left out: status %d", status)
	}
	if status, _, _ := f.get("/" + originHash(testOrigin) + "/checkpoint"); status != 200 {
		t.Errorf("its last checkpoint: status %d", status)
	}
	f.mustAdd(other, 0, 3)
	if err := f.SetPolicy(must(checkpoint.ParsePolicy([]byte("quorum none\n")))); err == nil {
		t.Error("took a policy without logs")
	}
	f.mustAdd(other, 3, 3)
	f.policy = only
	f.restart(osDisk{}) // the journal is written anew, with the head of the log that is out
	if err := f.SetPolicy(testPolicy()); err != nil {
		t.Fatal(err)
	}
	var conflict *ConflictError
	if err := f.add(l.fork(3, 12), 0, 12); !errors.As(err, &conflict) || conflict.Size != 9 {
		t.Errorf("back with another history: %v", err)
	}
	f.mustAdd(l, 9, 12)
}

// TestMetrics: every outcome is counted under its own name, and no label holds
// what a client sent.
func TestMetrics(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	f := newFixture(t, newMemDisk())
	f.mustAdd(l, 0, 5)
	f.post("/ed25519", l.request(0, 5))
	f.post("/mldsa", l.fork(3, 5).request(5, 5))
	f.post("", []byte("<secret>"))
	f.post("", newTestLog("example.com/secret", "entry", 1).request(0, 1))
	f.Reloaded(nil)
	f.Reloaded(errors.New("bad"))
	status, header, body := f.get("/metrics")
	if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
		t.Fatalf("status %d, %v", status, header)
	}
	for _, want := range []string{
		`requests_total{outcome="cosigned",prefix="both"} 1`,
		`requests_total{outcome="conflict",prefix="ed25519"} 1`,
		`requests_total{outcome="inconsistent",prefix="mldsa"} 1`,
		`requests_total{outcome="malformed",prefix="both"} 1`,
		`requests_total{outcome="unknown_origin",prefix="both"} 1`,
		`evidence_total{finding="fork"} 1`,
		`policy_reloads_total{outcome="taken"} 1`,
		`policy_reloads_total{outcome="refused"} 1`,
		`batch_heads_count 1`, `heads 1`, `logs 2`, `healthy 1`, `changes 0`,
	} {
		if !strings.Contains(body, "tallystick_witness_"+want+"\n") {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if strings.Contains(body, "secret") {
		t.Error("metrics repeat what a client sent")
	}
}

// TestOutcomes: the errors that a request can end in are a closed set, each with
// a status and a label of its own.
func TestOutcomes(t *testing.T) {
	labels := map[string]bool{}
	for _, o := range outcomes {
		if labels[o.label] {
			t.Errorf("two outcomes are called %q", o.label)
		}
		labels[o.label] = true
		if o.err == nil {
			continue
		}
		if got := outcomeOf(fmt.Errorf("wrapped: %w", o.err)); got != o.outcome {
			t.Errorf("%v is counted as %+v", o.err, got)
		}
	}
	if got := outcomeOf(errors.New("a bug")); got.status != 500 {
		t.Errorf("anything else is %+v", got)
	}
}
