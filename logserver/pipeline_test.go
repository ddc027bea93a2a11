package logserver

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// gateFS holds back the syncs of write-ahead logs while its gate is closed.
type gateFS struct {
	vfs.FS
	gate *gate
}

// gate blocks whoever passes while it is shut.
type gate struct{ sync.RWMutex }

func (g *gate) pass() {
	g.RLock()
	defer g.RUnlock()
}

func (fs gateFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.Create(name, category)
	return fs.file(name, f), err
}

func (fs gateFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := fs.FS.ReuseForWrite(oldname, newname, category)
	return fs.file(newname, f), err
}

func (fs gateFS) file(name string, f vfs.File) vfs.File {
	if f == nil || !strings.HasSuffix(name, ".log") {
		return f
	}
	return gateFile{f, fs.gate}
}

type gateFile struct {
	vfs.File
	gate *gate
}

func (f gateFile) Sync() error     { f.gate.pass(); return f.File.Sync() }
func (f gateFile) SyncData() error { f.gate.pass(); return f.File.SyncData() }
func (f gateFile) SyncTo(n int64) (bool, error) {
	f.gate.pass()
	return f.File.SyncTo(n)
}

// gatedLog is a log whose groups become durable only while the gate is open.
// Rounds are held back, so that nothing but groups is synced.
type gatedLog struct {
	*testLog
	mem  *vfs.MemFS
	gate gate
}

func newGatedLog(t *testing.T, durable func() error) *gatedLog {
	t.Helper()
	g := &gatedLog{mem: vfs.NewCrashableMem()}
	opts := testOptions(gateFS{g.mem, &g.gate})
	opts.HoldWitness, opts.DiskReserve, opts.durable = true, -1, durable
	opts.overlap = 1
	g.testLog = newTestLog(t, opts)
	return g
}

// appended is what an append returned.
type appended struct {
	result Result
	head   Head
	err    error
}

// start appends in the background and returns when the entry has left the queue.
func (g *gatedLog) start(e Entry) <-chan appended {
	g.t.Helper()
	done := make(chan appended, 1)
	joined := g.joined()
	go func() {
		r, h, err := g.Append(context.Background(), e)
		done <- appended{r, h, err}
	}()
	eventually(g.t, "the sequencer takes the entry", func() bool { return g.joined() > joined })
	return done
}

// joined counts the batches that the sequencer has taken.
func (g *gatedLog) joined() int64 { return g.queue.taken.Load() }

func (g *gatedLog) applies(size int64) {
	g.t.Helper()
	eventually(g.t, "the group is applied", func() bool { return g.applied.Load() == size })
}

// unanswered makes sure that no append has returned.
func unanswered(t *testing.T, appends ...<-chan appended) {
	t.Helper()
	for i, a := range appends {
		select {
		case got := <-a:
			t.Fatalf("append %d was answered before its sync: %+v", i, got)
		default:
		}
	}
}

// durable opens what a power cut would leave now, without anything unsynced.
func (g *gatedLog) durable(look func(*Log)) {
	g.t.Helper()
	opts := g.opts
	opts.fs = g.mem.CrashClone(vfs.CrashCloneCfg{})
	l, err := Open(opts)
	if err != nil {
		g.t.Fatal(err)
	}
	look(l)
	if err := l.Close(context.Background()); err != nil {
		g.t.Fatal(err)
	}
}

// TestNothingLeavesBeforeItsSync applies groups whose syncs hang: no caller has
// an answer, no reader sees an entry, a deduplication key or a register, and a
// duplicate and a refused guard wait for the entries that they are about.
func TestNothingLeavesBeforeItsSync(t *testing.T) {
	g := newGatedLog(t, nil)
	g.gate.Lock()
	e := Entry{Data: []byte("a"), Opening: []byte("o"), Dedup: []byte("key"), Sets: []Register{{"r", 7}}}
	first := g.start(e)
	g.applies(1)
	duplicate := g.start(e)
	refused := g.start(Entry{Data: []byte("b"), Guards: []Guard{{"r", 0}}})

	register := make(chan uint64, 1)
	go func() {
		v, err := g.Register("r")
		if err != nil {
			t.Error(err)
		}
		register <- v
	}()
	if _, err := g.EntryAt(0); !errors.Is(err, ErrNotFound) || g.Size() != 0 {
		t.Errorf("an entry can be read before its sync: %v, size %d", err, g.Size())
	}
	if err := firstError(g.Openings(0, 1)); !errors.Is(err, ErrNotFound) {
		t.Errorf("an opening can be read before its sync: %v", err)
	}
	if head, err := g.Head(); err != nil || head.Size != 0 {
		t.Errorf("a head is signed before its sync: %+v, %v", head, err)
	}
	select {
	case v := <-register:
		t.Errorf("register is %d before its sync", v)
	default:
	}
	unanswered(t, first, duplicate, refused)
	g.gate.Unlock()

	got := <-duplicate // before the first is looked at
	g.durable(func(l *Log) {
		if index, err := dedupIndex(l, "key"); index != 0 || err != nil {
			t.Errorf("a duplicate was answered before its entry was durable: %v", err)
		}
	})
	if got.err != nil || got.result.Index != 0 || !got.result.Duplicate || got.head.Size != 1 {
		t.Errorf("duplicate: %+v", got)
	}
	if got := <-first; got.err != nil || got.result != (Result{Index: 0}) || got.head.Size != 1 {
		t.Errorf("entry: %+v", got)
	}
	if got := <-refused; !errors.Is(got.err, ErrGuard) {
		t.Errorf("stale guard: %+v", got)
	}
	if v := <-register; v != 7 {
		t.Errorf("register is %d, want 7", v)
	}
	g.sequence(e)
	g.check()
}

