package logserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// fakeWitness is a c2sp.org/tlog-witness that checks everything that the text
// asks for, and fails the test where the log breaks it, unless told to
// misbehave.
type fakeWitness struct {
	t        testing.TB
	name     string
	cosigner *checkpoint.Cosigner
	log      []note.Verifier
	server   *httptest.Server

	mu struct {
		sync.Mutex
		seen     checkpoint.Checkpoint
		requests int
		// answer, if set, replaces the answer to the next requests. It returns
		// false to have the request handled as usual.
		answer func(w http.ResponseWriter, c checkpoint.Checkpoint) bool
		// clock says when a cosignature is made; nil means time.Now.
		clock func() time.Time
		// rootConflict, if set, is the body of a 409 for another root of the size
		// that it has, in the place of a 422.
		rootConflict *string
		// nameless says that a 409 for the old size does not name the one that it has.
		nameless bool
	}
}

func newFakeWitness(t testing.TB, opts Options, seed byte) *fakeWitness {
	t.Helper()
	f := &fakeWitness{t: t, name: fmt.Sprintf("w%d", seed)}
	f.mu.seen.Root = emptyRoot
	var err error
	if f.cosigner, err = checkpoint.NewEd25519Cosigner("witness.example/"+f.name, testKey(seed)); err != nil {
		t.Fatal(err)
	}
	signer, err := newHeadSigner(opts.Origin, opts.Origin, opts.Key)
	if err != nil {
		t.Fatal(err)
	}
	f.log = signer.keys
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	return f
}

// behave replaces the answers of the witness; nil makes it honest again.
func (f *fakeWitness) behave(answer func(w http.ResponseWriter, c checkpoint.Checkpoint) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.answer = answer
}

func (f *fakeWitness) size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.seen.Size
}

// ServeHTTP implements add-checkpoint under any submission prefix.
func (f *fakeWitness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went away
	}
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/add-checkpoint") {
		f.t.Errorf("%s %s", r.Method, r.URL)
	}
	request, err := checkpoint.ParseAddRequest(body)
	if err != nil {
		f.t.Errorf("malformed request %q: %v", body, err)
		return
	}
	old, signed := request.OldSize, request.Checkpoint
	// Two while a key is rotated.
	if n := bytes.Count(signed, []byte("— ")); n > 2 || n != bytes.Count(signed, []byte("— log.example/test ")) {
		f.t.Errorf("submitted note has more than the log's signatures:\n%s", signed)
	}
	c, err := checkpoint.Open(signed, "log.example/test", f.log)
	if err != nil {
		f.t.Errorf("submitted note: %v", err)
		return
	}

	f.mu.Lock()
	answer := f.mu.answer
	f.mu.requests++
	f.mu.Unlock()
	if answer != nil && answer(w, c) {
		return
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	switch seen := f.mu.seen; {
	case old > c.Size:
		http.Error(w, "old size", http.StatusBadRequest)
	case old != seen.Size:
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(http.StatusConflict)
		if !f.mu.nameless {
			fmt.Fprintf(w, "%d\n", seen.Size)
		}
	case old == c.Size && c.Root != seen.Root && f.mu.rootConflict != nil:
		w.WriteHeader(http.StatusConflict)
		io.WriteString(w, *f.mu.rootConflict)
	case checkpoint.VerifyConsistency(seen.Tree(), c.Tree(), request.Hashes) != nil:
		http.Error(w, "inconsistent", http.StatusUnprocessableEntity)
	default:
		f.mu.seen = c
		now := time.Now()
		if f.mu.clock != nil {
			now = f.mu.clock()
		}
		w.Write(f.cosign(c, now.Unix()))
	}
}

func (f *fakeWitness) cosign(c checkpoint.Checkpoint, timestamp int64) []byte {
	sig, err := f.cosigner.Cosign(c.Body(), timestamp)
	if err != nil {
		f.t.Error(err)
	}
	return sig.Line()
}

