package interop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
)

const patience = time.Minute

// server is a running `logserver serve`.
type server struct {
	dir  string
	url  string
	vkey string
	size int64 // entries that fill has added
}

// logserver is the program under test.
func logserver(t *testing.T) string {
	t.Helper()
	bin, err := filepath.Abs("../bin/logserver")
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// create makes a log.
func create(t *testing.T) *server {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	vkey, err := exec.Command(logserver(t), "init", "--dir", dir, "--origin", "interop.example/log").Output()
	if err != nil {
		t.Fatalf("logserver init: %v (run scripts/build first)", err)
	}
	return &server{dir: dir, vkey: strings.TrimSpace(string(vkey))}
}

func serve(t *testing.T) *server {
	t.Helper()
	s := create(t)
	s.start(t)
	return s
}

// start runs the log with more flags, until the test ends.
func (s *server) start(t *testing.T, flags ...string) {
	t.Helper()
	addrFile := filepath.Join(t.TempDir(), "addr")
	args := append([]string{"serve", "--dir", s.dir, "--listen", "127.0.0.1:0", "--addr-file", addrFile}, flags...)
	cmd := exec.Command(logserver(t), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("logserver said:\n%s", &stderr)
		}
	})
	eventually(t, "logserver listens", func() error {
		data, err := os.ReadFile(addrFile)
		if err == nil && len(data) == 0 {
			err = fmt.Errorf("empty")
		}
		s.url = "http://" + strings.TrimSpace(string(data))
		return err
	})
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}

// fill appends n distinct entries, some at a time, and waits until the
// published checkpoint covers them.
func (s *server) fill(t *testing.T, n int) tlog.Tree {
	t.Helper()
	var wg sync.WaitGroup
	const workers = 16
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				res, err := http.Post(s.url+"/add", "", strings.NewReader(fmt.Sprintf("entry %d of the interoperability test", i)))
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if _, err := strconv.ParseUint(string(body), 10, 63); err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("add: %s: %q", res.Status, body)
					return
				}
			}
		})
	}
	wg.Wait()
	s.size += int64(n)
	var tree tlog.Tree
	eventually(t, "everything is published", func() error {
		tree = s.tree(t)
		if tree.N < s.size {
			return fmt.Errorf("published size %d", tree.N)
		}
		return nil
	})
	return tree
}

func (s *server) verifier(t *testing.T) note.Verifier {
	t.Helper()
	v, err := note.NewVerifier(s.vkey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (s *server) tree(t *testing.T) tlog.Tree {
	t.Helper()
	res, err := http.Get(s.url + "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(data, note.VerifierList(s.verifier(t)))
	if err != nil {
		t.Fatalf("checkpoint: %v\n%s", err, data)
	}
	c, err := torchwood.ParseCheckpoint(n.Text)
	if err != nil {
		t.Fatal(err)
	}
	return c.Tree
}

// sizes cross the edges of tiles and bundles: partial, full, both.
var sizes = []int{1, 255, 256, 257, 700}

func TestTorchwoodReadsEveryEntry(t *testing.T) {
	s := serve(t)
	for _, n := range sizes {
		tree := s.fill(t, n)
		fetcher, err := torchwood.NewTileFetcher(s.url)
		if err != nil {
			t.Fatal(err)
		}
		c, err := torchwood.NewClient(fetcher)
		if err != nil {
			t.Fatal(err)
		}
		seen := int64(0)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		for i, entry := range c.AllEntries(ctx, tree, 0) {
			if i != seen || len(entry) == 0 {
				t.Fatalf("entry %d follows %d", i, seen-1)
			}
			seen++
		}
		cancel()
		if err := c.Err(); err != nil || seen != tree.N {
			t.Fatalf("size %d: read %d entries: %v", tree.N, seen, err)
		}
	}
}

func TestTesseraFsck(t *testing.T) {
	s := serve(t)
	s.fill(t, 700)
	u, err := url.Parse(s.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	fetcher, err := client.NewHTTPFetcher(u, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	v := s.verifier(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	check := fsck.New(v.Name(), v, fetcher, leafHashes, fsck.Opts{N: 4})
	if err := check.Check(ctx); err != nil {
		t.Fatal(err)
	}
}

func leafHashes(bundle []byte) ([][]byte, error) {
	var eb api.EntryBundle
	if err := eb.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	var hashes [][]byte
	for _, e := range eb.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(e))
	}
	return hashes, nil
}

// TestTesseraHammer has Tessera's load tool write and read for a bounded time
// and number of leaves; it checks inclusion and consistency by itself.
func TestTesseraHammer(t *testing.T) {
	hammer := build(t, "github.com/transparency-dev/tessera/internal/hammer")
	s := serve(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, hammer,
		"--log_public_key="+s.vkey, "--log_url="+s.url+"/", "--write_log_url="+s.url+"/",
		"--show_ui=false", "--max_read_ops=200", "--num_readers_random=2", "--num_readers_full=1",
		"--num_writers=32", "--max_write_ops=500", "--leaf_write_goal=1500", "--max_runtime=50s")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("hammer: %v\n%s", err, out)
	}
	if tree := s.tree(t); tree.N < 1000 {
		t.Errorf("hammer ended with a tree of size %d\n%s", tree.N, out)
	}
}
