package logserver

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The crash model. A log with its sequencer, publisher, callers and witnesses
// runs on a file system in memory whose every operation is numbered. After an
// operation the power is cut: the disk is cloned with none, half (block by
// block, at random) or all of what was not synced, the clone is opened as after
// a restart, and the oracle compares it with what the world had been told.
// All of it kept is also what kill -9 leaves.

// life is one process of a log in a world: from its start on a disk to its end.
type life struct {
	*world
	rng  *rand.Rand
	opts Options
	mem  *vfs.MemFS
	fs   *opFS
	log  *Log
	// created is set when Create has returned: from then on the store opens.
	created *atomic.Bool
}

// testSeed returns the seed of a random test, and prints how to run it again.
func testSeed(t testing.TB) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("go test -run '^%s$' -seed %d", t.Name(), seed)
	return seed
}

// percents are the shares of unsynced data that a power cut may keep.
var percents = []int{0, 50, 100}

// newLife returns a process that has not begun.
func newLife(w *world, rng *rand.Rand, disk *vfs.MemFS, created *atomic.Bool) *life {
	l := &life{world: w, rng: rng, opts: w.opts, mem: disk, fs: &opFS{FS: disk}, created: created}
	l.opts.fs = l.fs
	return l
}

// cut clones the disk as a power cut would leave it and checks what a restart
// finds. It may be called on any goroutine.
func (l *life) cut(percent int, seed uint64) {
	created, known := l.created.Load(), l.known() // before the clone is taken
	clone := crashClone(l.mem, percent, seed)
	checked := make(chan struct{})
	go func() { // the test's own helpers may end the goroutine
		defer close(checked)
		l.restart(clone, created, known)
	}()
	<-checked
}

func crashClone(disk *vfs.MemFS, percent int, seed uint64) *vfs.MemFS {
	return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 7))})
}

// restart opens a disk and checks it. What holds no log yet can be made one.
func (w *world) restart(disk *vfs.MemFS, created bool, known *known) {
	opts := w.reader(disk)
	l, err := Open(opts)
	if !created && errors.Is(err, ErrNotFound) {
		if err := Create(opts); err != nil {
			w.t.Errorf("creating again after a crash: %v", err)
			return
		}
		l, err = Open(opts)
	}
	if err != nil {
		w.t.Errorf("opening after a crash: %v", err)
		return
	}
	defer func() {
		if err := l.Close(context.Background()); err != nil {
			w.t.Errorf("closing after a crash: %v", err)
		}
	}()
	w.check(w.t, l, known)
}

// open creates the log if need be and opens it with its witnesses.
func (l *life) open(ctx context.Context) (err error) {
	if !l.created.Load() {
		if err := Create(l.opts); err != nil && !errors.Is(err, ErrExists) {
			return err
		}
		l.created.Store(true)
	}
	if l.log, err = Open(l.opts); err != nil {
		return err
	}
	return l.log.Ready(ctx)
}

// call makes one call and registers its answer. The error is of the log itself:
// what happened to the entries is then unknown.
func (l *life) call(ctx context.Context, entries []Entry) error {
	c := l.ask(entries)
	results, head, err := l.log.AppendBatch(ctx, entries)
	if err == nil {
		l.answered(c, results, head)
	}
	return err
}

// step makes a random step: a call of any kind, callers at once, a wait for the
// witnesses, or a clean restart.
func (l *life) step(ctx context.Context) error {
	switch n := l.rng.IntN(20); {
	case n < 6:
		return l.call(ctx, someEntries(l.rng, 1, 200))
	case n < 12:
		return l.call(ctx, someEntries(l.rng, 1+l.rng.IntN(40), 100))
	case n < 13:
		return l.call(ctx, someEntries(l.rng, 1, MaxEntrySize-10))
	case n < 16:
		return l.crowd(ctx)
	case n < 19:
		return l.published(ctx)
	}
	if err := l.log.Close(ctx); err != nil {
		return err
	}
	return l.open(ctx)
}

// crowd lets callers meet in the queue.
func (l *life) crowd(ctx context.Context) error {
	var wg sync.WaitGroup
	var errs [4]error
	for i := range errs {
		a, b := someEntries(l.rng, 1+l.rng.IntN(3), 50), someEntries(l.rng, 1, 50)
		wg.Go(func() {
			errs[i] = errors.Join(l.call(ctx, a), l.call(ctx, b))
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// published waits until everything is witnessed, and remembers a first covering
// checkpoint.
func (l *life) published(ctx context.Context) error {
	size := l.log.Size()
	if err := l.log.Wait(ctx, size); err != nil || size == 0 {
		return err
	}
	index := l.rng.Int64N(size)
	first, err := l.log.FirstPublishedCovering(index)
	if err != nil {
		return err
	}
	l.history.mu.Lock()
	defer l.history.mu.Unlock()
	l.first[index] = first.Note
	return nil
}

// run is the whole life: steps, and a clean end.
func (l *life) run(ctx context.Context, steps int) error {
	if err := l.open(ctx); err != nil {
		return err
	}
	for range steps {
		if err := l.step(ctx); err != nil {
			return err
		}
		if l.t.Failed() {
			break
		}
	}
	return l.log.Close(ctx)
}

// crashes runs steps and cuts the power after the operations that pick chooses.
func crashes(t *testing.T, seed uint64, steps int, pick func(*rand.Rand) []int) {
	l := newLife(newWorld(t), rand.New(rand.NewPCG(seed, 1)), vfs.NewCrashableMem(), new(atomic.Bool))
	var mu sync.Mutex // one clone at a time, of operations of any goroutine
	picks := rand.New(rand.NewPCG(seed, 2))
	cuts := 0
	l.fs.after = func(op fsOp) {
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range pick(picks) {
			cuts++
			if l.cut(percent, seed+uint64(op.number)); t.Failed() {
				t.Errorf("… after %v, %d %% of unsynced data kept", op, percent)
			}
		}
	}
	if err := l.run(context.Background(), steps); err != nil {
		t.Fatal(err)
	}
	l.restart(l.mem, true, l.known())
	t.Logf("%d operations, %d power cuts, %d calls, %d heads left", l.fs.count.Load(), cuts, len(l.calls), len(l.heads))
}

// TestCrashModel is promise 1 and 2: an index that was returned is durable with
// its data, what was not answered is there completely or not at all, and no head
// that left is contradicted, whatever operation the power is cut after.
func TestCrashModel(t *testing.T) {
	t.Parallel()
	seed := testSeed(t)
	crashes(t, seed, 25, func(rng *rand.Rand) []int {
		if rng.IntN(4) > 0 {
			return nil
		}
		return percents[rng.IntN(3):][:1]
	})
}
