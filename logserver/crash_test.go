package logserver

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var discard = slog.New(slog.DiscardHandler)

var seedFlag = flag.Uint64("seed", 0, "seed of the random operation sequences, 0 for a new one")

// TestRandomOperations runs random sequences of appends of every kind, clean
// restarts and crashes that keep none, some or all of the unsynced data, and
// runs the oracle after every restart.
func TestRandomOperations(t *testing.T) {
	t.Parallel()
	randomWalks(t, 2)
}

func randomWalks(t *testing.T, runs uint64) {
	seed := testSeed(t)
	for run := range runs {
		rng := rand.New(rand.NewPCG(seed, run))
		fs := vfs.NewCrashableMem()
		w := &walk{testLog: newTestLog(t, testOptions(fs)), rng: rng, fs: fs}
		for range 60 {
			w.step()
		}
		w.check()
	}
}

// walk is one random sequence of operations.
type walk struct {
	*testLog
	rng *rand.Rand
	fs  *vfs.MemFS
}

func (w *walk) step() {
	w.t.Helper()
	switch n := w.rng.IntN(20); {
	case n < 12:
		w.append(w.rng.IntN(5) + 1)
	case n < 16:
		w.append(w.rng.IntN(600) + 1)
	case n < 18:
		w.reopen()
		w.check()
	default:
		w.crash()
	}
}

// entry makes an entry whose keys and guards often meet earlier ones.
func (w *walk) entry() Entry {
	e := Entry{Data: make([]byte, w.rng.IntN(300))}
	for i := range e.Data {
		e.Data[i] = byte(w.rng.Uint32())
	}
	if w.rng.IntN(2) == 0 {
		e.Opening = fmt.Appendf(nil, "opening %d", w.rng.IntN(1000))
	}
	if w.rng.IntN(3) == 0 {
		e.Dedup = fmt.Appendf(nil, "key %d", w.rng.IntN(len(w.data)+10))
	}
	register := fmt.Sprint("register ", w.rng.IntN(5))
	if w.rng.IntN(4) == 0 {
		want := w.registers[register]
		if w.rng.IntN(3) == 0 {
			want++
		}
		e.Guards = append(e.Guards, Guard{register, want})
	}
	if w.rng.IntN(4) == 0 {
		e.Sets = append(e.Sets, Register{register, uint64(w.rng.IntN(4))})
	}
	return e
}

func (w *walk) append(n int) {
	w.t.Helper()
	batch := make([]Entry, n)
	for i := range batch {
		batch[i] = w.entry()
	}
	results, head, err := w.AppendBatch(context.Background(), batch)
	if err != nil {
		w.t.Fatal(err)
	}
	if want := w.apply(batch); !sameResults(results, want) {
		w.t.Fatalf("results %+v, want %+v", results, want)
	}
	if head.Size != int64(len(w.data)) {
		w.t.Fatalf("head of size %d, want %d", head.Size, len(w.data))
	}
}

// crash continues on what a power cut would have left. Everything that was
// answered must be there; nothing else was in flight.
func (w *walk) crash() {
	w.t.Helper()
	percent := []int{0, 50, 100}[w.rng.IntN(3)]
	fs := w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: w.rng})
	w.close()
	w.fs, w.opts.fs = fs, fs
	w.open()
	w.check()
}

// TestCrashUnderLoad takes copies of the disk while callers append: every index
// that was returned before a copy was taken is in it, with its entry, whatever
// unsynced data the power cut kept.
func TestCrashUnderLoad(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	fs := vfs.NewCrashableMem()
	opts := testOptions(fs)
	tl := newTestLog(t, opts)
	var mu sync.Mutex
	acknowledged := map[int64]string{}
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	for c := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				data := fmt.Sprintf("%d/%d", c, i)
				e := Entry{Data: []byte(data), Opening: []byte("opens " + data), Dedup: []byte(data)}
				r, _, err := tl.Append(context.Background(), e)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged[r.Index] = data
				mu.Unlock()
			}
		})
	}
	for round := range 6 {
		eventually(t, "more entries", func() bool { return tl.Size() > int64(round*40) })
		mu.Lock()
		want := maps.Clone(acknowledged)
		mu.Unlock()
		signed, published := tl.Signed(), tl.Published()
		crashed := opts
		crashed.fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: round % 3 * 50, RNG: rng})
		l, err := Open(crashed)
		if err != nil {
			t.Fatal(err)
		}
		checkCrashed(t, l, want)
		if l.Signed().Size < signed.Size || l.Published().Size < published.Size {
			t.Errorf("signed size %d, published %d before the crash; %d and %d after", signed.Size, published.Size, l.Signed().Size, l.Published().Size)
		}
		if root, err := l.RootAt(signed.Size); err != nil || root != signed.Root {
			t.Errorf("a signed head is not in the tree after the crash: %v", err)
		}
		if err := l.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
}

// checkCrashed rebuilds a model from the entries of a log, runs the oracle, and
// compares with what was acknowledged.
func checkCrashed(t *testing.T, l *Log, acknowledged map[int64]string) {
	t.Helper()
	m := newModel()
	for data, err := range l.Entries(0, l.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		m.sequence(Entry{Data: data, Opening: []byte("opens " + string(data)), Dedup: data})
	}
	CheckLog(t, l, &m)
	for index, data := range acknowledged {
		if index >= l.Size() || string(m.data[index]) != data {
			t.Fatalf("index %d was acknowledged for %q and is lost", index, data)
		}
	}
}
