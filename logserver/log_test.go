package logserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestSizes(t *testing.T) {
	t.Parallel()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.check()
	for range 20 {
		tl.add(tl.nextEntry())
		tl.check()
	}
	for _, size := range []int{255, 256, 257, 511, 512, 1000, 3000, 66000} {
		tl.addN(size - len(tl.data))
		tl.check()
		tl.reopen()
		tl.check()
	}
}

func TestSingleAppendsRollUp(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	for range 600 {
		tl.add(tl.nextEntry())
	}
	tl.check()
	tl.reopen()
	tl.check()
	// Full tiles and bundles are one run each; what they replaced is gone.
	runs := 0
	err := tl.store.scan([]byte{kindEntry}, indexKey(kindEntry, 512), func(_, run []byte) error {
		runs++
		if ends, err := frameEnds(run); err != nil || len(ends) != TileWidth {
			t.Errorf("run of %d entries, %v", len(ends), err)
		}
		return nil
	})
	if err != nil || runs != 2 {
		t.Errorf("%d runs, %v; want 2", runs, err)
	}
}

func TestLargeEntriesStayRuns(t *testing.T) {
	t.Parallel()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	for i := range TileWidth + 3 {
		data := bytes.Repeat([]byte{byte(i)}, MaxEntrySize)
		if i%2 == 0 {
			data = nil
		}
		tl.add(Entry{Data: data})
	}
	tl.check()
	tl.reopen()
	tl.check()
}

func TestConcurrentAppends(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	const callers, each = 32, 50
	var mu sync.Mutex
	byIndex := map[int64]Entry{}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				e := Entry{Data: fmt.Appendf(nil, "%d/%d", c, i)}
				r, h, err := tl.Append(context.Background(), e)
				if err != nil || h.Size <= r.Index {
					t.Errorf("append: %+v under head %d, %v", r, h.Size, err)
					return
				}
				mu.Lock()
				byIndex[r.Index] = e
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(byIndex) != callers*each {
		t.Fatalf("%d distinct indexes, want %d", len(byIndex), callers*each)
	}
	for i := range int64(callers * each) {
		tl.sequence(byIndex[i])
	}
	tl.check()
}

func TestDedup(t *testing.T) {
	ctx := context.Background()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	e := Entry{Data: []byte("a"), Dedup: []byte("key"), Guards: []Guard{{"r", 0}}, Sets: []Register{{"r", 7}}}
	tl.add(e)
	for range 2 {
		// A duplicate is answered though its guard no longer holds.
		r, h, err := tl.Append(ctx, e)
		if err != nil || r.Index != 0 || !r.Duplicate || h.Size != 1 {
			t.Fatalf("duplicate: %+v, head %d, %v", r, h.Size, err)
		}
		tl.reopen()
	}
	// Within one batch, too.
	results, _, err := tl.AppendBatch(ctx, []Entry{
		{Data: []byte("b"), Dedup: []byte("k2")}, {Data: []byte("c"), Dedup: []byte("k2")},
		{Data: []byte("d"), Dedup: []byte("key")}, {Data: []byte("e")},
	})
	want := []Result{{Index: 1}, {Index: 1, Duplicate: true}, {Index: 0, Duplicate: true}, {Index: 2}}
	if err != nil || fmt.Sprint(results) != fmt.Sprint(want) {
		t.Fatalf("batch: %v, %v; want %v", results, err, want)
	}
	tl.sequence(Entry{Data: []byte("b"), Dedup: []byte("k2")})
	tl.sequence(Entry{Data: []byte("e")})
	tl.check()
}

func TestGuards(t *testing.T) {
	ctx := context.Background()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	set := func(v uint64, guard uint64) Entry {
		return Entry{Data: fmt.Appendf(nil, "set %d", v), Guards: []Guard{{"epoch", guard}}, Sets: []Register{{"epoch", v}}}
	}
	tl.add(set(1, 0), set(2, 1))

	refused := set(3, 1)
	refused.Dedup = []byte("pin")
	r, _, err := tl.Append(ctx, refused)
	var g *GuardError
	if !errors.As(err, &g) || !errors.Is(err, ErrGuard) || r.Index != -1 || *g != (GuardError{"epoch", 1, 2}) {
		t.Fatalf("stale guard: %+v, %v", r, err)
	}
	tl.check() // nothing sequenced
	// Its deduplication key is free.
	tl.add(Entry{Data: []byte("again"), Dedup: []byte("pin"), Guards: []Guard{{"epoch", 2}}})

	// Entries ahead in the same batch count, each entry for itself.
	results, _, err := tl.AppendBatch(ctx, []Entry{set(3, 2), set(4, 2), set(4, 3), set(0, 4), set(9, 0)})
	if err != nil {
		t.Fatal(err)
	}
	for i, wantErr := range []error{nil, ErrGuard, nil, nil, nil} {
		if !errors.Is(results[i].Err, wantErr) {
			t.Errorf("entry %d of the batch: %v, want %v", i, results[i].Err, wantErr)
		}
	}
	for _, e := range []Entry{set(3, 2), set(4, 3), set(0, 4), set(9, 0)} {
		tl.sequence(e)
	}
	tl.check()
	tl.reopen()
	tl.check()
}

