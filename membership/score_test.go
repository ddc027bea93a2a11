package membership

import (
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
)

// Both ways of computing a score give the hash of docs/formats, for ids of every
// length: the padding of the longer ones takes a block of its own.
func TestScore(t *testing.T) {
	if !stateIsDigest {
		t.Error("this Go release marshals the state of SHA-256 in another form: schedules are slower")
	}
	t.Cleanup(func() { stateIsDigest = true })
	execution := digest.Of([]byte("an execution"))
	for _, short := range []bool{true, false} {
		stateIsDigest = short
		s := newScorer(execution)
		for n := range 130 {
			id := strings.Repeat("n", n)
			want := digest.New("tallystick/v1/schedule-score").Digest(execution).Text(id).Sum()
			if got := s.of(id); got != want {
				t.Errorf("score of an id of %d bytes, read from the state %t: %s, want %s", n, short, got, want)
			}
		}
	}
}
