package controlapi

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

func (w *world) watch(ctx context.Context, node string, info *pb.NodeInfo) (*connect.ServerStreamForClient[pb.WatchAssignmentsResponse], error) {
	w.t.Helper()
	stream, err := rpc.NewNodeClient(as(node, true), w.url, connect.WithGRPC()).
		WatchAssignments(ctx, connect.NewRequest(&pb.WatchAssignmentsRequest{Info: info}))
	if err != nil {
		return nil, err
	}
	if !stream.Receive() { // the message that says: connected
		return nil, stream.Err()
	}
	return stream, nil
}

func (w *world) nodes() map[string]*pb.ClusterNode {
	w.t.Helper()
	res, err := rpc.NewControlClient(as("alice", false), w.url).ListClusterNodes(w.t.Context(), connect.NewRequest(&pb.ListClusterNodesRequest{}))
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]*pb.ClusterNode{}
	for _, n := range res.Msg.GetNodes() {
		found[n.GetId()] = n
	}
	return found
}

func TestAssignmentStream(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if w.nodes()["node-1"].GetConnected() {
		t.Error("connected before its stream")
	}
	stream, err := w.watch(ctx, "node-1", &pb.NodeInfo{Engine: "compiler", Capacity: 2})
	if err != nil {
		t.Fatal(err)
	}
	if stream.Msg().GetAssignment() != nil {
		t.Errorf("the first message is %v, want none", stream.Msg())
	}
	if n := w.nodes(); !n["node-1"].GetConnected() || n["node-1"].GetInfo().GetEngine() != "compiler" || n["node-2"].GetConnected() {
		t.Errorf("nodes %v", n)
	}
	w.core.work <- &pb.Assignment{ExecutionId: "x"}
	if !stream.Receive() || stream.Msg().GetAssignment().GetExecutionId() != "x" {
		t.Errorf("got %v, %v", stream.Msg(), stream.Err())
	}
	// A second stream of the node takes the first one's place.
	second, err := w.watch(ctx, "node-1", &pb.NodeInfo{Engine: "interpreter"})
	if err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
	}
	if connect.CodeOf(stream.Err()) != connect.CodeAborted || !strings.Contains(stream.Err().Error(), "[stream_replaced]") {
		t.Errorf("the first stream ended with %v", stream.Err())
	}
	if n := w.nodes()["node-1"]; !n.GetConnected() || n.GetInfo().GetEngine() != "interpreter" {
		t.Errorf("after the second stream: %v", n)
	}
	// The core ends it.
	w.core.work <- nil
	for second.Receive() {
	}
	if connect.CodeOf(second.Err()) != connect.CodeUnavailable {
		t.Errorf("the second stream ended with %v", second.Err())
	}
	if n := w.nodes()["node-1"]; n.GetConnected() {
		t.Errorf("after both: %v", n)
	}
}

// TestAbandonAssignment: the core hears of it, and the audit log of what it was
// about; the code is between node, core and who may see the execution.
func TestAbandonAssignment(t *testing.T) {
	w := newWorld(t, nil)
	client := rpc.NewNodeClient(as("node-1", true), w.url, connect.WithGRPC())
	abandon := func(id, code string) error {
		_, err := client.AbandonAssignment(t.Context(), connect.NewRequest(&pb.AbandonAssignmentRequest{ExecutionId: id, Code: code}))
		return err
	}
	if err := abandon(execution.String(), "stopped"); err != nil {
		t.Fatal(err)
	}
	if err := abandon(absent.String(), "stopped"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("an unknown execution: %v", err)
	}
	if err := abandon("x", "stopped"); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("no execution id: %v", err)
	}
	w.core.mu.Lock()
	defer w.core.mu.Unlock()
	if got := w.core.abandoned; len(got) != 1 || got[0] != "node-1 stopped" {
		t.Errorf("the core heard %q", got)
	}
	if len(w.core.operations) != 3 {
		t.Fatalf("%d records, want 3", len(w.core.operations))
	}
	for i, want := range []struct {
		code   string
		object []byte
	}{
		{"ok", execution[:]}, {"execution_unknown", absent[:]}, {"invalid_argument", nil},
	} {
		r := w.core.operations[i]
		if op := r.GetOperation(); op.GetCode() != want.code || !bytes.Equal(op.GetObject(), want.object) || op.GetTenant() != "" ||
			r.GetActor().GetPrincipal() != "node-1" || r.GetActor().GetMethod() != "tallystick.v1.Node/AbandonAssignment" {
			t.Errorf("record %d: %v", i, r)
		}
	}
}

