package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/internal/keyplace"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/membership"
)

// TestRotateKey leads both keys of a log through a rotation, every step twice as
// after an interruption, and opens the log after each.
func TestRotateKey(t *testing.T) {
	d := newDirectory(t)
	first := must[*membership.Logs](t)(d.logs())
	opens := func(what string, keys int) {
		t.Helper()
		log, _, err := openLogOf(d)
		if err != nil {
			t.Fatalf("after %s: %v", what, err)
		}
		if err := log.Close(context.Background()); err != nil { // runs a last round
			t.Fatal(err)
		}
		if n := strings.Count(string(log.Signed().Note), "\n\u2014 "); n != keys {
			t.Errorf("after %s: %d signatures, want %d", what, n, keys)
		}
	}
	step := func(name string) []logserver.KeyInfo {
		t.Helper()
		keys, err := d.rotate(membership.LogAudit, name, os.Stderr)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return keys
	}
	opens("init", 1)
	if _, err := d.rotate(membership.LogAudit, "finish", os.Stderr); err == nil {
		t.Error("finished what had not begun")
	}
	step("begin")
	keys := step("begin")
	if len(keys) < 2 || keys[1].State != logserver.KeyNext {
		t.Fatalf("keys %+v", keys)
	}
	opens("begin", 2)
	if _, err := d.rotate(membership.LogAudit, "finish", os.Stderr); err == nil || !strings.Contains(err.Error(), "has no log line with the new key") {
		t.Errorf("finished without a policy line: %v", err)
	}
	policy := d.file(policyFile(membership.LogAudit))
	text := must[[]byte](t)(os.ReadFile(policy))
	if err := os.WriteFile(policy, append([]byte("log "+keys[1].Vkey+"\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	step("finish")
	opens("finish", 2) // what both have signed stays
	step("receipt")
	opens("receipt", 2)
	step("begin")
	step("abort")
	opens("abort", 2)

	now := must[*membership.Logs](t)(d.logs())
	if now.Audit.Keys[0] != keys[1].Vkey || len(now.Audit.Keys) != 1 || now.Audit.ReceiptKeys[0] == first.Audit.ReceiptKeys[0] ||
		now.Membership.Keys[0] != first.Membership.Keys[0] {
		t.Errorf("logs.json says %+v, at first %+v", now, first)
	}
	aside, _ := filepath.Glob(d.file(keysDir, "*.retired-*"))
	next, _ := filepath.Glob(d.file(keysDir, "*"+keyplace.NextSuffix+"*"))
	if len(aside) != 3 || len(next) != 0 {
		t.Errorf("retired %v, next %v", aside, next)
	}
}

func openLogOf(d directory) (*logserver.Log, logserver.Options, error) {
	o, err := d.logOptions(membership.LogAudit)
	if err != nil {
		return nil, o, err
	}
	log, err := logserver.Open(o)
	return log, o, err
}