// witnessed returns options under a policy that asks for k of the witnesses.
func witnessed(t testing.TB, opts Options, k int, witnesses ...*fakeWitness) Options {
	t.Helper()
	signer, err := newHeadSigner(opts.Origin, opts.Origin, opts.Key)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("log %s\n", signer.vkey)
	group := fmt.Sprintf("group g %d", k)
	for _, w := range witnesses {
		text += fmt.Sprintf("witness %s %s %s\n", w.name, w.cosigner.Key().Vkey(), w.server.URL+"/prefix/")
		group += " " + w.name
	}
	if opts.Policy, err = checkpoint.ParsePolicy([]byte(text + group + "\nquorum g\n")); err != nil {
		t.Fatal(err)
	}
	opts.WitnessTimeout = 3 * time.Second
	return opts
}

func dead(w http.ResponseWriter, _ checkpoint.Checkpoint) bool {
	http.Error(w, "dead", http.StatusServiceUnavailable)
	return true
}

// within bounds what a test waits for; it is never reached when tests pass.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	ctx := within(t)
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		}
	}
}

func counted(t testing.TB, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func (tl *testLog) mustPublish(size int64) {
	tl.t.Helper()
	if err := tl.Wait(within(tl.t), size); err != nil {
		tl.t.Fatal(err)
	}
	pub := tl.Published()
	if pub.Size < size {
		tl.t.Fatalf("published size %d, waited for %d", pub.Size, size)
	}
	if pub.Size > 0 && pub.Root != tl.root(tl.t, pub.Size) {
		tl.t.Fatalf("published root of size %d is not the model's", pub.Size)
	}
	if tl.opts.Policy != nil {
		if _, err := tl.opts.Policy.Verify(pub.Note); err != nil {
			tl.t.Fatalf("published checkpoint: %v\n%s", err, pub.Note)
		}
	}
}

func TestPublishWithoutWitnesses(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	for range 5 {
		tl.addN(100)
		tl.mustPublish(int64(len(tl.data)))
	}
	first, err := tl.FirstPublishedCovering(450)
	if err != nil || first.Size != 500 {
		t.Fatal(first, err)
	}
	if _, err := tl.FirstPublishedCovering(500); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	tl.reopen()
	if again, err := tl.FirstPublishedCovering(450); err != nil || !bytes.Equal(again.Note, first.Note) {
		t.Fatal(again, err)
	}
	if tl.Published().Size != 500 || tl.Signed().Size != 500 {
		t.Fatal("published checkpoint is lost by a restart")
	}
}

func TestWitnessRounds(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a, b, c := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12), newFakeWitness(t, opts, 13)
	tl := newTestLog(t, witnessed(t, opts, 2, a, b, c))
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		tl.addN(300)
		tl.mustPublish(int64(len(tl.data)))
	}

	// A dead minority delays nothing, and is caught up with afterwards.
	c.behave(dead)
	tl.addN(1)
	tl.mustPublish(901)
	c.behave(nil)
	eventually(t, "the third witness's late cosignature is kept", func() bool {
		return bytes.Count(tl.Published().Note, []byte("\n— ")) == 4
	})
	published := tl.Published().Note
	tl.reopen()
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(tl.Published().Note, published[:60]) {
		t.Error("published checkpoint is lost by a restart")
	}
	tl.addN(1)
	tl.mustPublish(902)
}

