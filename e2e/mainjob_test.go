//go:build e2e

package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// TestMainJob goes the way of the README, through the command line alone: a
// contract, a submission, a proof, its verification, a replay, a tampered copy.
func TestMainJob(t *testing.T) {
	c := start(t, t.TempDir())
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	wasm := module(t, "inventory")
	input := filepath.Join(root(t), "go.sum")

	c.tally("tenant", "root")
	c.tally("tenant", "contract", "new", "inventory", "--module", wasm, "-o", in("c.json"))
	c.tally("tenant", "contract", "sign", in("c.json"), "-o", in("c.dsse"))
	c.tally("tenant", "contract", "register", in("c.dsse"), "--module", wasm)
	c.tally("tenant", "submit", "--contract", in("c.dsse"), "--input", input, "--wait", "--id-file", in("id"))
	data, err := os.ReadFile(in("id"))
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(string(data))
	c.tally("tenant", "proof", id, "--wait", "-o", in("p.tallyproof"))

	verify := append([]string{"proof", in("p.tallyproof"), "--execution", id}, c.trust()...)
	if out, errText, code := c.try("verifier", verify...); code != 0 {
		t.Fatalf("the proof does not verify: exit %d\n%s%s", code, out, errText)
	}
	replay := append([]string{"replay", in("p.tallyproof"), "--blob", wasm, "--blob", input}, c.trust()...)
	if out, errText, code := c.try("verifier", replay...); code != 0 {
		t.Fatalf("the replay differs: exit %d\n%s%s", code, out, errText)
	}

	bundle, err := os.ReadFile(in("p.tallyproof"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 40, 100, len(bundle) / 2, len(bundle) - 1} {
		tampered := append([]byte(nil), bundle...)
		tampered[at] ^= 1
		if err := os.WriteFile(in("p.tallyproof"), tampered, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, _, code := c.try("verifier", verify...); code == 0 {
			t.Errorf("a bundle with byte %d flipped verifies:\n%s", at, out)
		}
	}

	for _, command := range [][]string{
		{"status", id}, {"executions"}, {"nodes"}, {"provenance", id}, {"provenance", id, "--chain"}, {"contract", "list"},
		{"log", "checkpoint"}, {"log", "checkpoint", "--membership"}, {"log", "records"}, {"log", "proof", "1"}, {"token"},
		{"member", "list"}, {"member", "history"},
	} {
		if out := c.tally("tenant", command...); out == "" {
			t.Errorf("tally %s says nothing", strings.Join(command, " "))
		}
	}
}

// TestAuditorReplays: an auditor who has the addresses of a cluster and its own
// profile, and nothing else, runs everything again.
func TestAuditorReplays(t *testing.T) {
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	hash := a.register("canonjson", nil)
	for i, input := range []string{`[2,1]`, `{"b":1,"a":2}`} {
		envelope, id := a.submission(hash, []byte(input), i)
		if _, err := a.submit(envelope, []byte(input)); err != nil {
			t.Fatal(err)
		}
		a.complete(id.String())
	}
	dir := t.TempDir()
	openings, payloads := filepath.Join(dir, "audit.openings"), filepath.Join(dir, "payloads")
	c.eventually("both executions are in the published log", func() error {
		c.tally("auditor", "log", "openings", "-o", openings)
		out := c.tally("auditor", "log", "payloads", "-o", payloads)
		if !strings.Contains(out, "2 complete executions") {
			return errors.New(out)
		}
		return nil
	})
	if out := c.tally("auditor", "log", "payloads", "-o", payloads); !strings.Contains(out, "payloads        3: 3 were there, 0 fetched, 0 erased, 0 missing") {
		t.Errorf("a second time:\n%s", out)
	}
	replay := append([]string{"replay", "--all", c.server + "/audit", "--membership-log", c.server + "/membership", "--openings", openings, "--blobs", payloads, "--state", filepath.Join(dir, "state")}, c.trust()...)
	if out, errText, code := c.try("verifier", replay...); code != 0 {
		t.Errorf("the replay: exit %d\n%s%s", code, out, errText)
	}
	// Nobody but an auditor may ask so.
	if _, errText, code := c.try("tally", "--profile", filepath.Join(c.dir, "tenant.json"), "log", "payloads", "-o", filepath.Join(dir, "other")); code == 0 || !strings.Contains(errText, "auditor") {
		t.Errorf("as a tenant: exit %d\n%s", code, errText)
	}
}

// TestSubmittingTwice: the same submission is the same execution and receipt.
func TestSubmittingTwice(t *testing.T) {
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	hash := a.register("canonjson", nil)
	input := []byte(`{"b":1,"a":2}`)
	envelope, id := a.submission(hash, input, 1)
	first, err := a.submit(envelope, input)
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.submit(envelope, input)
	if err != nil {
		t.Fatal(err)
	}
	if first.Duplicate || !second.Duplicate {
		t.Errorf("duplicate is %t, then %t", first.Duplicate, second.Duplicate)
	}
	if first.ExecutionId != id.String() || second.ExecutionId != first.ExecutionId ||
		second.Receipt.Index != first.Receipt.Index || string(second.Receipt.Opening) != string(first.Receipt.Opening) {
		t.Errorf("two answers to one submission:\n%v\n%v", first, second)
	}
	status := a.complete(id.String())
	out, err := a.Control.GetBlob(context.Background(), connect.NewRequest(&pb.GetBlobRequest{Digest: status.Outcome.OutputDigest}))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"a":2,"b":1}`; strings.TrimSpace(string(out.Msg.Data)) != want {
		t.Errorf("output %q, want %q", out.Msg.Data, want)
	}
}

// TestSameOnFreshClusters: with the same keys, three clusters find the same
// execution id, membership hash, schedule hash, result digest and proof hash.
func TestSameOnFreshClusters(t *testing.T) {
	input := []byte(`[3,2,1]`)
	var keys string
	var want string
	for run := range 3 {
		dir := t.TempDir()
		if keys != "" {
			if err := os.CopyFS(filepath.Join(dir, "keys"), os.DirFS(keys)); err != nil {
				t.Fatal(err)
			}
			pems, _ := filepath.Glob(filepath.Join(dir, "keys", "*.pem"))
			for _, pem := range pems {
				if err := os.Chmod(pem, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		c := start(t, dir)
		keys = filepath.Join(dir, "keys")
		a := c.agent("tenant")
		hash := a.register("canonjson", nil)
		envelope, id := a.submission(hash, input, 7)
		if _, err := a.submit(envelope, input); err != nil {
			t.Fatal(err)
		}
		status := a.complete(id.String())
		a.proof(id.String())
		members, err := a.Membership.GetMembershipHash(context.Background(), connect.NewRequest(&pb.GetMembershipHashRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join([]string{id.String(), members.Msg.MembershipHash, status.ClusterScheduleHash,
			status.Outcome.ResultDigest, status.ExecutionProof}, "\n")
		if run > 0 && got != want {
			t.Errorf("run %d:\n%s\nwant\n%s", run, got, want)
		}
		want = got
		c.stop()
	}
}
