//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/strictjson"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// traffic submits executions, one after the other, until it is ended. What is
// refused because a key has just been rotated, or because the control plane is
// away, is tried again with the keys that the tenant has by then.
type traffic struct {
	f    *founded
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	ids  []string // acknowledged
}

func (f *founded) traffic(hash func() [32]byte) *traffic {
	tr := &traffic{f: f, stop: make(chan struct{})}
	tr.wg.Go(func() {
		for n := 0; ; n++ {
			input := fmt.Appendf(nil, `{"n":%d}`, n)
			for {
				select {
				case <-tr.stop:
					return
				default:
				}
				a, err := f.tenant()
				if err != nil {
					continue // the key's file is being replaced
				}
				envelope, id, err := a.submissionBy(f.keyFile("tenant", "submission"), hash(), input, n)
				if err == nil {
					_, err = a.submit(envelope, input)
				}
				select { // enough that some are always under way
				case <-time.After(100 * time.Millisecond):
				case <-tr.stop:
				}
				if err == nil {
					tr.mu.Lock()
					tr.ids = append(tr.ids, id.String())
					tr.mu.Unlock()
					break
				}
			}
		}
	})
	return tr
}

// all returns what was acknowledged so far.
func (tr *traffic) all() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.ids)
}

// more waits until something new is acknowledged and complete: the cluster works
// under the keys that it has now.
func (tr *traffic) more(what string) {
	tr.f.t.Helper()
	before := len(tr.all())
	tr.f.eventually("executions are accepted after "+what, func() error {
		if n := len(tr.all()); n == before {
			return fmt.Errorf("%d were", n)
		}
		return nil
	})
	ids := tr.all()
	tr.f.agent("auditor").complete(ids[len(ids)-1])
}

func (tr *traffic) end() {
	close(tr.stop)
	tr.wg.Wait()
}

// tenant is the tenant with the keys that its folder has now.
func (f *founded) tenant() (*agent, error) {
	key, err := loadKey(f.keyFile("tenant", "token"))
	if err != nil {
		return nil, err
	}
	api, err := client.New(client.Config{Server: f.server, Cluster: "dev", Principal: "tenant", TokenKey: key})
	return &agent{f.cluster, "tenant", api}, err
}

