//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/tallystick/tallystick/contract"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// TestDrain: a node that is told to stop gives back what it has not begun, so that
// another is asked long before the deadline; a second signal ends it at once.
func TestDrain(t *testing.T) {
	f := found(t, "--attempt-deadline", "1h")
	for _, id := range foundedNodes {
		f.startNode(id, f.server, "--capacity", "1")
	}
	f.awaitNodes(len(foundedNodes))
	a := f.agent("tenant")
	wasm := hostile(t)
	hash, err := a.admit(wasm, func(v *contract.Contract) {
		v.Nodes, v.Agreement, v.MaxAssigned, v.Step = 1, 1, 3, 1
		if v.Limits.Gas > 0 {
			v.Limits.Gas = 1_000_000_000
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	const node = "node-1"
	submit := func(n int) (*pb.SubmitExecutionRequestResponse, error) {
		input := fmt.Appendf(nil, "deep %d", n)
		envelope, _ := a.submission(hash, input, n)
		return a.submit(envelope, input)
	}
	var ids []string
	for i := range 4 {
		ids = append(ids, a.submitFor(node, i, submit))
	}
	p := f.processes[node]
	f.eventually("all are the node's to do", func() error {
		metrics, err := get("http://" + p.addr + "/metrics")
		if err == nil && !strings.Contains(string(metrics), fmt.Sprintf("tallystick_node_assignments_total %d\n", len(ids))) {
			err = errors.New("not yet")
		}
		return err
	})
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	for _, id := range ids { // by it or by others
		a.complete(id)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
	var list struct {
		Nodes []struct {
			ID        string
			Connected bool
		}
	}
	if err := json.Unmarshal([]byte(f.tally("auditor", "--json", "nodes")), &list); err != nil {
		t.Fatal(err)
	}
	for _, n := range list.Nodes {
		if n.ID == node && n.Connected {
			t.Error("the node that has ended is shown as connected")
		}
	}
}
