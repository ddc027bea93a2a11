//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// TestBacklogDoesNotExpire submits more than the nodes can do within a deadline:
// nodes that are busy are not away, so all of it completes.
func TestBacklogDoesNotExpire(t *testing.T) {
	const n, callers = 250, 16
	c := start(t, t.TempDir(), "--attempt-deadline", "8s")
	a := c.agent("tenant")
	hash := a.register("canonjson", nil)
	a.warm(hash)
	ids := make([]string, n)
	var wg sync.WaitGroup
	for w := range callers {
		wg.Go(func() {
			for i := w; i < n; i += callers {
				input := fmt.Appendf(nil, "[%d]", i)
				envelope, id := a.submission(hash, input, i)
				if _, err := a.submit(envelope, input); err != nil {
					t.Errorf("submitting: %v", err)
					return
				}
				ids[i] = id.String()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, id := range ids {
		a.complete(id)
	}
}

// warm returns when nodes have compiled a contract's module, which on a busy
// machine takes longer than a short deadline: what expires meanwhile is asked
// for again.
func (a *agent) warm(hash digest.Digest) {
	a.c.t.Helper()
	for n := 1_000_000; ; n++ {
		envelope, id := a.submission(hash, nil, n)
		if _, err := a.submit(envelope, nil); err != nil {
			a.c.t.Fatal(err)
		}
		var state pb.ExecutionState
		a.c.eventually("the module is compiled", func() error {
			res, err := a.Control.QueryExecutionStatus(context.Background(), connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: id.String()}))
			if err != nil {
				return err
			}
			if state = res.Msg.Status.State; state == pb.ExecutionState_EXECUTION_STATE_OPEN {
				return errors.New(state.String())
			}
			return nil
		})
		if state == pb.ExecutionState_EXECUTION_STATE_COMPLETE {
			return
		}
	}
}

// addTenant makes a tenant's keys and has the admins add it.
func (f *founded) addTenant(id string) *agent {
	f.t.Helper()
	var keys []string
	effect := []string{"add", string(membership.KindTenant), id}
	for _, use := range []membership.Use{membership.UseContract, membership.UseSubmission, membership.UseToken} {
		key := f.keyFile(id, string(use))
		newKey(f.t, key)
		keys = append(keys, key)
		effect = append(effect, "--key", string(use)+"="+key)
	}
	f.change(keys, effect...)
	return f.agent(id)
}

// TestLoopsDelayOthersByATurn: on a node that runs one module at a time, one
// tenant's endless loops, with a quarter of the most gas that a contract may have
// (each some ten seconds of a processor), do not keep another tenant's work from
// being next, and end when the gas has.
func TestLoopsDelayOthersByATurn(t *testing.T) {
	const (
		loops = 4
		node  = "node-1"
	)
	f := found(t, "--attempt-deadline", "10m")
	f.startNode(node, f.server, "--capacity", "1")
	f.awaitNodes(1)
	a := f.agent("tenant")
	other := f.addTenant("other")
	one := func(v *contract.Contract) { v.Nodes, v.Agreement, v.MaxAssigned, v.Step = 1, 1, 2, 1 }
	honest := other.registerModule("idle", idle, one)
	hash, err := a.admit(wasmtest.Command().Start("", wasmtest.Loop()).Bytes(), func(v *contract.Contract) {
		one(v)
		v.Limits.Gas = contract.DefaultClusterLimits().Gas / 4
	})
	if err != nil {
		t.Fatal(err)
	}
	submits := func(who *agent, hash digest.Digest) func(int) (*pb.SubmitExecutionRequestResponse, error) {
		return func(n int) (*pb.SubmitExecutionRequestResponse, error) {
			envelope, _ := who.submission(hash, nil, n)
			return who.submit(envelope, nil)
		}
	}
	ids := make([]string, loops)
	for i := range ids {
		ids[i] = a.submitFor(node, i, submits(a, hash))
	}
	other.complete(other.submitFor(node, loops, submits(other, honest)))

	// In the order of arrival all loops would have ended, but perhaps for the last
	// one's record.
	open := 0
	for _, id := range ids {
		res, err := a.Control.QueryExecutionStatus(context.Background(), connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: id}))
		if err != nil {
			t.Fatal(err)
		}
		if res.Msg.Status.State == pb.ExecutionState_EXECUTION_STATE_OPEN {
			open++
		}
	}
	if open < 2 {
		t.Errorf("%d of %d loops were open when the other tenant's work was done, want all that had not begun", open, loops)
	}
	if outcome := a.complete(ids[0]).Outcome; outcome.Kind != string(contract.OutcomeBudgetExhausted) {
		t.Errorf("the loop came to %v", outcome)
	}
}