// TestRotation replaces every kind of key while executions run: each kind of the
// tenant's, the nodes', an admin's, the logs', also those for receipts, and a
// witness's. All that was
// accepted completes, every proof verifies under the policies of the end, and
// what was rotated is refused.
func TestRotation(t *testing.T) {
	f := found(t)
	f.startNodes()
	a := f.agent("tenant")
	var mu sync.Mutex
	hash := [32]byte(a.registerModule("idle", idle, nil))
	tr := f.traffic(func() [32]byte { mu.Lock(); defer mu.Unlock(); return hash })
	tr.more("the start")
	first := tr.all()[0]

	// The tenant's keys. Each old one is refused from the change on.
	oldSubmission := f.rotate("tenant", "submission")
	tr.more("the submission key was rotated")
	stale, id, err := a.submissionBy(oldSubmission, hash, []byte(`{}`), 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.must(f.tenant()).submit(stale, []byte(`{}`)); err == nil {
		t.Errorf("a rotated submission key submitted %s", id)
	}
	oldContract := f.rotate("tenant", "contract")
	next := newContract("tenant", "idle", idle)
	next.Version = "2"
	key, err := loadKey(oldContract)
	if err != nil {
		t.Fatal(err)
	}
	envelope, _, err := contract.Sign(next, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.must(f.tenant()).Control.RegisterContract(context.Background(), connect.NewRequest(&pb.RegisterContractRequest{Envelope: envelope, Module: idle})); err == nil {
		t.Error("a rotated contract key registered a contract")
	}
	tr.more("the contract key was rotated") // under the contract that the old key signed
	second := [32]byte(f.must(f.tenant()).registerModule("idle", idle, func(c *contract.Contract) { c.Version = "2" }))
	mu.Lock()
	hash = second
	mu.Unlock()
	oldToken := f.rotate("tenant", "token")
	if key, err = loadKey(oldToken); err != nil {
		t.Fatal(err)
	}
	api, err := client.New(client.Config{Server: f.server, Cluster: "dev", Principal: "tenant", TokenKey: key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Control.GetClusterRoot(context.Background(), connect.NewRequest(&pb.GetClusterRootRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("a rotated token key: %v", err)
	}
	tr.more("the token key was rotated")

	// An admin's, and what the old one signs counts for nothing.
	f.rotate("grace", "token")
	oldChange := f.rotate("grace", "change")
	file := filepath.Join(t.TempDir(), "change.json")
	f.tally("ada", "member", "propose", "node-quorum", "3", "-o", file)
	f.tally("ada", "member", "sign", file, "--yes")
	if out, errText, code := f.try("tally", "--profile", filepath.Join(f.dir, "ada.json"), "member", "sign", file, "--yes", "--key", oldChange); code == 0 {
		t.Errorf("a rotated admin key signs:\n%s%s", out, errText)
	}
	f.signWith(file, oldChange) // with another tool
	if out, errText, code := f.try("tally", "--profile", filepath.Join(f.dir, "ada.json"), "member", "apply", file); code == 0 {
		t.Errorf("a rotated admin key made up the threshold:\n%s%s", out, errText)
	}
	tr.more("an admin's keys were rotated")

	// The nodes', one node at a time: the others go on.
	for _, node := range foundedNodes {
		f.processes[node].stop()
		for _, use := range []string{"attestation", "token"} {
			f.rotate(node, use)
			f.copy(filepath.Join(f.dir, "keys", node+"-"+use+".pem"), f.dirOf(node, "keys", use+".pem"))
		}
		f.processes[node].start()
		f.awaitNodes(len(foundedNodes))
		tr.more("the keys of " + node + " were rotated")
	}

	f.rotateLogKeys(tr, second)
	f.rotateWitness(tr)

	tr.end()
	ids := tr.all()
	for _, id := range ids {
		f.agent("auditor").complete(id)
	}
	tenant := f.must(f.tenant())
	tenant.proof(first)
	tenant.proof(ids[len(ids)/2])
	tenant.proof(ids[len(ids)-1])
	f.awaitHealthy()
	t.Logf("%d executions over %d changes", len(ids), strings.Count(f.tally("auditor", "member", "history"), "\nepoch "))
}

// receiptOf submits once more and returns what the answer has to show for it.
func (f *founded) receiptOf(hash digest.Digest, n int) *pb.Receipt {
	f.t.Helper()
	a := f.must(f.tenant())
	envelope, _ := a.submission(hash, []byte(`{}`), n)
	res, err := a.submit(envelope, []byte(`{}`))
	if err != nil {
		f.t.Fatal(err)
	}
	return res.Receipt
}

// receiptsVerify checks receipts against the keys that the membership names now.
func (f *founded) receiptsVerify(when string, want bool, receipts ...*pb.Receipt) {
	f.t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(f.dir, name))
		if err != nil {
			f.t.Fatal(err)
		}
		return data
	}
	policy, err := checkpoint.ParsePolicy(read("membership.policy"))
	if err != nil {
		f.t.Fatal(err)
	}
	members, err := f.must(f.tenant()).Members(context.Background(), client.MembershipTrust{Genesis: read("genesis.json"), Policy: policy})
	if err != nil {
		f.t.Fatal(err)
	}
	for i, r := range receipts {
		if _, err := client.VerifyReceipt(members.Current().Logs().Audit, r); (err == nil) != want {
			f.t.Errorf("%s, receipt %d: %v", when, i, err)
		}
	}
}

// rotateLogKeys replaces the key of each log by the steps of the runbook, and its
// receipt key with them.
func (f *founded) rotateLogKeys(tr *traffic, hash digest.Digest) {
	f.t.Helper()
	control := f.processes["control"]
	before := f.logs
	oldReceipt := f.receiptOf(hash, 2_000_000)
	step := func(step string) {
		control.stop()
		for _, log := range []string{"audit", "membership"} {
			f.command("controlapi", "rotate-key", step, "--dir", f.dirOf("control"), "--log", log)
			if step == "begin" {
				f.command("controlapi", "rotate-key", "receipt", "--dir", f.dirOf("control"), "--log", log)
			}
		}
		data, err := os.ReadFile(f.dirOf("control", "logs.json"))
		if err == nil {
			err = strictjson.Unmarshal(data, &f.logs, 1<<16)
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
	name := func(log string, keys, receipts []string) {
		effect := []string{"log-keys", log}
		for _, key := range keys {
			effect = append(effect, "--key", key)
		}
		for _, key := range receipts {
			effect = append(effect, "--receipt-key", key)
		}
		f.change(nil, effect...)
	}
	step("begin")
	control.start()
	tr.more("a second log key signs")
	newReceipt := f.receiptOf(hash, 2_000_001)
	if _, err := client.VerifyReceipt(before.Audit, newReceipt); err == nil {
		f.t.Error("the old receipt key signs still")
	}
	// Both keys for receipts: those from before are shown for a while yet.
	name("audit", f.logs.Audit.Keys, slices.Concat(before.Audit.ReceiptKeys, f.logs.Audit.ReceiptKeys))
	name("membership", f.logs.Membership.Keys, f.logs.Membership.ReceiptKeys)
	tr.more("the second log keys were named")
	f.receiptsVerify("while both keys are named", true, oldReceipt, newReceipt)
	for _, w := range foundedWitnesses {
		f.writeLogsPolicy(w)
		f.processes[w].restart()
	}
	for _, log := range []struct {
		policy      string
		old, either []string
	}{
		{"audit.policy", before.Audit.Keys, f.logs.Audit.Keys}, {"membership.policy", before.Membership.Keys, f.logs.Membership.Keys},
	} {
		f.everybodysPolicy(log.policy, "log "+log.old[0], "log "+strings.Join(log.either, "\nlog "))
	}
	step("finish")
	control.start()
	for _, node := range foundedNodes {
		f.processes[node].restart()
	}
	f.awaitNodes(len(foundedNodes))
	tr.more("the old log keys sign no more")
	name("audit", f.logs.Audit.Keys, f.logs.Audit.ReceiptKeys)
	name("membership", f.logs.Membership.Keys, f.logs.Membership.ReceiptKeys)
	tr.more("the old log keys are named no more")
	f.receiptsVerify("once the new key is named alone", true, newReceipt, f.receiptOf(hash, 2_000_002))
	f.receiptsVerify("once the old key is named no more", false, oldReceipt)
}

// rotateWitness replaces the key of one witness: in the policies a group of the
// old key and the new one takes the place of the witness, so that checkpoints
// from before still satisfy them.
func (f *founded) rotateWitness(tr *traffic) {
	f.t.Helper()
	f.addWitness("w1-next")
	f.processes["w1"].stop()
	for _, policy := range []string{"audit.policy", "membership.policy"} {
		text, err := os.ReadFile(filepath.Join(f.dir, policy))
		if err != nil {
			f.t.Fatal(err)
		}
		var next []string
		for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
			words := strings.Fields(line)
			switch {
			case words[0] == "witness" && words[1] == "w1":
				words[1] = "w1-before"
				next = append(next, strings.Join(words, " "),
					"witness w1-next "+f.vkeys["w1-next"]+" http://"+f.processes["w1-next"].addr,
					"group w1 any w1-before w1-next")
			default:
				next = append(next, line)
			}
		}
		f.everybodysPolicy(policy, string(text), strings.Join(next, "\n")+"\n")
	}
	for _, machine := range append([]string{"control"}, foundedNodes...) {
		f.processes[machine].restart()
	}
	f.awaitNodes(len(foundedNodes))
	// The old keys of w1 sign nothing more, so the quorum needs the new one.
	f.processes["w2"].stop()
	tr.more("a witness's key was rotated")
	f.processes["w2"].start()
}

// everybodysPolicy edits a policy on every machine that has it.
func (f *founded) everybodysPolicy(name, old, new string) {
	f.t.Helper()
	for _, machine := range append([]string{"people", "control"}, foundedNodes...) {
		f.edit(f.dirOf(machine, name), old, new)
	}
}

func (f *founded) must(a *agent, err error) *agent {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}