func TestPushback(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.QueueEntries, opts.QueueBytes = 4, 100
	q := newQueue(opts.QueueEntries, opts.QueueBytes)
	entries := func(n, size int) []Entry {
		return make([]Entry, n, n+size)[:n:n]
	}
	if _, _, err := q.join(entries(6, 0), make([]Hash, 6), nil); err != nil {
		t.Fatalf("a batch beyond the bound on an empty queue: %v", err)
	}
	if _, _, err := q.join(entries(1, 0), make([]Hash, 1), nil); !errors.Is(err, ErrPushback) {
		t.Fatalf("queue takes more than its bound: %v", err)
	}
	take := func() *batch {
		if !q.await() {
			return nil
		}
		b, _ := q.take()
		return b
	}
	q.release(take())
	big := []Entry{{Data: make([]byte, 90)}}
	if _, _, err := q.join(big, make([]Hash, 1), nil); err != nil {
		t.Fatal(err)
	}
	if _, first, err := q.join([]Entry{{Data: make([]byte, 10)}}, make([]Hash, 1), nil); err != nil || first != 1 {
		t.Fatal(first, err)
	}
	if _, _, err := q.join([]Entry{{Opening: []byte{1}}}, make([]Hash, 1), nil); !errors.Is(err, ErrPushback) {
		t.Fatalf("queue takes more bytes than its bound: %v", err)
	}
	q.shut()
	if _, _, err := q.join(big, make([]Hash, 1), nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("join after shut: %v", err)
	}
	if b := take(); b == nil || len(b.entries) != 2 {
		t.Fatal("what was queued before shut is lost")
	}
	if b := take(); b != nil {
		t.Fatal("shut queue gives more")
	}
}

func TestBounds(t *testing.T) {
	ctx := context.Background()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	many := make([]Guard, MaxConditions+1)
	for name, e := range map[string]Entry{
		"entry":        {Data: make([]byte, MaxEntrySize+1)},
		"opening":      {Opening: make([]byte, MaxOpeningSize+1)},
		"dedup":        {Dedup: make([]byte, MaxDedupSize+1)},
		"guards":       {Guards: many},
		"sets":         {Sets: make([]Register, MaxConditions+1)},
		"guard key":    {Guards: []Guard{{"", 1}}},
		"register key": {Sets: []Register{{string(make([]byte, MaxKeySize+1)), 1}}},
	} {
		if r, _, err := tl.Append(ctx, e); !errors.Is(err, ErrInvalid) || r.Index != -1 {
			t.Errorf("%s out of bounds: %+v, %v", name, r, err)
		}
	}
	for _, n := range []int{0, MaxBatch + 1} {
		if _, _, err := tl.AppendBatch(ctx, make([]Entry, n)); !errors.Is(err, ErrInvalid) {
			t.Errorf("batch of %d: %v", n, err)
		}
	}
	tl.check()
}

func TestReadsBeyondTheTree(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.addN(300)
	for name, read := range map[string]func() error{
		"entry":         func() error { _, err := tl.EntryAt(300); return err },
		"entry -1":      func() error { _, err := tl.EntryAt(-1); return err },
		"tile width":    func() error { _, err := tl.Tile(0, 1, 45); return err },
		"tile number":   func() error { _, err := tl.Tile(0, 1<<55, 1); return err },
		"tile level":    func() error { _, err := tl.Tile(63, 0, 1); return err },
		"tile negative": func() error { _, err := tl.Tile(0, -1, 1); return err },
		"level 1":       func() error { _, err := tl.Tile(1, 0, 2); return err },
		"bundle":        func() error { _, err := tl.Bundle(1, 45); return err },
		"bundle number": func() error { _, err := tl.Bundle(1<<55, 1); return err },
		"root":          func() error { _, err := tl.RootAt(301); return err },
		"inclusion":     func() error { _, err := tl.InclusionProof(300, 300); return err },
		"in too large":  func() error { _, err := tl.InclusionProof(0, 301); return err },
		"consistency":   func() error { _, err := tl.ConsistencyProof(2, 301); return err },
		"inverted":      func() error { _, err := tl.ConsistencyProof(3, 2); return err },
		"entries":       func() error { return firstError(tl.Entries(299, 301)) },
		"openings":      func() error { return firstError(tl.Openings(299, 301)) },
		"openings -1":   func() error { return firstError(tl.Openings(-1, 1)) },
	} {
		if err := read(); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// firstError reads to the end, or to an error.
func firstError(read iter.Seq2[[]byte, error]) error {
	for _, err := range read {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestCancelledWait(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// Either outcome is allowed, but the entry is not half there.
	_, _, err := tl.Append(ctx, Entry{Data: []byte("x"), Dedup: []byte("x")})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r, _, err := tl.Append(context.Background(), Entry{Data: []byte("x"), Dedup: []byte("x")})
	if err != nil || r.Index != 0 {
		t.Fatal(r, err)
	}
}
