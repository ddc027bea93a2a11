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

// modelRun is one random sequence of calls in a world whose disk is looked at
// after the operations that pick chooses.
type modelRun struct {
	*world
	mem *vfs.MemFS
	fs  *opFS
	log *Log
	// created is set when Create has returned: from then on the store opens.
	created atomic.Bool
	clones  int
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

func newModelRun(t testing.TB, rng *rand.Rand) *modelRun {
	mem := vfs.NewCrashableMem()
	fs := &opFS{FS: mem}
	return &modelRun{world: newWorld(t, rng, fs), mem: mem, fs: fs}
}

// cut cuts the power and checks what a restart finds. It may be called on any
// goroutine, and must not return before the clone has been taken.
func (r *modelRun) cut(percent int, seed uint64) {
	created := r.created.Load() // before the clone is taken, as what is known
	known := r.known()
	clone := r.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 7))})
	r.clones++
	checked := make(chan struct{})
	go func() { // the test's own helpers may end the goroutine
		defer close(checked)
		r.restart(clone, created, known)
	}()
	<-checked
}

// restart opens a disk and checks it. What holds no log yet can be made one.
func (r *modelRun) restart(disk *vfs.MemFS, created bool, known *known) {
	opts := r.reader(&opFS{FS: disk})
	l, err := Open(opts)
	if !created && errors.Is(err, ErrNotFound) {
		if err := Create(opts); err != nil {
			r.t.Errorf("creating again after a crash: %v", err)
			return
		}
		l, err = Open(opts)
	}
	if err != nil {
		r.t.Errorf("opening after a crash: %v", err)
		return
	}
	defer func() {
		if err := l.Close(context.Background()); err != nil {
			r.t.Errorf("closing after a crash: %v", err)
		}
	}()
	r.check(r.t, l, known)
}

// open creates the log if need be and opens it with its witnesses.
func (r *modelRun) open() {
	r.t.Helper()
	if !r.created.Load() {
		if err := Create(r.opts); err != nil {
			r.t.Fatal(err)
		}
		r.created.Store(true)
	}
	l, err := Open(r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.log = l
	if err := l.Ready(within(r.t)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *modelRun) close() {
	r.t.Helper()
	if err := r.log.Close(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}

// call makes one call and registers its answer. The error is of the log itself:
// what happened to the entries is then unknown.
func (r *modelRun) call(ctx context.Context, entries []Entry, atomic bool) error {
	c := r.ask(entries, atomic)
	do := r.log.AppendBatch
	if atomic {
		do = r.log.AppendAtomic
	}
	results, head, err := do(ctx, entries)
	if err == nil {
		r.answered(c, results, head)
	}
	return err
}

// step makes a random step: a call of any kind, callers at once, a wait for the
// witnesses, or a clean restart.
func (r *modelRun) step(ctx context.Context) error {
	switch n := r.rng.IntN(20); {
	case n < 6:
		return r.call(ctx, r.entries(1, 200), false)
	case n < 9:
		return r.call(ctx, r.entries(1+r.rng.IntN(40), 100), false)
	case n < 12:
		return r.call(ctx, r.entries(1+r.rng.IntN(4), 200), true)
	case n < 13:
		return r.call(ctx, r.entries(1, MaxEntrySize-10), false)
	case n < 16:
		return r.crowd(ctx)
	case n < 19:
		return r.published(ctx)
	}
	r.close()
	r.open()
	return nil
}

// crowd lets callers meet in the queue.
func (r *modelRun) crowd(ctx context.Context) error {
	var wg sync.WaitGroup
	var errs [4]error
	for i := range errs {
		a, b := r.entries(1+r.rng.IntN(3), 50), r.entries(1, 50)
		atomic := r.rng.IntN(2) == 0
		wg.Go(func() {
			errs[i] = errors.Join(r.call(ctx, a, atomic), r.call(ctx, b, false))
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// published waits until everything is witnessed, and remembers a first covering
// checkpoint.
func (r *modelRun) published(ctx context.Context) error {
	size := r.log.Size()
	if err := r.log.Wait(ctx, size); err != nil || size == 0 {
		return err
	}
	index := r.rng.Int64N(size)
	first, err := r.log.FirstPublishedCovering(index)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.first[index] = first.Note
	return nil
}

// crashes runs steps and cuts the power after the operations that pick chooses.
func crashes(t *testing.T, seed uint64, steps int, pick func(*rand.Rand) []int) {
	r := newModelRun(t, rand.New(rand.NewPCG(seed, 1)))
	var mu sync.Mutex // one clone at a time, of operations of any goroutine
	picks := rand.New(rand.NewPCG(seed, 2))
	r.fs.after = func(op fsOp) {
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range pick(picks) {
			if r.cut(percent, seed+uint64(op.number)); t.Failed() {
				t.Errorf("… after %v, %d %% of unsynced data kept", op, percent)
			}
		}
	}
	r.open()
	for range steps {
		if err := r.step(within(t)); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			break
		}
	}
	r.close()
	r.restart(r.mem, true, r.known())
	t.Logf("%d operations, %d power cuts, %d calls, %d heads left", r.fs.count.Load(), r.clones, len(r.calls), len(r.heads))
}

// TestCrashModel is promise 1 and 2: an index that was returned is durable with
// its data, what was not answered is there completely or not at all, and no head
// that left is contradicted, whatever operation the power is cut after.
func TestCrashModel(t *testing.T) {
	seed := testSeed(t)
	crashes(t, seed, 25, func(rng *rand.Rand) []int {
		if rng.IntN(4) > 0 {
			return nil
		}
		return percents[rng.IntN(3):][:1]
	})
}
