package logserver

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// vkeyOf returns the vkey of a test key.
func vkeyOf(t *testing.T, name string, key crypto.Signer) string {
	t.Helper()
	s, err := newHeadSigner(name, name, key)
	if err != nil {
		t.Fatal(err)
	}
	return s.vkey
}

// awaitSigned waits until a checkpoint with the signatures of exactly these keys
// is published.
func (tl *testLog) awaitSigned(vkeys ...string) {
	tl.t.Helper()
	var published []byte // one note: the next may be published at any time
	eventually(tl.t, "a checkpoint signed by the keys is published", func() bool {
		published = tl.Published().Note
		return signedBy(published, vkeys...)
	})
	n, err := checkpoint.ParseNote(published)
	if err != nil {
		tl.t.Fatal(err)
	}
	logs := 0
	for _, s := range n.Signatures {
		if s.Name == tl.opts.Origin {
			logs++
		}
	}
	if logs != len(vkeys) {
		tl.t.Fatalf("checkpoint has %d signatures of the log:\n%s", logs, published)
	}
	if first := n.Signatures[0]; first.Name != tl.opts.Origin || !signedBy([]byte(string(n.Text)+"\n"+string(first.Line())), vkeys[0]) {
		tl.t.Fatalf("the first signature is not that of %s:\n%s", vkeys[0], published)
	}
}

