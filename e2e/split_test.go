//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// cosigner is a running witness that a policy can name.
type cosigner struct {
	*server
	name, dir, vkey string
}

// newCosigner starts a witness for the logs of a policy file.
func newCosigner(t *testing.T, name, logs string, args ...string) *cosigner {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	out, err := exec.Command(bin(t, "witness"), "init", "--dir", dir, "--name", name+".example").Output()
	if err != nil {
		t.Fatal(err)
	}
	vkey, _, _ := strings.Cut(string(out), "\n") // the Ed25519 one
	return &cosigner{serve(t, "witness", append([]string{"serve", "--dir", dir, "--policy", logs}, args...)...), name, dir, vkey}
}

// policyOf writes a policy under which k of the witnesses must cosign.
func policyOf(t *testing.T, vkey string, k int, witnesses ...*cosigner) string {
	t.Helper()
	text := "log " + vkey + "\n"
	names := make([]string, len(witnesses))
	for i, w := range witnesses {
		text += fmt.Sprintf("witness %s %s %s\n", w.name, w.vkey, w.url)
		names[i] = w.name
	}
	quorum := "none"
	if k > 0 {
		quorum = "enough"
		text += fmt.Sprintf("group enough %d %s\n", k, strings.Join(names, " "))
	}
	path := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(path, []byte(text+"quorum "+quorum+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// fill adds n entries of a flavour and waits until they are published.
func (s *server) fill(t *testing.T, n int, flavour string) {
	t.Helper()
	for i := range n {
		if status, answer, err := s.add(fmt.Sprintf("%s %d", flavour, i)); err != nil || status != http.StatusOK {
			t.Fatalf("adding: %d %s %v\n%s", status, answer, err, s.err)
		}
	}
	wait(t, "everything is published", func() error {
		note, err := get(s.url + "/checkpoint")
		if err != nil {
			return err
		}
		if head, err := headOf(note); err != nil || head.N < int64(n) {
			return fmt.Errorf("size %d of %d, %v", head.N, n, err)
		}
		return nil
	})
}

// name is an address behind which one log or another answers.
type name struct {
	url    string
	behind atomic.Pointer[url.URL]
}

func newName(t *testing.T) *name {
	n := &name{}
	srv := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(n.behind.Load()) }})
	t.Cleanup(srv.Close)
	n.url = srv.URL
	return n
}

func (n *name) shows(t *testing.T, s *server) {
	t.Helper()
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	n.behind.Store(u)
}

