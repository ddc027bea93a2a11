//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// workersOf lists the worker processes of a process: its children.
func workersOf(pid int) []int {
	var list []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		data, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(data)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				list = append(list, child)
			}
		}
	}
	return list
}

// TestKilledWorkers kills the workers of a node, again and again: at any moment of
// short runs, and amid a long one. All executions complete, with the outcome that an
// undisturbed run has, and the node says the same as the others: that a worker died
// is never attested.
func TestKilledWorkers(t *testing.T) {
	const executions = 8
	f := found(t)
	for _, id := range foundedNodes {
		f.startNode(id, f.server, "--capacity", "2")
	}
	f.awaitNodes(len(foundedNodes))
	a := f.agent("tenant")
	hash := a.register("canonjson", nil)
	victim := f.processes[foundedNodes[0]]
	killWorkers := func() {
		for _, worker := range workersOf(victim.cmd.Process.Pid) {
			_ = syscall.Kill(worker, syscall.SIGKILL) // it may have ended
		}
	}
	running := func() bool {
		metrics, err := get("http://" + victim.addr + "/metrics")
		return err == nil && strings.Contains(string(metrics), "tallystick_node_running 1")
	}
	for i := range executions {
		input := fmt.Appendf(nil, `{"z":1,"a":[%d]}`, i)
		envelope, id := a.submission(hash, input, i)
		if _, err := a.submit(envelope, input); err != nil {
			t.Fatal(err)
		}
		f.eventually("the module runs, or has run", func() error {
			_, err := os.Stat(f.dirOf(foundedNodes[0], "attestations", id.String()[:2], id.String()))
			if err != nil && !running() {
				return err
			}
			return nil
		})
		killWorkers()
		s := a.complete(id.String())
		if s.Outcome.Kind != string(contract.OutcomeOK) || s.Outcome.OutputLength == 0 {
			t.Errorf("execution %s ended with %v", id, s.Outcome)
		}
		for _, r := range s.Reports {
			if r.ResultDigest != "" && r.ResultDigest != s.Outcome.ResultDigest {
				t.Errorf("%s attested something else: %v", r.Node, r)
			}
		}
	}

	// All three nodes have to agree, so the one that lost its run has run it again.
	hash, err := a.admit(wasmtest.Command().Start("", wasmtest.Loop()).Bytes(), func(v *contract.Contract) {
		metered(v)
		v.Agreement, v.Limits.Gas = 3, 1_000_000_000 // some two seconds of a processor
	})
	if err != nil {
		t.Fatal(err)
	}
	const tries = 5 // a run may end before it is seen
	for i := range tries {
		envelope, id := a.submission(hash, nil, executions+i)
		if _, err := a.submit(envelope, nil); err != nil {
			t.Fatal(err)
		}
		f.eventually("the loop runs", func() error {
			if !running() {
				return errors.New("nothing runs")
			}
			return nil
		})
		killWorkers()
		if s := a.complete(id.String()); s.Outcome.Kind != string(contract.OutcomeBudgetExhausted) {
			t.Errorf("the loop came to %v", s.Outcome)
		}
		if victim.logged("the runner failed", id.String()) {
			return
		}
	}
	t.Errorf("none of %d runs was lost with its worker", tries)
}

// logged reports whether a line of the process's log has all of what is given.
func (p *process) logged(parts ...string) bool {
	p.t.Helper()
	data, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			return true
		}
	}
	return false
}

