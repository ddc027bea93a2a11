package logserver

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"path"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// fetchLog reads a running log as strangers do.
func fetchLog(l *Log) tiles.Fetch {
	handler := ReadHandler(l)
	return func(ctx context.Context, p string, _ int64) ([]byte, error) {
		res := httptest.NewRecorder()
		handler.ServeHTTP(res, httptest.NewRequest("GET", path.Join("/", p), nil))
		if res.Code == 404 {
			return nil, tiles.ErrNotFound
		}
		if res.Code != 200 {
			return nil, errors.New(res.Body.String())
		}
		return res.Body.Bytes(), ctx.Err()
	}
}

// behind is a log with a backup that it has grown past: the options of the
// restored store, and the running log.
func behind(t *testing.T, backedUp, grown int) (*testLog, Options) {
	t.Helper()
	opts := testOptions(vfs.NewMem())
	tl := newTestLog(t, opts)
	tl.addN(backedUp)
	tl.mustPublish(int64(backedUp))
	if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); err != nil {
		t.Fatal(err)
	}
	tl.addN(grown)
	tl.mustPublish(int64(backedUp + grown))
	return tl, restored(t, opts, "backup")
}

func storeOf(o Options) StoreOptions { return StoreOptions{Dir: o.Dir, fs: o.fs} }

// TestCatchUpFromTiles: from a mirror come the entries and the head; openings
// and deduplication keys are lost, and the report says so.
func TestCatchUpFromTiles(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{300, 5000}, {256, 256}, {0, 300}, {300, 0}, {1, 1}} {
		tl, o := behind(t, size[0], size[1])
		var progress int64
		r, err := CatchUp(t.Context(), storeOf(o), Source{Fetch: fetchLog(tl.Log)}, func(done, size int64) { progress = done })
		if err != nil {
			t.Fatal(err)
		}
		total := int64(size[0] + size[1])
		want := CatchUpReport{Origin: o.Origin, From: int64(size[0]), To: total, Size: total, LostOpenings: size[1] > 0, LostKeys: size[1] > 0}
		if *r != want || size[1] > 0 && progress != total {
			t.Errorf("report is %+v, want %+v, progress %d", *r, want, progress)
		}
		if err := tl.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := &testLog{t: t, opts: o, model: tl.model}
		for i := size[0]; i < len(after.openings); i++ {
			after.openings[i] = nil
		}
		after.open()
		after.check()
		after.add(after.nextEntry())
		after.mustPublish(total + 1)
		if s := fsckOf(t, after.Log); s.Count != 0 {
			t.Errorf("after catching up: %v", s.Findings)
		}
		after.close()
		tl.Log = nil
	}
}

func fsckOf(t *testing.T, l *Log) *FsckReport {
	t.Helper()
	r, err := l.Fsck(t.Context(), FsckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestCatchUpFromStore: from the log's own old store everything comes back, also
// what was not signed yet, and the old store may not sign any more.
func TestCatchUpFromStore(t *testing.T) {
	t.Parallel()
	tl, o := behind(t, 300, 600)
	e := tl.nextEntry()
	e.Dedup, e.Sets = []byte("key"), []Register{{"r", 7}}
	tl.add(e)
	tl.mustPublish(901)
	tl.close()
	tl.opts.HoldWitness = true // nothing more is signed
	tl.open()
	tl.addN(40)
	tl.close()

	r, err := catchUpFromStore(t, o, tl.opts)
	if err != nil {
		t.Fatal(err)
	}
	if want := (CatchUpReport{Origin: o.Origin, From: 300, To: 901, Size: 941}); *r != want {
		t.Errorf("report is %+v, want %+v", *r, want)
	}
	after := &testLog{t: t, opts: o, model: tl.model}
	after.open()
	after.check()
	if n, err := after.FirstPublishedCovering(0); err != nil || n.Size != 300 {
		t.Errorf("first published checkpoint: %+v, %v", n, err)
	}
	after.add(after.nextEntry())
	after.close()

	tl.open()
	if _, _, err := tl.Append(t.Context(), Entry{}); !errors.Is(err, ErrRestored) || !strings.Contains(err.Error(), "handed over") {
		t.Errorf("append to the old store: %v", err)
	}
	tl.close()
	// And back again: the right to sign goes where it is called to.
	if _, err := catchUpFromStore(t, tl.opts, o); err != nil {
		t.Fatal(err)
	}
	tl.model = after.model
	tl.opts.HoldWitness = false
	tl.open()
	tl.add(tl.nextEntry())
	tl.check()
	tl.close()
	// Once is for good, even for the store that has taken the right before.
	for range 2 {
		if _, err := catchUpFromStore(t, tl.opts, o); !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), "handed over") {
			t.Errorf("from a store that must catch up itself: %v", err)
		}
	}
}