// verifierExits runs the verifier and wants an exit code.
func verifierExits(t *testing.T, code int, args ...string) (stdout string) {
	t.Helper()
	out, errText, got := (&cluster{t: t}).try("verifier", args...)
	if got != code {
		t.Errorf("verifier %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, errText)
	}
	return out
}

// provesFork wants an evidence file to prove a fork to somebody who has the
// policy, and who cosigned what.
func provesFork(t *testing.T, file, policy string) {
	t.Helper()
	var report struct {
		Kind, Finding string
		Pinned        bool
		Checkpoints   []struct {
			Size         int64
			Cosignatures []struct{ Witness string }
		}
	}
	out := verifierExits(t, 0, "evidence", file, "--policy", policy, "--json")
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if report.Kind != "fork" || report.Finding != "proven" || !report.Pinned || len(report.Checkpoints) != 2 {
		t.Errorf("the evidence in %s: %s", file, out)
	}
}

// TestSplitView is the drill: the owner of a log's key runs two logs of one name
// and key with different entries, has each witnessed where the other is not
// known, and shows one or the other behind one address. A witness that meets both
// refuses and leaves evidence; whoever compares the log with witnesses, with
// another address, or with what was seen before finds out and has evidence; and
// whoever does not is still on one consistent side.
func TestSplitView(t *testing.T) {
	t.Parallel()
	dirs := t.TempDir()
	here, there := filepath.Join(dirs, "here"), filepath.Join(dirs, "there")
	vkey := newLog(t, here)
	if err := os.MkdirAll(there, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"log.key", "receipt.key"} {
		data, err := os.ReadFile(filepath.Join(here, key))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(there, key), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if again := newLog(t, there); again != vkey {
		t.Fatalf("the second log has the key %s, not %s", again, vkey)
	}
	logs := policyOf(t, vkey, 0)
	w1, w2, w3 := newCosigner(t, "w1", logs), newCosigner(t, "w2", logs), newCosigner(t, "w3", logs)
	everybody := policyOf(t, vkey, 2, w1, w2, w3)

	one := serve(t, "logserver", "serve", "--dir", here, "--policy", policyOf(t, vkey, 2, w1, w2))
	one.ready(t)
	one.fill(t, 5, "for you")
	other := serve(t, "logserver", "serve", "--dir", there, "--policy", policyOf(t, vkey, 1, w3))
	other.ready(t)
	other.fill(t, 9, "for me")

	// On one side everything looks well, as long as nobody looks further.
	name, state := newName(t), filepath.Join(dirs, "state.json")
	compare := func(code int, state string, args ...string) string {
		return verifierExits(t, code, append([]string{"compare", "--state", state, "-o", state + ".evidence"}, args...)...)
	}
	name.shows(t, one)
	compare(0, state, name.url, "--policy", everybody, "--no-policy-witnesses", "--witness", "w1="+w1.url, "--witness", "w2="+w2.url)
	name.shows(t, other)
	compare(0, filepath.Join(dirs, "side.json"), name.url, "--policy", everybody, "--no-policy-witnesses", "--witness", "w3="+w3.url)

	for what, found := range map[string]func(state string) string{
		"by what was seen before": func(string) string {
			compare(12, state, name.url, "--policy", everybody, "--no-policy-witnesses")
			return state
		},
		"by all witnesses": func(state string) string {
			compare(12, state, name.url, "--policy", everybody)
			return state
		},
		"by another address": func(state string) string {
			compare(12, state, name.url, one.url, "--vkey", vkey)
			return state
		},
		"by one witness, and a dead one": func(state string) string {
			compare(12, state, name.url, "--vkey", vkey, "--witness", w1.url, "--witness", "http://127.0.0.1:1")
			return state
		},
		"again and again": func(state string) string {
			compare(12, state, name.url, "--policy", everybody, "--interval", "1h", "--json")
			return state
		},
	} {
		t.Run(what, func(t *testing.T) {
			provesFork(t, found(filepath.Join(t.TempDir(), "state.json"))+".evidence", everybody)
		})
	}

	// The second log asks a witness of the first: it is refused, it signs nothing
	// more, and there is evidence, which convinces with nothing else.
	other.kill()
	other = serve(t, "logserver", "serve", "--dir", there, "--policy", policyOf(t, vkey, 1, w2))
	var files []string
	wait(t, "the witness has evidence", func() (err error) {
		files, err = filepath.Glob(filepath.Join(w2.dir, "evidence", "*.json"))
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("none in %q", w2.dir)
		}
		return err
	})
	for _, file := range files {
		provesFork(t, file, everybody)
	}
	if status, answer, err := other.add("more for me"); err != nil || status == http.StatusOK {
		t.Errorf("a log that a witness has refused appends: %d %s %v", status, answer, err)
	}
	if _, err := get(other.url + "/healthz"); err == nil {
		t.Error("a log that a witness has refused is healthy")
	}
	for _, w := range []*cosigner{w1, w3} {
		if files, err := filepath.Glob(filepath.Join(w.dir, "evidence", "*")); err != nil || len(files) > 0 {
			t.Errorf("%s, which has met one history, has evidence: %q, %v", w.name, files, err)
		}
	}
	// The first log goes on, and what the witness holds is its history.
	if status, answer, err := one.add("still for you"); err != nil || status != http.StatusOK {
		t.Errorf("the first log: %d %s %v", status, answer, err)
	}
	compare(0, filepath.Join(dirs, "after.json"), one.url, "--policy", everybody, "--no-policy-witnesses", "--witness", "w1="+w1.url, "--witness", "w2="+w2.url)
}
