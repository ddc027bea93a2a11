//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFoundACluster goes through docs/runbooks/found-a-cluster.md with the real
// programs, each machine a folder and processes of its own, up to an execution
// whose proof verifies. No step may need a later one: each is done and checked
// before the next.
func TestFoundACluster(t *testing.T) {
	f := found(t)
	f.awaitHealthy() // without nodes, too

	// 5. Check, before anybody works.
	root := f.tally("ada", "root")
	for _, want := range []string{"epoch             1", "quorum            2 of 3 nodes, admin threshold 2", "membership root   size 1", "audit root", "cosigned by w"} {
		if !strings.Contains(root, want) {
			t.Errorf("tally root does not say %q:\n%s", want, root)
		}
	}
	f.startNodes()

	a := f.agent("tenant")
	hash := a.register("canonjson", nil)
	envelope, id := a.submission(hash, []byte(`{"b":1,"a":2}`), 1)
	if _, err := a.submit(envelope, []byte(`{"b":1,"a":2}`)); err != nil {
		t.Fatal(err)
	}
	a.complete(id.String())
	a.proof(id.String())

	// Two of three admins decide, one does not, and a half-signed change is a file
	// that waits.
	file := filepath.Join(t.TempDir(), "change.json")
	f.tally("grace", "member", "propose", "node-quorum", "3", "-o", file)
	f.tally("grace", "member", "sign", file, "--yes")
	if out, errText, code := f.try("tally", "--profile", filepath.Join(f.dir, "grace.json"), "member", "apply", file); code == 0 {
		t.Errorf("one of three admins changed the membership:\n%s%s", out, errText)
	}
	f.processes["control"].restart()
	f.tally("edsger", "member", "sign", file, "--yes")
	f.tally("edsger", "member", "apply", file)
	f.eventually("the new epoch is witnessed", func() error {
		if root := f.tally("auditor", "root"); !strings.Contains(root, "membership root   size 2") {
			return os.ErrNotExist
		}
		return nil
	})
	f.awaitHealthy()
}
