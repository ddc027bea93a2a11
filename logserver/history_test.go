package logserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// history is what the world knows of a log: what callers asked for and were
// told, and which heads left the process. It is the reference that a log is
// compared with after each crash.
type history struct {
	mu    sync.Mutex
	calls []*call
	heads []leftHead
	first map[int64][]byte // index → what FirstPublishedCovering answered
	keys  map[string]bool  // deduplication keys ever asked for
}

// call is one call of AppendBatch.
type call struct {
	id      int
	entries []Entry
	results []Result // nil until it was answered
}

// leftHead is a head that somebody outside has seen.
type leftHead struct {
	receipt bool // signed by the receipt key, else by the log key
	size    int64
	root    Hash
}

func newHistory() *history {
	return &history{first: map[int64][]byte{}, keys: map[string]bool{}}
}

// ask registers a call before it is made, and names every entry after it: the
// data begins with the call and the place in it.
func (h *history) ask(entries []Entry) *call {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &call{id: len(h.calls), entries: entries}
	for i := range entries {
		tag := binary.BigEndian.AppendUint32(nil, uint32(c.id))
		tag = binary.BigEndian.AppendUint16(tag, uint16(i))
		entries[i].Data = append(tag, entries[i].Data...)
		if len(entries[i].Dedup) > 0 {
			h.keys[string(entries[i].Dedup)] = true
		}
	}
	h.calls = append(h.calls, c)
	return c
}

// answered registers what a call was told.
func (h *history) answered(c *call, results []Result, head Head) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.results = results
	h.heads = append(h.heads, leftHead{receipt: true, size: head.Size, root: head.Root})
}

func (h *history) left(size int64, root Hash) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heads = append(h.heads, leftHead{size: size, root: root})
}

// known is a history at one moment.
type known struct {
	calls   []*call
	results map[int][]Result
	heads   []leftHead
	first   map[int64][]byte
	keys    map[string]bool
}

func (h *history) known() *known {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := &known{results: map[int][]Result{}, heads: slices.Clone(h.heads), first: maps.Clone(h.first), keys: maps.Clone(h.keys)}
	for _, c := range h.calls {
		if c.results != nil {
			k.results[c.id] = c.results
		}
	}
	return k
}

// check is the whole-log oracle under a history: whatever calls the log holds
// are there completely, in an order that explains every answer, every entry is
// what was asked for, every answered call is there, and every head that left is
// a head of this tree and not ahead of what the log remembers having signed.
// Calls that were asked for after k was taken may be there as well.
func (h *history) check(t testing.TB, l *Log, k *known) {
	t.Helper()
	h.mu.Lock()
	k.calls = slices.Clone(h.calls)
	h.mu.Unlock()
	m := k.replay(t, l)
	CheckLog(t, l, m)
	for key := range k.keys {
		if _, there := m.dedup[key]; there {
			continue // compared by CheckLog
		}
		if index, err := dedupIndex(l, key); err != nil || index >= 0 {
			t.Fatalf("deduplication key %q is at %d, %v, though nothing was sequenced with it", key, index, err)
		}
	}
	for _, head := range k.heads {
		want := emptyRoot
		if head.size > int64(len(m.data)) {
			t.Fatalf("a head of size %d has left, the tree has %d", head.size, len(m.data))
		}
		if head.size > 0 {
			want = m.root(t, head.size)
		}
		if head.root != want {
			t.Fatalf("the head of size %d that left is not of this tree", head.size)
		}
		if !head.receipt && head.size > l.Signed().Size {
			t.Fatalf("the log remembers having signed size %d, a head of size %d has left", l.Signed().Size, head.size)
		}
	}
	for index, want := range k.first {
		if got, err := l.FirstPublishedCovering(index); err != nil || !bytes.Equal(got.Note, want) {
			t.Fatalf("the first checkpoint covering %d has changed: %v", index, err)
		}
	}
}

// replay finds the calls that the log holds, in its order, and applies each to
// a new model.
func (k *known) replay(t testing.TB, l *Log) *model {
	t.Helper()
	var stored [][]byte
	for data, err := range l.Entries(0, l.Size()) {
		if err != nil {
			t.Fatalf("reading entry %d: %v", len(stored), err)
		}
		stored = append(stored, data)
	}
	m := newModel()
	replayed := map[int]bool{}
	for len(m.data) < len(stored) {
		at := len(m.data)
		id := int(binary.BigEndian.Uint32(stored[at]))
		if id >= len(k.calls) || replayed[id] {
			t.Fatalf("entry %d, %.20x, is of a call that nobody made, or was torn apart", at, stored[at])
		}
		replayed[id] = true
		c := k.calls[id]
		results := m.apply(c.entries)
		if len(m.data) == at || len(m.data) > len(stored) {
			t.Fatalf("call %d holds entry %d, but should have %d fresh entries; the log has %d", id, at, len(m.data)-at, len(stored))
		}
		for i := at; i < len(m.data); i++ {
			if !bytes.Equal(m.data[i], stored[i]) {
				t.Fatalf("entry %d is %.20x, want %.20x of call %d", i, stored[i], m.data[i], id)
			}
		}
		if told := k.results[id]; told != nil && !sameResults(told, results) {
			t.Fatalf("call %d was told %+v, the log holds %+v", id, told, results)
		}
	}
	for id, told := range k.results {
		for i, r := range told {
			switch {
			case r.Err != nil:
			case !r.Duplicate && !replayed[id]:
				t.Fatalf("entry %d of call %d was answered with index %d and is lost", i, id, r.Index)
			case r.Duplicate && m.dedup[string(k.calls[id].entries[i].Dedup)] != r.Index:
				t.Fatalf("entry %d of call %d was answered with the index %d of an earlier one, which is lost", i, id, r.Index)
			}
		}
	}
	return &m
}

