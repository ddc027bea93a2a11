package export

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// faulty is a memory target of which one read, or one flush, fails.
type faulty struct {
	*memory
	unreadable string // this object
	flushes    int    // that still succeed; negative means all
}

func (f *faulty) read(ctx context.Context, name string, limit int64) ([]byte, error) {
	if name == f.unreadable {
		return nil, errDisk
	}
	return f.memory.read(ctx, name, limit)
}

func (f *faulty) flush(ctx context.Context) error {
	if f.flushes == 0 {
		return errDisk
	}
	f.flushes--
	return f.memory.flush(ctx)
}

func TestNothingToCopyFrom(t *testing.T) {
	log := newLog(t, 1, 10)
	m := newMemory(t, policy(t, log.Vkey()))
	e := exporterTo(t, log, m)
	e.options.Policy = func() (*checkpoint.Policy, error) { return nil, errDisk }
	if _, err := e.Run(t.Context()); !errors.Is(err, errDisk) {
		t.Errorf("without a policy: %v", err)
	}
	e = exporterTo(t, log, m)
	e.options.Policy = fixed(policy(t, newLog(t, 2, 1).Vkey()))
	if _, err := e.Run(t.Context()); !errors.Is(err, tiles.ErrCheckpoint) {
		t.Errorf("under another log's policy: %v", err)
	}
	e.options.Fetch = func(context.Context, string, int64) ([]byte, error) { return nil, errDisk }
	if _, err := e.Run(t.Context()); !errors.Is(err, tiles.ErrFetch) {
		t.Errorf("without a log: %v", err)
	}
	if len(m.objects) != 0 {
		t.Errorf("%d objects were written", len(m.objects))
	}
}

// TestFailingFlush fails either flush. The checkpoint, which promises that what
// it implies is durable, is not written after the first one failed.
func TestFailingFlush(t *testing.T) {
	log := newLog(t, 1, 3*width+5)
	for flushes, what := range []string{"the copy", "the checkpoint"} {
		m := newMemory(t, policy(t, log.Vkey()))
		e := exporterTo(t, log, &faulty{memory: m, flushes: flushes})
		if _, err := e.Run(t.Context()); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "making "+what+" durable") {
			t.Errorf("flush of %s: %v", what, err)
		}
		if _, there := m.objects[checkpointName]; there != (flushes == 1) {
			t.Errorf("flush of %s failed; a checkpoint is there: %v", what, there)
		}
		if _, err := exporterTo(t, log, m).Run(t.Context()); err != nil {
			t.Errorf("after the flush of %s failed: %v", what, err)
		}
	}
}

// TestUnreadableRest interrupts a run, and then cannot read back what it left:
// that is an error, and not a reason to write it again. What is merely missing is
// written.
func TestUnreadableRest(t *testing.T) {
	log := newLog(t, 1, 5*width)
	interrupted := func() *memory {
		m := newMemory(t, policy(t, log.Vkey()))
		m.fail = func(n int) (bool, bool) { return n > 8, n <= 8 }
		e := exporterTo(t, log, m)
		e.options.Workers = 1 // in order
		if _, err := e.Run(t.Context()); !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		m.fail = nil
		return m
	}
	for _, name := range []string{tiles.BundlePath(0, width), tiles.TilePath(0, 0, width)} {
		m := interrupted()
		writes := m.writes
		if _, ok := m.objects[name]; !ok {
			t.Fatalf("%q is not there", name)
		}
		if _, err := exporterTo(t, log, &faulty{memory: m, unreadable: name, flushes: -1}).Run(t.Context()); !errors.Is(err, errDisk) {
			t.Errorf("unreadable %q: %v", name, err)
		}
		if m.writes != writes {
			t.Errorf("unreadable %q: %d writes", name, m.writes-writes)
		}
		delete(m.objects, name)
		if report, err := exporterTo(t, log, m).Run(t.Context()); err != nil || report.Kept != 0 {
			t.Errorf("missing %q: %+v, %v", name, report, err)
		}
	}
}