// TestKilledNodes kills nodes without warning while they work, at random moments,
// and looks at all that ever left them: of each execution one statement by each
// node, and never another result.
func TestKilledNodes(t *testing.T) {
	const executions, kills = 24, 12
	f := found(t)
	h, server := newHostileControl(t, f.server) // which alters nothing, and sees all
	for _, id := range foundedNodes {
		f.startNode(id, server, "--capacity", "2")
	}
	f.awaitNodes(len(foundedNodes))
	a := f.agent("tenant")
	hash := a.register("canonjson", nil)
	var ids []string
	for i := range executions {
		input := fmt.Appendf(nil, `{"z":1,"a":[%d]}`, i)
		envelope, id := a.submission(hash, input, i)
		if _, err := a.submit(envelope, input); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id.String())
		if i%2 == 0 && i/2 < kills {
			p := f.processes[foundedNodes[rand.IntN(len(foundedNodes))]]
			p.signal(syscall.SIGKILL)
			p.start()
		}
	}
	for _, id := range ids {
		a.complete(id)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	said := make(map[string][]byte)
	for _, m := range h.handedIn {
		e, err := dsse.Parse(m.GetEnvelope())
		if err != nil {
			t.Fatal(err)
		}
		s, err := provenance.ParseStatement(e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		key := s.Node + " " + s.Execution.String()
		if before, ok := said[key]; ok && !bytes.Equal(before, m.GetEnvelope()) {
			t.Errorf("two different attestations left %s", key)
		}
		said[key] = m.GetEnvelope()
	}
	if len(said) < 2*executions {
		t.Errorf("%d attestations of %d executions", len(said), executions)
	}
}

// TestForkedControlPlane rolls the control plane and all of its witnesses back and
// has them go on otherwise: a fork with every signature that the policy wants. The
// node that has seen the first history runs nothing of the second, keeps evidence
// that proves the fork to a third party, and says so in health, metric and list.
func TestForkedControlPlane(t *testing.T) {
	f := found(t)
	const node = "node-1"
	f.startNode(node, f.server)
	f.awaitNodes(1)
	a := f.agent("tenant")
	one := func(v *contract.Contract) { v.Nodes, v.Agreement, v.MaxAssigned, v.Step = 1, 1, 2, 1 }
	hash := a.register("canonjson", one)
	input := []byte(`{"a":1}`)
	submit := func(n int) (*pb.SubmitExecutionRequestResponse, error) {
		envelope, _ := a.submission(hash, input, n)
		return a.submit(envelope, input)
	}
	a.complete(a.submitFor(node, 1, submit))
	stores := []string{"audit", "membership"}
	stopAll := func() {
		f.processes["control"].stop()
		for _, w := range foundedWitnesses {
			f.processes[w].stop()
		}
	}
	startAll := func() {
		for _, w := range foundedWitnesses {
			f.processes[w].start()
		}
		f.processes["control"].start()
		f.awaitHealthy()
	}
	stopAll()
	for _, w := range foundedWitnesses {
		f.copyTree(f.dirOf(w), f.dirOf("old-"+w))
	}
	for _, store := range stores {
		f.copyTree(f.dirOf("control", store), f.dirOf("old-control", store))
	}
	startAll()
	f.awaitNodes(1)
	a.complete(a.submitFor(node, 2, submit)) // the first history goes on
	first := a.auditSize()
	f.processes[node].stop()
	stopAll()
	for _, w := range foundedWitnesses {
		if err := errors.Join(os.RemoveAll(f.dirOf(w)), os.Rename(f.dirOf("old-"+w), f.dirOf(w))); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range foundedWitnesses { // a copy does not keep modes
		keys, err := filepath.Glob(f.dirOf(w, "*.pem"))
		for _, key := range keys {
			err = errors.Join(err, os.Chmod(key, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, store := range stores {
		f.rollBack(f.dirOf("old-control", store), f.dirOf("control", store))
	}
	startAll()
	// Until the second history is the longer one: what it serves then proves what
	// its past was.
	for n := 10_000; a.auditSize() <= first; n++ {
		if _, err := submit(n); err != nil {
			t.Fatal(err)
		}
	}
	f.processes[node].start()
	f.awaitNodes(1)
	forked := a.submitFor(node, 3, submit)
	f.refusesToRun(node, forked, "fork")

	files, err := filepath.Glob(f.dirOf(node, "evidence", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("evidence %q, %v", files, err)
	}
	provesFork(t, files[0], filepath.Join(f.dir, "audit.policy"))
	addr := f.processes[node].addr
	res, err := http.Get("http://" + addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(res.Body); err != nil || res.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(body.String(), "fork: ") {
		t.Errorf("health is %d %q", res.StatusCode, &body)
	}
	if metrics, err := get("http://" + addr + "/metrics"); err != nil || !strings.Contains(string(metrics), `tallystick_node_problem{problem="fork"} 1`) {
		t.Errorf("the metrics do not tell of the fork: %v", err)
	}
	f.eventually("tally nodes says so", func() error {
		if out := f.tally("auditor", "nodes"); !strings.Contains(out, "NOT WELL") || !strings.Contains(out, node+" is not well: fork") {
			return errors.New(out)
		}
		return nil
	})
}

// auditSize is the size of the audit log.
func (a *agent) auditSize() uint64 {
	a.c.t.Helper()
	res, err := a.Control.GetClusterRoot(context.Background(), connect.NewRequest(&pb.GetClusterRootRequest{}))
	if err != nil {
		a.c.t.Fatal(err)
	}
	return res.Msg.AuditSize
}
