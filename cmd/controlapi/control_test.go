package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/control"
	"github.com/tallystick/tallystick/cmd/internal/logcmd"
	"github.com/tallystick/tallystick/logserver"
)

// logCommand runs a command of logserver.
func logCommand(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := logcmd.Root("logserver")
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err := root.ExecuteContext(t.Context())
	return stdout.String(), err
}

// TestOperatorsCommands runs the commands of logserver on the logs of a control
// plane, while it runs and when it is stopped.
func TestOperatorsCommands(t *testing.T) {
	d := newDirectory(t)
	r := run(t, serveConfig{dir: d, listen: "127.0.0.1:0", deadline: time.Hour, quotas: "default"})
	for _, name := range []string{"audit", "membership"} {
		store := d.file(name)
		if info, err := os.Stat(control.Socket(store)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: socket %v, %v", name, info, err)
		}
		out, err := logCommand(t, "status", "--store", store)
		if err != nil || !strings.HasPrefix(out, cluster+"/"+name+": healthy\n") {
			t.Errorf("status of the running %s log: %q, %v", name, out, err)
		}
		backup := filepath.Join(t.TempDir(), name)
		out, err = logCommand(t, "backup", "--store", store, "--to", backup, "--json")
		var manifest logserver.BackupManifest
		if jsonErr := json.Unmarshal([]byte(out), &manifest); err != nil || jsonErr != nil || manifest.Size == 0 || manifest.Origin != cluster+"/"+name {
			t.Errorf("backup of the running %s log: %q, %v", name, out, err)
		}
		if _, err := logCommand(t, "fsck", "--store", filepath.Join(backup, "store")); err != nil {
			t.Errorf("fsck of the backup: %v", err)
		}
		if out, err := logCommand(t, "fsck", "--store", store); err != nil || !strings.Contains(out, ": sound: ") || strings.Contains(out, "not checked") {
			t.Errorf("fsck of the running %s log: %q, %v", name, out, err)
		}
		if out, err := logCommand(t, "fsck", "--store", store, "--openings=false"); err != nil || strings.Contains(out, "(not checked)") != (name == "audit") {
			t.Errorf("fsck of the running %s log without openings: %q, %v", name, out, err)
		}
		if _, err := logCommand(t, "backup", "--store", store, "--to", backup+"2", "--with-keys"); err == nil || !strings.Contains(err.Error(), "the private keys are not beside this store") {
			t.Errorf("backup with keys: %v", err)
		}
		client := control.Dial(t.Context(), store)
		if client == nil {
			t.Fatal("nobody answers at the socket")
		}
		if _, err := client.Rotate(t.Context(), control.RotateRequest{Step: "begin"}); err == nil || !strings.Contains(err.Error(), "membership log") {
			t.Errorf("rotating a key of the %s log: %v", name, err)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := logCommand(t, "status", "--store", d.file("audit")); err != nil || !strings.HasPrefix(out, cluster+"/audit: stopped\n") {
		t.Errorf("status of the stopped log: %q, %v", out, err)
	}
	// Who takes one flag for the other is told.
	for dir, want := range map[string]string{
		d.path:          "--store " + d.file("audit") + " or --store " + d.file("membership"),
		d.file("audit"): "is named by --store " + d.file("audit"),
	} {
		if _, err := logCommand(t, "status", "--dir", dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("status --dir %s: %v, want %q", dir, err, want)
		}
	}
}