// TestUnreadableAbove fails the log's tiles above level 0, both while they are
// compared with the copy and while they are copied.
func TestUnreadableAbove(t *testing.T) {
	log := newLog(t, 1, width*width+300)
	broken := func(ctx context.Context, path string, limit int64) ([]byte, error) {
		if path == tiles.TilePath(1, 0, width) {
			return nil, errDisk
		}
		return log.Resource(ctx, path, limit)
	}
	m := newMemory(t, policy(t, log.Vkey()))
	e := exporterTo(t, log, m)
	r := &run{Exporter: e}
	var err error
	if r.source, err = tiles.OpenSource(t.Context(), broken, m.policy, 1); err != nil {
		t.Fatal(err)
	}
	if err := r.upperTiles(t.Context()); !errors.Is(err, errDisk) {
		t.Errorf("while copying: %v", err)
	}

	small := newLog(t, 1, width+5)
	if _, err := exporterTo(t, small, m).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	note := m.objects[checkpointName]
	e.options.Fetch = broken
	var forked *tiles.ForkError
	if _, err := e.Run(t.Context()); !errors.Is(err, errDisk) || errors.As(err, &forked) {
		t.Errorf("while comparing: %v", err)
	}
	if string(m.objects[checkpointName]) != string(note) {
		t.Error("the copy has another checkpoint")
	}
}

func TestProgressOfARepeatedRun(t *testing.T) {
	log := newLog(t, 1, 3*width+5)
	m := newMemory(t, policy(t, log.Vkey()))
	m.fail = func(n int) (bool, bool) { return n > 6, n <= 6 } // three full bundles with their tiles
	e := exporterTo(t, log, m)
	e.options.Workers = 1
	if _, err := e.Run(t.Context()); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	m.fail = nil
	var seen []int64
	e.options.Progress = func(done, size int64) {
		if size != 3*width+5 {
			t.Errorf("progress of %d", size)
		}
		seen = append(seen, done)
	}
	report, err := e.Run(t.Context())
	if err != nil || report.Kept != 3*width || len(seen) != 2 || seen[0] != 3*width || seen[1] != 3*width+5 {
		t.Errorf("%+v, %v, progress %v", report, err, seen)
	}
}

// TestDirectoryGoes takes away what a directory target works with, at each of
// its steps.
func TestDirectoryGoes(t *testing.T) {
	open := func() *dirTarget {
		d, err := openDir(filepath.Join(t.TempDir(), "copy"))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	t.Run("work directory", func(t *testing.T) {
		d := open()
		if err := os.RemoveAll(filepath.Join(d.root, workDir)); err != nil {
			t.Fatal(err)
		}
		if err := d.write(t.Context(), "x", nil); err != nil { // it is made again
			t.Error(err)
		}
	})
	t.Run("written file", func(t *testing.T) {
		d := open()
		if err := d.write(t.Context(), "a/b/x", nil); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(d.root, "a/b/x")); err != nil {
			t.Fatal(err)
		}
		if err := d.write(t.Context(), "a/b/y", nil); err != nil {
			t.Fatal(err)
		}
		if err := d.flush(t.Context()); !errors.Is(err, os.ErrNotExist) || len(d.written)+len(d.fresh) != 0 {
			t.Errorf("%v; %d files and %d directories are not durable", err, len(d.written), len(d.fresh))
		}
		if err := d.flush(t.Context()); err != nil {
			t.Errorf("once more: %v", err)
		}
	})
	t.Run("its directory", func(t *testing.T) {
		d := open()
		if err := d.mkdir(filepath.Join(d.root, "a", "b")); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(d.root, "a")); err != nil {
			t.Fatal(err)
		}
		if err := d.flush(t.Context()); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		if err := d.write(t.Context(), "a/b/x", nil); err != nil {
			t.Fatal(err)
		}
		if err := d.flush(t.Context()); err != nil {
			t.Errorf("after it is made again: %v", err)
		}
	})
	t.Run("all of it", func(t *testing.T) {
		d := open()
		for range syncSingly + 1 {
			if err := d.write(t.Context(), "x", nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.RemoveAll(d.root); err != nil {
			t.Fatal(err)
		}
		if err := d.flush(t.Context()); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("file above", func(t *testing.T) {
		d := open()
		if err := os.WriteFile(filepath.Join(d.root, "a"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := d.write(t.Context(), "a/b/c", nil); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Error(err)
		}
	})
	t.Run("old directory in the work directory", func(t *testing.T) {
		d := open()
		old := filepath.Join(d.root, workDir, "old")
		if err := os.MkdirAll(filepath.Join(old, "full"), 0o755); err != nil {
			t.Fatal(err)
		}
		past := time.Now().Add(-2 * abandoned)
		if err := os.Chtimes(old, past, past); err != nil {
			t.Fatal(err)
		}
		if _, err := openDir(d.root); err == nil {
			t.Error("what cannot be removed was passed over")
		}
	})
}

func TestBucketThatCannotBeOpened(t *testing.T) {
	if _, err := Open(t.Context(), Options{Target: "mem://?nonsense=1"}); err == nil || !strings.Contains(err.Error(), "opening bucket") {
		t.Error(err)
	}
}
