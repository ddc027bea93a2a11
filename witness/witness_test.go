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
	if _, err := w.AddCheckpoint(l.request(0, 5)); err != nil {
		f.Fatal(err)
	}
	at5 := w.logs[testOrigin].head
	f.Fuzz(func(t *testing.T, body []byte) {
		// Back to the start, which is cheaper than a new witness.
		w.logs[testOrigin].head, w.logs[otherOrigin].head = at5, nil
		_, err := w.AddCheckpoint(body)
		if err != nil {
			for _, one := range closed {
				if errors.Is(err, one) {
					return
				}
			}
			t.Fatalf("error outside the set: %v", err)
		}
		if h := must(w.logs[testOrigin].current()); !known[h.checkpoint] || h.checkpoint.Size < 5 {
			t.Fatalf("cosigned %+v", h.checkpoint)
		}
	})
}

// BenchmarkAddCheckpoint is a round of one log: log signature, consistency
// proof, two cosignatures, one head made durable.
func BenchmarkAddCheckpoint(b *testing.B) {
	l := newTestLog(testOrigin, "entry", 4096)
	var requests [][]byte
	for size := int64(1); size <= 4096; size++ {
		requests = append(requests, l.request(size-1, size))
	}
	for name, newDisk := range map[string]func() disk{
		"memory": func() disk { return newMemDisk() },
		"disk":   func() disk { return osDisk{} },
	} {
		b.Run(name, func(b *testing.B) {
			var w *Witness
			for i := 0; b.Loop(); i++ {
				if i%len(requests) == 0 {
					b.StopTimer()
					if w != nil {
						w.Close()
					}
					w = newQuietWitness(b, newDisk())
					b.StartTimer()
				}
				if _, err := w.AddCheckpoint(requests[i%len(requests)]); err != nil {
					b.Fatal(err)
				}
			}
			w.Close()
		})
	}
}

// newQuietWitness is a witness without HTTP server and log output.
func newQuietWitness(t testing.TB, d disk) *Witness {
	w, err := open(Config{Dir: t.TempDir(), Keys: testKeys(), Policy: testPolicy(), Logger: slog.New(slog.DiscardHandler)}, d)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
