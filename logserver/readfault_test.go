package logserver

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// errRead is how a read fails that a test wants to.
var errRead = errors.New("the disk could not read")

// faultyReader fails one read of a store, the n-th after arm(n).
type faultyReader struct {
	pebble.Reader
	left atomic.Int64
}

// failing makes reads of a store fail when they are told to. Nobody may be using
// the store.
func failing(s *store) *faultyReader {
	f := &faultyReader{Reader: s.from}
	s.from = f
	return f
}

func (f *faultyReader) arm(n int64) { f.left.Store(n) }

// disarm ends that, and reports whether the read came.
func (f *faultyReader) disarm() (failed bool) { return f.left.Swap(0) <= 0 }

func (f *faultyReader) next() error {
	for n := f.left.Load(); n > 0; n = f.left.Load() {
		if !f.left.CompareAndSwap(n, n-1) {
			continue
		}
		if n == 1 {
			return errRead
		}
		return nil
	}
	return nil
}

func (f *faultyReader) Get(key []byte) ([]byte, io.Closer, error) {
	if err := f.next(); err != nil {
		return nil, nil, err
	}
	return f.Reader.Get(key)
}

func (f *faultyReader) NewIter(o *pebble.IterOptions) (*pebble.Iterator, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return f.Reader.NewIter(o)
}

// eachRead does the same once for every read that it needs, failing that one,
// and then without a failure. Every failure must be reported as such.
func eachRead(t *testing.T, name string, f *faultyReader, do func() error) {
	t.Helper()
	for n := int64(1); ; n++ {
		f.arm(n)
		err := do()
		if !f.disarm() {
			if err != nil {
				t.Errorf("%s without a failure: %v", name, err)
			}
			if n == 1 {
				t.Errorf("%s read nothing: nothing was tested", name)
			}
			return
		}
		if err == nil || !strings.Contains(err.Error(), errRead.Error()) || errors.Is(err, ErrNotFound) {
			t.Errorf("%s, read %d failed: %v", name, n, err)
			return
		}
	}
}

// filled is a closed log with some of everything.
func filled(t *testing.T, opts Options) *testLog {
	t.Helper()
	tl := newTestLog(t, opts)
	tl.addN(300)
	e := tl.nextEntry()
	e.Opening, e.Dedup, e.Sets = []byte("opening"), []byte("key"), []Register{{"r", 7}}
	tl.add(e)
	tl.mustPublish(301)
	tl.close()
	return tl
}

// TestStoppedReadsFail: whatever a command does with a log that is not running, it
// says of each read that fails that it failed, and not that something is missing,
// and answers as before when reading works again.
func TestStoppedReadsFail(t *testing.T) {
	t.Parallel()
	tl := filled(t, testOptions(vfs.NewMem()))
	s, err := OpenStore(storeOf(tl.opts))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := failing(s.store)
	for _, c := range []struct {
		name string
		do   func() (any, error)
	}{
		{"status", func() (any, error) {
			st, err := s.Status()
			if err == nil && st.NotReady != "" {
				err = errors.New(st.NotReady) // of whether it is suspended
			}
			return st, err
		}},
		{"suspended", func() (any, error) { return nil, s.Suspended() }},
		{"last cosigned", func() (any, error) { return s.lastCosigned() }},
		{"nothing beyond", func() (any, error) { return nil, s.store.checkNothingBeyond(301) }},
		{"leaf hashes", func() (any, error) {
			var all []Hash
			for h, err := range s.LeafHashes(0) {
				if err != nil {
					return nil, err
				}
				all = append(all, h)
			}
			return all, nil
		}},
		{"fsck", func() (any, error) {
			r, err := fsckReader(t.Context(), s.store.reader, FsckOptions{Workers: 1})
			if err != nil {
				return nil, err
			}
			if r.Count > 0 {
				return nil, fmt.Errorf("%v", r.Findings)
			}
			return r, nil
		}},
	} {
		want, err := c.do()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		eachRead(t, c.name, f, func() error {
			got, err := c.do()
			if err == nil && !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %+v, before it was %+v", c.name, got, want)
			}
			return err
		})
	}
}

// TestOpenReadsFail: a log of which something cannot be read does not open, and
// opens when it can be.
func TestOpenReadsFail(t *testing.T) {
	t.Parallel()
	tl := filled(t, testOptions(vfs.NewMem()))
	for n := int64(1); ; n++ {
		l, err := newLog(tl.opts)
		if err != nil {
			t.Fatal(err)
		}
		f := failing(l.store)
		f.arm(n)
		err = l.store.faults.during(func() error {
			_, notes, err := l.recover()
			if err == nil {
				_, err = newPublisher(l, notes)
			}
			return err
		})
		reached := f.disarm()
		if err := l.store.close(); err != nil {
			t.Fatal(err)
		}
		if !reached {
			if err != nil || n == 1 {
				t.Errorf("open without a failure: %v after %d reads", err, n-1)
			}
			break
		}
		if !errors.Is(err, errRead) {
			t.Errorf("open, read %d failed: %v", n, err)
		}
	}
	tl.open()
	tl.check()
}

