package logserver

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The fault model. One operation of the disk, or two, fail in a life of a log:
// not done, done in part, or done and reported as failed all the same. However
// the process ends, what a restart finds is what the world had been told, and
// the log goes on from there with its witnesses.

// faultKinds are the ways in which an operation fails.
var faultKinds = []struct {
	name string
	fsFault
}{
	{"EIO, not persisted", fsFault{err: syscall.EIO, done: 0}},
	{"EIO, but persisted", fsFault{err: syscall.EIO, done: 100}},
	{"ENOSPC, in part", fsFault{err: syscall.ENOSPC, done: 50}},
	{"EDQUOT, in part", fsFault{err: syscall.EDQUOT, done: 50}},
	{"short write", fsFault{err: io.ErrShortWrite, done: 30}},
}

// end is how a life ended.
type end struct {
	err  error // nil: cleanly
	died bool  // Options.Fatal ended the process
}

// live runs a life in which the planned operations fail. When it returns, no
// goroutine of the process can change the disk any more.
func (l *life) live(t testing.TB, plan map[int64]fsFault, steps int) end {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l.fs.before = func(op fsOp) fsFault { return plan[op.number] }
	fatal := make(chan error, 1)
	l.opts.Fatal = func(err error) {
		l.fs.dead.Store(true)
		select {
		case fatal <- err:
		default:
		}
		select {} // the process has ended
	}
	returned := make(chan error, 1)
	go func() { returned <- l.fillAndRun(ctx, steps) }()
	var e end
	select {
	case err := <-returned:
		e = end{err: err}
	case err := <-fatal:
		e = end{err: err, died: true}
	}
	l.fs.kill()
	return e
}

// fillAndRun is run with a beginning in which Pebble makes, and replaces, files of
// every kind: a store that only appends does with few what this does at once.
func (l *life) fillAndRun(ctx context.Context, steps int) error {
	if err := l.open(ctx); err != nil {
		return err
	}
	for range 3 {
		if err := l.call(ctx, []Entry{{Data: make([]byte, 20<<10)}}); err != nil {
			return err
		}
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.compact(ctx)
	if err := l.log.Close(ctx); err != nil {
		return err
	}
	return l.run(ctx, steps)
}

// compact makes one table of all, unless that fails: nothing depends on it.
func (l *life) compact(ctx context.Context) {
	defer l.log.store.faults.catchCommit()
	_ = l.log.store.db.Compact(ctx, []byte{0}, []byte{0xff}, false)
}

// flush writes a table and a blob file and begins another write-ahead log, as full
// memtables make Pebble do.
func (l *life) flush() error {
	defer l.log.store.faults.catchCommit() // it panics when it has lost the write-ahead log
	return l.log.store.db.Flush()
}

// manyFiles lets Pebble begin another manifest as soon as it ever would.
func manyFiles(o *pebble.Options) {
	smallTables(o)
	o.MaxManifestFileSize = 1
}

// fileCounts are what a life did with files of Pebble.
type fileCounts struct {
	mu                                           sync.Mutex
	tables, blobs, logs, manifests, gone, opened int
}

// countFiles returns what a life that has not begun will have done.
func (l *life) countFiles() *fileCounts {
	c := new(fileCounts)
	l.fs.after = func(op fsOp) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch name := path.Base(op.path); {
		case op.kind == "remove" && path.Ext(name) == ".sst":
			c.gone++ // into others, by a compaction
		case op.kind == "rename" && strings.HasPrefix(name, "OPTIONS-"):
			c.opened++
		case op.kind == "reuse" && path.Ext(name) == ".log":
			c.logs++
		case op.kind != "create":
		case path.Ext(name) == ".sst":
			c.tables++
		case path.Ext(name) == blobSuffix:
			c.blobs++
		case path.Ext(name) == ".log":
			c.logs++
		case strings.HasPrefix(name, "MANIFEST-"):
			c.manifests++
		}
	}
	return c
}

// check makes sure that faults can meet everything that Pebble does in a life.
func (c *fileCounts) check(t *testing.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("a life without faults opened its store %d times and made %d write-ahead logs, %d manifests, %d tables and %d blob files; compactions removed %d tables",
		c.opened, c.logs, c.manifests, c.tables, c.blobs, c.gone)
	// Each opening makes one write-ahead log and, with its first flush, one manifest.
	if c.logs <= c.opened || c.manifests <= c.opened || c.tables <= c.opened || c.blobs == 0 || c.gone == 0 {
		t.Error("nothing is tested of flushes, compactions or rotations")
	}
}

// survive lets a log live with faults at the given operations of its first and
// of its second life, and then without any.
func survive(t *testing.T, seed uint64, first, second map[int64]fsFault) (operations int64, died bool) {
	t.Helper()
	w := newWorld(t)
	w.opts.tune = manyFiles
	disk, created := vfs.NewCrashableMem(), new(atomic.Bool)
	for n, plan := range []map[int64]fsFault{first, second, nil} {
		if plan == nil && n == 1 {
			continue
		}
		l := newLife(w, rand.New(rand.NewPCG(seed, uint64(n))), disk, created)
		made := l.countFiles()
		e := l.live(t, plan, 8)
		if len(plan) == 0 && e.err != nil {
			t.Fatalf("life %d without a fault: %v", n, e.err)
		}
		if n == 0 && len(plan) == 0 {
			made.check(t)
		}
		died = died || e.died
		if n == 0 {
			operations = l.fs.count.Load()
		}
		// The process is gone; the power may go as well.
		known := w.known()
		for _, percent := range percents {
			w.restart(crashClone(disk, percent, seed), created.Load(), known)
			if t.Failed() {
				t.Fatalf("life %d ended with %+v; %d %% of unsynced data kept", n, e, percent)
			}
		}
		disk = crashClone(disk, percents[seed%3], seed)
	}
	return operations, died
}

// faultRuns runs a log once for every kind of fault at every stride-th operation,
// and as often with a second fault soon after the first or in the next life.
func faultRuns(t *testing.T, stride int64) {
	seed := testSeed(t)
	operations, _ := survive(t, seed, map[int64]fsFault{}, nil)
	rng := rand.New(rand.NewPCG(seed, 3))
	runs, deaths := 0, 0
	for at := 1 + rng.Int64N(stride); at <= operations; at += stride {
		for i, kind := range faultKinds {
			if stride > 10 && int64(i) != at/stride%int64(len(faultKinds)) {
				continue // in a short run one kind for each operation
			}
			other := faultKinds[rng.IntN(len(faultKinds))]
			for name, plans := range map[string][2]map[int64]fsFault{
				"single":    {{at: kind.fsFault}, nil},
				"double":    {{at: kind.fsFault, at + 1 + rng.Int64N(6): other.fsFault}, nil},
				"two lives": {{at: kind.fsFault}, {1 + rng.Int64N(40): other.fsFault}},
			} {
				t.Run(fmt.Sprintf("%d %s %s", at, kind.name, name), func(t *testing.T) {
					runs++
					if _, died := survive(t, seed, plans[0], plans[1]); died {
						deaths++
					}
				})
				if t.Failed() {
					return
				}
			}
		}
	}
	t.Logf("%d operations, %d runs, %d of which ended the process", operations, runs, deaths)
	if runs > 50 && deaths == 0 {
		t.Error("no fault ended the process: nothing was tested")
	}
}

// TestFaults is promise 9: after an error whose outcome is unknown nothing is
// written until the log has been loaded again, and then it is right in both
// cases.
func TestFaults(t *testing.T) {
	t.Parallel()
	faultRuns(t, 50)
}
