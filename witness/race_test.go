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
		_, err := f.AddCheckpoint(l.request(5, 7))
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

// TestRaceWithFailure: while A waits, B fails with unknown outcome. A must be
// checked again against what B has left on disk.
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
		_, err := f.AddCheckpoint(fork.request(5, 7))
		answer <- err
	}()
	<-checked
	d.next = failNth(2, notDone) // the directory is not synced
	if _, err := f.AddCheckpoint(l.request(5, 9)); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	d.next = nil
	proceed <- true
	var conflict *ConflictError
	if err := <-answer; !errors.As(err, &conflict) || conflict.Size != 9 {
		t.Errorf("request A is answered %v", err)
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
		f.mustAddDirectly(l.request(5, 5))
		f.clock.seconds++
		nested = false
	}
	f.mustAddDirectly(l.request(5, 5))

	f.clock.seconds++
	losses = maxRaces
	if _, err := f.AddCheckpoint(l.request(5, 5)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%d races lost: %v", maxRaces, err)
	}
}

func (f *fixture) mustAddDirectly(body []byte) {
	f.t.Helper()
	if _, err := f.AddCheckpoint(body); err != nil {
		f.t.Fatal(err)
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
				_, err := f.AddCheckpoint(l.request(size, size+1))
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
