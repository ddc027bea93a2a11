package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
)

// office is the folder of a cluster's people, in which commands are run as they
// are from a shell, but in this process.
type office struct {
	t   *testing.T
	dir string
}

func (o *office) path(name string) string { return filepath.Join(o.dir, name) }

// try runs a command as somebody and returns what it says.
func (o *office) try(as string, args ...string) (string, error) {
	var out bytes.Buffer
	root := rootCommand(&app{})
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetIn(strings.NewReader("no\n"))
	if as != "" {
		args = append(args, "--profile", o.path(as+".json"))
	}
	root.SetArgs(args)
	_, err := wiring.Execute(root)
	return out.String(), err
}

// must is try for what has to go well, and has to say each of the words.
func (o *office) must(as string, args []string, words ...string) string {
	o.t.Helper()
	out, err := o.try(as, args...)
	if err != nil {
		o.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	for _, word := range words {
		if !strings.Contains(out, word) {
			o.t.Errorf("%q does not say %q:\n%s", args, word, out)
		}
	}
	return out
}

// refused is try for what has to fail for a reason.
func (o *office) refused(as string, args []string, reason string) {
	o.t.Helper()
	if out, err := o.try(as, args...); err == nil || !strings.Contains(err.Error(), reason) {
		o.t.Errorf("%q: %v, want %q\n%s", args, err, reason, out)
	}
}

// TestMemberWorkflow follows docs/runbooks/found-a-cluster.md and
// change-the-membership.md: a cluster is founded, a node joins with keys of its
// own, is described anew, and is removed; everybody can tell what happened.
func TestMemberWorkflow(t *testing.T) {
	o := &office{t, t.TempDir()}
	logs, err := logsOf("example")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.path("logs.json"), logs, 0o600); err != nil {
		t.Fatal(err)
	}
	founding := []string{"cluster", "init", "--dir", o.dir, "--cluster", "example", "--logs", o.path("logs.json"), "--server", "http://127.0.0.1:1",
		"--admin", "ada", "--admin", "grace", "--admin", "edsger", "--node", "node-1", "--node", "node-2", "--tenant", "acme"}
	o.refused("", founding, "the set-up is weak")
	for _, name := range fakeWitnesses {
		w, err := cosigner(name)
		if err != nil {
			t.Fatal(err)
		}
		founding = append(founding, "--witness", strings.ReplaceAll(name, " ", "-")+"="+w.Key().Vkey())
	}
	o.must("", founding, `cluster "example" is in`)
	_, stop, err := serveFake(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()

	change := o.path("change.json")
	apply := func(newKeys ...string) {
		t.Helper()
		o.must("ada", []string{"member", "sign", change, "--yes"}, "1 signature now", "missing: 1 of 2 admins")
		o.must("grace", []string{"member", "sign", change, "--yes"}, `signed so far by admin "ada"`)
		for _, key := range newKeys {
			o.must("ada", []string{"member", "sign", change, "--yes", "--key", key})
		}
		o.must("ada", []string{"member", "apply", change}, "the cluster is at epoch")
	}

	keys := []string{o.path("attestation.pem"), o.path("token.pem")}
	for _, key := range keys {
		o.must("", []string{"member", "key", key}, "public half")
	}
	o.refused("", []string{"member", "key", keys[0]}, "never overwritten")
	o.must("ada", []string{"member", "propose", "add", "node", "node-3", "--key", "attestation=" + keys[0] + ".pub", "--key", "token=" + keys[1] + ".pub",
		"--label", "zone=a", "-o", change}, `add node "node-3"`, "would make epoch 2")
	o.refused("ada", []string{"member", "sign", change}, "not signed")
	o.refused("ada", []string{"member", "apply", change}, "malformed envelope")
	o.must("acme", []string{"member", "diff", change}, "from epoch 1 to epoch 2")
	o.refused("ada", []string{"member", "sign", change, "--yes", "--key", o.path("keys/acme-token.pem")}, "neither an admin's nor added")
	apply(keys...)
	o.refused("ada", []string{"member", "sign", change, "--yes"}, "stale")

	o.must("ada", []string{"member", "propose", "update", "node-3", "--name", "third", "--trust-level", "4", "-o", change}, "it was: no name")
	apply()
	o.must("ada", []string{"member", "propose", "remove", "node-3", "-o", change}, "every key that it ever had is revoked")
	apply()

	o.must("acme", []string{"member", "list"}, "epoch 4, admin threshold 2, node quorum 2")
	o.must("acme", []string{"member", "list", "--epoch", "2"}, "zone=a")
	o.must("acme", []string{"member", "list", "--json"}, `"key_id"`)
	o.must("acme", []string{"member", "history"}, "epoch 2  add_principal, signed by ada, grace", "epoch 4  remove_principal")
	o.must("acme", []string{"member", "diff", "1", "4"}, "0 differences")
	o.must("acme", []string{"member", "show", "node-3@3", "-o", o.path("proof")}, `node "node-3" is a member at epoch 3`)
	o.must("acme", []string{"member", "show", "node-3"}, `"node-3" is no member at epoch 4`)
	o.must("acme", []string{"member", "export", "-o", o.path("changes")})
	o.must("ada", []string{"member", "propose", "node-quorum", "1", "-o", change}, "executions need 1 member node")
	o.must("ada", []string{"member", "sign", change, "--yes", "--changes", o.path("changes")}, "1 signature now")
	o.refused("acme", []string{"member", "list", "--epoch", "9"}, "epoch 9 of 4")
	o.refused("acme", []string{"member", "frobnicate"}, "unknown command")
}