func TestSlowWitnessDelaysNobody(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	release := make(chan struct{})
	b.behave(func(http.ResponseWriter, checkpoint.Checkpoint) bool { <-release; return false })
	opts = witnessed(t, opts, 1, a, b)
	opts.WitnessTimeout = 30 * time.Second
	tl := newTestLog(t, opts)
	// Silent b alone could satisfy 1 of 2: the log must not start.
	if _, _, err := tl.Append(context.Background(), Entry{}); !errors.Is(err, ErrNotReady) {
		t.Fatalf("append before the start-up check has ended: %v", err)
	}
	if _, err := tl.Head(); !errors.Is(err, ErrNotReady) {
		t.Fatalf("head before the start-up check has ended: %v", err)
	}
	release <- struct{}{}
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	// From now on a alone satisfies the policy, while b hangs.
	for range 3 {
		tl.addN(10)
		tl.mustPublish(int64(len(tl.data)))
	}
	b.behave(nil)
	close(release)
	eventually(t, "the slow witness's late cosignature is kept", func() bool {
		return bytes.Count(tl.Published().Note, []byte("\n— ")) == 3
	})
}

// TestServedSatisfiesThePolicy: a log that fails closed serves only what satisfies
// the policy that it has now, whatever it published before under another one or
// without a quorum.
func TestServedSatisfiesThePolicy(t *testing.T) {
	t.Parallel()
	plain := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, plain, 11), newFakeWitness(t, plain, 12)
	one, both := witnessed(t, plain, 1, a), witnessed(t, plain, 2, a, b)
	one.WitnessTimeout, both.WitnessTimeout = 50*time.Millisecond, 50*time.Millisecond
	one.FailOpen = true
	tl := newTestLog(t, one)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(5)
	if err := tl.WaitWitnessed(within(t), 5); err != nil {
		t.Fatal(err)
	}
	a.behave(dead)
	tl.addN(5)
	if err := tl.Wait(within(t), 10); err != nil {
		t.Fatal(err)
	}
	serves := func(size int64) {
		t.Helper()
		pub, status := tl.Published(), 200
		if size < 0 {
			size, status = 0, 503
		}
		res, body := do(t, Handler(tl.Log), "GET", "/checkpoint", "")
		if res.StatusCode != status || pub.Size != size || status == 200 && !bytes.Equal(body, pub.Note) {
			t.Errorf("%s, size %d, want %d and %d:\n%s", res.Status, pub.Size, status, size, body)
		}
	}
	reopen := func(opts Options) {
		t.Helper()
		opts.fs = tl.opts.fs
		tl.reopenWith(opts)
	}
	// It goes on serving what it published, as long as it fails open.
	reopen(one)
	serves(10)
	// What nobody cosigned is not served any more, what was witnessed before is.
	one.FailOpen = false
	reopen(one)
	serves(5)
	if err := tl.Health(); err == nil {
		t.Error("it is healthy")
	}
	// Nothing that was kept satisfies the policy.
	reopen(both)
	serves(-1)
	if res, _ := do(t, Handler(tl.Log), "GET", "/0.tlog-proof", ""); res.StatusCode != 404 {
		t.Errorf("a proof under nothing: %s", res.Status)
	}
	a.behave(nil)
	tl.mustPublish(10)
	serves(10)
	reopen(both)
	serves(10)
	// A log that asks nobody serves what it signs.
	plain.fs = tl.opts.fs
	reopen(plain)
	serves(10)
	tl.check()
}

func TestFailClosedAndOpen(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		opts := testOptions(vfs.NewMem())
		a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
		opts = witnessed(t, opts, 2, a, b)
		opts.FailOpen, opts.WitnessTimeout = open, 200*time.Millisecond
		tl := newTestLog(t, opts)
		if err := tl.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		tl.addN(5)
		tl.mustPublish(5)
		b.behave(dead)
		tl.addN(5)
		if open {
			if err := tl.Wait(within(t), 10); err != nil {
				t.Fatal(err)
			}
			if _, err := opts.Policy.Verify(tl.Published().Note); !errors.Is(err, checkpoint.ErrQuorum) {
				t.Fatalf("published: %v", err)
			}
		} else {
			eventually(t, "two rounds without b", func() bool {
				return a.size() == 10 && counted(t, tl.metrics.rounds.WithLabelValues("unsatisfied")) >= 2
			})
			if tl.Published().Size != 5 {
				t.Fatal("published without the quorum")
			}
		}
		// Appends and signatures go on; what was not witnessed is not kept.
		if _, err := tl.FirstPublishedCovering(5); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		b.behave(nil)
		eventually(t, "witnessed after all", func() bool {
			first, err := tl.FirstPublishedCovering(5)
			return err == nil && first.Size == 10
		})
		tl.mustPublish(10)
		tl.check()
	}
}

