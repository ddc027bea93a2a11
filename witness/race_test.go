package witness

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestRace is the race of c2sp.org/tlog-witness: request A is checked, then
// request B is checked, stored and answered with a larger size, then A goes on.
// A must not roll the head back.
func TestRace(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	f := newFixture(t, newMemDisk())
	f.mustAdd(l, 0, 5)
	checked, proceed := make(chan bool), make(chan bool)
	f.beforeSwap = func(c checkpoint.Checkpoint) {
		if c.Size == 7 {
			checked <- true
			<-proceed
		}
	}
	answer := make(chan error)
	go func() {
		_, err := f.AddCheckpoint(t.Context(), Submission{Body: l.request(5, 7)})
		answer <- err
	}()
	<-checked
	f.mustAdd(l, 5, 9)
	proceed <- true
	var conflict *ConflictError
	if err := <-answer; !errors.As(err, &conflict) || conflict.Size != 9 {
		t.Errorf("request A is answered %v", err)
	}
	if size := f.size(testOrigin); size != 9 {
		t.Errorf("head of size %d", size)
	}
}

// TestRaceWithFailure: while A waits, B fails with unknown outcome. A, which is
// of another history, is checked against what was answered last, and whatever B
// has left on the disk must be gone before A is answered.
func TestRaceWithFailure(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	fork := l.fork(5, 12)
	d := newMemDisk()
	f := newFixture(t, d)
	f.mustAdd(l, 0, 5)
	checked, proceed := make(chan bool), make(chan bool)
	f.beforeSwap = func(c checkpoint.Checkpoint) {
		if c.Size == 7 {
			checked <- true
			<-proceed
		}
	}
	answer := make(chan error)
	go func() {
		_, err := f.AddCheckpoint(t.Context(), Submission{Body: fork.request(5, 7)})
		answer <- err
	}()
	<-checked
	next, _ := failNth(1, notDone) // the sync
	d.set(next)
	if _, err := f.AddCheckpoint(t.Context(), Submission{Body: l.request(5, 9)}); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	d.set(nil)
	proceed <- true
	var conflict *ConflictError
	if err := <-answer; err != nil {
		t.Errorf("request A is answered %v", err)
	}
	// B was never answered, so A may well go its own way; and B is gone for good.
	d.powerCut(cutKept)
	f.restart(d)
	if h := f.head(testOrigin); h.checkpoint != fork.checkpoint(7) {
		t.Errorf("head %+v", h.checkpoint)
	}
	if err := f.add(l, 5, 9); !errors.As(err, &conflict) || conflict.Size != 7 {
		t.Errorf("request B is answered %v", err)
	}
}

// TestRaceOfRefreshes: requests for the same checkpoint can both be answered,
// and one that loses every race gives up instead of going round for ever.
func TestRaceOfRefreshes(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 5)
	f := newFixture(t, newMemDisk())
	f.mustAdd(l, 0, 5)
	f.clock.seconds++
	losses, nested := 1, false
	f.beforeSwap = func(checkpoint.Checkpoint) {
		if nested || losses == 0 {
			return
		}
		nested = true
		losses--
		f.mustAddDirectly(l, 5, 5)
		f.clock.seconds++
		nested = false
	}
	f.mustAddDirectly(l, 5, 5)

	f.clock.seconds++
	losses = maxRaces
	if _, err := f.AddCheckpoint(t.Context(), Submission{Body: l.request(5, 5)}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%d races lost: %v", maxRaces, err)
	}
}

// TestConcurrentRequests sends every step of a log from many goroutines at once.
// Each step must be cosigned, and the sizes that are answered to one goroutine
// never go down.
func TestConcurrentRequests(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 30)
	f := newFixture(t, newMemDisk())
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range 8 {
		wg.Go(func() {
			size := int64(0)
			for size < 30 {
				err := f.add(l, size, size+1)
				var conflict *ConflictError
				switch {
				case err == nil:
					size++
				case errors.As(err, &conflict) && conflict.Size > size:
					size = conflict.Size
				default:
					errs <- fmt.Errorf("at size %d: %w", size, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if size := f.size(testOrigin); size != 30 {
		t.Errorf("head of size %d", size)
	}
}