// TestRotateLogKey: on an idle log, both keys sign, then the new one alone; what
// the old one signed stays readable; and the log opens with its keys only.
func TestRotateLogKey(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	tl.addN(10)
	tl.mustPublish(10)
	old, next := vkeyOf(t, opts.Origin, opts.Key), vkeyOf(t, opts.Origin, testKey(5))
	first, err := tl.FirstPublishedCovering(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := tl.FinishRotation(); !errors.Is(err, ErrInvalid) {
		t.Errorf("finishing what has not begun: %v", err)
	}
	if err := tl.BeginRotation(opts.Key); !errors.Is(err, ErrInvalid) {
		t.Errorf("rotating to the same key: %v", err)
	}
	for range 2 { // again is no error
		if err := tl.BeginRotation(testKey(5)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tl.BeginRotation(testKey(6)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "finish or abort") {
		t.Errorf("beginning another: %v", err)
	}
	tl.awaitSigned(old, next)
	tl.close()

	if _, err := Open(opts); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), next) {
		t.Errorf("opening without the next key: %v", err)
	}
	tl.opts.NextKey = testKey(5)
	tl.open()
	tl.add(tl.nextEntry())
	tl.mustPublish(11)
	tl.awaitSigned(old, next)
	if err := tl.FinishRotation(); err != nil {
		t.Fatal(err)
	}
	tl.add(tl.nextEntry())
	tl.mustPublish(12)
	tl.awaitSigned(next)
	tl.close()

	if _, err := Open(opts); !errors.Is(err, ErrIdentity) {
		t.Errorf("opening with the old key alone: %v", err)
	}
	tl.reopenWith(tl.opts) // both, in the order before the files were renamed
	tl.opts.Key, tl.opts.NextKey = testKey(5), nil
	tl.close()
	tl.reopenWith(tl.opts)
	if n, err := tl.FirstPublishedCovering(0); err != nil || string(n.Note) != string(first.Note) {
		t.Errorf("checkpoint by the retired key: %+v, %v", n, err)
	}
	keys := tl.Keys()
	if len(keys) != 3 || keys[0].Vkey != next || keys[2] != (KeyInfo{RoleLog, KeyRetired, old, 11}) || tl.Vkey() != next {
		t.Errorf("keys are %+v", keys)
	}
	if err := tl.BeginRotation(opts.Key); !errors.Is(err, ErrInvalid) {
		t.Errorf("rotating back to a retired key: %v", err)
	}
	tl.check()
	if r := fsckOf(t, tl.Log); r.Err() != nil {
		t.Error(r.Err())
	}
}

func (tl *testLog) reopenWith(opts Options) {
	tl.t.Helper()
	if tl.Log != nil {
		tl.close()
	}
	tl.opts = opts
	tl.open()
}

func TestAbortRotation(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	if err := tl.AbortRotation(); !errors.Is(err, ErrInvalid) {
		t.Errorf("aborting what has not begun: %v", err)
	}
	if err := tl.BeginRotation(testKey(5)); err != nil {
		t.Fatal(err)
	}
	old, next := vkeyOf(t, opts.Origin, opts.Key), vkeyOf(t, opts.Origin, testKey(5))
	tl.awaitSigned(old, next)
	if err := tl.AbortRotation(); err != nil {
		t.Fatal(err)
	}
	tl.add(tl.nextEntry())
	tl.mustPublish(1)
	tl.awaitSigned(old)
	tl.reopen()
	if err := tl.BeginRotation(testKey(5)); !errors.Is(err, ErrInvalid) {
		t.Errorf("beginning with an aborted key: %v", err)
	}
}

// TestRotateWithWitness: the witness goes on with the key that it knows, and the
// rotation ends only when the policy knows the new one.
func TestRotateWithWitness(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	w := newFakeWitness(t, opts, 21)
	opts = witnessed(t, opts, 1, w)
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.add(tl.nextEntry())
	tl.mustPublish(1)
	if err := tl.BeginRotation(testKey(5)); err != nil {
		t.Fatal(err)
	}
	old, next := vkeyOf(t, opts.Origin, opts.Key), vkeyOf(t, opts.Origin, testKey(5))
	tl.awaitSigned(old, next)
	if _, err := opts.Policy.Verify(tl.Published().Note); err != nil {
		t.Errorf("checkpoint in a rotation: %v", err)
	}
	tl.add(tl.nextEntry())
	tl.mustPublish(2)
	if err := tl.FinishRotation(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "no log line with the new key") {
		t.Errorf("finishing under the old policy: %v", err)
	}
	if tl.Keys()[1].State != KeyNext {
		t.Error("the rotation has ended")
	}
}

// TestSetPolicy: a rotation ends without a restart, under a policy that has the new
// key beside the old one; any other change is refused.
func TestSetPolicy(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	old, next := vkeyOf(t, opts.Origin, opts.Key), vkeyOf(t, opts.Origin, testKey(5))
	w := newFakeWitness(t, opts, 21)
	signer, err := newHeadSigner(opts.Origin, opts.Origin, testKey(5))
	if err != nil {
		t.Fatal(err)
	}
	w.log = append(w.log, signer.keys...)
	opts = witnessed(t, opts, 1, w)
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(2)
	tl.mustPublish(2)
	if err := tl.BeginRotation(testKey(5)); err != nil {
		t.Fatal(err)
	}
	tl.awaitSigned(old, next)
	parse := func(text string) *checkpoint.Policy {
		t.Helper()
		p, err := checkpoint.ParsePolicy([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	other := newFakeWitness(t, opts, 22)
	rest := func(w *fakeWitness) string {
		return fmt.Sprintf("witness %s %s %s\ngroup g 1 %[1]s\nquorum g\n", w.name, w.cosigner.Key().Vkey(), w.server.URL+"/prefix/")
	}
	oldLine, nextLine := "log "+old+"\n", "log "+next+"\n"
	for name, bad := range map[string]*checkpoint.Policy{
		"none":                       nil,
		"no cosignatures":            parse(oldLine + nextLine + "quorum none\n"),
		"another witness":            parse(oldLine + nextLine + rest(other)),
		"no line for what signs now": parse(nextLine + rest(w)),
		"another quorum":             parse(oldLine + nextLine + strings.ReplaceAll(rest(w), " g", " h")),
		"another log's":              parse("log " + vkeyOf(t, "other.example/log", opts.Key) + "\n" + rest(w)),
	} {
		if err := tl.SetPolicy(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := tl.FinishRotation(); !errors.Is(err, ErrInvalid) {
		t.Errorf("finishing after policies that were refused: %v", err)
	}
	if err := tl.SetPolicy(parse(oldLine + nextLine + rest(w))); err != nil {
		t.Fatal(err)
	}
	if err := tl.FinishRotation(); err != nil {
		t.Fatal(err)
	}
	if err := tl.SetPolicy(opts.Policy); !errors.Is(err, ErrInvalid) {
		t.Errorf("going back to the policy without the key: %v", err)
	}
	tl.opts.Policy = parse(oldLine + nextLine + rest(w))
	tl.add(tl.nextEntry())
	tl.mustPublish(3)
	tl.awaitSigned(next)
	if err := tl.SetPolicy(parse(nextLine + rest(w))); err != nil {
		t.Errorf("giving the old key up: %v", err)
	}
	tl.add(tl.nextEntry())
	tl.mustPublish(4)
}

// TestSetPolicyWithoutWitnesses: what is asked nothing stays asked nothing.
func TestSetPolicyWithoutWitnesses(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	if err := tl.SetPolicy(nil); err != nil {
		t.Error(err)
	}
	w := newFakeWitness(t, opts, 21)
	if err := tl.SetPolicy(witnessed(t, opts, 1, w).Policy); !errors.Is(err, ErrInvalid) {
		t.Errorf("witnesses for a log that has none: %v", err)
	}
}

// TestRotateReceiptKey: heads up to the size at the switch are the old key's,
// larger ones the new key's.
func TestRotateReceiptKey(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	tl.addN(3)
	old, next := tl.ReceiptVkey(), vkeyOf(t, opts.Origin+receiptSuffix, testKey(6))
	stop := make(chan struct{})
	heads := make(chan Head, 1)
	go func() {
		defer close(heads)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_, h, err := tl.Append(context.Background(), Entry{})
			if err != nil {
				t.Error(err)
				return
			}
			heads <- h
		}
	}()
	for range 20 {
		<-heads
	}
	for range 2 { // again is no error
		if err := tl.RotateReceiptKey(testKey(6)); err != nil {
			t.Fatal(err)
		}
	}
	var all []Head
	for len(all) < 40 {
		all = append(all, <-heads)
	}
	close(stop)
	for range heads {
	}
	keys := tl.Keys()
	last := keys[len(keys)-1]
	if tl.ReceiptVkey() != next || last.Vkey != old || last.State != KeyRetired || last.Role != RoleReceipt {
		t.Fatalf("keys are %+v", keys)
	}
	for _, h := range all {
		vkey := next
		if h.Size <= last.Size {
			vkey = old
		}
		key, err := note.NewVerifier(vkey)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := h.Note() // after the switch, by the key of when it was issued
		if err != nil {
			t.Fatal(err)
		}
		if _, err := checkpoint.Open(signed, opts.Origin, []note.Verifier{key}); err != nil {
			t.Errorf("head of size %d, the switch was at %d: %v", h.Size, last.Size, err)
		}
	}
	tl.close()
	if _, err := Open(opts); !errors.Is(err, ErrIdentity) {
		t.Errorf("opening with the old key: %v", err)
	}
	tl.Log = nil
	o := opts
	o.NextReceiptKey = testKey(6)
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := l.Head(); err != nil || l.ReceiptVkey() != next || h.Size < last.Size {
		t.Errorf("head %+v, %v", h, err)
	}
	if err := l.RotateReceiptKey(opts.ReceiptKey); !errors.Is(err, ErrInvalid) {
		t.Errorf("rotating back: %v", err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	none := testOptions(vfs.NewMem())
	none.ReceiptKey = nil
	if err := newTestLog(t, none).RotateReceiptKey(testKey(6)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a log without a receipt key: %v", err)
	}
}

// TestRotateStopped does the same steps on a store, and on one that must catch
// up: a backup from before a rotation follows it like this.
func TestRotateStopped(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	tl.addN(2)
	tl.mustPublish(2)
	if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); err != nil {
		t.Fatal(err)
	}
	tl.close()
	on := func(o Options, do func(s *Store) error) error {
		t.Helper()
		s, err := OpenStore(storeOf(o))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return do(s)
	}
	begin := func(s *Store) error { return s.BeginRotation(testKey(5)) }
	finish := func(s *Store) error { return s.FinishRotation() }
	if err := on(opts, begin); err != nil {
		t.Fatal(err)
	}
	if err := on(opts, finish); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "run the log") {
		t.Errorf("finishing before both have signed: %v", err)
	}
	tl.opts.NextKey = testKey(5)
	tl.open()
	tl.awaitSigned(vkeyOf(t, opts.Origin, opts.Key), vkeyOf(t, opts.Origin, testKey(5)))
	tl.close()
	if err := on(opts, finish); err != nil {
		t.Fatal(err)
	}
	if err := on(opts, func(s *Store) error { return s.RotateReceiptKey(testKey(6)) }); err != nil {
		t.Fatal(err)
	}
	if err := on(opts, func(s *Store) error { return s.AbortRotation() }); !errors.Is(err, ErrInvalid) {
		t.Errorf("aborting what has ended: %v", err)
	}
	tl.opts.Key, tl.opts.NextKey, tl.opts.ReceiptKey = testKey(5), nil, testKey(6)
	tl.open()
	tl.addN(5)
	tl.mustPublish(7)

	o := restored(t, opts, "backup")
	if _, err := CatchUp(t.Context(), storeOf(o), Source{Fetch: fetchLog(tl.Log)}, nil); !errors.Is(err, ErrSource) {
		t.Errorf("catching up past a rotation: %v", err)
	}
	for _, step := range []func(s *Store) error{begin, finish} {
		if err := on(o, step); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := CatchUp(t.Context(), storeOf(o), Source{Fetch: fetchLog(tl.Log)}, nil); err != nil {
		t.Fatal(err)
	}
	s, err := OpenStore(storeOf(o))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.Status()
	if err != nil || st.Integrated != 7 || st.Signed != 7 || st.Published != 7 || st.NotReady != "" {
		t.Errorf("status: %+v, %v", st, err)
	}
	if err := s.BeginRotation(testKey(7)); err != nil {
		t.Fatal(err)
	}
	if err := s.AbortRotation(); err != nil {
		t.Error(err)
	}
}

// TestRotationCrash cuts the power around each step: the log opens with the keys
// from before or after it.
func TestRotationCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	opts := testOptions(fs)
	tl := newTestLog(t, opts)
	tl.addN(3)
	tl.mustPublish(3)
	both := opts
	both.NextKey, both.NextReceiptKey = testKey(5), testKey(6)
	steps := []func() error{
		func() error { return nil },
		func() error { return tl.BeginRotation(testKey(5)) },
		func() error {
			tl.awaitSigned(vkeyOf(t, opts.Origin, opts.Key), vkeyOf(t, opts.Origin, testKey(5)))
			return tl.RotateReceiptKey(testKey(6))
		},
		func() error { return tl.FinishRotation() },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatal(i, err)
		}
		clone := both
		clone.fs = fs.CrashClone(vfs.CrashCloneCfg{})
		l, err := Open(clone)
		if err != nil {
			t.Fatal(i, err)
		}
		if got, want := l.Keys(), tl.Keys(); len(got) != len(want) || got[0] != want[0] {
			t.Errorf("step %d: keys are %+v, want %+v", i, got, want)
		}
		if _, _, err := l.Append(t.Context(), Entry{}); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// FuzzIdentity: what parses formats to the same bytes.
func FuzzIdentity(f *testing.F) {
	one, two := "a+1c4ee19e+AZ/EsjJzBHoKOB6d3o1Xwj2Bvb8vI9GSRzuhwP6WYUVM", "b"
	f.Add([]byte("a\n" + one + "\n\n"))
	f.Add([]byte("a\n" + one + "\n\nnext " + two + "\nretired 7 x\nretired-receipt 0 y\n"))
	id := &identity{origin: "log.example/test"}
	for i, v := range []*string{&id.log, &id.next} {
		s, err := newHeadSigner(id.origin, id.origin, testKey(byte(i)))
		if err != nil {
			f.Fatal(err)
		}
		*v = s.vkey
	}
	id.retired = []RetiredKey{{id.log, 5}}
	f.Add(id.format())
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseIdentity(b)
		if err != nil {
			return
		}
		if string(id.format()) != string(b) {
			t.Fatalf("%q formats to %q", b, id.format())
		}
		if _, err := id.verifiers(); err != nil {
			t.Fatal(err)
		}
	})
}
