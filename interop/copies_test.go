package interop

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

// fsckSuccess is what Tessera's fsck logs when all is well. Its exit status does
// not say: it is 0 for a corrupt log, too.
const fsckSuccess = "Successfully fsck'd log"

// fsckProgram runs Tessera's program on a log's URL.
func fsckProgram(t *testing.T, url, vkey string) (ok bool, said string) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "vkey")
	if err := os.WriteFile(key, []byte(vkey), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, build(t, "github.com/transparency-dev/tessera/cmd/fsck"),
		"--storage_url="+url, "--public_key="+key, "--ui=false", "--N=4", "--logtostderr", "--v=2")
	if err != nil {
		t.Fatalf("fsck: %v\n%s", err, out)
	}
	return strings.Contains(out, fsckSuccess), out
}

// plain serves a directory as any file server does.
func plain(t *testing.T, dir string) string {
	t.Helper()
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(srv.Close)
	return srv.URL + "/"
}

func TestTesseraFsckProgram(t *testing.T) {
	s := serve(t)
	s.fill(t, 700)
	if ok, out := fsckProgram(t, s.url+"/", s.vkey); !ok {
		t.Errorf("our log:\n%s", out)
	}

	// Our static copy, served by a plain file server and read as files.
	copied := filepath.Join(t.TempDir(), "copy")
	if out, err := run(t, logserver(t), "export", "--from", s.url, "--vkey", s.vkey, "--to", copied); err != nil {
		t.Fatalf("export: %v\n%s", err, out)
	}
	for _, url := range []string{plain(t, copied), "file://" + copied} {
		if ok, out := fsckProgram(t, url, s.vkey); !ok {
			t.Errorf("%s:\n%s", url, out)
		}
	}
	// The success line is one: a copy with a flipped byte does not get it.
	damaged := filepath.Join(copied, "tile", "entries", "001")
	data, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(damaged, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if ok, out := fsckProgram(t, plain(t, copied), s.vkey); ok {
		t.Errorf("a damaged copy passes:\n%s", out)
	}
}

// TestTesseraClientProvesFromCopy builds inclusion and consistency proofs with
// Tessera's client from our static copy.
func TestTesseraClientProvesFromCopy(t *testing.T) {
	s := serve(t)
	s.fill(t, 300)
	copied := filepath.Join(t.TempDir(), "copy")
	export := func() {
		t.Helper()
		if out, err := run(t, logserver(t), "export", "--from", s.url, "--vkey", s.vkey, "--to", copied); err != nil {
			t.Fatalf("export: %v\n%s", err, out)
		}
	}
	export()
	fetcher := &client.FileFetcher{Root: copied}
	v := s.verifier(t)
	tracker, err := client.NewLogStateTracker(t.Context(), fetcher.ReadTile, nil, v, v.Name(),
		client.UnilateralConsensus(fetcher.ReadCheckpoint))
	if err != nil {
		t.Fatal(err)
	}
	s.fill(t, 700)
	export()
	_, proof, _, err := tracker.Update(t.Context())
	if err != nil || len(proof) == 0 || tracker.Latest().Size < 700 {
		t.Fatalf("update to %d with %d consistency proofs: %v", tracker.Latest().Size, len(proof), err)
	}
	builder, err := client.NewProofBuilder(t.Context(), tracker.Latest().Size, fetcher.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{0, 255, 256, 299, 300, 699} {
		if _, err := builder.InclusionProof(t.Context(), index); err != nil {
			t.Errorf("inclusion of index %d: %v", index, err)
		}
	}
}

// TestTesseraMirror lets Tessera's mirror copy our log, and checks the copy.
func TestTesseraMirror(t *testing.T) {
	s := serve(t)
	s.fill(t, 700)
	dir := t.TempDir()
	out, err := run(t, build(t, "github.com/transparency-dev/tessera/cmd/experimental/mirror/posix"),
		"--storage_dir="+dir, "--source_url="+s.url+"/", "--num_workers=4", "--logtostderr")
	if err != nil || !strings.Contains(out, "Log mirrored successfully") {
		t.Fatalf("mirror: %v\n%s", err, out)
	}
	if ok, out := fsckProgram(t, "file://"+dir, s.vkey); !ok {
		t.Errorf("the mirror's copy:\n%s", out)
	}
	// What a stranger mirrored can be imported and exported by us.
	if out, err := run(t, logserver(t), "export", "--from", dir, "--vkey", s.vkey, "--to", filepath.Join(t.TempDir(), "copy")); err != nil {
		t.Errorf("exporting the mirror: %v\n%s", err, out)
	}
}

// TestTesseraIntegration runs the test that Tessera runs against its own servers.
func TestTesseraIntegration(t *testing.T) {
	bin := build(t, "github.com/transparency-dev/tessera/integration", "test", "-c")
	s := serve(t)
	out, err := run(t, bin, "-test.v", "-test.timeout=50s", "--run_integration_test=true",
		"--log_url="+s.url+"/", "--write_log_url="+s.url+"/", "--log_public_key="+s.vkey)
	if err != nil || !strings.Contains(out, "--- PASS") || strings.Contains(out, "--- SKIP") {
		t.Fatalf("integration test: %v\n%s", err, out)
	}
}

// TestTesseraLogIsImported imports a log that Tessera wrote to its POSIX storage,
// from a file server and from the files.
func TestTesseraLogIsImported(t *testing.T) {
	const n = 600
	skey, vkey, err := note.GenerateKey(rand.Reader, "tessera.example/log")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	storage := t.TempDir()
	driver, err := posix.New(ctx, posix.Config{Path: storage})
	if err != nil {
		t.Fatal(err)
	}
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).WithCheckpointInterval(100*time.Millisecond).WithBatching(64, 10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	var futures []tessera.IndexFuture
	for i := range n {
		futures = append(futures, appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "tessera's entry %d", i))))
	}
	for _, f := range futures {
		if _, err := f(); err != nil {
			t.Fatal(err)
		}
	}
	if err := shutdown(ctx); err != nil {
		t.Fatal(err)
	}

	for name, from := range map[string]string{"http": plain(t, storage), "file": "file://" + storage} {
		s := &server{dir: filepath.Join(t.TempDir(), "imported")}
		out, err := run(t, logserver(t), "import", "--dir", s.dir, "--origin", "interop.example/"+name, "--from", from, "--vkey", vkey)
		if err != nil {
			t.Fatalf("import over %s: %v\n%s", name, err, out)
		}
		s.vkey = strings.TrimSpace(out)
		s.start(t)
		tree := s.tree(t)
		theirs, err := os.ReadFile(filepath.Join(storage, "checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Split(theirs, []byte("\n")); tree.N != n || string(lines[1]) != fmt.Sprint(n) || string(lines[2]) != tree.Hash.String() {
			t.Errorf("over %s the tree is %v, theirs:\n%s", name, tree, theirs)
		}
		if ok, out := fsckProgram(t, s.url+"/", s.vkey); !ok {
			t.Errorf("fsck of what was imported over %s:\n%s", name, out)
		}
	}
}
