package interop

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

const (
	witnessName = "witness.example/lite"
	// cosignatureType is the type of an Ed25519 cosignature in a key ID and vkey.
	cosignatureType = 0x04
)

// sshAgent serves a key on a socket, as ssh-agent does, and returns the socket.
func sshAgent(t *testing.T, key ed25519.PrivateKey) string {
	t.Helper()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "agent-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = agent.ServeAgent(ring, conn) // ends with the connection
			}()
		}
	}()
	t.Cleanup(func() { ln.Close(); os.RemoveAll(dir) })
	return socket
}

// cosignerVkey is the verifier key of c2sp.org/tlog-cosignature.
func cosignerVkey(name string, public ed25519.PublicKey) string {
	typed := append([]byte{cosignatureType}, public...)
	id := sha256.Sum256(append([]byte(name+"\n"), typed...))
	return fmt.Sprintf("%s+%08x+%s", name, binary.BigEndian.Uint32(id[:]), base64.StdEncoding.EncodeToString(typed))
}

// knowLog puts a log into the database of litewitness, at size 0.
func knowLog(t *testing.T, path, origin, vkey string) {
	t.Helper()
	db, err := sqlite.OpenConn(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	empty := sha256.Sum256(nil)
	for _, q := range []struct {
		query string
		args  []any
	}{
		{"INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", []any{origin, base64.StdEncoding.EncodeToString(empty[:])}},
		{"INSERT INTO key (origin, key) VALUES (?, ?)", []any{origin, vkey}},
	} {
		if err := sqlitex.Execute(db, q.query, &sqlitex.ExecOptions{Args: q.args}); err != nil {
			t.Fatal(err)
		}
	}
}

// freeAddress returns an address that nobody listens on, for a program that
// cannot choose one.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// litewitness runs the witness until stop is called or the test ends.
func litewitness(t *testing.T, db, socket, fingerprint, address string) (stop func()) {
	t.Helper()
	cmd := exec.Command(build(t, "filippo.io/torchwood/cmd/litewitness"),
		"-db="+db, "-name="+witnessName, "-key="+fingerprint, "-ssh-agent="+socket, "-listen="+address)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("litewitness said:\n%s", &out)
		}
	}
	t.Cleanup(stop)
	eventually(t, "litewitness listens", func() error {
		var d net.Dialer
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return stop
}

// TestLitewitnessCosigns has torchwood's witness cosign our log's checkpoints,
// from birth, over an outage, and over our restart.
func TestLitewitnessCosigns(t *testing.T) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sshKey, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	socket, fingerprint := sshAgent(t, key), ssh.FingerprintSHA256(sshKey)
	db, address := filepath.Join(t.TempDir(), "litewitness.db"), freeAddress(t)

	s := create(t)
	origin, _, _ := strings.Cut(s.vkey, "+")
	stop := litewitness(t, db, socket, fingerprint, address) // makes the tables
	stop()
	knowLog(t, db, origin, s.vkey)
	stop = litewitness(t, db, socket, fingerprint, address)

	policy := filepath.Join(t.TempDir(), "policy")
	text := fmt.Sprintf("log %s\nwitness lite %s http://%s\nquorum lite\n", s.vkey, cosignerVkey(witnessName, public), address)
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t, "--policy", policy)
	eventually(t, "the empty tree is witnessed", func() error { _, err := s.get("/checkpoint"); return err })
	for _, n := range sizes {
		s.fill(t, n)
		s.checkWitnessed(t)
	}

	// Without the witness nothing new is published; with it, all of it is.
	stop()
	before := s.tree(t)
	res, err := http.Post(s.url+"/add", "", strings.NewReader("while the witness is away"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("add without the witness: %s", res.Status)
	}
	if now := s.tree(t); now != before {
		t.Errorf("published %v without the witness, after %v", now, before)
	}
	litewitness(t, db, socket, fingerprint, address)
	eventually(t, "the log catches up with its witness", func() error {
		if now := s.tree(t); now.N != before.N+1 {
			return fmt.Errorf("published size %d", now.N)
		}
		return nil
	})
	s.checkWitnessed(t)
}

// checkWitnessed holds that the published checkpoint has the witness's line.
func (s *server) checkWitnessed(t *testing.T) {
	t.Helper()
	signed, err := s.get("/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(signed, []byte("\n— "+witnessName+" ")) {
		t.Errorf("no cosignature on\n%s", signed)
	}
}
