package blobstore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
)

func openStore(t testing.TB) *Store {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(Options{Dir: filepath.Join(dir, "blobs"), KeyDir: filepath.Join(dir, "keys"), MaxSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustPut(t testing.TB, s *Store, owner string, data []byte) digest.Digest {
	t.Helper()
	d, err := s.Put(context.Background(), owner, data)
	if err != nil {
		t.Fatal(err)
	}
	if d != digest.Of(data) {
		t.Fatalf("put answered %v", d)
	}
	return d
}

func TestPutGet(t *testing.T) {
	ctx := context.Background()
	for _, data := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte{7}, 1<<20)} {
		s := openStore(t)
		d := mustPut(t, s, "acme", data)
		mustPut(t, s, "acme", data) // again is no error
		got, err := s.Get(ctx, "acme", d)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: got %d bytes, %v", len(data), len(got), err)
		}
		if size, err := s.Size(ctx, "acme", d); size != int64(len(data)) || err != nil {
			t.Errorf("size: %d, %v", size, err)
		}
	}
}

// What is stored survives a restart: nothing is in memory only.
func TestReopen(t *testing.T) {
	s := openStore(t)
	d := mustPut(t, s, "acme", []byte("payload"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got, err := again.Get(context.Background(), "acme", d); err != nil || string(got) != "payload" {
		t.Errorf("after reopening: %q, %v", got, err)
	}
}

func TestNamespaces(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	d := mustPut(t, s, "acme", []byte("secret of acme"))
	if _, err := s.Get(ctx, "rival", d); !errors.Is(err, ErrNotFound) {
		t.Errorf("another owner's get: %v", err)
	}
	if _, err := s.Size(ctx, "rival", d); !errors.Is(err, ErrNotFound) {
		t.Errorf("another owner's size: %v", err)
	}
	if err := s.Erase(ctx, "rival", d); err != nil {
		t.Errorf("another owner's erase: %v", err)
	}
	if _, err := s.Get(ctx, "acme", d); err != nil {
		t.Errorf("after another owner's erase: %v", err)
	}
	// The same payload of two owners has two keys: erasing one keeps the other.
	mustPut(t, s, "rival", []byte("secret of acme"))
	if err := s.Erase(ctx, "acme", d); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "rival", d); err != nil {
		t.Errorf("after the other owner's erase: %v", err)
	}
}

// Erasure holds even when somebody kept the sealed payload and puts it back.
func TestEraseDestroysTheKey(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	d := mustPut(t, s, "acme", []byte("to be forgotten"))
	n, _ := s.name("acme", d)
	kept, err := os.ReadFile(s.payloadPath(n))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(kept, []byte("forgotten")) {
		t.Error("the payload is stored in clear")
	}
	for range 2 { // twice is no error
		if err := s.Erase(ctx, "acme", d); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.payloadPath(n), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "acme", d); !errors.Is(err, ErrNotFound) {
		t.Errorf("after erasure: %v", err)
	}
	if _, err := s.Size(ctx, "acme", d); !errors.Is(err, ErrNotFound) {
		t.Errorf("size after erasure: %v", err)
	}
	mustPut(t, s, "acme", []byte("to be forgotten"))
	if _, err := s.Get(ctx, "acme", d); err != nil {
		t.Errorf("put again after erasure: %v", err)
	}
	if err := s.Erase(ctx, "never-seen", d); err != nil {
		t.Errorf("erasing for an owner without payloads: %v", err)
	}
}

// Whoever can write to the payload directory can withhold, not deceive; and
// putting the payload again repairs it.
func TestDamage(t *testing.T) {
	ctx := context.Background()
	tests := map[string]func(s *Store, n name) error{
		"payload gone":    func(s *Store, n name) error { return os.Remove(s.payloadPath(n)) },
		"payload empty":   func(s *Store, n name) error { return os.WriteFile(s.payloadPath(n), nil, 0o600) },
		"payload huge":    func(s *Store, n name) error { return os.Truncate(s.payloadPath(n), DefaultMaxSize+overhead+1) },
		"key cut short":   func(s *Store, n name) error { return os.WriteFile(s.keyPath(n), []byte("short"), 0o600) },
		"one bit flipped": func(s *Store, n name) error { return flip(s.payloadPath(n)) },
		"key altered":     func(s *Store, n name) error { return flip(s.keyPath(n)) },
		"moved from another owner": func(s *Store, n name) error {
			other := name{"rival", n.digest}
			if _, err := s.Put(ctx, "rival", []byte("payload")); err != nil {
				return err
			}
			return errors.Join(os.Rename(s.payloadPath(other), s.payloadPath(n)), os.Rename(s.keyPath(other), s.keyPath(n)))
		},
	}
	for what, damage := range tests {
		t.Run(what, func(t *testing.T) {
			s := openStore(t)
			d := mustPut(t, s, "acme", []byte("payload"))
			if err := damage(s, name{"acme", d}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(ctx, "acme", d); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, want %v", err, ErrCorrupt)
			}
			mustPut(t, s, "acme", []byte("payload"))
			if got, err := s.Get(ctx, "acme", d); err != nil || string(got) != "payload" {
				t.Errorf("after putting it again: %q, %v", got, err)
			}
		})
	}
}

func flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)-1] ^= 1
	return os.WriteFile(path, b, 0o600)
}

