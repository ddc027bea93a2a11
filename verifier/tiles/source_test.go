package tiles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func (s *server) open(t *testing.T) (*Source, error) {
	a := s.audit(t)
	return OpenSource(t.Context(), a.Fetch, a.Policy, a.Workers)
}

// read returns every entry from start on, as a reader of the source gets them.
func read(ctx context.Context, s *Source, start int64) (entries [][]byte, err error) {
	for b, err := range s.Bundles(ctx, start) {
		if err != nil {
			return entries, err
		}
		entries = append(entries, b.Entries(start)...)
	}
	return entries, nil
}

// sizes cross the edges of tiles and bundles.
var sourceSizes = []int{0, 1, 2, 255, 256, 257, 511, 512, 700, 1<<16 - 1, 1 << 16, 1<<16 + 300}

func TestSourceReadsVerifiedEntries(t *testing.T) {
	srv := newServer(0)
	for _, size := range sourceSizes {
		srv.grow(size - len(srv.entries))
		s, err := srv.open(t)
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if c := s.Checkpoint(); c.Size != int64(size) || !bytes.Contains(s.Note(), []byte(c.Root.String())) || len(s.Cosignatures()) != 0 {
			t.Errorf("size %d: checkpoint %v", size, c)
		}
		for _, start := range []int{0, 1, 255, 256, 300, size - 1, size} {
			if start < 0 || start > size {
				continue
			}
			entries, err := read(t.Context(), s, int64(start))
			if err != nil || len(entries) != size-start {
				t.Fatalf("size %d from %d: %d entries, %v", size, start, len(entries), err)
			}
			for i, entry := range entries {
				if !bytes.Equal(entry, srv.entries[start+i]) {
					t.Fatalf("size %d: entry %d is %q", size, start+i, entry)
				}
			}
		}
		for _, at := range sourceSizes {
			if at > size {
				continue
			}
			want, err := tlog.TreeHash(int64(at), tlog.HashReaderFunc(srv.read))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.RootAt(t.Context(), int64(at)); err != nil || got != want {
				t.Errorf("root at %d of %d: %v, %v", at, size, got, err)
			}
			proof, err := s.Consistency(t.Context(), int64(at))
			if err == nil {
				err = checkpoint.VerifyConsistency(tlog.Tree{N: int64(at), Hash: want}, s.Checkpoint().Tree(), proof)
			}
			if err != nil {
				t.Errorf("consistency of %d with %d: %v", at, size, err)
			}
		}
		for level := range maxLevel + 2 {
			for _, index := range []int64{0, 1, 255, 256, 257} {
				w := int(min(int64(size)>>(8*level)-index*width, width))
				want, err := []byte(nil), ErrNotFound
				if w > 0 {
					want, err = srv.resource(t, TilePath(level, index, w))
				}
				got, gotErr := s.Tile(t.Context(), level, index)
				if (gotErr != nil) != (err != nil) || err == nil && !bytes.Equal(got, want) {
					t.Errorf("size %d: tile %d/%d: %v", size, level, index, gotErr)
				}
			}
		}
		for _, c := range []struct {
			level int
			index int64
		}{{0, 0}, {-1, 0}, {1, -1}, {1, int64(size / width)}, {8, 0}, {1000, 0}} {
			if _, err := s.Subtree(t.Context(), c.level, c.index); !errors.Is(err, ErrRollback) {
				t.Errorf("size %d: subtree %v: %v", size, c, err)
			}
		}
		if size >= width {
			last := int64(size/width) - 1
			want, err := tlog.TreeHash(width, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
				out := make([]tlog.Hash, len(indexes))
				for i, x := range indexes {
					level, n := tlog.SplitStoredHashIndex(x)
					out[i] = srv.hashes[tlog.StoredHashIndex(level, n+last*width>>level)]
				}
				return out, nil
			}))
			if got, gotErr := s.Subtree(t.Context(), 1, last); err != nil || gotErr != nil || got != want {
				t.Errorf("size %d: subtree 1/%d: %v, %v", size, last, err, gotErr)
			}
		}
		for _, at := range []int64{-1, int64(size) + 1} {
			if _, err := s.Consistency(t.Context(), at); !errors.Is(err, ErrRollback) {
				t.Errorf("consistency with %d: %v", at, err)
			}
			if _, err := s.RootAt(t.Context(), at); !errors.Is(err, ErrRollback) {
				t.Errorf("root at %d of %d: %v", at, size, err)
			}
			if _, err := read(t.Context(), s, at); !errors.Is(err, ErrRollback) {
				t.Errorf("entries from %d of %d: %v", at, size, err)
			}
		}
	}
}