// TestUnrecordedAbandonment: a word that cannot be recorded has no effect, and is
// answered so that the node may say it again.
func TestUnrecordedAbandonment(t *testing.T) {
	w := newWorld(t, nil)
	w.core.set(func() { w.core.recordErr = errors.New("no space") })
	client := rpc.NewNodeClient(as("node-1", true), w.url, connect.WithGRPC())
	abandon := func() error {
		_, err := client.AbandonAssignment(t.Context(), connect.NewRequest(&pb.AbandonAssignmentRequest{ExecutionId: execution.String(), Code: "unavailable"}))
		return err
	}
	heard := func() int {
		w.core.mu.Lock()
		defer w.core.mu.Unlock()
		return len(w.core.abandoned)
	}
	if err := abandon(); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("got %v, want unavailable", err)
	}
	if heard() != 0 {
		t.Error("an effect without a record")
	}
	w.core.set(func() { w.core.recordErr = nil })
	if err := abandon(); err != nil || heard() != 1 {
		t.Errorf("afterwards: %v, heard %d times", err, heard())
	}
}

// TestReportNodeStatus: what a node says of itself is shown while it holds its
// stream, without what belongs to tenants; what is out of bounds is refused.
func TestReportNodeStatus(t *testing.T) {
	w := newWorld(t, nil)
	client := rpc.NewNodeClient(as("node-1", true), w.url, connect.WithGRPC())
	report := func(s *pb.NodeStatus) error {
		_, err := client.ReportNodeStatus(t.Context(), connect.NewRequest(&pb.ReportNodeStatusRequest{Status: s}))
		return err
	}
	good := &pb.NodeStatus{Running: 2, Problems: []string{"fork"}, Working: []string{execution.String()},
		Checkpoints: []*pb.SeenCheckpoint{{Origin: "c/audit", Size: 7, RootHash: execution[:]}}}
	if err := report(good); err != nil {
		t.Fatal(err)
	}
	if got := w.nodes()["node-1"]; got.GetStatus() != nil {
		t.Errorf("a node without a stream shows %v", got)
	}
	ctx, end := context.WithCancel(t.Context())
	stream, err := w.watch(ctx, "node-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	records := len(w.core.recorded())
	if err := report(good); err != nil {
		t.Fatal(err)
	}
	if got := w.nodes()["node-1"].GetStatus(); got.GetRunning() != 2 || len(got.GetProblems()) != 1 || len(got.GetCheckpoints()) != 1 || len(got.GetWorking()) != 0 {
		t.Errorf("shown is %v", got)
	}
	if got := len(w.core.recorded()) - records; got != 1 { // of listing the nodes
		t.Errorf("a heartbeat made %d records", got-1)
	}
	w.core.mu.Lock()
	if want := "node-1 " + execution.String(); len(w.core.working) != 2 || w.core.working[1] != want {
		t.Errorf("the core heard %q", w.core.working)
	}
	w.core.mu.Unlock()
	for name, bad := range map[string]*pb.NodeStatus{
		"problems":         {Problems: make([]string, maxProblems+1)},
		"a problem's form": {Problems: []string{"Fork!"}},
		"checkpoints":      {Checkpoints: make([]*pb.SeenCheckpoint, maxSeen+1)},
		"an origin":        {Checkpoints: []*pb.SeenCheckpoint{{Origin: strings.Repeat("x", maxInfoText+1), RootHash: execution[:]}}},
		"a root hash":      {Checkpoints: []*pb.SeenCheckpoint{{Origin: "x"}}},
		"executions":       {Working: make([]string, maxWorking+1)},
	} {
		if err := report(bad); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := report(&pb.NodeStatus{Working: []string{"x"}}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an execution id: %v", err)
	}
	end()
	for stream.Receive() {
	}
}

// TestRevokedKeyEndsStreams: a stream outlives its token, not its key.
func TestRevokedKeyEndsStreams(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.KeepAlive = time.Millisecond })
	stream, err := w.watch(t.Context(), "node-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.core.set(func() { delete(w.core.kinds, "node-1") })
	for stream.Receive() {
	}
	if connect.CodeOf(stream.Err()) != connect.CodeUnauthenticated || !strings.Contains(stream.Err().Error(), "[token_key]") {
		t.Errorf("the stream ended with %v", stream.Err())
	}
}

func TestNodeInfoIsBounded(t *testing.T) {
	w := newWorld(t, nil)
	for name, info := range map[string]*pb.NodeInfo{
		"long text":    {SoftwareVersion: strings.Repeat("x", maxInfoText+1)},
		"many entries": {Isolation: make([]string, maxIsolation+1)},
	} {
		if _, err := w.watch(t.Context(), "node-1", info); err == nil || !strings.Contains(err.Error(), "[request_malformed]") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.nodes()["node-1"].GetConnected() {
		t.Error("connected by a refused stream")
	}
}

// TestClientGoesAway: the stream ends and is no fault of anybody.
func TestClientGoesAway(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.KeepAlive = time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := w.watch(ctx, "node-1", nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	w.edge.StopAndWait() // waits for the stream
	if strings.Contains(w.logs.String(), "level=ERROR") {
		t.Errorf("the log has errors: %s", w.logs)
	}
}