// A store that stopped between writing payload and key holds nothing, and takes
// the payload afterwards.
func TestStoppedBetweenPayloadAndKey(t *testing.T) {
	s := openStore(t)
	d := mustPut(t, s, "acme", []byte("payload"))
	if err := os.Remove(s.keyPath(name{"acme", d})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(context.Background(), "acme", d); !errors.Is(err, ErrNotFound) {
		t.Errorf("without key: %v", err)
	}
	mustPut(t, s, "acme", []byte("payload"))
	if _, err := s.Get(context.Background(), "acme", d); err != nil {
		t.Error(err)
	}
}

func TestHostileOwners(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	for _, owner := range []string{"", ".", "..", "../x", "a/b", "/etc", "a\\b", "A", "a.", ".a", "a\x00", "ä", strings.Repeat("a", 64), "a\n"} {
		if _, err := s.Put(ctx, owner, []byte("x")); !errors.Is(err, ErrOwner) {
			t.Errorf("put for %q: %v", owner, err)
		}
		if _, err := s.Get(ctx, owner, digest.Digest{}); !errors.Is(err, ErrOwner) {
			t.Errorf("get for %q: %v", owner, err)
		}
		if _, err := s.Size(ctx, owner, digest.Digest{}); !errors.Is(err, ErrOwner) {
			t.Errorf("size for %q: %v", owner, err)
		}
		if err := s.Erase(ctx, owner, digest.Digest{}); !errors.Is(err, ErrOwner) {
			t.Errorf("erase for %q: %v", owner, err)
		}
	}
}

func TestTooLarge(t *testing.T) {
	s := openStore(t)
	if _, err := s.Put(context.Background(), "acme", make([]byte, 1<<20+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

// A store whose directories cannot be used says so instead of losing payloads.
func TestUnusableDirectories(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: file, KeyDir: filepath.Join(dir, "keys")}); err == nil {
		t.Error("opened a file as a directory")
	}
	s := openStore(t)
	if err := os.WriteFile(filepath.Join(s.opts.KeyDir, "acme"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(context.Background(), "acme", []byte("x")); err == nil {
		t.Error("put without a directory for the key")
	}
	d := mustPut(t, s, "rival", []byte("x"))
	if err := os.RemoveAll(filepath.Join(s.opts.KeyDir, "rival")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(context.Background(), "rival", []byte("y")); err == nil {
		t.Error("put although the key directory is gone")
	}
	if _, err := s.Get(context.Background(), "rival", d); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Put(canceled, "other", []byte("z")); err == nil {
		t.Error("put with a context that has ended")
	}
}

func TestConcurrent(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			data := []byte{byte(i % 2)}
			for range 10 {
				d, err := s.Put(ctx, "acme", data)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := s.Get(ctx, "acme", d); (err != nil || !bytes.Equal(got, data)) && !errors.Is(err, ErrNotFound) {
					t.Errorf("got %x, %v", got, err)
				}
				if i == 0 {
					if err := s.Erase(ctx, "acme", d); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// Directories where files should be make every file operation fail; none of
// them is taken for an absent payload.
func TestObstructed(t *testing.T) {
	ctx := context.Background()
	obstruct := func(t *testing.T, path string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	data := []byte("payload")
	n := name{"acme", digest.Of(data)}
	t.Run("key", func(t *testing.T) {
		s := openStore(t)
		mustPut(t, s, n.owner, data)
		obstruct(t, s.keyPath(n))
		_, getErr := s.Get(ctx, n.owner, n.digest)
		_, sizeErr := s.Size(ctx, n.owner, n.digest)
		_, putErr := s.Put(ctx, n.owner, data)
		for what, err := range map[string]error{"get": getErr, "size": sizeErr, "put": putErr, "erase": s.Erase(ctx, n.owner, n.digest)} {
			if err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	t.Run("payload", func(t *testing.T) {
		s := openStore(t)
		mustPut(t, s, n.owner, data)
		obstruct(t, s.payloadPath(n))
		if _, err := s.Put(ctx, n.owner, data); err == nil {
			t.Error("put over a directory")
		}
		if _, err := s.Get(ctx, n.owner, n.digest); err == nil {
			t.Error("got a directory")
		}
	})
	t.Run("payload of an erasure", func(t *testing.T) {
		s := openStore(t)
		mustPut(t, s, n.owner, data)
		obstruct(t, s.payloadPath(n))
		// The file driver sees no object in a directory: the key is what counts.
		if err := s.Erase(ctx, n.owner, n.digest); err != nil {
			t.Logf("erase: %v", err)
		}
		if _, err := s.Get(ctx, n.owner, n.digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("after erasure: %v", err)
		}
	})
	t.Run("owner", func(t *testing.T) {
		s := openStore(t)
		if err := os.WriteFile(filepath.Join(s.opts.Dir, "acme"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(ctx, "acme", data); err == nil {
			t.Error("put below a file")
		}
	})
	t.Run("root", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Dir: t.TempDir(), KeyDir: filepath.Join(file, "keys")}); err == nil {
			t.Error("opened with keys below a file")
		}
	})
}

// TestFailingKeyFiles meets what only happens when somebody else works in the
// directories: a key is written whole or not at all, and a removal that could
// not be made durable is not reported as one.
func TestFailingKeyFiles(t *testing.T) {
	dir := t.TempDir()
	if err := writeKey(filepath.Join(dir, "absent", "key"), []byte("key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "key", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeKey(filepath.Join(dir, "key"), []byte("key")); err == nil {
		t.Error("a directory became a key")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := syncFile(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("syncing what is not there: %v", err)
	}
	if _, err := seal([]byte("short"), name{"acme", digest.Digest{}}, nil); err == nil {
		t.Error("sealed with a key of 5 bytes")
	}
}

// TestStoreThatIsGone: an operation on a store whose bucket fails is an error,
// never an absent payload and never a success.
func TestStoreThatIsGone(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	data := []byte("payload")
	d := mustPut(t, s, "acme", data)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, getErr := s.Get(ctx, "acme", d)
	_, sizeErr := s.Size(ctx, "acme", d)
	_, putErr := s.Put(ctx, "acme", data)
	_, otherErr := s.Put(ctx, "acme", []byte("another"))
	for what, err := range map[string]error{"get": getErr, "size": sizeErr, "put again": putErr, "put": otherErr} {
		if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Erase(ctx, "acme", d); err == nil || !strings.Contains(err.Error(), "whose key is destroyed") {
		t.Errorf("erase: %v", err)
	}
	if _, err := os.Stat(s.keyPath(name{"acme", d})); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key after an erasure: %v", err)
	}
}

// TestPayloadOfAnotherDigest is sealed as it should be and is not what its
// name says: a store that once wrote wrongly does not serve it.
func TestPayloadOfAnotherDigest(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	n := name{"acme", mustPut(t, s, "acme", []byte("payload"))}
	key, err := os.ReadFile(s.keyPath(n))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := seal(key, n, []byte("another"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.payloadPath(n), sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, n.owner, n.digest); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}
