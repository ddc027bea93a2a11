package logserver

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestResourcesOfALogRunningAndStopped(t *testing.T) {
	fs := vfs.NewMem()
	tl := newTestLog(t, testOptions(fs))
	tl.addN(600)
	if err := tl.Wait(t.Context(), 600); err != nil {
		t.Fatal(err)
	}
	if keys := tl.Keys(); len(keys) != 2 || keys[0].Vkey != tl.Vkey() || keys[1].Role != RoleReceipt {
		t.Errorf("keys: %+v", keys)
	}
	want := map[string][]byte{}
	for _, path := range []string{"checkpoint", "tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/001", "tile/entries/002.p/88", "tile/entries/002.p/5"} {
		b, err := tl.Resource(t.Context(), path, 1<<20)
		if err != nil || len(b) == 0 {
			t.Fatalf("%q: %d bytes, %v", path, len(b), err)
		}
		want[path] = bytes.Clone(b)
	}
	check := func(fetch func(context.Context, string, int64) ([]byte, error)) {
		t.Helper()
		for path, b := range want {
			if got, err := fetch(t.Context(), path, int64(len(b))); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%q: %d bytes, %v", path, len(got), err)
			}
			if _, err := fetch(t.Context(), path, int64(len(b))-1); !errors.Is(err, ErrNotFound) {
				t.Errorf("%q beyond the limit: %v", path, err)
			}
		}
		for _, path := range []string{"", "tile/0/003", "tile/0/002.p/89", "tile/entries/002", "tile/9/000", "healthz", "tile/0/0"} {
			if _, err := fetch(t.Context(), path, 1<<20); !errors.Is(err, ErrNotFound) {
				t.Errorf("%q: %v", path, err)
			}
		}
	}
	check(tl.Resource)
	tl.close()
	s, err := OpenStore(StoreOptions{Dir: tl.opts.Dir, ReadOnly: true, fs: fs})
	if err != nil {
		t.Fatal(err)
	}
	fetch, err := s.Resources()
	if err != nil {
		t.Fatal(err)
	}
	check(fetch)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tamper(t, tl.opts, metaPublished, remove)
	if s, err = OpenStore(StoreOptions{Dir: tl.opts.Dir, ReadOnly: true, fs: fs}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resources(); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing was published: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
