package interop

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// product returns the path of one of our programs.
func product(t *testing.T, name string) string {
	t.Helper()
	bin, err := filepath.Abs("../bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// must runs one of our programs, which must end well.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t, product(t, name), args...)
	if err != nil {
		t.Fatalf("%s %s: %v (run scripts/build first)\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// TestLitewitnessCosignsMembership founds a cluster whose only witness is
// torchwood's. It knows nothing of membership: it cosigns what is consistent, the
// genesis as well as a change, and everybody else checks that it is lawful.
func TestLitewitnessCosignsMembership(t *testing.T) {
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
	vkey := cosignerVkey(witnessName, public)

	control, people := filepath.Join(t.TempDir(), "control"), filepath.Join(t.TempDir(), "people")
	must(t, "controlapi", "init", "--dir", control, "--cluster", "interop")
	data, err := os.ReadFile(filepath.Join(control, "logs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var logs map[string]struct {
		Keys   []string
		Origin string
	}
	if err := json.Unmarshal(data, &logs); err != nil {
		t.Fatal(err)
	}
	litewitness(t, db, socket, fingerprint, address)() // makes the tables
	for _, log := range logs {
		knowLog(t, db, log.Origin, log.Keys[0])
	}
	litewitness(t, db, socket, fingerprint, address)

	api := freeAddress(t)
	must(t, "tally", "cluster", "init", "--dir", people, "--cluster", "interop", "--logs", filepath.Join(control, "logs.json"), "--server", "http://"+api,
		"--admin", "ada", "--tenant", "acme", "--node", "node-1", "--witness", "lite="+vkey+",http://"+address, "--development")
	for _, name := range []string{"genesis.json", "audit.policy", "membership.policy"} {
		text, err := os.ReadFile(filepath.Join(people, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(control, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	server := exec.Command(product(t, "controlapi"), "serve", "--dir", control, "--listen", api, "--quotas", "development", "--min-interval", "50ms")
	var said bytes.Buffer
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		_ = server.Wait()
		if t.Failed() {
			t.Logf("controlapi said:\n%s", &said)
		}
	})

	witnessed := func(size string) {
		t.Helper()
		eventually(t, "the membership log is witnessed at size "+size, func() error {
			signed, err := get("http://" + api + "/membership/checkpoint")
			if err != nil {
				return err
			}
			if !strings.HasPrefix(string(signed), "interop/membership\n"+size+"\n") || !bytes.Contains(signed, []byte("\n— "+witnessName+" ")) {
				return fmt.Errorf("published is %q", signed)
			}
			return nil
		})
	}
	witnessed("1")
	profile, change := filepath.Join(people, "ada.json"), filepath.Join(t.TempDir(), "change.json")
	eventually(t, "the control plane is ready", func() error {
		out, err := run(t, product(t, "tally"), "--profile", profile, "member", "propose", "remove", "acme", "-o", change)
		if err != nil {
			err = errors.New(out)
		}
		return err
	})
	must(t, "tally", "--profile", profile, "member", "sign", change, "--yes")
	must(t, "tally", "--profile", profile, "member", "apply", change)
	witnessed("2")
	// Who trusts genesis and this witness replays both changes under its cosignature.
	if out := must(t, "tally", "--profile", profile, "member", "history"); !strings.Contains(out, "epoch 2  remove_principal, signed by ada") {
		t.Errorf("history:\n%s", out)
	}
}
