package node

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// requestAgain appends the request of an execution once more, as pinned to an
// epoch, and returns an assignment that shows that record alone.
func (w *world) requestAgain(id digest.Digest, epoch uint64) *pb.Assignment {
	w.t.Helper()
	r := w.record(w.Execution(id).RequestIndex)
	r.GetRequest().Epoch = epoch
	a := w.assignment(id)
	index, effect := w.Append(r)
	if !effect.Void {
		w.t.Fatal("the second request is valid")
	}
	w.retarget(a, id, index)
	return a
}

// kept reports whether the attestation of an execution is in a directory.
func kept(dir string, id digest.Digest) bool {
	_, err := os.Stat(filepath.Join(dir, attestationName(id)))
	return err == nil
}

// What was attested once, and removed, is not attested again for a second request
// record above the floor, before or after a restart, nor if the process ended
// between the tombstone and the removal.
func TestRequestedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	config.KeepAttestations = 1
	n := w.open(config)
	ids, envelopes := w.attestMany(n, 4, "x")
	epoch := w.Execution(ids[0]).Epoch
	removed := 0
	for range 2 {
		for i, id := range ids {
			was, settled := kept(config.Dir, id), n.Stats().Refused[RefusedSettled]
			a := w.requestAgain(id, epoch)
			if int64(a.GetRequest().GetIndex()) < n.store.floor {
				t.Fatal("the second request is below the floor")
			}
			n.do(t.Context(), a)
			switch {
			case was:
				if r := <-w.plane.received; !bytes.Equal(r.GetEnvelope(), envelopes[i]) {
					t.Errorf("execution %d is attested differently", i)
				}
			case len(w.plane.received) != 0 || n.Stats().Refused[RefusedSettled] != settled+1:
				t.Errorf("execution %d is attested again: %+v", i, n.Stats())
			default:
				removed++
			}
		}
		n.Close()
		n = w.open(config)
	}
	if removed < 4 {
		t.Errorf("%d removed", removed)
	}
	// Buried, and still there: it is what was signed.
	last := ids[len(ids)-1]
	if err := n.store.bury([]tombstone{{last, 1}}); err != nil {
		t.Fatal(err)
	}
	n.do(t.Context(), w.requestAgain(last, epoch))
	if r := <-w.plane.received; !bytes.Equal(r.GetEnvelope(), envelopes[len(ids)-1]) {
		t.Error("attested differently")
	}
}

// A tombstone goes when its submission can be pinned no more, and what is requested
// again then is refused for its epoch, whatever records are left out.
func TestTombstonesGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	config.KeepAttestations = 1
	n := w.open(config)
	long, _ := w.attestMany(n, 1, "long")
	input := []byte("short")
	w.plane.put(input)
	sub := w.Submission(w.contract, input)
	sub.LastEpoch = w.Fold.Epoch()
	w.Append(w.RequestRecord(sub))
	short := sub.ExecutionID()
	n.do(t.Context(), w.assignment(short))
	<-w.plane.received
	w.attestMany(n, 3, "x")
	if !n.store.removedBefore(short) || !n.store.removedBefore(long[0]) {
		t.Fatal("no tombstones")
	}
	w.Change(membership.SetNodeQuorum{Quorum: 2})
	// Neither the membership's word nor a record above the floor is enough.
	if err := n.store.unearth(n.view.passed(n.store.floor)); err != nil || !n.store.removedBefore(short) {
		t.Fatalf("the tombstone is gone too early, %v", err)
	}
	w.attestMany(n, 5, "y")
	for range 2 {
		if n.store.removedBefore(short) || !n.store.removedBefore(long[0]) {
			t.Fatalf("tombstones %v", n.store.removed)
		}
		n.Close()
		n = w.open(config)
	}
	for name, c := range map[string]struct {
		epoch uint64
		omit  bool
		code  RefusalCode
	}{
		"pinned to the new epoch":               {sub.LastEpoch + 1, false, RefusedRecord},
		"pinned to the old epoch":               {sub.LastEpoch, false, RefusedRecord},
		"pinned to the old, the other left out": {sub.LastEpoch, true, RefusedStalePin},
	} {
		a := w.requestAgain(short, c.epoch)
		if c.omit {
			a.Epochs = a.Epochs[:1]
		}
		before := n.Stats().Refused[c.code]
		n.do(t.Context(), a)
		if len(w.plane.received) != 0 || n.Stats().Refused[c.code] != before+1 {
			t.Errorf("%s: %+v", name, n.Stats())
		}
	}
}