// TestHandOverToOne: a hand-over that was interrupted after the source had
// given up the right to sign is completed by the store that began it, and by no
// other.
func TestHandOverToOne(t *testing.T) {
	tl, o := behind(t, 300, 100)
	other := o
	other.Dir = "second"
	if _, err := Restore(t.Context(), RestoreOptions{From: "backup", Dir: other.Dir, fs: o.fs}); err != nil {
		t.Fatal(err)
	}
	tl.close()

	source, err := OpenStore(storeOf(tl.opts))
	if err != nil {
		t.Fatal(err)
	}
	own, err := OpenStore(storeOf(o))
	if err != nil {
		t.Fatal(err)
	}
	c := &catchUp{own: own, from: Source{Store: source}}
	steps := []func() error{
		func() error { _, err := c.openOwn(); return err },
		func() error { return c.openSource(t.Context(), source) },
		func() error { return c.begin(300) },
		func() error { return c.takeOver(source) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if err := errors.Join(own.Close(), source.Close()); err != nil {
		t.Fatal(err)
	}

	if _, err := catchUpFromStore(t, other, tl.opts); !errors.Is(err, ErrSource) {
		t.Errorf("a store that did not begin the hand-over: %v", err)
	}
	if r, err := catchUpFromStore(t, o, tl.opts); err != nil || r.From != 300 || r.To != 400 {
		t.Errorf("the store that began it: %+v, %v", r, err)
	}
	for _, late := range []Options{o, other} {
		if _, err := catchUpFromStore(t, late, tl.opts); !errors.Is(err, ErrSource) {
			t.Errorf("%s, after the hand-over: %v", late.Dir, err)
		}
	}
}

func catchUpFromStore(t *testing.T, o, from Options) (*CatchUpReport, error) {
	t.Helper()
	s, err := OpenStore(storeOf(from))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return CatchUp(t.Context(), storeOf(o), Source{Store: s}, nil)
}

// TestCatchUpRefuses: a source of no use changes nothing.
func TestCatchUpRefuses(t *testing.T) {
	t.Parallel()
	tl, o := behind(t, 300, 100)
	other := func(change func(*Options), n int, entry string) *testLog {
		opts := testOptions(vfs.NewMem())
		change(&opts)
		l := newTestLog(t, opts)
		for range n {
			l.add(Entry{Data: []byte(entry)})
		}
		l.mustPublish(int64(n))
		return l
	}
	same := func(*Options) {}
	before := hashStore(t, o)
	unreadable := errors.New("unreadable")
	policy, err := checkpoint.ParsePolicy([]byte("log " + tl.Vkey() + "\nwitness w witness.example/w+3fdabf75+BGolVO8eBDxHtB6VsMxdQQNxGXEgkLvY/NnbI2hXadRT\nquorum w\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		source Source
		want   string
	}{
		"behind":         {Source{Fetch: fetchLog(other(same, 20, "x").Log)}, "it is behind, at tree size 20"},
		"forked":         {Source{Fetch: fetchLog(other(same, 301, "x").Log)}, "it has another history, at tree size 300"},
		"forked, equal":  {Source{Fetch: fetchLog(other(same, 300, "x").Log)}, "it has another history, at tree size 300"},
		"another key":    {Source{Fetch: fetchLog(other(func(o *Options) { o.Key = testKey(9) }, 301, "x").Log)}, "log signature"},
		"another origin": {Source{Fetch: fetchLog(other(func(o *Options) { o.Origin = "b" }, 301, "x").Log)}, "origin"},
		"unwitnessed":    {Source{Fetch: fetchLog(tl.Log), Policy: policy}, "quorum"},
		"unreadable":     {Source{Fetch: func(context.Context, string, int64) ([]byte, error) { return nil, unreadable }}, "unreadable"},
	} {
		_, err := CatchUp(t.Context(), storeOf(o), c.source, nil)
		if !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for name, change := range map[string]func(*Options){
		"store of another log": func(o *Options) { o.Origin = "b" },
		"store, other keys":    func(o *Options) { o.Key = testKey(9) },
	} {
		l := other(change, 301, "x")
		l.close()
		if _, err := catchUpFromStore(t, o, l.opts); !errors.Is(err, ErrSource) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := hashStore(t, o); !bytes.Equal(after, before) {
		t.Error("the store has changed")
	}
	tl.close()
	if _, err := CatchUp(t.Context(), StoreOptions{Dir: "nowhere", fs: o.fs}, Source{}, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("no store: %v", err)
	}
}

// hashStore returns something that differs when a stored value does.
func hashStore(t *testing.T, o Options) []byte {
	t.Helper()
	s, err := OpenStore(StoreOptions{Dir: o.Dir, ReadOnly: true, fs: o.fs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var sum []byte
	err = s.store.scan([]byte{0}, []byte{0xff}, func(key, value []byte) error {
		h := LeafHash(append(append(bytes.Clone(key), '='), value...))
		sum = append(sum, h[:]...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestCatchUpLies: a mirror that serves a wrong entry, whatever it is, adds
// nothing to the store but verified entries, and a better one completes it.
func TestCatchUpLies(t *testing.T) {
	t.Parallel()
	tl, o := behind(t, 300, 9000)
	honest := fetchLog(tl.Log)
	for _, lie := range []string{"tile/entries/030", "tile/1/000.p/36", "tile/entries/036.p/84", "tile/0/001"} {
		liar := func(ctx context.Context, p string, limit int64) ([]byte, error) {
			b, err := honest(ctx, p, limit)
			if p == lie && err == nil {
				b = flip(len(b) / 2)(bytes.Clone(b))
			}
			return b, err
		}
		if _, err := CatchUp(t.Context(), storeOf(o), Source{Fetch: liar, Workers: 1}, nil); !errors.Is(err, ErrSource) && lie != "tile/0/001" {
			t.Errorf("%s: %v", lie, err)
		}
		s, err := OpenStore(StoreOptions{Dir: o.Dir, ReadOnly: true, fs: o.fs})
		if err != nil {
			t.Fatal(err)
		}
		tree, err := s.store.snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if tree.root != tl.root(t, tree.size) {
			t.Errorf("%s: the tree of size %d is not that of the log", lie, tree.size)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r, err := CatchUp(t.Context(), storeOf(o), Source{Fetch: honest}, nil)
	if err != nil || r.To != 9300 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestCatchUpCrash cuts the power after each commit of a catch-up: the store is
// suspended until it is complete, and going on completes it.
func TestCatchUpCrash(t *testing.T) {
	t.Parallel()
	for name, fromStore := range map[string]bool{"tiles": false, "store": true} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			opts := testOptions(fs)
			tl := newTestLog(t, opts)
			tl.addN(300)
			if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); err != nil {
				t.Fatal(err)
			}
			tl.addN(catchUpBatch + 1000)
			tl.mustPublish(int64(len(tl.data)))
			o := restored(t, opts, "backup")
			fetch := fetchLog(tl.Log)
			if fromStore {
				tl.close()
			}
			source := func(fs vfs.FS) (Source, func()) {
				if !fromStore {
					return Source{Fetch: fetch, Workers: 1}, func() {}
				}
				from := opts
				from.fs = fs
				s, err := OpenStore(storeOf(from))
				if err != nil {
					t.Fatal(err)
				}
				return Source{Store: s, Workers: 1}, func() { s.Close() }
			}
			var clones []*vfs.MemFS
			from, done := source(fs)
			_, err := CatchUp(t.Context(), storeOf(o), from, func(int64, int64) {
				clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{}))
			})
			done()
			if err != nil {
				t.Fatal(err)
			}
			if len(clones) < 2 {
				t.Fatalf("%d crash points", len(clones))
			}
			for _, clone := range clones {
				o := o
				o.fs = clone
				l, err := Open(o)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := l.Append(t.Context(), Entry{}); !errors.Is(err, ErrRestored) {
					t.Errorf("append after a crash: %v", err)
				}
				if err := l.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				from, done := source(clone)
				r, err := CatchUp(t.Context(), storeOf(o), from, nil)
				done()
				if err != nil || r.From != 300 || r.Size != int64(len(tl.data)) {
					t.Errorf("going on: %+v, %v", r, err)
				}
			}
		})
	}
}

// TestCatchUpInterrupted ends a catch-up after each operation on the disk, by a
// power cut or a kill: the store is suspended until it is complete, and the same
// call completes it.
func TestCatchUpInterrupted(t *testing.T) {
	t.Parallel()
	for name, fromStore := range map[string]bool{"tiles": false, "store": true} {
		t.Run(name, func(t *testing.T) {
			disk := vfs.NewCrashableMem()
			opts := testOptions(disk)
			tl := newTestLog(t, opts)
			tl.addN(20)
			if _, err := tl.Backup(t.Context(), BackupOptions{Dir: "backup"}); err != nil {
				t.Fatal(err)
			}
			tl.addN(300)
			tl.mustPublish(320)
			o := restored(t, opts, "backup")
			fetch := fetchLog(tl.Log)
			if fromStore {
				tl.close()
			}
			catchUp := func(fs vfs.FS) (*CatchUpReport, error) {
				own, from := o, opts
				own.fs, from.fs = fs, fs
				if fromStore {
					return catchUpFromStore(t, own, from)
				}
				return CatchUp(t.Context(), storeOf(own), Source{Fetch: fetch, Workers: 1}, nil)
			}
			points := &crashPoints{disk: disk}
			if r, err := catchUp(points.on()); err != nil || r.Size != 320 {
				t.Fatalf("%+v, %v", r, err)
			}
			complete := 0
			for _, point := range points.all {
				own := o
				own.fs = point.disk
				s, err := OpenStore(storeOf(own))
				if err != nil {
					t.Fatal(err)
				}
				done := s.Suspended() == nil
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if done {
					complete++ // and the source has handed over
				} else if r, err := catchUp(point.disk); err != nil || r.From != 20 || r.To != 320 || r.Size != 320 {
					t.Fatalf("after %v: %+v, %v", point.op, r, err)
				}
				l, err := Open(own)
				if err != nil {
					t.Fatal(err)
				}
				if r, _, err := l.Append(t.Context(), Entry{}); err != nil || r.Index != 320 {
					t.Errorf("after %v: append: %+v, %v", point.op, r, err)
				}
				if r := fsckOf(t, l); r.Err() != nil {
					t.Errorf("after %v: %v", point.op, r.Err())
				}
				if err := l.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if len(points.all) < 20 || complete == 0 || complete == len(points.all) {
				t.Errorf("%d points, after %d of them it was complete", len(points.all), complete)
			}
		})
	}
}