// TestSourceReadsEachTileOnce holds the cost of a walk: bundles, and no tile
// twice.
func TestSourceReadsEachTileOnce(t *testing.T) {
	srv := newServer(1<<16 + 300)
	s, err := srv.open(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(t.Context(), s, 0); err != nil {
		t.Fatal(err)
	}
	for path, n := range srv.reads {
		if n != 1 {
			t.Errorf("%q was read %d times", path, n)
		}
	}
	if n := srv.reads["tile/0/000"]; n != 0 {
		t.Errorf("a full tile of level 0 was read; the entries make it")
	}

	// A proof about the past takes one tile of each level.
	clear(srv.reads)
	if s, err = srv.open(t); err != nil {
		t.Fatal(err)
	}
	for _, what := range []func() error{
		func() error { _, err := s.RootAt(t.Context(), 40_123); return err },
		func() error { _, err := s.Consistency(t.Context(), 40_123); return err },
	} {
		if err := what(); err != nil {
			t.Fatal(err)
		}
	}
	for path, n := range srv.reads {
		if n != 1 {
			t.Errorf("for a proof %q was read %d times", path, n)
		}
	}
}

// TestSourceTrustsNothing flips a bit of every resource that a reader needs, and
// of the length of every resource.
func TestSourceTrustsNothing(t *testing.T) {
	srv := newServer(1<<16 + 300)
	s, err := srv.open(t)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(t.Context(), s, 0); err != nil {
		t.Fatal(err)
	}
	damages := map[string]func(b []byte) []byte{
		"flipped": func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b },
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"longer":  func(b []byte) []byte { return append(bytes.Clone(b), 0) },
	}
	paths := []string{"checkpoint", "tile/0/257.p/44", "tile/1/001.p/1", "tile/2/000.p/1", "tile/1/000", "tile/entries/000", "tile/entries/255", "tile/entries/256", "tile/entries/257.p/44"}
	for _, path := range paths {
		for name, damage := range damages {
			srv.answer = func(asked string) ([]byte, error, bool) {
				if asked != path {
					return nil, nil, false
				}
				b, err := srv.resource(t, path)
				if err != nil {
					return nil, err, true
				}
				return damage(b), nil, true
			}
			s, err := srv.open(t)
			var entries [][]byte
			if err == nil {
				entries, err = read(t.Context(), s, 0)
			}
			if err == nil {
				t.Errorf("%s %q is accepted", name, path)
			}
			for i, entry := range entries {
				if !bytes.Equal(entry, srv.entries[i]) {
					t.Fatalf("%s %q: entry %d is wrong and was handed out", name, path, i)
				}
			}
		}
	}
}

func TestSourceTakesFullTilesForPartialOnes(t *testing.T) {
	srv := newServer(700)
	signed := srv.checkpoint(t, 300)
	srv.signed = signed
	srv.answer = func(path string) ([]byte, error, bool) {
		return nil, ErrNotFound, strings.Contains(path, ".p/44")
	}
	s, err := srv.open(t)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := read(t.Context(), s, 0)
	if err != nil || len(entries) != 300 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
}

