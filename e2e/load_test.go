//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"connectrpc.com/connect"

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

// TestLoopsDelayOthersByATurn: one tenant's endless loops do not keep another
// tenant's work from being done, and what became of them is told.
func TestLoopsDelayOthersByATurn(t *testing.T) {
	const loops = 6
	c := start(t, t.TempDir())
	a := c.agent("tenant")
	other := c.addPrincipal(membership.KindTenant, "other", membership.UseContract, membership.UseSubmission, membership.UseToken)
	honest := other.register("canonjson", nil)
	hash, err := a.admit(wasmtest.Command().Start("", wasmtest.Loop()).Bytes(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var first string
	for i := range loops {
		envelope, id := a.submission(hash, nil, i)
		if _, err := a.submit(envelope, nil); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = id.String()
		}
	}
	input := []byte(`{"b":1,"a":2}`)
	envelope, id := other.submission(honest, input, 1)
	if _, err := other.submit(envelope, input); err != nil {
		t.Fatal(err)
	}
	other.complete(id.String())

	c.eventually("the first loop has expired", func() error {
		res, err := a.Control.QueryExecutionStatus(context.Background(), connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: first}))
		if err != nil {
			return err
		}
		s := res.Msg.Status
		if s.State != pb.ExecutionState_EXECUTION_STATE_EXPIRED {
			return errors.New(s.State.String())
		}
		for _, r := range s.Reports {
			if r.Abandoned == "stopped" {
				return nil
			}
		}
		return fmt.Errorf("no node says that it stopped the loop: %v", s.Reports)
	})
}
