//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// TestPartition pulls the cable between the logs and the witnesses, under both
// settings. A log that fails closed publishes nothing new; one that fails open
// does, and says so. Under both, work is accepted and none is run, health is red,
// and when the cable is back all goes on without anybody's help.
func TestPartition(t *testing.T) {
	n := newNetwork(t)
	f := foundIn(t, n)
	f.startNodes()
	a := f.agent("tenant")
	hash := a.register("canonjson", nil)
	number := 0
	submit := func() string {
		t.Helper()
		number++
		input := fmt.Appendf(nil, "[%d]", number)
		envelope, id := a.submission(hash, input, number)
		if _, err := a.submit(envelope, input); err != nil {
			t.Fatal(err)
		}
		return id.String()
	}
	a.complete(submit())
	f.awaitHealthy()

	for _, open := range []bool{false, true} {
		if open {
			f.processes["control"].restart(append(f.processes["control"].args, "--fail-open")...)
			f.awaitNodes(len(foundedNodes))
			f.awaitHealthy()
		}
		n.cut()
		published := f.published()
		id := submit()
		f.eventually("health is red", func() error {
			reason, err := f.health()
			if err == nil && (!strings.Contains(reason, "no witnessed checkpoint for") || open != strings.Contains(reason, "the log fails open")) {
				err = fmt.Errorf("health is %q", reason)
			}
			return err
		})
		if moved := f.published() != published; moved != open {
			t.Errorf("fail open is %t, and a checkpoint was published: %t", open, moved)
		}
		want := map[bool]string{false: "tallystick_log_fail_open{log=\"dev/audit\",origin=\"dev/audit\"} 0", true: "tallystick_log_fail_open{log=\"dev/audit\",origin=\"dev/audit\"} 1"}[open]
		if metrics := f.get("/metrics"); !strings.Contains(metrics, want) {
			t.Errorf("the metrics do not say %q", want)
		}
		res, err := a.Control.QueryExecutionStatus(context.Background(), connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: id}))
		if err != nil {
			t.Fatal(err)
		}
		if s := res.Msg.Status; s.Witnessed || s.State != pb.ExecutionState_EXECUTION_STATE_OPEN {
			t.Errorf("cut off from the witnesses the execution is %v", s)
		}
		n.mend()
		a.complete(id)
		a.proof(id)
		f.awaitHealthy()
	}
}

// published is the audit log's published checkpoint, without signatures.
func (f *founded) published() string {
	f.t.Helper()
	head, _, _ := strings.Cut(f.get("/audit/checkpoint"), "\n\n")
	return head
}

// get reads a public resource of the control plane.
func (f *founded) get(path string) string {
	f.t.Helper()
	res, err := (&http.Client{Transport: transportIn(f.namespace)}).Get(f.server + path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return string(body)
}
