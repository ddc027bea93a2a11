package logserver

import (
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// nextOptions are those of a log that succeeds the one with testOptions.
func nextOptions(fs vfs.FS) Options {
	o := testOptions(fs)
	o.Dir, o.Origin, o.Key, o.ReceiptKey = "next", "log.example/next", testKey(11), testKey(12)
	return o
}

func succeed(t *testing.T, old, next Options) (*Succession, error) {
	t.Helper()
	s, err := OpenStore(storeOf(old))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return Succeed(s, next)
}

// TestSucceed is promise 4: the old log never signs again, and the new one begins
// with an entry that names its last cosigned checkpoint. Entries beyond that are
// counted as lost.
func TestSucceed(t *testing.T) {
	fs := vfs.NewMem()
	opts := testOptions(fs)
	w := newFakeWitness(t, opts, 21)
	witnessedOpts := witnessed(t, opts, 1, w)
	tl := newTestLog(t, witnessedOpts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(300)
	tl.mustPublish(300)
	tl.opts.HoldWitness = true
	tl.reopen()
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(7) // acknowledged, and never witnessed
	tl.close()

	next := nextOptions(fs)
	for range 2 { // doing it again changes nothing
		r, err := succeed(t, opts, next)
		if err != nil {
			t.Fatal(err)
		}
		if r.Size != 300 || r.Lost != 7 || r.Origin != opts.Origin || r.NewOrigin != next.Origin || len(r.NewKeys) != 1 || len(r.NewReceiptKeys) != 1 {
			t.Errorf("succession is %+v", r)
		}
		if _, err := witnessedOpts.Policy.Verify([]byte(r.Checkpoint)); err != nil {
			t.Errorf("the checkpoint is not cosigned: %v", err)
		}
	}
	other := nextOptions(fs)
	other.Origin, other.Dir = "log.example/other", "other"
	if _, err := succeed(t, opts, other); !errors.Is(err, ErrSucceeded) || !strings.Contains(err.Error(), next.Origin) {
		t.Errorf("a second successor: %v", err)
	}

	// The old log has ended, and still answers.
	tl.opts.HoldWitness = false
	tl.open()
	if _, _, err := tl.Append(t.Context(), Entry{}); !errors.Is(err, ErrSucceeded) {
		t.Errorf("append to the old log: %v", err)
	}
	if err := tl.BeginRotation(testKey(5)); !errors.Is(err, ErrSucceeded) {
		t.Errorf("rotating a key of the old log: %v", err)
	}
	if s := tl.Status(); s.Successor != next.Origin || s.Ready || s.Healthy {
		t.Errorf("status of the old log: %+v", s)
	}
	tl.check()
	if tl.Signed().Size != 300 {
		t.Errorf("the old log has signed size %d", tl.Signed().Size)
	}
	tl.close()

	// The new log begins with the entry, and goes on.
	after := &testLog{t: t, opts: next, model: newModel()}
	after.open()
	data, err := after.EntryAt(0)
	if err != nil {
		t.Fatal(err)
	}
	e, err := checkpoint.ParseSuccessor(data)
	if err != nil || e.Origin != next.Origin || e.Keys[0] != after.Vkey() || e.ReceiptKeys[0] != after.ReceiptVkey() {
		t.Errorf("entry 0 is %q, %v", data, err)
	}
	after.sequence(Entry{Data: data})
	after.mustPublish(1)
	after.add(after.nextEntry())
	after.mustPublish(2)
	after.check()
	if r := fsckOf(t, after.Log); r.Err() != nil {
		t.Error(r.Err())
	}
	after.close()

	s, err := OpenStore(storeOf(opts))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	i := 300
	for h, err := range s.LeafHashes(300) {
		if err != nil || h != LeafHash(tl.data[i]) {
			t.Errorf("lost entry %d: %v, %v", i, h, err)
		}
		i++
	}
	if i != 307 {
		t.Errorf("%d lost entries", i-300)
	}
}

// TestSucceededServes: a log that has ended serves what it published last, also under
// a policy that does not accept that: it will never publish another.
func TestSucceededServes(t *testing.T) {
	fs := vfs.NewMem()
	opts := testOptions(fs)
	a, b := newFakeWitness(t, opts, 21), newFakeWitness(t, opts, 22)
	tl := newTestLog(t, witnessed(t, opts, 1, a))
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(30)
	tl.mustPublish(30)
	tl.close()
	r, err := succeed(t, opts, nextOptions(fs))
	if err != nil {
		t.Fatal(err)
	}
	tl.opts = witnessed(t, opts, 1, b)
	tl.open()
	if res, body := do(t, Handler(tl.Log), "GET", "/checkpoint", ""); res.StatusCode != 200 || string(body) != r.Checkpoint {
		t.Errorf("%s: %s, want %s", res.Status, body, r.Checkpoint)
	}
	if res, _ := do(t, Handler(tl.Log), "GET", "/29.tlog-proof", ""); res.StatusCode != 200 {
		t.Errorf("the proof of its last entry: %s", res.Status)
	}
	if got := tl.Witnessed(); got.Note != nil {
		t.Errorf("what the policy does not accept counts as witnessed: %s", got.Note)
	}
}

// TestSucceedCaughtUp: what a log without witnesses has caught up with is published,
// and nothing of it is lost.
func TestSucceedCaughtUp(t *testing.T) {
	tl, o := behind(t, 30, 10)
	if _, err := CatchUp(t.Context(), storeOf(o), Source{Fetch: fetchLog(tl.Log)}, nil); err != nil {
		t.Fatal(err)
	}
	r, err := succeed(t, o, nextOptions(o.fs))
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != 40 || r.Lost != 0 || r.Checkpoint != string(tl.Published().Note) {
		t.Errorf("succession is %+v", r)
	}
}

// TestSucceedNeverCosigned: a log that was without witnesses, and then had a policy
// that was never satisfied, is succeeded from what it published before.
func TestSucceedNeverCosigned(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	tl.addN(50)
	tl.mustPublish(50)
	tl.addN(50)
	tl.mustPublish(100)
	tl.close()
	tamper(t, opts, indexKey(kindNote, 100), remove) // as if it had a policy by then, and published without its quorum
	r, err := succeed(t, opts, nextOptions(opts.fs))
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != 50 || r.Lost != 50 {
		t.Errorf("succession is %+v", r)
	}
}

// TestSucceedWithoutQuorum: a checkpoint that a log with witnesses published without
// them is not what its successor names.
func TestSucceedWithoutQuorum(t *testing.T) {
	fs := vfs.NewMem()
	opts := testOptions(fs)
	tl := newTestLog(t, witnessed(t, opts, 1, newFakeWitness(t, opts, 21)))
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(30)
	tl.mustPublish(30)
	tl.opts.Policy = nil
	tl.reopen()
	tl.addN(10)
	tl.mustPublish(40)
	tl.close()
	tamper(t, opts, indexKey(kindNote, 40), remove) // as if there were a policy that it did not satisfy
	r, err := succeed(t, opts, nextOptions(fs))
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != 30 || r.Lost != 10 {
		t.Errorf("succession is %+v", r)
	}
}

// TestSucceedRefuses: nothing is ended when the successor cannot be.
func TestSucceedRefuses(t *testing.T) {
	fs := vfs.NewMem()
	opts := testOptions(fs)
	tl := newTestLog(t, opts)
	tl.add(tl.nextEntry())
	tl.mustPublish(1)
	tl.close()
	same := nextOptions(fs)
	same.Origin = opts.Origin
	if _, err := succeed(t, opts, same); err == nil {
		t.Error("a successor of the same origin")
	}
	keyless := nextOptions(fs)
	keyless.Key = nil
	if _, err := succeed(t, opts, keyless); !errors.Is(err, ErrInvalid) {
		t.Errorf("a successor without a key: %v", err)
	}
	tl.open()
	tl.add(tl.nextEntry())
	tl.close()

	// A directory that holds another log is left alone; a repetition elsewhere
	// completes what was begun.
	taken := nextOptions(fs)
	if err := Create(taken); err != nil {
		t.Fatal(err)
	}
	if _, err := succeed(t, opts, taken); !errors.Is(err, ErrExists) {
		t.Errorf("a directory in use: %v", err)
	}
	taken.Dir = "elsewhere"
	if _, err := succeed(t, opts, taken); err != nil {
		t.Errorf("repetition in another directory: %v", err)
	}

	// An empty log has its first checkpoint.
	empty := testOptions(vfs.NewMem())
	if err := Create(empty); err != nil {
		t.Fatal(err)
	}
	if r, err := succeed(t, empty, nextOptions(empty.fs)); err != nil || r.Size != 0 || r.Lost != 0 {
		t.Errorf("succeeding an empty log: %+v, %v", r, err)
	}
}

// TestSucceedCrash: after a power cut at any of its commits the old log has ended
// only if it names its successor, and repeating completes it.
func TestSucceedCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	opts, next := testOptions(fs), nextOptions(fs)
	tl := newTestLog(t, opts)
	tl.addN(3)
	tl.mustPublish(3)
	tl.close()
	s, err := OpenStore(storeOf(opts))
	if err != nil {
		t.Fatal(err)
	}
	// The new log's directory is a file: the old log ends, and the new one
	// cannot be.
	f, err := fs.Create("next", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := Succeed(s, next); err == nil {
		t.Fatal("created a log in a file")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	clone := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := clone.RemoveAll("next"); err != nil {
		t.Fatal(err)
	}
	opts.fs, next.fs = clone, clone
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Append(t.Context(), Entry{}); !errors.Is(err, ErrSucceeded) {
		t.Errorf("append between the two commits: %v", err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := succeed(t, opts, next); err != nil || r.Size != 3 {
		t.Errorf("repeating: %+v, %v", r, err)
	}
}
