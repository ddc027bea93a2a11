package witness

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// FuzzAddCheckpoint: whatever is sent, every error is one of the set, and what
// is cosigned was signed by a log and extends what was cosigned before.
func FuzzAddCheckpoint(f *testing.F) {
	l := newTestLog(testOrigin, "entry", 12)
	fork := l.fork(3, 12)
	for _, body := range [][]byte{
		l.request(5, 9), l.request(5, 5), l.request(0, 9), l.request(9, 12), fork.request(5, 9), fork.request(5, 5),
		newTestLog(otherOrigin, "entry", 3).request(0, 3), []byte("old 5\n\n"),
	} {
		f.Add(body)
	}
	known := map[checkpoint.Checkpoint]bool{}
	for size := range int64(13) {
		known[l.checkpoint(size)] = true
	}
	closed := []error{ErrMalformed, ErrTooLarge, ErrUnknownOrigin, ErrSignature, ErrOldSize, ErrConflict, ErrInconsistent}
	w := newQuietWitness(f, newMemDisk())
	defer w.Close()
	if _, err := w.AddCheckpoint(f.Context(), Submission{Body: l.request(0, 5)}); err != nil {
		f.Fatal(err)
	}
	head, other := &w.store.slot(testOrigin).head, &w.store.slot(otherOrigin).head
	at5 := head.Load()
	f.Fuzz(func(t *testing.T, body []byte) {
		// Back to the start, which is cheaper than a new witness.
		head.Store(at5)
		other.Store(nil)
		_, err := w.AddCheckpoint(t.Context(), Submission{Body: body, Keys: []int{placeEd25519}})
		if err != nil {
			for _, one := range closed {
				if errors.Is(err, one) {
					return
				}
			}
			t.Fatalf("error outside the set: %v", err)
		}
		if h := head.Load(); !known[h.checkpoint] || h.checkpoint.Size < 5 {
			t.Fatalf("cosigned %+v", h.checkpoint)
		}
	})
}

// newQuietWitness is a witness without HTTP server and log output.
func newQuietWitness(t testing.TB, d disk) *Witness {
	dir := t.TempDir()
	if err := createStore(dir, d); err != nil {
		t.Fatal(err)
	}
	w, err := open(Config{Dir: dir, Keys: testKeys(), Policy: testPolicy(), Logger: slog.New(slog.DiscardHandler)}, d)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