// TestSucceedReadsFail: a succession that cannot read goes on when it can, to the
// same end.
func TestSucceedReadsFail(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	tl := filled(t, testOptions(fs))
	s, err := OpenStore(storeOf(tl.opts))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	next := nextOptions(fs)
	eachRead(t, "succeed", failing(s.store), func() error {
		r, err := Succeed(s, next)
		if err == nil && (r.Size != 301 || r.Lost != 0 || r.NewOrigin != next.Origin) {
			t.Errorf("succession is %+v", r)
		}
		return err
	})
}

// TestCatchUpReadsFail: a catch-up that cannot read one of the stores leaves the
// log suspended, and goes on when it can.
func TestCatchUpReadsFail(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"own, from tiles", "own, from a store", "the source"} {
		tl, o := behind(t, 300, 300)
		e := tl.nextEntry()
		e.Opening, e.Dedup, e.Sets = []byte("opening"), []byte("key"), []Register{{"r", 7}}
		tl.add(e)
		tl.mustPublish(601)
		from := Source{Fetch: fetchLog(tl.Log)}
		var other *Store
		if c != "own, from tiles" {
			tl.close()
			tl.opts.HoldWitness = true
			tl.open()
			tl.addN(40) // acknowledged, and not signed
			tl.close()
			var err error
			if other, err = OpenStore(storeOf(tl.opts)); err != nil {
				t.Fatal(err)
			}
			from = Source{Store: other}
		}
		own, err := OpenStore(storeOf(o))
		if err != nil {
			t.Fatal(err)
		}
		f := failing(own.store)
		if c == "the source" {
			f = failing(other.store)
		}
		eachRead(t, c, f, func() error {
			run := &catchUp{own: own, from: from}
			r, err := run.run(t.Context(), other)
			if n := f.left.Swap(0); err != nil {
				if err := own.Suspended(); !errors.Is(err, ErrRestored) {
					t.Errorf("%s: after a failure the log is suspended by %v", c, err)
				}
			} else {
				if r.From != 300 || r.To != 601 {
					t.Errorf("%s: report is %+v", c, r)
				}
				f.left.Store(n)
			}
			return err
		})
		if err := errors.Join(own.Suspended(), own.Close()); err != nil {
			t.Errorf("%s: %v", c, err)
		}
		if other != nil {
			if err := other.Close(); err != nil {
				t.Error(err)
			}
			continue
		}
		tl.close()
	}
}

// openFailing opens a log whose reads can be made to fail.
func openFailing(t *testing.T, tl *testLog) *faultyReader {
	t.Helper()
	l, err := newLog(tl.opts)
	if err != nil {
		t.Fatal(err)
	}
	f := failing(l.store)
	if err := l.store.faults.during(l.start); err != nil {
		t.Fatal(err)
	}
	tl.Log = l
	return f
}

// TestRunningReadsFail: a read that fails is an error for who asked, and nothing
// else.
func TestRunningReadsFail(t *testing.T) {
	t.Parallel()
	tl := filled(t, testOptions(vfs.NewMem()))
	f := openFailing(t, tl)
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"register", func() error { _, err := tl.Register("r"); return err }},
		{"opening", func() error { return firstError(tl.Openings(300, 301)) }},
		{"entry", func() error { _, err := tl.EntryAt(3); return err }},
		{"first published", func() error { _, err := tl.FirstPublishedCovering(3); return err }},
		{"inclusion", func() error { _, err := tl.InclusionProof(3, 301); return err }},
	} {
		eachRead(t, c.name, f, c.do)
	}
	tl.add(tl.nextEntry())
	tl.check()
	tl.close()
}

// TestSequencerReadsFail: when the sequencer cannot read it does not guess. The
// log accepts nothing until it is opened again.
func TestSequencerReadsFail(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]Entry{
		"guard":           {Data: []byte("x"), Guards: []Guard{{"r", 7}}},
		"consumed key":    {Data: []byte("x"), Dedup: []byte("key")},
		"key and nothing": {Data: []byte("x"), Dedup: []byte("key"), Guards: []Guard{{"r", 1}}},
	} {
		tl := filled(t, testOptions(vfs.NewMem()))
		f := openFailing(t, tl)
		f.arm(1)
		if _, _, err := tl.Append(t.Context(), e); !errors.Is(err, ErrReload) || !errors.Is(err, errRead) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := tl.Append(t.Context(), Entry{}); !errors.Is(err, ErrReload) {
			t.Errorf("%s, append afterwards: %v", name, err)
		}
		if s := tl.Status(); s.Ready || s.Healthy {
			t.Errorf("%s: status is %+v", name, s)
		}
		if err := tl.Close(t.Context()); err != nil {
			t.Error(err)
		}
		tl.open()
		tl.add(tl.nextEntry())
		tl.check()
		tl.close()
	}
}
