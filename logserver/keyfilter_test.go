package logserver

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestKeyFilterNeverForgets fills filters far beyond their bounds: every key that
// was added is there, and while the bound holds few others are.
func TestKeyFilterNeverForgets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bytes, keys int
		wrong       float64 // of fresh keys, at most
	}{
		{1 << 18, 75_000, 0.02},
		{1 << 18, 300_000, 1},
		{0, 10_000, 1},
		{-1, 10_000, 1},
	} {
		f := newKeyFilter(maphash.MakeSeed(), c.bytes)
		key := func(i int) uint64 { return f.hash(binary.BigEndian.AppendUint64(nil, uint64(i))) }
		for i := range c.keys {
			f.add(key(i))
		}
		for i := range c.keys {
			if !f.has(key(i)) {
				t.Fatalf("%d bytes: key %d of %d is forgotten", c.bytes, i, c.keys)
			}
		}
		if f.bytes > max(c.bytes, filterBlockBytes) {
			t.Errorf("%d bytes in use, the bound is %d", f.bytes, c.bytes)
		}
		wrong := 0
		for i := range 10_000 {
			if f.has(key(c.keys + i)) {
				wrong++
			}
		}
		if float64(wrong) > c.wrong*10_000 {
			t.Errorf("%d bytes, %d keys: %d of 10000 fresh keys are taken for others", c.bytes, c.keys, wrong)
		}
	}
}

// TestKeysDuringTheScan consumes keys before, while and after a store with keys
// is scanned: each is found at once and for ever, whoever knows of it.
func TestKeysDuringTheScan(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.setDefaults()
	if err := makeDir(opts.fs, opts.Dir); err != nil {
		t.Fatal(err)
	}
	s, err := openStore(&opts, &faults{logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	stored := 0
	c := newConditions(s, 1<<20)
	// consume makes a batch of n fresh keys and everything that came before.
	consume := func(n int) {
		t.Helper()
		b := newBatch()
		for i := range stored + n {
			b.add(&Entry{Dedup: fmt.Appendf(nil, "key %d", i)}, &Hash{})
		}
		if err := c.begin(b); err != nil {
			t.Fatal(err)
		}
		for i := range stored + n {
			r, err := c.decide(i, int64(i))
			if err != nil || r != (Result{Index: int64(i), Duplicate: i < stored}) {
				t.Fatalf("key %d of %d, warm %v: %+v, %v", i, stored, c.scan == nil, r, err)
			}
		}
		commit := s.db.NewBatch()
		if err := c.write(commit); err != nil {
			t.Fatal(err)
		}
		if err := s.commit(commit); err != nil {
			t.Fatal(err)
		}
		stored += n
	}
	consume(500)
	c = newConditions(s, 1<<20) // as when the log is opened
	it, err := s.db.NewIter(&allKeys)
	if err != nil {
		t.Fatal(err)
	}
	consume(100) // after the iterator was made, before the scan
	if c.scan == nil {
		t.Fatal("warm before the scan")
	}
	if err := c.scan.run(it, nil); err != nil {
		t.Fatal(err)
	}
	consume(100)
	if c.scan != nil {
		t.Fatal("not warm after the scan")
	}
	for _, key := range []string{"key 0", "key 499", "key 500", "key 599", "key 699"} {
		if !c.filter.has(c.filter.hash([]byte(key))) {
			t.Errorf("the filter does not know %q", key)
		}
	}
	consume(100)
}

// TestRetriesWhileWarming opens a log with keys again and sends every one at
// once, by several callers: each has its index, whatever was scanned by then.
func TestRetriesWhileWarming(t *testing.T) {
	t.Parallel()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	const keys = 3000
	var batch []Entry
	for i := range keys {
		key := fmt.Appendf(nil, "key %d", i)
		batch = append(batch, Entry{Data: key, Dedup: key})
		tl.sequence(batch[i])
	}
	if _, _, err := tl.AppendBatch(context.Background(), batch); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		tl.reopen()
		var wg sync.WaitGroup
		for c := range 4 {
			wg.Go(func() {
				for from := 0; from < keys; from += 250 {
					first := (from + c*700) % (keys - 250)
					results, _, err := tl.AppendBatch(context.Background(), batch[first:first+250])
					if err != nil {
						t.Error(err)
						return
					}
					for i, r := range results {
						if r.Index != int64(first+i) || !r.Duplicate {
							t.Errorf("key %d: %+v", first+i, r)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		if tl.Size() != keys {
			t.Fatalf("size is %d, want %d", tl.Size(), keys)
		}
	}
	tl.check()
}
