package orchestrator_test

import (
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func hashes(raw [][]byte) []tlog.Hash {
	var out []tlog.Hash
	for _, h := range raw {
		out = append(out, tlog.Hash(h))
	}
	return out
}

// leafOf recomputes a leaf hash from an opening.
func leafOf(t testing.TB, opening []byte) tlog.Hash {
	t.Helper()
	o, err := record.ParseOpening(opening)
	if err != nil {
		t.Fatal(err)
	}
	entry := o.Entry()
	return tlog.RecordHash(entry[:])
}

func openingRecord(t testing.TB, opening []byte) *pb.Record {
	t.Helper()
	o, err := record.ParseOpening(opening)
	if err != nil {
		t.Fatal(err)
	}
	r, err := record.Parse(o.Record())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// provenRecord verifies a record's proof and returns it.
func provenRecord(t testing.TB, r *pb.ProvenRecord, c checkpoint.Checkpoint) *pb.Record {
	t.Helper()
	if err := checkpoint.VerifyInclusion(c.Tree(), int64(r.GetIndex()), leafOf(t, r.GetOpening()), hashes(r.GetInclusionProof())); err != nil {
		t.Errorf("record %d: %v", r.GetIndex(), err)
	}
	return openingRecord(t, r.GetOpening())
}

func verified(t testing.TB, p *checkpoint.Policy, note []byte) checkpoint.Checkpoint {
	t.Helper()
	v, err := p.Verify(note)
	if err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	return v.Checkpoint
}

func refOf(c checkpoint.Checkpoint) provenance.CheckpointRef {
	return provenance.CheckpointRef{Origin: c.Origin, Size: c.Size, RootHash: digest.Digest(c.Root)}
}

func payloadOf[T any](t testing.TB, envelope []byte, parse func([]byte) (*T, error)) *T {
	t.Helper()
	e, err := dsse.Parse(envelope)
	if err != nil {
		t.Fatal(err)
	}
	v, err := parse(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// stateAt replays the membership log up to an epoch.
func (w *world) stateAt(epoch uint64) *membership.State {
	w.t.Helper()
	s, err := w.history().StateAt(epoch)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) history() *membership.History {
	w.t.Helper()
	w.members.mu.Lock()
	entries := w.members.disk.data
	w.members.mu.Unlock()
	h := membership.NewHistory()
	for _, e := range entries {
		if _, err := h.Append(e); err != nil {
			w.t.Fatal(err)
		}
	}
	return h
}

// checkLog is the oracle: it folds the audit log from its openings and finds
// that no record is void, except those that the test names by index, and that
// every execution's state is what Status says.
func (w *world) checkLog(voids ...int64) *provenance.Fold {
	w.t.Helper()
	w.audit.mu.Lock()
	data, openings := w.audit.disk.data, w.audit.disk.openings
	w.audit.mu.Unlock()
	fold := provenance.NewFold(cluster, w.history())
	expected := make(map[int64]bool)
	for _, v := range voids {
		expected[v] = true
	}
	for i := range data {
		o, err := record.ParseOpening(openings[i])
		if err != nil {
			w.t.Fatalf("audit entry %d: %v", i, err)
		}
		entry := o.Entry()
		if string(entry[:]) != string(data[i]) {
			w.t.Fatalf("audit entry %d does not match its opening", i)
		}
		r, err := record.Parse(o.Record())
		if err != nil {
			w.t.Fatalf("audit entry %d: %v", i, err)
		}
		if effect := fold.Apply(int64(i), entry, r); effect.Void != expected[int64(i)] {
			w.t.Errorf("audit entry %d, %s: void %v: %s %s", i, record.KindOf(r), effect.Void, effect.Code, effect.Detail)
		}
	}
	for ex := range fold.Executions() {
		s, err := w.Status(ex.ID, ex.Tenant)
		if err != nil {
			w.t.Errorf("status of %v: %v", ex.ID, err)
			continue
		}
		if detail := ex.CompareStatus(s); detail != "" {
			w.t.Errorf("execution %v: %s", ex.ID, detail)
		}
	}
	return fold
}

// wantCode fails unless err is a refusal with the code.
func wantCode(t testing.TB, what string, err error, want orchestrator.Code) {
	t.Helper()
	if got := orchestrator.CodeOf(err); got != want {
		t.Errorf("%s: got %q (%v), want %q", what, got, err, want)
	}
}

func digestOf(s string) digest.Digest { return digest.Of([]byte(s)) }