// world is a log with its callers and witnesses on a file system of its own, all
// in one process and without a network.
type world struct {
	t testing.TB
	*history
	opts      Options                 // without a file system
	witnesses map[string]*fakeWitness // by host name
}

// newWorld returns a world in which both of two witnesses must cosign.
func newWorld(t testing.TB) *world {
	w := &world{t: t, history: newHistory(), opts: testOptions(nil), witnesses: map[string]*fakeWitness{}}
	w.opts.tune = smallTables
	w.opts.Transport = w
	signer, err := newHeadSigner(w.opts.Origin, w.opts.Origin, w.opts.Key)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("log %s\n", signer.vkey)
	for _, seed := range []byte{11, 12} {
		f := &fakeWitness{t: t, name: fmt.Sprintf("w%d", seed), log: signer.keys}
		f.mu.seen.Root = emptyRoot
		if f.cosigner, err = checkpoint.NewEd25519Cosigner("witness.example/"+f.name, testKey(seed)); err != nil {
			t.Fatal(err)
		}
		w.witnesses[f.name] = f
		text += fmt.Sprintf("witness %s %s http://%s/\n", f.name, f.cosigner.Key().Vkey(), f.name)
	}
	if w.opts.Policy, err = checkpoint.ParsePolicy([]byte(text + "group g all w11 w12\nquorum g\n")); err != nil {
		t.Fatal(err)
	}
	return w
}

// smallTables makes Pebble rotate, flush and compact within a few dozen calls.
func smallTables(o *pebble.Options) {
	quietOpening(o)
	o.MemTableSize = 64 << 10
	o.L0CompactionThreshold = 2
	o.LBaseMaxBytes = 64 << 10
	o.MaxManifestFileSize = 4 << 10
	for i := range o.TargetFileSizes {
		o.TargetFileSizes[i] = 32 << 10
	}
}

// quietOpening keeps Pebble from compacting until the log has been opened, and from
// reading the statistics of tables, which begins with a flush: it panics on goroutines
// of its own when opening fails while it does either. The process would be ending with
// the error of Open then, but a test goes on. Without statistics deletions count less
// when Pebble chooses what to compact.
func quietOpening(o *pebble.Options) {
	o.DisableTableStats = true
	o.Experimental.CompactionScheduler = gatedScheduler{
		CompactionScheduler: pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest(),
		open:                &o.Logger.(*faults).running,
	}
}

type gatedScheduler struct {
	pebble.CompactionScheduler
	open *atomic.Bool
}

func (s gatedScheduler) Register(n int, db pebble.DBForCompaction) {
	s.CompactionScheduler.Register(n, gatedDB{db, s.open})
}

// UpdateGetAllowedWithoutPermission is called after each flush, with locks held. What
// was kept from compacting waits to be granted that, and is when something else ends.
func (s gatedScheduler) UpdateGetAllowedWithoutPermission() {
	s.CompactionScheduler.UpdateGetAllowedWithoutPermission()
	go func() {
		if ok, ended := s.TrySchedule(); ok {
			ended.Done()
		}
	}()
}

type gatedDB struct {
	pebble.DBForCompaction
	open *atomic.Bool
}

func (d gatedDB) GetAllowedWithoutPermission() int {
	if !d.open.Load() {
		return 0
	}
	return d.DBForCompaction.GetAllowedWithoutPermission()
}

// RoundTrip implements http.RoundTripper: a submission has left the process when
// it gets here.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	f := w.witnesses[r.URL.Host]
	request, err := checkpoint.ParseAddRequest(body)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint.Open(request.Checkpoint, w.opts.Origin, f.log)
	if err != nil {
		return nil, err
	}
	w.left(c.Size, c.Root)
	inner, err := http.NewRequestWithContext(r.Context(), r.Method, r.URL.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer := httptest.NewRecorder()
	f.ServeHTTP(answer, inner)
	return answer.Result(), nil
}

// reader returns the options with which the disk of another moment is looked
// at: nobody outside hears of it, and nothing new is signed.
func (w *world) reader(fs vfs.FS) Options {
	o := w.opts
	o.fs, o.Policy, o.Transport, o.HoldWitness, o.MinInterval = fs, nil, nil, true, time.Hour
	return o
}

// someEntries makes n entries whose keys and guards often meet earlier ones.
func someEntries(rng *rand.Rand, n, maxSize int) []Entry {
	out := make([]Entry, n)
	for i := range out {
		e := &out[i]
		e.Data = make([]byte, rng.IntN(maxSize))
		if rng.IntN(2) == 0 {
			e.Opening = fmt.Appendf(nil, "opening %d", rng.IntN(1000))
		}
		if rng.IntN(3) == 0 {
			e.Dedup = fmt.Appendf(nil, "key %d", rng.IntN(60))
		}
		register := fmt.Sprint("register ", rng.IntN(5))
		if rng.IntN(5) == 0 {
			e.Guards = append(e.Guards, Guard{register, uint64(rng.IntN(2))})
		}
		if rng.IntN(4) == 0 {
			e.Sets = append(e.Sets, Register{register, uint64(rng.IntN(3))})
		}
	}
	return out
}
