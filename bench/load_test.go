package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestPosts reads the requests as a server does, and expects entries that are
// unique, of the right length, and framed in a batch.
func TestPosts(t *testing.T) {
	for _, c := range []struct {
		kind    string
		entries int
	}{{kindAdd, 1}, {kindBatch, batchEntries}} {
		k, perAnswer, err := newKind(job{Kind: c.kind, Conns: 2, Shape: plain})
		if err != nil || perAnswer != c.entries {
			t.Fatalf("%d entries, %v", perAnswer, err)
		}
		seen := make(map[string]bool)
		for i := range 6 {
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(k.request(i % 2))))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			if err != nil || r.Method != http.MethodPost {
				t.Fatalf("%s: %v", r.Method, err)
			}
			for range c.entries {
				if c.entries > 1 {
					if n := int(body[0])<<8 | int(body[1]); n != plain.Entry {
						t.Fatalf("frame of %d bytes", n)
					}
					body = body[2:]
				}
				seen[string(body[:plain.Entry])] = true
				body = body[plain.Entry:]
			}
			if len(body) > 0 {
				t.Fatalf("%d bytes are left", len(body))
			}
		}
		if len(seen) != 6*c.entries {
			t.Errorf("%s: %d unique entries, want %d", c.kind, len(seen), 6*c.entries)
		}
	}
}

// TestAnswersAreJudged gives wrong answers.
func TestAnswersAreJudged(t *testing.T) {
	var all bytes.Buffer
	for i := range batchEntries {
		all.Write(append(strconv.AppendInt(nil, int64(i), 10), '\n'))
	}
	for _, c := range []struct {
		name, kind string
		status     int
		bodies     []string
		ok         bool
	}{
		{"index", kindAdd, 200, []string{"7", "6"}, true},
		{"twice", kindAdd, 200, []string{"7", "7"}, false},
		{"no index", kindAdd, 200, []string{"seven"}, false},
		{"nothing", kindAdd, 200, []string{""}, false},
		{"status", kindAdd, 503, []string{"7"}, false},
		{"empty handler", kindEmpty, 200, []string{""}, true},
		{"indexes", kindBatch, 200, []string{all.String()}, true},
		{"one index too few", kindBatch, 200, []string{all.String()[2:]}, false},
		{"the same batch", kindBatch, 200, []string{all.String(), all.String()}, false},
		{"short tile", kindTiles, 200, []string{"short"}, false},
	} {
		k, _, err := newKind(job{Kind: c.kind, Conns: 1, Shape: plain, Tiles: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range c.bodies {
			err = k.answer(0, c.status, []byte(body))
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTilePaths(t *testing.T) {
	k := newTiles(job{Tiles: 1235})
	for n, want := range map[int]string{0: "/tile/0/000", 999: "/tile/0/999", 1234: "/tile/0/x001/234"} {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(k.requests[n])))
		if err != nil || r.URL.Path != want {
			t.Errorf("tile %d: %v, %v", n, r.URL, err)
		}
	}
}

// TestStatements expects that both verifiers accept every proof, and neither
// one with a flipped bit.
func TestStatements(t *testing.T) {
	all, err := statements(50)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		if err := checkpoint.VerifyInclusion(s.tree, s.index, s.leaf, s.path); err != nil {
			t.Errorf("proof %d: %v", i, err)
		}
		s.path[i%len(s.path)][i%tlog.HashSize] ^= 1
		if err := checkpoint.VerifyInclusion(s.tree, s.index, s.leaf, s.path); err == nil {
			t.Errorf("proof %d was accepted with a flipped bit", i)
		}
	}
}

// TestKeysAreDistinct checks the deduplication keys: a duplicate would not be
// appended and make us look fast.
func TestKeysAreDistinct(t *testing.T) {
	f := newFiller(withOpening)
	seen := make(map[[32]byte]bool)
	for i := range uint64(100_000) {
		var key [32]byte
		f.key(key[:], i)
		seen[key] = true
	}
	if len(seen) != 100_000 {
		t.Errorf("%d distinct keys", len(seen))
	}
}

func TestProcessFigures(t *testing.T) {
	if peak, err := memoryPeak(os.Getpid()); err != nil || peak < 1 || peak > 1<<20 {
		t.Errorf("peak memory %v MiB, %v", peak, err)
	}
	if _, err := bytesWritten(os.Getpid()); err != nil && !os.IsPermission(err) {
		t.Error(err)
	}
	if _, _, ok := processTime(os.Getpid()); !ok {
		t.Error("no CPU time")
	}
	// Busy for a while: none of it is others'.
	watch := watchCPU(0)
	for start := time.Now(); time.Since(start) < 100*time.Millisecond; {
	}
	if used := watch.stop(); used.Self < 0 || used.Others < 0 || used.Server != 0 {
		t.Errorf("%+v", used)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := diskUsage(dir); err != nil || n < 0 {
		t.Errorf("disk usage %d, %v", n, err)
	}
}

func TestCountSyncs(t *testing.T) {
	const trace = `17 openat(AT_FDCWD, "a", O_WRONLY|O_CREAT|O_EXCL|O_SYNC|O_CLOEXEC, 0644) = 7
17 fsync(8 <unfinished ...>
18 fdatasync(9) = 0 (DELAYED)
17 <... fsync resumed>) = 0 (DELAYED)
17 openat(AT_FDCWD, "b", O_RDONLY) = 7
`
	if calls, files := countSyncs(trace); calls != 2 || files != 1 {
		t.Errorf("%d calls, %d files", calls, files)
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"/a/b", "/", true}, {"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/a", "/a/b", false}} {
		if got := within(c.path, c.dir); got != c.want {
			t.Errorf("within(%q, %q) = %v", c.path, c.dir, got)
		}
	}
	if fileSystem("/proc/self") == fileSystem("/") {
		t.Error("/proc is told to be on the root's file system")
	}
}
