package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/keyfile/kms/kmstest"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tally": main, "sigstore-kms-fake": kmstest.Main})
}

// TestScripts runs the real command line without a control plane: what it does
// by itself, and what it says when something is wrong. The way through a whole
// cluster is in package e2e. Beside the commands of testscript there are
//
//	exits CODE ARG...   runs "tally ARG..." and checks its exit code
//	logs FILE CLUSTER   writes what `controlapi init` writes
//	serve DIR           starts a stand-in for the control plane of the cluster in DIR
//	lie HOW             makes it answer wrongly
//	runs                makes it have an execution; sets ID
//	keyid VAR ID        sets VAR to the beginning of the id of a principal's first key
//	succession FILE LOG writes what `logserver succeed --json` prints about its log
//
// and the variables WITNESS, WITNESS2 and WITNESS3, vkeys of witnesses, and
// AUDITKEY, one that the audit log of the cluster example could have next.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			for i, name := range fakeWitnesses {
				w, err := cosigner(name)
				if err != nil {
					return err
				}
				env.Setenv([]string{"WITNESS", "WITNESS2", "WITNESS3"}[i], w.Key().Vkey())
			}
			next, err := checkpoint.Vkey("example/audit", testcluster.Public("the next audit key"))
			if err != nil {
				return err
			}
			env.Setenv("AUDITKEY", next)
			env.Values["fake"] = map[string]*fakeControl{}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				err = ts.Exec("tally", args[1:]...)
				got := 0
				if err != nil {
					text := err.Error()
					got, err = strconv.Atoi(text[strings.LastIndex(text, " ")+1:])
					ts.Check(err)
				}
				if got != want {
					ts.Fatalf("tally %s: exit %d, want %d", strings.Join(args[1:], " "), got, want)
				}
			},
			"serve":      serveCmd,
			"lie":        lieCmd,
			"runs":       runsCmd,
			"keyid":      keyIDCmd,
			"succession": successionCmd,
			"logs": func(ts *testscript.TestScript, _ bool, args []string) {
				data, err := logsOf(args[1])
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
			},
		},
	})
}

// logsOf is what `controlapi init` writes for a cluster.
func logsOf(cluster string) ([]byte, error) {
	log := func(name membership.LogName) (membership.Log, error) {
		origin := membership.Origin(cluster, name)
		key, err := checkpoint.Vkey(origin, testcluster.Public(origin))
		if err != nil {
			return membership.Log{}, err
		}
		receipt, err := checkpoint.Vkey(origin+"/receipt", testcluster.Public(origin+"/receipt"))
		return membership.Log{Keys: []string{key}, Origin: origin, ReceiptKeys: []string{receipt}}, err
	}
	audit, err := log(membership.LogAudit)
	if err != nil {
		return nil, err
	}
	members, err := log(membership.LogMembership)
	if err != nil {
		return nil, err
	}
	return json.Marshal(membership.Logs{Audit: audit, Membership: members})
}

// Every command must explain itself, and name no flag without a description.
func TestEveryCommandIsDescribed(t *testing.T) {
	var out bytes.Buffer
	root := rootCommand(&app{})
	root.SetOut(&out)
	for _, cmd := range append(root.Commands(), root) {
		for _, c := range append(cmd.Commands(), cmd) {
			if c.Short == "" {
				t.Errorf("%s has no short description", c.CommandPath())
			}
			if c.RunE == nil && !c.HasSubCommands() {
				t.Errorf("%s does nothing", c.CommandPath())
			}
		}
	}
}

func TestWriteFileReplacesInOneStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "file")
	for _, want := range []string{"one", "two"} {
		if err := writeFile(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("file holds %q, %v", got, err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}