// Tombstones are durable before anything goes, and one that a crash cut off does
// no harm.
func TestTombstonesComeFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	n := w.open(config)
	ids, _ := w.attestMany(n, 3, "x")
	n.Close()
	config.KeepAttestations = 1
	for fail := 1; ; fail++ {
		n = w.open(config)
		calls := 0
		n.store.sync = func(f *os.File) error {
			if calls++; calls == fail {
				return errors.New("disk on fire")
			}
			return f.Sync()
		}
		err := n.prune(1000)
		n.Close()
		if err == nil {
			break
		}
		for _, id := range ids {
			if !errors.Is(err, ErrStore) || !kept(config.Dir, id) {
				t.Fatalf("write %d failed: %v", fail, err)
			}
		}
	}
	path := filepath.Join(config.Dir, removedName)
	whole, err := os.ReadFile(path)
	if err != nil || len(whole) != 2*tombstoneSize {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	if err := os.WriteFile(path, whole[:len(whole)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	n = w.open(config)
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, whole[:tombstoneSize]) || len(n.store.removed) != 1 {
		t.Errorf("%d bytes, %v, %d tombstones", len(got), err, len(n.store.removed))
	}
}

// While there is no room for tombstones attestations stay, and the operator learns.
func TestTombstonesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	config.KeepAttestations = 1
	n := w.open(config)
	n.store.maxRemoved = 2
	w.attestMany(n, 6, "x")
	s := n.Status()
	if len(n.store.removed) != 2 || s.Kept != 4 || s.Attested != 6 || !strings.Contains(s.Problems[ProblemDirectory], "2 executions") {
		t.Errorf("%d tombstones, %d kept, %v", len(n.store.removed), s.Kept, s.Problems)
	}
	n.store.maxRemoved = 100
	w.attestMany(n, 1, "y")
	if s := n.Status(); s.Kept > 2 || !s.noDirectoryProblem() {
		t.Errorf("%d kept, %v", s.Kept, s.Problems)
	}
}

func (s *Status) noDirectoryProblem() bool { _, ok := s.Problems[ProblemDirectory]; return !ok }

// Attestations that are missing, damaged, or cannot be removed are no reason not to
// work; only they stay.
func TestPruningPassesOverDamage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	n := w.open(config)
	ids, _ := w.attestMany(n, 5, "x")
	path := func(i int) string { return filepath.Join(config.Dir, attestationName(ids[i])) }
	for _, err := range []error{
		os.Remove(path(0)), os.Remove(path(1)), os.WriteFile(path(1), []byte("{\n"), 0o600),
		// A directory with a file in it in the place of the attestation.
		os.Remove(path(2)), os.MkdirAll(filepath.Join(path(2), "x"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n.config.KeepAttestations = 1
	w.attestMany(n, 1, "y")
	s := n.Status()
	if s.Attested != 6 || s.Kept != 4 || s.noDirectoryProblem() || kept(config.Dir, ids[3]) || !kept(config.Dir, ids[1]) {
		t.Errorf("%+v", s)
	}
	// A removal that fails midway.
	n.config.KeepAttestations = 100
	ids, _ = w.attestMany(n, 3, "z")
	if err := errors.Join(os.Remove(path(1)), os.MkdirAll(filepath.Join(path(1), "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	gone, err := n.store.removeAttestations([]tombstone{{ids[0], 1}, {ids[1], 1}, {ids[2], 1}})
	if !errors.Is(err, ErrStore) || len(gone) != 2 || n.store.count() != 5 {
		t.Errorf("%d gone, %d kept, %v", len(gone), n.store.count(), err)
	}
}

// An index that the log cannot have keeps an attestation no longer than a
// plausible one.
func TestImplausibleReceipt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	n := w.node("node-1")
	ids, _ := w.attestMany(n, 1, "x")
	size := w.Audit.Size()
	n.recorded(ids[0], math.MaxInt64)
	if n.settled(ids[0], size) || !n.settled(ids[0], size+maxAhead+1) {
		t.Errorf("the log has it at %d", n.delivered[ids[0]])
	}
}

// A contradiction bars an execution also when the attestation is not there.
func TestContradictionWithoutAttestation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	n := w.node("node-1")
	id := w.submit("x")
	if err := n.contradict(contradiction{Execution: id}); !errors.Is(err, errContradiction) {
		t.Fatal(err)
	}
	n.do(t.Context(), w.assignment(id))
	if s := n.Stats(); s.Attested != 0 || len(w.plane.received) != 0 {
		t.Errorf("%+v", s)
	}
}

// A parent that was completed after the request of its child is none: the whole
// log holds such a request void.
func TestParentCompletedLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	con := w.Register(nil)
	parent := w.Submit(con, []byte("a"))
	sub := w.Submission(con, []byte("own"), parent)
	early, effect := w.Append(w.RequestRecord(sub))
	if !effect.Void {
		t.Fatal("the request is valid")
	}
	w.Run(parent, testcluster.OK("A"))
	id := w.Submit(con, []byte("other"), parent)
	schedule, err := w.History.Current().Schedule(sub.ExecutionID(), provenance.ScheduleRequest(w.Contract()))
	if err != nil {
		t.Fatal(err)
	}
	a := w.assignment(id)
	w.retarget(a, sub.ExecutionID(), early)
	a.InputDigest = sub.Input.String()
	verify(t, w.node(schedule.Ranking[0]), a, RefusedParent)

	// The same submission requested after it is lawful: nothing else was wrong.
	late, effect := w.Append(w.RequestRecord(sub))
	if effect.Void {
		t.Fatal(effect.Detail)
	}
	w.retarget(a, sub.ExecutionID(), late)
	verify(t, w.node(schedule.Ranking[0]), a, nil)
}

func TestSplitAttestation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file, envelope string
		epoch          uint64
	}{
		{"{}\n7\n", "{}", 7},
		{"{}\n\n7\n", "{}\n", 7},
		{"{}", "{}", foreverPinned},
		{"{}\n", "{}\n", foreverPinned},
		{"{}\n7", "{}\n7", foreverPinned},
		{"{}\n-7\n", "{}\n-7\n", foreverPinned},
		{"", "", foreverPinned},
	} {
		if envelope, epoch := splitAttestation([]byte(c.file)); string(envelope) != c.envelope || epoch != c.epoch {
			t.Errorf("%q: %q, %d", c.file, envelope, epoch)
		}
	}
}
