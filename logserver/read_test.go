package logserver

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func TestHead(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	check := func(h Head, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		signed, err := h.Note()
		if err != nil {
			t.Fatal(err)
		}
		c, err := checkpoint.Open(signed, tl.Origin(), tl.receipt.current.keys)
		if err != nil {
			t.Fatalf("receipt head: %v\n%s", err, signed)
		}
		if again, err := h.Note(); err != nil || !bytes.Equal(again, signed) {
			t.Errorf("the same head again: %v\n%s", err, again)
		}
		if c.Size != h.Size || c.Root != h.Root || c.Size != int64(len(tl.data)) {
			t.Errorf("receipt head of size %d, signed %d, want %d", h.Size, c.Size, len(tl.data))
		}
	}
	check(tl.Head())
	e := tl.nextEntry()
	e.Dedup = []byte("key")
	tl.add(e)
	check(tl.Head())
	tl.reopen()
	check(tl.Head())
	_, h, err := tl.Append(context.Background(), e) // sequences nothing
	check(h, err)
	if tl.ReceiptVkey() == "" || tl.Vkey() == tl.ReceiptVkey() {
		t.Error("receipt key is not a key of its own")
	}

	opts := testOptions(vfs.NewMem())
	opts.ReceiptKey = nil
	tl = newTestLog(t, opts)
	h, err = tl.Head()
	if err != nil || tl.ReceiptVkey() != "" {
		t.Errorf("head without a receipt key: %+v, %v", h, err)
	}
	if signed, err := h.Note(); err != nil || signed != nil {
		t.Errorf("without a receipt key the head is signed: %q, %v", signed, err)
	}
}

func TestIteratorsStop(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.addN(300)
	for _, stop := range []int64{0, 1, 2, 3, 255, 256} {
		i := int64(0)
		for range tl.Entries(0, 300) {
			if i == stop {
				break
			}
			i++
		}
		if i = 0; true {
			for range tl.Openings(0, 300) {
				if i == stop {
					break
				}
				i++
			}
		}
		if i != stop {
			t.Errorf("stopped after %d", i)
		}
	}
	// From the middle of a bundle, and beyond the last opening.
	i := int64(298)
	for got, err := range tl.Entries(298, 300) {
		if err != nil || !bytes.Equal(got, tl.data[i]) {
			t.Fatal(i, err)
		}
		i++
	}
	for range tl.Openings(298, 300) {
		break
	}
	for i := range int64(6) {
		if got, err := tl.EntryAt(i); err != nil || !bytes.Equal(got, tl.data[i]) {
			t.Errorf("entry %d: %q, %v", i, got, err)
		}
	}
}

func TestLookupBounds(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	if _, err := tl.Register(""); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if _, err := tl.FirstPublishedCovering(-1); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// moodySigner is a key in a service that is sometimes away.
type moodySigner struct {
	crypto.Signer
	away atomic.Bool
}

func (s *moodySigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.away.Load() {
		return nil, errors.New("key service is away")
	}
	return s.Signer.Sign(rand, digest, opts)
}

func TestLogKeyAway(t *testing.T) {
	key := &moodySigner{Signer: testKey(1)}
	opts := testOptions(vfs.NewMem())
	opts.Key = key
	tl := newTestLog(t, opts)
	tl.addN(3)
	tl.mustPublish(3)
	key.away.Store(true)
	tl.addN(3) // appends need no log key
	eventually(t, "rounds that could not sign", func() bool {
		return counted(t, tl.metrics.rounds.WithLabelValues("unsatisfied")) > 2
	})
	if tl.Signed().Size != 3 || tl.failed() != nil {
		t.Errorf("signed size %d, failure %v", tl.Signed().Size, tl.failed())
	}
	key.away.Store(false)
	tl.mustPublish(6)
}

// TestReceiptKeyAway: appends do not wait for the receipt key, and who asks for
// its signature learns that there is none.
func TestReceiptKeyAway(t *testing.T) {
	key := &moodySigner{Signer: testKey(2)}
	opts := testOptions(vfs.NewMem())
	opts.ReceiptKey = key
	tl := newTestLog(t, opts)
	key.away.Store(true)
	e := tl.nextEntry()
	_, h, err := tl.Append(context.Background(), e)
	if err != nil {
		t.Fatal(err)
	}
	tl.sequence(e)
	if signed, err := h.Note(); !errors.Is(err, checkpoint.ErrSigning) || signed != nil {
		t.Errorf("the head is signed: %q, %v", signed, err)
	}
	key.away.Store(false)
	tl.add(tl.nextEntry())
	if h, err := tl.Head(); err != nil {
		t.Error(err)
	} else if signed, err := h.Note(); err != nil || signed == nil {
		t.Errorf("the key is back: %q, %v", signed, err)
	}
	tl.check()
}

func TestWaiting(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a := newFakeWitness(t, opts, 11)
	a.behave(dead)
	tl := newTestLog(t, witnessed(t, opts, 1, a))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tl.Ready(ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := tl.Wait(ended, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	done := make(chan error, 2)
	l := tl.Log
	tl.Log = nil
	go func() { done <- l.Ready(context.Background()) }()
	go func() { done <- l.Wait(context.Background(), 1) }()
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("waiting through a close: %v", err)
		}
	}
}

func TestErrorsHideInternals(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.addN(256)
	tl.mustPublish(256)
	if err := tl.store.db.Delete(tileKey(0, 0), noSync); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/tile/0/000", "/3.tlog-proof", "/proof/inclusion?index=1&size=9"} {
		res, body := do(t, ReadHandler(tl.Log), "GET", path, "")
		if res.StatusCode != 503 || string(body) != "log needs its operator\n" || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s %q", path, res.Status, body)
		}
	}
	g := &GuardError{Key: "epoch", Want: 1, Got: 2}
	if want := `guard does not hold: register "epoch" holds 2, not 1`; g.Error() != want {
		t.Errorf("%q, want %q", g, want)
	}
}

func TestPublishedNoteCorrupt(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"signature": flip(-10),
		"size":      func(b []byte) []byte { return bytes.Replace(b, []byte("\n5\n"), []byte("\n6\n"), 1) },
		"garbage":   func([]byte) []byte { return []byte("x") },
	} {
		opts := testOptions(vfs.NewMem())
		tl := newTestLog(t, opts)
		tl.addN(5)
		tl.mustPublish(5)
		tl.close()
		tamper(t, opts, metaPublished, change)
		if _, err := Open(opts); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