// A tree whose checkpoint came from elsewhere is read if the log serves it, and
// is not mistaken for the one that the log shows.
func TestSourceAtAnotherCheckpoint(t *testing.T) {
	srv, fork := newServer(700), newServer(0)
	for i := range 700 {
		fork.add(fmt.Appendf(nil, "another entry %d", i))
	}
	at := func(s *server, size int64) checkpoint.Checkpoint {
		root, err := tlog.TreeHash(size, tlog.HashReaderFunc(s.read))
		if err != nil {
			t.Fatal(err)
		}
		return checkpoint.Checkpoint{Origin: s.origin, Size: size, Root: root}
	}
	fetch := srv.audit(t).Fetch
	for _, size := range []int64{0, 1, 300, 512, 699, 700} {
		s, err := OpenSourceAt(t.Context(), fetch, at(srv, size))
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if root, err := s.RootAt(t.Context(), size/2); err != nil || root != at(srv, size/2).Root {
			t.Errorf("root at %d of %d: %v, %v", size/2, size, root, err)
		}
	}
	if _, err := OpenSourceAt(t.Context(), fetch, at(fork, 300)); !errors.Is(err, ErrRoot) {
		t.Errorf("another tree: %v, want %v", err, ErrRoot)
	}
	srv.grow(1)
	if _, err := OpenSourceAt(t.Context(), newServer(700).audit(t).Fetch, at(srv, 701)); !errors.Is(err, ErrFetch) {
		t.Errorf("a tree that is not served: %v, want %v", err, ErrFetch)
	}
}

func TestSourceStops(t *testing.T) {
	srv := newServer(5000)
	s, err := srv.open(t)
	if err != nil {
		t.Fatal(err)
	}
	for range s.Bundles(t.Context(), 0) {
		break // no goroutine may be left, which the race detector and the next read would notice
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := 0
	for _, err = range s.Bundles(ctx, 0) {
		if seen++; seen == 3 {
			cancel()
		}
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after %d bundles: %v", seen, err)
	}
	if _, err := read(ctx, s, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestSourceRefusesAnotherLog(t *testing.T) {
	srv := newServer(5)
	other := newServer(5)
	other.origin = "example/other"
	if _, err := OpenSource(t.Context(), srv.audit(t).Fetch, other.audit(t).Policy, 0); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("another log's policy: %v", err)
	}
	srv.answer = func(string) ([]byte, error, bool) { return nil, ErrNotFound, true }
	if _, err := srv.open(t); !errors.Is(err, ErrFetch) {
		t.Errorf("nothing there: %v", err)
	}
	srv.answer = nil
	srv.signed = srv.sign(t, checkpoint.Checkpoint{Origin: srv.origin, Size: 5})
	if _, err := srv.open(t); !errors.Is(err, ErrRoot) {
		t.Errorf("a signed root that the tiles do not make: %v", err)
	}
}

func TestLocate(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tile", "0", "000")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("12345"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{dir, "file://" + dir, "file://localhost" + dir + "/"} {
		fetch, err := Locate(nil, place)
		if err != nil {
			t.Fatalf("%q: %v", place, err)
		}
		if b, err := fetch(t.Context(), "tile/0/000", 5); err != nil || string(b) != "12345" {
			t.Errorf("%q: %q, %v", place, b, err)
		}
		if _, err := fetch(t.Context(), "tile/0/000", 4); err == nil {
			t.Errorf("%q: more than the limit is read", place)
		}
		for _, path := range []string{"tile/0/001", "../" + filepath.Base(dir) + "/tile/0/000", "/etc/passwd"} {
			if _, err := fetch(t.Context(), path, 1<<20); !errors.Is(err, ErrNotFound) {
				t.Errorf("%q: %q: %v", place, path, err)
			}
		}
		if _, err := fetch(t.Context(), "tile/0", 5); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%q: a directory is read: %v", place, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := fetch(ended, "tile/0/000", 5); !errors.Is(err, context.Canceled) {
			t.Errorf("%q: with an ended context: %v", place, err)
		}
	}
	if _, err := Locate(http.DefaultClient, "http://log.example/prefix"); err != nil {
		t.Error(err)
	}
	for _, place := range []string{"", file, dir + "/none", "file://other.example" + dir, "file://" + dir + "?q", "ftp://log.example/", "http://"} {
		if _, err := Locate(http.DefaultClient, place); err == nil {
			t.Errorf("%q is taken for a place", place)
		}
	}
}

func ExampleLocate() {
	_, err := Locate(nil, "ftp://log.example/")
	fmt.Println(err)
	// Output: "ftp://log.example/" is not an http or https URL without query, fragment and user
}
