package node

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
)

// attestMany has a node attest n executions, and returns what it sent.
func (w *world) attestMany(node *Node, n int, input string) (ids []digest.Digest, envelopes [][]byte) {
	w.t.Helper()
	for i := range n {
		id := w.submit(input + string(rune('a'+i)))
		node.do(w.t.Context(), w.assignment(id))
		ids = append(ids, id)
		select {
		case r := <-w.plane.received:
			envelopes = append(envelopes, r.GetEnvelope())
		default:
			w.t.Fatalf("execution %d was not attested\n%s", i, w.log)
		}
	}
	return ids, envelopes
}

// Old attestations go, the disk is bounded, and whatever of them the control plane
// shows again, before or after a restart, no other attestation is ever made.
func TestOldAttestationsGo(t *testing.T) {
	t.Parallel()
	const keep = 10
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	config.KeepAttestations = keep
	n := w.open(config)
	ids, envelopes := w.attestMany(n, 3*keep, "x")
	if s := n.Status(); s.Kept < keep || s.Kept > keep+2 || s.Attested != 3*keep {
		t.Errorf("%d kept of %d, want about %d", s.Kept, s.Attested, keep)
	}
	for range 2 {
		refused, again := 0, 0
		for i, id := range ids {
			before := n.Stats().Refused[RefusedSettled]
			a := w.assignment(id)
			w.retarget(a, id, w.Execution(id).RequestIndex) // an honest run would differ
			n.do(t.Context(), a)
			switch {
			case len(w.plane.received) == 1:
				again++
				if r := <-w.plane.received; !bytes.Equal(r.GetEnvelope(), envelopes[i]) {
					t.Errorf("execution %d is attested differently", i)
				}
			case n.Stats().Refused[RefusedSettled] == before+1:
				refused++
			}
		}
		if s := n.Stats(); refused+again != len(ids) || again != s.Kept {
			t.Errorf("%d refused and %d sent again, of %d; %d are kept", refused, again, len(ids), s.Kept)
		}
		n.Close()
		n = w.open(config)
	}
	w.attestMany(n, keep, "y") // what an earlier process kept goes too
	if kept := n.Stats().Kept; kept > keep+2 {
		t.Errorf("%d kept", kept)
	}
}

// What the log does not have yet, or what is being worked on, stays.
func TestUnsettledAttestationsStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	config.KeepAttestations = 1
	n := w.open(config)
	ids, _ := w.attestMany(n, 3, "x")
	n.mu.Lock()
	for i, id := range ids {
		n.delivered[id] = int64(1000 + i) // beyond the head
	}
	n.mu.Unlock()
	w.attestMany(n, 1, "y")
	for _, id := range ids[1:] { // the first has gone before
		if _, err := os.Stat(filepath.Join(config.Dir, attestationName(id))); err != nil {
			t.Error(err)
		}
	}
	n.mu.Lock()
	for _, id := range ids {
		n.delivered[id] = 0
		n.busy[id.String()] = true
	}
	n.mu.Unlock()
	w.attestMany(n, 1, "z")
	for _, id := range ids[1:] {
		if _, err := os.Stat(filepath.Join(config.Dir, attestationName(id))); err != nil {
			t.Error(err)
		}
	}
	// One that the control plane refuses for good is settled.
	w.plane.refuseNext(connect.NewError(connect.CodePermissionDenied, errors.New("no")))
	last, _ := w.attestMany(n, 1, "q")
	if !n.settled(last[0], 0) {
		t.Error("a refused attestation is not settled")
	}
}

// The floor is durable before anything goes.
func TestFloorComesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	n := w.open(config)
	ids, _ := w.attestMany(n, 3, "x")
	n.Close()
	config.KeepAttestations = 1
	n = w.open(config)
	n.store.sync = failSync
	w.submit("more")
	if err := n.prune(1000); !errors.Is(err, ErrStore) {
		t.Errorf("got %v, want ErrStore", err)
	}
	for _, id := range ids {
		if _, err := os.Stat(filepath.Join(config.Dir, attestationName(id))); err != nil {
			t.Error(err)
		}
	}
	n.Close()
	for _, text := range []string{"x\n", "12345678901234567890123\n"} {
		if err := os.WriteFile(filepath.Join(config.Dir, floorName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(config); !errors.Is(err, ErrStore) {
			t.Errorf("a floor of %q: %v", text, err)
		}
	}
}
