package interop

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

// ourWitness runs our witness for a log until the test ends, and returns its
// address and its Ed25519 and ML-DSA-44 keys.
func ourWitness(t *testing.T, name, logVkey string) (url string, vkeys []string) {
	t.Helper()
	bin, err := filepath.Abs("../bin/witness")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "witness")
	out, err := exec.Command(bin, "init", "--dir", dir, "--name", name).Output()
	if err != nil {
		t.Fatalf("witness init: %v (run scripts/build first)", err)
	}
	policy, addrFile := filepath.Join(t.TempDir(), "policy"), filepath.Join(t.TempDir(), "addr")
	if err := os.WriteFile(policy, []byte("log "+logVkey+"\nquorum none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--policy", policy, "--addr-file", addrFile)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("witness said:\n%s", &stderr)
		}
	})
	eventually(t, "the witness listens", func() error {
		data, err := os.ReadFile(addrFile)
		url = "http://" + strings.TrimSpace(string(data))
		return err
	})
	return url, strings.Fields(string(out))
}

// TestTesseraIsCosigned has a log of Tessera's ask our witnesses, one for its
// Ed25519 cosignature alone and one for both, from its first checkpoint on. Its
// published checkpoints carry them, torchwood verifies them, and the witness
// shows what the log published.
func TestTesseraIsCosigned(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, "tessera.example/cosigned")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	verifiers := []note.Verifier{}
	var policy strings.Builder
	var urls []string
	for i, prefix := range []string{"/ed25519", ""} {
		url, vkeys := ourWitness(t, fmt.Sprintf("witness.example/ours-%d", i), vkey)
		fmt.Fprintf(&policy, "witness w%d %s %s%s\n", i, vkeys[0], url, prefix)
		v, err := torchwood.NewCosignatureVerifier(vkeys[0])
		if err != nil {
			t.Fatal(err)
		}
		verifiers, urls = append(verifiers, v), append(urls, url)
	}
	policy.WriteString("group all-of-ours all w0 w1\nquorum all-of-ours\n")
	group, err := tessera.NewWitnessGroupFromPolicy([]byte(policy.String()))
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
		WithCheckpointSigner(signer).WithCheckpointInterval(100*time.Millisecond).
		WithBatching(16, 10*time.Millisecond).WithWitnesses(group, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 40, 300} {
		var futures []tessera.IndexFuture
		for i := range n {
			futures = append(futures, appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d of %d", i, n))))
		}
		for _, f := range futures {
			if _, err := f(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := shutdown(ctx); err != nil {
		t.Fatal(err)
	}

	published, err := os.ReadFile(filepath.Join(storage, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(published, []byte("tessera.example/cosigned\n341\n")) {
		t.Errorf("published\n%s", published)
	}
	for i, v := range verifiers {
		if _, err := note.Open(published, note.VerifierList(v)); err != nil {
			t.Errorf("cosignature of witness %d: %v on\n%s", i, err, published)
		}
		shown, err := get(fmt.Sprintf("%s/%x/checkpoint", urls[i], sha256.Sum256([]byte("tessera.example/cosigned"))))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(shown, note.VerifierList(v)); err != nil || !bytes.HasPrefix(shown, published[:bytes.Index(published, []byte("\n\n"))]) {
			t.Errorf("witness %d shows %v:\n%s", i, err, shown)
		}
	}
}

func get(url string) ([]byte, error) {
	res, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(res.Body)
	return b.Bytes(), err
}
