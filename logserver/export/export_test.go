package export

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

const origin = "log.example/exported"

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// newLog returns a real log, so that "byte for byte" means something.
func newLog(t *testing.T, seed byte, n int) *logserver.Log {
	t.Helper()
	options := logserver.Options{Dir: t.TempDir(), Origin: origin, Key: key(seed), MinInterval: time.Nanosecond}
	if err := logserver.Create(options); err != nil {
		t.Fatal(err)
	}
	log, err := logserver.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close(context.Background()) })
	grow(t, log, n)
	return log
}

// grow appends until the log has n entries and has published them.
func grow(t *testing.T, log *logserver.Log, n int) {
	t.Helper()
	for int(log.Size()) < n {
		var batch []logserver.Entry
		for i := range min(n-int(log.Size()), logserver.MaxBatch) {
			batch = append(batch, logserver.Entry{Data: fmt.Appendf(nil, "entry %d", int(log.Size())+i)})
		}
		if _, _, err := log.AppendBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Wait(t.Context(), int64(n)); err != nil {
		t.Fatal(err)
	}
}

func policy(t *testing.T, vkey string) *checkpoint.Policy {
	t.Helper()
	p, err := checkpoint.ParsePolicy([]byte("log " + vkey + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func fixed(p *checkpoint.Policy) func() (*checkpoint.Policy, error) {
	return func() (*checkpoint.Policy, error) { return p, nil }
}

// memory is a target that polices what an exporter promises.
type memory struct {
	t       *testing.T
	mu      sync.Mutex
	objects map[string][]byte
	durable bool // nothing was written since the last flush
	torn    bool // the checkpoint before implies what is not there either
	policy  *checkpoint.Policy
	writes  int
	reads   int
	// fail decides whether a write fails, and whether it is persisted though.
	fail func(n int) (fails, persisted bool)
}

var errDisk = errors.New("disk on fire")

func newMemory(t *testing.T, p *checkpoint.Policy) *memory {
	return &memory{t: t, objects: map[string][]byte{}, durable: true, policy: p}
}

func (m *memory) read(_ context.Context, name string, limit int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	return m.get(name, limit)
}

func (m *memory) get(name string, limit int64) ([]byte, error) {
	b, ok := m.objects[name]
	if !ok {
		return nil, tiles.ErrNotFound
	}
	if int64(len(b)) > limit {
		return nil, errors.New("too long")
	}
	return b, nil
}

func (m *memory) write(_ context.Context, name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.objects[name]; ok && name != checkpointName && !bytes.Equal(old, data) && !strings.HasPrefix(string(old), "damaged") {
		m.t.Errorf("immutable %q was changed", name)
	}
	if name == checkpointName {
		if !m.durable {
			m.t.Errorf("the checkpoint was written before what it implies was durable")
		}
		if !m.torn {
			m.complete(data)
		}
	}
	fails, persisted := false, true
	if m.writes++; m.fail != nil {
		fails, persisted = m.fail(m.writes)
	}
	if persisted {
		m.objects[name], m.durable = data, false
	}
	if fails {
		return errDisk
	}
	return nil
}

// complete audits what a checkpoint implies; the caller holds mu.
func (m *memory) complete(note []byte) {
	a := tiles.Audit{Policy: m.policy, Workers: 1, Fetch: func(_ context.Context, path string, limit int64) ([]byte, error) {
		if path == checkpointName {
			return note, nil
		}
		return m.get(path, limit)
	}}
	if _, _, err := a.Run(m.t.Context(), nil); err != nil {
		m.t.Errorf("the copy is not complete: %v", err)
	}
}

func (m *memory) flush(context.Context) error { m.durable = true; return nil }
func (m *memory) close() error                { return nil }

// exporterTo returns an exporter that has just been started.
func exporterTo(t *testing.T, log *logserver.Log, to target) *Exporter {
	return &Exporter{options: Options{Fetch: log.Resource, Policy: fixed(policy(t, log.Vkey())), Target: "memory", Workers: 3}, target: to}
}

var sizes = []int{0, 1, 255, 256, 257, 511, 700, 1<<16 - 1, 1 << 16, 1<<16 + 300}

func TestCopyIsWhatTheLogServes(t *testing.T) {
	log := newLog(t, 1, 0)
	m := newMemory(t, policy(t, log.Vkey()))
	warm := exporterTo(t, log, newMemory(t, m.policy))
	implied := map[string]bool{checkpointName: true} // by the checkpoints that were copied
	for _, size := range sizes {
		grow(t, log, size)
		report, err := exporterTo(t, log, m).Run(t.Context())
		if err != nil || report.Size != int64(size) || report.Origin != origin {
			t.Fatalf("size %d: %+v, %v", size, report, err)
		}
		if again, err := exporterTo(t, log, m).Run(t.Context()); err != nil || again.Objects != 0 || again.From != int64(size) {
			t.Errorf("size %d again: %+v, %v", size, again, err)
		}
		if _, err := warm.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		for level := -1; level < levels; level++ {
			hashes := size >> (8 * max(level, 0))
			for first := 0; first < hashes; first += width {
				name := tiles.TilePath(level, int64(first/width), min(hashes-first, width))
				if level < 0 {
					name = tiles.BundlePath(int64(first/width), min(hashes-first, width))
				}
				implied[name] = true
			}
		}
		for name := range implied {
			want, err := log.Resource(t.Context(), name, maxResource)
			if err != nil || !bytes.Equal(m.objects[name], want) {
				t.Fatalf("size %d: %q differs from what the log serves, %v", size, name, err)
			}
		}
		if len(m.objects) != len(implied) {
			t.Errorf("size %d: %d objects, %d are implied by checkpoints", size, len(m.objects), len(implied))
		}
	}
	if n := len(warm.target.(*memory).objects); n != len(implied) {
		t.Errorf("an exporter that goes on wrote %d objects, want %d", n, len(implied))
	}
}

// TestInterrupted fails every write of a run in turn, both ways, and goes on.
func TestInterrupted(t *testing.T) {
	log := newLog(t, 1, 3*width+5)
	p := policy(t, log.Vkey())
	whole := newMemory(t, p)
	if _, err := exporterTo(t, log, whole).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, persisted := range []bool{false, true} {
		for n := 1; n <= whole.writes; n++ {
			m := newMemory(t, p)
			m.fail = func(at int) (bool, bool) { return at >= n, at < n || persisted && at == n }
			if _, err := exporterTo(t, log, m).Run(t.Context()); !errors.Is(err, errDisk) {
				t.Fatalf("write %d failed: %v", n, err)
			}
			m.fail = nil
			report, err := exporterTo(t, log, m).Run(t.Context())
			if err != nil || len(m.objects) != len(whole.objects) {
				t.Fatalf("after write %d failed: %+v, %v; %d objects, want %d", n, report, err, len(m.objects), len(whole.objects))
			}
			for name, want := range whole.objects {
				if !bytes.Equal(m.objects[name], want) {
					t.Fatalf("after write %d failed: %q differs", n, name)
				}
			}
		}
	}
}

func TestInterruptedRunIsNotRepeated(t *testing.T) {
	log := newLog(t, 1, 600*width)
	m := newMemory(t, policy(t, log.Vkey()))
	m.fail = func(n int) (bool, bool) { return n > 800, n <= 800 }
	if _, err := exporterTo(t, log, m).Run(t.Context()); err == nil {
		t.Fatal("the run was not interrupted")
	}
	m.fail, m.writes = nil, 0
	m.objects["tile/entries/100"] = []byte("damaged") // what is wrong is not kept
	report, err := exporterTo(t, log, m).Run(t.Context())
	if err != nil || report.Kept != 100*width {
		t.Fatalf("%+v, %v; want 100 bundles kept", report, err)
	}
	if m.writes >= 2*(600-100)+10 {
		t.Errorf("%d writes", m.writes)
	}
}

func TestDamagedCopyIsMended(t *testing.T) {
	log := newLog(t, 1, 3*width+5)
	for _, name := range []string{"tile/0/003.p/5", "tile/1/000.p/3"} {
		for what, damage := range map[string]func(m *memory){
			"missing": func(m *memory) { delete(m.objects, name); delete(m.objects, "tile/entries/001") },
			"altered": func(m *memory) { m.objects[name] = []byte("damaged") },
		} {
			m := newMemory(t, policy(t, log.Vkey()))
			if _, err := exporterTo(t, log, m).Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			damage(m)
			if _, err := exporterTo(t, log, m).Run(t.Context()); err != nil {
				t.Errorf("%q %s: %v", name, what, err)
			}
			m.complete(m.objects[checkpointName])
		}
	}
}

// TestReadBack: what is missing or wrong anywhere in a copy is found and written
// again, alone, whether or not the log has grown since.
func TestReadBack(t *testing.T) {
	size := 1<<16 + 2*width + 5
	log := newLog(t, 1, size)
	m := newMemory(t, policy(t, log.Vkey()))
	if _, err := exporterTo(t, log, m).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprintf("tile/entries/258.p/%d", size%width)
	for name, mended := range map[string]int64{
		"tile/entries/000": 2, "tile/0/100": 2, "tile/entries/257": 2, "tile/1/000": 1, last: 1,
	} {
		for what, damage := range map[string]func(){
			"missing": func() { delete(m.objects, name) },
			"altered": func() { m.objects[name] = []byte("damaged") },
		} {
			damage()
			e := exporterTo(t, log, m)
			e.options.ReadBack = true
			reached := int64(0)
			e.options.Progress = func(done, of int64) { reached = max(reached, done) }
			report, err := e.Run(t.Context())
			if err != nil || report.Mended != mended || report.Objects != mended || reached < 258*width {
				t.Errorf("%q %s: %+v, %v; want %d mended; progress %d", name, what, report, err, mended, reached)
			}
			m.complete(m.objects[checkpointName])
			if !m.durable {
				t.Errorf("%q %s: what was mended is not durable", name, what)
			}
		}
	}
	// The hole is older than what the log has grown by.
	delete(m.objects, "tile/entries/007")
	delete(m.objects, "tile/entries/008")
	m.objects["tile/1/000"] = []byte("damaged")
	m.torn = true
	grow(t, log, size+width)
	e := exporterTo(t, log, m)
	e.options.ReadBack = true
	if report, err := e.Run(t.Context()); err != nil || report.Mended != 5 || report.Objects <= 5 {
		t.Errorf("after growth: %+v, %v", report, err)
	}
	m.torn = false
	m.complete(m.objects[checkpointName])
	// A run after that has no reason to.
	reads := m.reads
	if _, err := e.Run(t.Context()); err != nil || m.reads > reads+5 {
		t.Errorf("%d reads of a copy that is known, %v", m.reads-reads, err)
	}
	// What cannot be read is written again, and keeps back nothing that is new.
	for i, name := range []string{"tile/entries/100", "tile/1/000"} {
		grow(t, log, int(log.Size())+width)
		e := exporterTo(t, log, failing{m, name})
		e.options.ReadBack = true
		if report, err := e.Run(t.Context()); err != nil || report.Size != log.Size() || report.Mended != int64(2-i) {
			t.Errorf("unreadable %q: %+v, %v", name, report, err)
		}
	}
	// An attempt goes on where the one before has failed.
	delete(m.objects, "tile/entries/007")
	delete(m.objects, "tile/entries/257")
	m.writes, m.fail = 0, func(n int) (bool, bool) { return n > 2, n <= 2 }
	e = exporterTo(t, log, m)
	copied, err := e.inspect(t.Context(), m.policy)
	if err != nil {
		t.Fatal(err)
	}
	var state mending
	if err := e.readBack(t.Context(), copied, &state); !errors.Is(err, errDisk) || state != (mending{checkAhead, 2}) {
		t.Errorf("an attempt that fails: %v, %+v", err, state)
	}
	reads, m.fail = m.reads, nil
	if err := e.readBack(t.Context(), copied, &state); err != nil || state.mended != 4 || m.reads > reads+50 {
		t.Errorf("the next attempt: %v, %+v, %d reads", err, state, m.reads-reads)
	}
	m.complete(m.objects[checkpointName])
	// The log cannot be read, or nothing be written. The new comes first.
	for name, broken := range map[string]func(e *Exporter){
		"log": func(e *Exporter) {
			delete(m.objects, "tile/entries/009")
			e.options.Fetch = func(ctx context.Context, path string, limit int64) ([]byte, error) {
				if path == "tile/entries/009" {
					return nil, errDisk
				}
				return log.Resource(ctx, path, limit)
			}
		},
		"writing": func(*Exporter) {
			delete(m.objects, "tile/entries/009")
			m.fail = func(int) (bool, bool) { return true, false }
		},
	} {
		e := exporterTo(t, log, m)
		e.options.ReadBack = true
		broken(e)
		if _, err := e.Run(t.Context()); !errors.Is(err, errDisk) {
			t.Errorf("%s: %v", name, err)
		}
		m.fail = nil
	}
}

// failing is a target with an object that cannot be read.
type failing struct {
	target
	name string
}

func (f failing) read(ctx context.Context, name string, limit int64) ([]byte, error) {
	if name == f.name {
		return nil, errDisk
	}
	return f.target.read(ctx, name, limit)
}

// TestRemovedWhileInUse: a copy that somebody removes is made anew by the exporter
// that knew it, whether or not the log grows.
func TestRemovedWhileInUse(t *testing.T) {
	log := newLog(t, 1, 300)
	root := filepath.Join(t.TempDir(), "copy")
	e, err := Open(t.Context(), Options{Fetch: log.Resource, Policy: fixed(policy(t, log.Vkey())), Target: root})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{300, 300, 600} {
		grow(t, log, size)
		if e.current(t.Context()) {
			t.Error("a copy that is not there counts as current")
		}
		if _, err := e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !e.current(t.Context()) {
			t.Error("the copy is not current")
		}
		audit := tiles.Audit{Fetch: tiles.Dir(root), Policy: policy(t, log.Vkey())}
		if report, _, err := audit.Run(t.Context(), nil); err != nil || report.Size != int64(size) {
			t.Errorf("audit of the copy: %+v, %v", report, err)
		}
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Run(t.Context()); err == nil {
		t.Error("a file in the place of the copy is no error")
	}
}

func TestForeignTargetsAreNotTouched(t *testing.T) {
	log, fork := newLog(t, 1, 300), newLog(t, 1, 0)
	if _, _, err := fork.Append(t.Context(), logserver.Entry{Data: []byte("another first entry")}); err != nil {
		t.Fatal(err)
	}
	grow(t, fork, 300)
	stranger := newLog(t, 2, 10)
	m := newMemory(t, policy(t, log.Vkey()))
	if _, err := exporterTo(t, log, m).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	note := m.objects[checkpointName]
	writes := m.writes
	var forked *tiles.ForkError
	for _, size := range []int{300, 301, 600} {
		grow(t, fork, size)
		if _, err := exporterTo(t, fork, m).Run(t.Context()); !errors.As(err, &forked) || !bytes.Equal(forked.Known, note) {
			t.Errorf("a fork of size %d: %v", size, err)
		}
	}
	if _, err := exporterTo(t, stranger, m).Run(t.Context()); !errors.Is(err, ErrTarget) {
		t.Errorf("another log's copy: %v", err)
	}
	old := exporterTo(t, newLog(t, 1, 200), m)
	if _, err := old.Run(t.Context()); !errors.Is(err, ErrBehind) {
		t.Errorf("a log that went back: %v", err)
	}
	m.objects[checkpointName] = []byte("hello")
	if _, err := exporterTo(t, log, m).Run(t.Context()); !errors.Is(err, ErrTarget) {
		t.Errorf("a file that is no checkpoint: %v", err)
	}
	if m.writes != writes {
		t.Errorf("%d writes", m.writes-writes)
	}
}

func TestUnreadableLogAndTarget(t *testing.T) {
	log := newLog(t, 1, 300)
	e := exporterTo(t, log, newMemory(t, nil))
	e.options.Fetch = func(_ context.Context, path string, limit int64) ([]byte, error) {
		if path == "tile/entries/000" {
			return nil, errDisk
		}
		return log.Resource(t.Context(), path, limit)
	}
	if _, err := e.Run(t.Context()); !errors.Is(err, errDisk) || !errors.Is(err, tiles.ErrFetch) {
		t.Errorf("unreadable log: %v", err)
	}
	for name := range e.target.(*memory).objects {
		if name == checkpointName {
			t.Error("a checkpoint was written")
		}
	}
	if _, err := exporterTo(t, log, unreadable{}).Run(t.Context()); !errors.Is(err, errDisk) {
		t.Errorf("unreadable target: %v", err)
	}
}

type unreadable struct{ target }

func (unreadable) read(context.Context, string, int64) ([]byte, error) { return nil, errDisk }

func TestDirectory(t *testing.T) {
	log := newLog(t, 1, 300)
	root := filepath.Join(t.TempDir(), "a", "b")
	e, err := Open(t.Context(), Options{Fetch: log.Resource, Policy: fixed(policy(t, log.Vkey())), Target: "file://" + root})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	grow(t, log, 400*width) // enough files for the other way of syncing
	if _, err := e.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}

	// Any file server makes a log of it.
	srv := httptest.NewServer(http.FileServer(http.Dir(root)))
	defer srv.Close()
	fetch, err := tiles.HTTP(srv.Client(), srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	audit := tiles.Audit{Fetch: fetch, Policy: policy(t, log.Vkey())}
	if report, _, err := audit.Run(t.Context(), nil); err != nil || report.Size != 400*width {
		t.Errorf("audit of the copy: %+v, %v", report, err)
	}
	for _, name := range []string{"checkpoint", "tile/0/001.p/44", "tile/entries/399", "tile/1/001.p/144", "tile/2/000.p/1"} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%q: %v, %v", name, info, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(root, workDir)); err != nil || len(left) != 0 {
		t.Errorf("left in the work directory: %v, %v", left, err)
	}
}

func TestDirectoryRefusals(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{file, file + "/below", "file://host/x", "file://", "file:///x?q", "nonsense://bucket"} {
		if _, err := Open(t.Context(), Options{Target: place}); err == nil {
			t.Errorf("%q is taken for a target", place)
		}
	}
	// What an interrupted run left is removed when it is old enough.
	old, young := filepath.Join(root, workDir, "old"), filepath.Join(root, workDir, "young")
	d, err := openDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{old, young} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*abandoned)); err != nil {
		t.Fatal(err)
	}
	if _, err := openDir(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q: %v", old, err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
	// A file where a directory has to be.
	if err := os.WriteFile(filepath.Join(root, "tile"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.write(t.Context(), "tile/0/000", nil); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file where a directory has to be: %v", err)
	}
	// A directory where a file has to be: nothing stays behind.
	if err := os.MkdirAll(filepath.Join(root, "checkpoint", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.write(t.Context(), "checkpoint", nil); err == nil {
		t.Error("a directory was replaced")
	}
	if left, err := os.ReadDir(filepath.Join(root, workDir)); err != nil || len(left) != 1 {
		t.Errorf("left in the work directory: %v, %v", left, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.write(ended, "x", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	if err := d.write(t.Context(), "y", nil); err != nil {
		t.Fatal(err)
	}
	if err := d.flush(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("flush with an ended context: %v", err)
	}
	if err := d.flush(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBucket(t *testing.T) {
	log := newLog(t, 1, 300)
	bucket := blob.PrefixedBucket(memblob.OpenBucket(nil), "a/log/")
	e := exporterTo(t, log, &bucketTarget{bucket})
	if _, err := e.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := exporterTo(t, log, e.target).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]blob.Attributes{
		"checkpoint":            {ContentType: contentText, CacheControl: cacheNever},
		"tile/0/000":            {ContentType: contentBinary, CacheControl: cacheForever},
		"tile/entries/001.p/44": {ContentType: contentBinary, CacheControl: cacheForever},
	} {
		got, err := bucket.Attributes(t.Context(), name)
		if err != nil || got.ContentType != want.ContentType || got.CacheControl != want.CacheControl || got.ContentEncoding != "" {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
	if _, err := e.target.read(t.Context(), "tile/0/000", 8191); err == nil {
		t.Error("more than the limit is read")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := exporterTo(t, log, e.target).Run(t.Context()); err == nil {
		t.Error("a closed bucket is read")
	}
	opened, err := Open(t.Context(), Options{Target: "mem://"})
	if err != nil {
		t.Fatal(err)
	}
	opened.Close()
}