func TestRefresh(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a := newFakeWitness(t, opts, 11)
	opts = witnessed(t, opts, 1, a)
	opts.RefreshInterval = time.Millisecond
	first := time.Now()
	seconds := 0 // guarded by the witness's lock; ahead of our clock by less than is tolerated
	a.mu.clock = func() time.Time { seconds++; return first.Add(time.Duration(seconds) * time.Second) }
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(3)
	tl.mustPublish(3)
	signed := tl.Signed().Note
	var last int64
	eventually(t, "fresh cosignatures of the same note", func() bool {
		v, err := opts.Policy.Verify(tl.Published().Note)
		if err != nil {
			t.Fatal(err)
		}
		last = max(last, v.Cosignatures[0].Timestamp)
		return last > first.Unix()+20
	})
	if !bytes.Equal(tl.Signed().Note, signed) {
		t.Error("a refresh signed again")
	}
}

func TestTolerance(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	// One submission prefix for both: a answers for b too, in between lines
	// that mean nothing to us.
	b.server.Config.Handler = a
	a.behave(func(w http.ResponseWriter, c checkpoint.Checkpoint) bool {
		fmt.Fprintf(w, "%s\n— someone.else/x AAAAAAAA\nnoise\r\n%s", bytes.TrimSpace(a.cosign(c, 7)), b.cosign(c, 8))
		return true
	})
	b.server.URL = a.server.URL
	tl := newTestLog(t, witnessed(t, opts, 2, a, b))
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(5)
	tl.mustPublish(5)
	if bytes.Contains(tl.Published().Note, []byte("someone.else")) {
		t.Error("an unknown signature was kept")
	}
	if len(tl.publisher.witnesses) != 1 {
		t.Errorf("%d clients for one submission prefix", len(tl.publisher.witnesses))
	}
}

func TestStartUpCheck(t *testing.T) {
	t.Parallel()
	// A log with history that both witnesses have seen.
	prepare := func(t *testing.T) (*testLog, *fakeWitness, *fakeWitness) {
		opts := testOptions(vfs.NewCrashableMem())
		a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
		tl := newTestLog(t, witnessed(t, opts, 2, a, b))
		if err := tl.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		tl.addN(10)
		tl.mustPublish(10)
		return tl, a, b
	}
	t.Run("restored from an old copy", func(t *testing.T) {
		tl, _, _ := prepare(t)
		old := tl.opts
		old.fs = tl.opts.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
		tl.addN(5)
		tl.mustPublish(15)
		tl.close()

		tl.opts = old
		tl.open()
		if err := tl.Ready(within(t)); !errors.Is(err, ErrForked) {
			t.Fatalf("ready: %v, want ErrForked", err)
		}
		if _, _, err := tl.Append(context.Background(), Entry{}); !errors.Is(err, ErrForked) {
			t.Fatalf("append: %v, want ErrForked", err)
		}
		if _, err := tl.EntryAt(9); err != nil { // reads go on
			t.Fatal(err)
		}
	})
	t.Run("forked", func(t *testing.T) {
		tl, a, b := prepare(t)
		tl.close()
		b.behave(dead) // a is the one that is heard, however slow it is
		a.mu.Lock()
		a.mu.seen.Root[0] ^= 1
		a.mu.Unlock()
		tl.open()
		if err := tl.Ready(within(t)); !errors.Is(err, ErrForked) {
			t.Fatalf("ready: %v, want ErrForked", err)
		}
	})
	t.Run("silence is no answer", func(t *testing.T) {
		tl, a, b := prepare(t)
		tl.close()
		for _, status := range []int{400, 403, 404, 500, 503} {
			f := func(w http.ResponseWriter, _ checkpoint.Checkpoint) bool { w.WriteHeader(status); return true }
			a.behave(f)
			b.behave(f)
			before := a.requestsSeen()
			tl.open()
			eventually(t, "asked again", func() bool { return a.requestsSeen() >= before+2 })
			if err := tl.publisher.appendable(); err != ErrNotReady {
				t.Fatalf("status %d counts as an answer: %v", status, err)
			}
			tl.close()
		}
		// One that answers is enough under 2 of 2: the silent one alone could
		// not have witnessed another history.
		a.behave(nil)
		tl.open()
		if err := tl.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		tl.addN(1)
		b.behave(nil)
		tl.mustPublish(11)
	})
}