// TestCrashWithGroupsInFlight cuts the power while several groups wait for their
// syncs: what is left is the groups up to one of them, and nothing that was
// answered is missing.
func TestCrashWithGroupsInFlight(t *testing.T) {
	for _, percent := range []int{0, 50, 100} {
		g := newGatedLog(t, nil)
		g.add(Entry{Data: []byte("durable"), Dedup: []byte("durable")})
		g.gate.Lock()
		var appends []<-chan appended
		for i := range 3 {
			data := []byte{'a' + byte(i)}
			appends = append(appends, g.start(Entry{Data: data, Dedup: data}))
		}
		g.applies(4)
		unanswered(t, appends...)
		opts := g.opts
		opts.fs = g.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(1, 2))})
		g.gate.Unlock()
		for i, a := range appends {
			if got := <-a; got.err != nil || got.result.Index != int64(i+1) {
				t.Errorf("append %d: %+v", i, got)
			}
		}

		l, err := Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		if l.Size() < 1 {
			t.Fatal("an answered entry is lost")
		}
		m := newModel()
		for data, err := range l.Entries(0, l.Size()) {
			if err != nil {
				t.Fatal(err)
			}
			m.sequence(Entry{Data: data, Dedup: data})
		}
		if got := string(m.data[0]); got != "durable" || l.Size() > 1 && string(m.data[1]) != "a" {
			t.Errorf("the log begins with %q", m.data)
		}
		CheckLog(t, l, &m)
		if err := l.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFailureWithGroupsInFlight fails a group when others are applied behind it:
// all of them fail, nothing is written after them, and opening the log again
// finds each whole.
func TestFailureWithGroupsInFlight(t *testing.T) {
	var broken atomic.Bool
	g := newGatedLog(t, func() error {
		if broken.Load() {
			return errors.New("broken")
		}
		return nil
	})
	g.gate.Lock()
	broken.Store(true)
	var appends []<-chan appended
	for i := range 3 {
		appends = append(appends, g.start(Entry{Data: []byte{'a' + byte(i)}}))
	}
	g.applies(3)
	unanswered(t, appends...)
	g.gate.Unlock()
	for i, a := range appends {
		if got := <-a; !errors.Is(got.err, ErrReload) {
			t.Errorf("append %d: %+v", i, got)
		}
	}
	if _, _, err := g.Append(context.Background(), Entry{}); !errors.Is(err, ErrReload) {
		t.Errorf("append after a failure: %v", err)
	}
	if g.applied.Load() != 3 {
		t.Errorf("%d entries applied", g.applied.Load())
	}
	broken.Store(false)
	g.reopen()
	for i := range 3 {
		g.sequence(Entry{Data: []byte{'a' + byte(i)}})
	}
	g.check()
}

// TestCloseAnswersGroupsInFlight closes a log with groups in flight: each gets its answer.
func TestCloseAnswersGroupsInFlight(t *testing.T) {
	g := newGatedLog(t, nil)
	g.gate.Lock()
	var appends []<-chan appended
	for i := range 3 {
		appends = append(appends, g.start(Entry{Data: []byte{'a' + byte(i)}}))
	}
	g.applies(3)
	closed := make(chan error, 1)
	go func() { closed <- g.Close(context.Background()) }()
	unanswered(t, appends...)
	g.gate.Unlock()
	for i, a := range appends {
		if got := <-a; got.err != nil || got.result.Index != int64(i) {
			t.Errorf("append %d: %+v", i, got)
		}
	}
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	g.Log = nil
}
