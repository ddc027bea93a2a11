package logserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestCopiedStoreIsSuspended: a store knows its place. A directory that is
// renamed keeps it; a copy, made with whatever tool, does not sign or append.
func TestCopiedStoreIsSuspended(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells when a file was born")
	}
	base := t.TempDir()
	opts := testOptions(nil)
	opts.Dir = filepath.Join(base, "a", "store")
	tl := newTestLog(t, opts)
	tl.addN(10)
	tl.mustPublish(10)
	tl.close()

	if err := os.Rename(filepath.Join(base, "a"), filepath.Join(base, "b")); err != nil {
		t.Fatal(err)
	}
	tl.opts.Dir = filepath.Join(base, "b", "store")
	tl.open()
	tl.add(tl.nextEntry())
	tl.mustPublish(11)
	tl.close()

	clone := filepath.Join(base, "clone")
	if err := os.CopyFS(clone, os.DirFS(tl.opts.Dir)); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func() error{
		"copied":         func() error { return nil },
		"file left out":  func() error { return os.Remove(filepath.Join(clone, placeFile)) },
		"file made anew": func() error { return os.WriteFile(filepath.Join(clone, placeFile), nil, 0o600) },
	} {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		o := opts
		o.Dir = clone
		l, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = l.Append(context.Background(), Entry{})
		if !errors.Is(err, ErrRestored) {
			t.Errorf("%s: append: %v", name, err)
		}
		if _, err := l.Head(); !errors.Is(err, ErrRestored) {
			t.Errorf("%s: receipt head: %v", name, err)
		}
		if err := l.Ready(t.Context()); !errors.Is(err, ErrRestored) {
			t.Errorf("%s: ready: %v", name, err)
		}
		if err := l.Wait(t.Context(), 100); !errors.Is(err, ErrRestored) {
			t.Errorf("%s: wait: %v", name, err)
		}
		if err := l.Health(); !errors.Is(err, ErrRestored) {
			t.Errorf("%s: health: %v", name, err)
		}
		if e, err := l.EntryAt(10); err != nil || l.Published().Size != 11 {
			t.Errorf("%s: reads: %q, %v, published %d", name, e, err, l.Published().Size)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	// The original is as it was.
	tl.open()
	tl.add(tl.nextEntry())
	tl.check()
}

// TestPlaceOfReplacedFile: a file that replaces a deleted one within one tick of
// the file system's clock, and gets its number, is in another place.
func TestPlaceOfReplacedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), placeFile)
	seen := map[string]bool{}
	for range 300 {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		place, err := placeOf(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(place, handleMark) {
			t.Skipf("this file system has no handles: %q", place)
		}
		if seen[place] {
			t.Fatalf("two files were in the place %q", place)
		}
		seen[place] = true
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSamePlace(t *testing.T) {
	for _, c := range []struct {
		stored, now string
		want        bool
	}{
		{"inode 7 born 5.1", "inode 7 born 5.1", true},
		{"inode 7 born 5.1", "inode 8 born 5.1", false},
		{"inode 7 born 5.1", "inode 7 born 5.2", false},
		{"inode 7 born 5.1", "inode 7 fs 1:2", false},
		{"inode 7 born 5.1 handle 1:ab", "inode 7 born 5.1 handle 1:ab", true},
		{"inode 7 born 5.1 handle 1:ab", "inode 7 born 5.1 handle 1:ac", false},
		{"inode 7 born 5.1 handle 1:ab", "inode 8 born 5.1 handle 1:ab", false},
		{"inode 7 born 5.1 handle 1:ab", "inode 7 born 5.1 handle 81:abcd", true},
		{"inode 7 born 5.1", "inode 7 born 5.1 handle 1:ab", true},
		{"inode 7 born 5.1 handle 1:ab", "inode 7 born 5.1", true},
		{"inode 7 born 5.1", "", false},
		{"", "", true},
	} {
		if got := samePlace(c.stored, c.now); got != c.want {
			t.Errorf("samePlace(%q, %q) = %v", c.stored, c.now, got)
		}
	}
}