func (f *fakeWitness) requestsSeen() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.requests
}

func TestHoldWitness(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a := newFakeWitness(t, opts, 11)
	opts = witnessed(t, opts, 1, a)
	opts.HoldWitness = true
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(10)
	tl.AllowWitness(4)
	tl.mustPublish(4)
	tl.AllowWitness(3) // never falls
	tl.reopen()
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(5)
	tl.AllowWitness(7)
	tl.mustPublish(7)
	if a.size() != 7 || tl.Signed().Size != 7 {
		t.Errorf("witness saw size %d, signed is %d; 7 was allowed", a.size(), tl.Signed().Size)
	}
	tl.AllowWitness(100)
	tl.mustPublish(15)
}

func TestPolicyRefusedAtOpen(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	if err := Create(opts); err != nil {
		t.Fatal(err)
	}
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	parse := func(text string) *checkpoint.Policy {
		p, err := checkpoint.ParsePolicy([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	signer, err := newHeadSigner(opts.Origin, opts.Origin, opts.Key)
	if err != nil {
		t.Fatal(err)
	}
	wa := "witness a " + a.cosigner.Key().Vkey()
	wb := "witness b " + b.cosigner.Key().Vkey()
	for name, text := range map[string]string{
		"no log line":        wa + " http://x\nquorum a\n",
		"needs one w/o URL":  "log " + signer.vkey + "\n" + wa + "\nquorum a\n",
		"one w/o URL enough": "log " + signer.vkey + "\n" + wa + "\n" + wb + " http://x\ngroup g any a b\nquorum g\n",
	} {
		o := opts
		o.Policy = parse(text)
		if l, err := Open(o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	opts.Policy = parse("log " + signer.vkey + "\nquorum none\n")
	tl := &testLog{t: t, opts: opts, model: newModel()}
	tl.open()
	tl.addN(3)
	tl.mustPublish(3)
	tl.close()
}

func TestCloseDrains(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a := newFakeWitness(t, opts, 11)
	opts = witnessed(t, opts, 1, a)
	opts.MinInterval = time.Hour // only Close brings the next round
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(1)
	tl.mustPublish(1)
	tl.addN(20)
	tl.close()
	if a.size() != 21 {
		t.Fatalf("witness has size %d after the close, want 21", a.size())
	}
	a.behave(dead)
	tl.opts.MinInterval = 0
	tl.open()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tl.Log.Close(ctx); err != nil {
		t.Fatal(err)
	}
	tl.Log = nil
}

// TestCloseSignsTheLastEntry: what was answered at the moment when the log is
// closed is signed before that ends.
func TestCloseSignsTheLastEntry(t *testing.T) {
	t.Parallel()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	for size := int64(1); size <= 60; size++ {
		tl.add(tl.nextEntry())
		l := tl.Log
		tl.close()
		if signed := l.Signed().Size; signed != size {
			t.Fatalf("closed at tree size %d with the last signed head at %d", size, signed)
		}
		tl.open()
	}
}
