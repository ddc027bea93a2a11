//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/token"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/provenance"
)

// hostileControl stands between a node and the real control plane, with its
// address and certificate, and alters one thing at a time of what it passes on.
type hostileControl struct {
	rpc.NodeHandler // of the real control plane

	node rpc.NodeClient
	api  rpc.ControlClient

	mu       sync.Mutex
	alter    func(*pb.Assignment)                        // guarded by mu; nil for what is honest
	instead  func(digest string, data []byte) []byte     // guarded by mu; of a payload
	arrivals map[string]*pb.Assignment                   // guarded by mu; honest ones, by execution
	handedIn []*pb.RecordExecutionProvenanceRequest      // guarded by mu
	streams  map[*context.CancelFunc]struct{}            // guarded by mu
	queue    map[*context.CancelFunc]chan *pb.Assignment // guarded by mu: assignments of our own making
}

// newHostileControl starts one in front of a control plane.
func newHostileControl(t *testing.T, server string) (h *hostileControl, address string) {
	t.Helper()
	h = &hostileControl{node: rpc.NewNodeClient(http.DefaultClient, server), api: rpc.NewControlClient(http.DefaultClient, server),
		arrivals: make(map[string]*pb.Assignment), streams: make(map[*context.CancelFunc]struct{}), queue: make(map[*context.CancelFunc]chan *pb.Assignment)}
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	watch := connect.NewServerStreamHandler(rpc.NodeWatchAssignmentsProcedure, h.watch)
	blob := connect.NewUnaryHandler(rpc.ControlGetBlobProcedure, h.blob)
	attest := connect.NewUnaryHandler(rpc.ProvenanceRecordExecutionProvenanceProcedure, h.attest(rpc.NewProvenanceClient(http.DefaultClient, server)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case rpc.NodeWatchAssignmentsProcedure:
			watch.ServeHTTP(w, r)
		case rpc.ControlGetBlobProcedure:
			blob.ServeHTTP(w, r)
		case rpc.ProvenanceRecordExecutionProvenanceProcedure:
			attest.ServeHTTP(w, r)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.CloseClientConnections)
	return h, srv.URL
}

// pass makes a request to the real control plane as the node.
func pass[M any](from http.Header, message *M) *connect.Request[M] {
	req := connect.NewRequest(message)
	req.Header().Set("Authorization", from.Get("Authorization"))
	return req
}

func (h *hostileControl) watch(ctx context.Context, req *connect.Request[pb.WatchAssignmentsRequest], out *connect.ServerStream[pb.WatchAssignmentsResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	key, own := &cancel, make(chan *pb.Assignment, 16)
	h.mu.Lock()
	h.streams[key], h.queue[key] = struct{}{}, own
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.streams, key)
		delete(h.queue, key)
		h.mu.Unlock()
	}()
	in, err := h.node.WatchAssignments(ctx, pass(req.Header(), req.Msg))
	if err != nil {
		return err
	}
	defer in.Close()
	messages := make(chan *pb.WatchAssignmentsResponse)
	go func() {
		defer close(messages)
		for in.Receive() {
			m := in.Msg()
			if a := m.GetAssignment(); a != nil {
				h.mu.Lock()
				h.arrivals[a.GetExecutionId()] = proto.CloneOf(a)
				if h.alter != nil {
					h.alter(a)
				}
				h.mu.Unlock()
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		var m *pb.WatchAssignmentsResponse
		select {
		case a := <-own:
			m = &pb.WatchAssignmentsResponse{Assignment: a}
		case next, ok := <-messages:
			if !ok {
				return errors.Join(in.Err(), errors.New("ended"))
			}
			m = next
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := out.Send(m); err != nil {
			return err
		}
	}
}

func (h *hostileControl) blob(ctx context.Context, req *connect.Request[pb.GetBlobRequest]) (*connect.Response[pb.GetBlobResponse], error) {
	res, err := h.api.GetBlob(ctx, pass(req.Header(), req.Msg))
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.instead != nil {
		res.Msg.Data = h.instead(req.Msg.GetDigest(), res.Msg.GetData())
	}
	return connect.NewResponse(res.Msg), nil
}

func (h *hostileControl) attest(api rpc.ProvenanceClient) func(context.Context, *connect.Request[pb.RecordExecutionProvenanceRequest]) (*connect.Response[pb.RecordExecutionProvenanceResponse], error) {
	return func(ctx context.Context, req *connect.Request[pb.RecordExecutionProvenanceRequest]) (*connect.Response[pb.RecordExecutionProvenanceResponse], error) {
		h.mu.Lock()
		h.handedIn = append(h.handedIn, req.Msg)
		h.mu.Unlock()
		res, err := api.RecordExecutionProvenance(ctx, pass(req.Header(), req.Msg))
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(res.Msg), nil
	}
}

// lie sets what is altered from now on; nil and nil is the truth. What is open is
// then assigned anew.
func (h *hostileControl) lie(alter func(*pb.Assignment), instead func(string, []byte) []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alter, h.instead = alter, instead
	for end := range h.streams {
		(*end)()
	}
}

// assign sends the node an assignment of our own making.
func (h *hostileControl) assign(a *pb.Assignment) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, queue := range h.queue {
		queue <- a
		return nil
	}
	return errors.New("no stream")
}

func (h *hostileControl) arrived(id string) *pb.Assignment {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.arrivals[id]
}

// attestations is how often each execution was attested with other bytes than
// before: handing the same in again, for want of an answer, is no second one.
func (h *hostileControl) attestations(t *testing.T) map[string]int {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	count, seen := map[string]int{}, map[string]bool{}
	for _, req := range h.handedIn {
		if seen[string(req.Envelope)] {
			continue
		}
		seen[string(req.Envelope)] = true
		e, err := dsse.Parse(req.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		s, err := provenance.ParseStatement(e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		count[s.Execution.String()]++
	}
	return count
}

// startNode gives one node what is its own and starts it against a server that
// need not be the control plane, with /healthz and /metrics.
func (f *founded) startNode(id, server string, flags ...string) *process {
	f.t.Helper()
	if err := os.MkdirAll(f.dirOf(id, "keys"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	for _, name := range []string{"genesis.json", "audit.policy", "membership.policy"} {
		f.copy(filepath.Join(f.dir, name), f.dirOf(id, name))
	}
	for _, use := range []string{"attestation", "token"} {
		f.copy(filepath.Join(f.dir, "keys", id+"-"+use+".pem"), f.dirOf(id, "keys", use+".pem"))
	}
	p := f.process(id, "node", true, append([]string{"serve", "--dir", f.dirOf(id), "--server", server, "--id", id,
		"--genesis", f.dirOf(id, "genesis.json"), "--policy", f.dirOf(id, "audit.policy"),
		"--membership-policy", f.dirOf(id, "membership.policy")}, flags...)...)
	p.start()
	return p
}

// submitFor submits until a node is the first of the schedule, and returns that
// execution.
func (a *agent) submitFor(node string, n int, submit func(n int) (*pb.SubmitExecutionRequestResponse, error)) string {
	a.c.t.Helper()
	for i := range 64 {
		res, err := submit(1000*n + i)
		if err != nil {
			a.c.t.Fatal(err)
		}
		status, err := a.Control.QueryExecutionStatus(context.Background(), connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: res.ExecutionId}))
		if err != nil {
			a.c.t.Fatal(err)
		}
		if status.Msg.Status.AssignedNodes[0] == node {
			return res.ExecutionId
		}
	}
	a.c.t.Fatalf("no schedule begins with %s", node)
	return ""
}

// submitChild submits an execution whose input is a parent's output.
func (a *agent) submitChild(hash digest.Digest, parent string, n int) (*pb.SubmitExecutionRequestResponse, error) {
	id, err := digest.Parse(parent)
	if err != nil {
		return nil, err
	}
	v := &contract.Submission{
		Cluster: "dev", Contract: hash, Input: digest.Of(nil), LastEpoch: 1000, Nonce: fmt.Appendf(nil, "child %016d", n),
		Parents: []digest.Digest{id}, ProtocolVersion: contract.ProtocolVersion, Tenant: a.name,
	}
	envelope, _, err := contract.Sign(v, a.c.key(a.name, "submission"))
	if err != nil {
		return nil, err
	}
	return a.submit(envelope, nil)
}

// bundle fetches a proof bundle.
func (a *agent) bundle(id string) []byte {
	res, err := a.Control.RetrieveExecutionProof(context.Background(), connect.NewRequest(&pb.RetrieveExecutionProofRequest{ExecutionId: id}))
	if err != nil {
		a.c.t.Error(err)
		return nil
	}
	return res.Msg.Bundle
}

// assignmentOf is what the control plane would have another node do.
func (f *founded) assignmentOf(node, id string) *pb.Assignment {
	f.t.Helper()
	source := &token.Source{Principal: node, Cluster: "dev", Key: f.key(node, "token")}
	client := rpc.NewNodeClient(&http.Client{Transport: &token.Transport{Source: source, Base: http.DefaultTransport}}, f.server)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := client.WatchAssignments(ctx, connect.NewRequest(&pb.WatchAssignmentsRequest{}))
	if err != nil {
		f.t.Fatal(err)
	}
	defer stream.Close()
	for stream.Receive() {
		if a := stream.Msg().GetAssignment(); a.GetExecutionId() == id {
			return a
		}
	}
	f.t.Fatalf("%s is not assigned %s: %v", node, id, stream.Err())
	return nil
}

// refusesToRun waits until a node's log says that it has refused an execution with
// a code, and wants no attestation of it.
func (f *founded) refusesToRun(node, id, code string) {
	f.t.Helper()
	f.eventually(node+" refuses with "+code, func() error {
		log, err := os.ReadFile(f.processes[node].log)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, id) && strings.Contains(line, `"assignment refused"`) {
				if !strings.Contains(line, `"code":"`+code+`"`) {
					f.t.Fatalf("want the code %q: %s", code, line)
				}
				return nil
			}
		}
		return errors.New("not yet")
	})
	if _, err := os.Stat(f.dirOf(node, "attestations", id[:2], id)); !errors.Is(err, os.ErrNotExist) {
		f.t.Errorf("there is an attestation of %s: %v", id, err)
	}
	metrics, err := get("http://" + f.processes[node].addr + "/metrics")
	if err != nil || !slices.ContainsFunc(strings.Split(string(metrics), "\n"), func(line string) bool {
		return strings.HasPrefix(line, `tallystick_node_refused_total{code="`+code+`"} `) && !strings.HasSuffix(line, " 0")
	}) {
		f.t.Errorf("the metric does not count %q: %v", code, err)
	}
}

// TestHostileControlPlane: a control plane that passes on one thing altered, an
// input, a contract, a module, a schedule, a parent, gets nothing run and nothing
// signed; the node says why in a named code. Told the truth, it does the work.
func TestHostileControlPlane(t *testing.T) {
	f := found(t, "--attempt-deadline", "10m")
	h, server := newHostileControl(t, f.server)
	const node, other = "node-1", "node-2"
	f.startNode(node, server)
	f.awaitNodes(1)
	a := f.agent("tenant")
	one := func(v *contract.Contract) { v.Nodes, v.Agreement, v.MaxAssigned, v.Step = 1, 1, 2, 1 }
	hash := a.register("canonjson", one)
	another := a.register("canonjson", func(v *contract.Contract) { one(v); v.Name = "another" })
	input := []byte(`{"b":1,"a":2}`)
	submit := func(n int) (*pb.SubmitExecutionRequestResponse, error) {
		envelope, _ := a.submission(hash, input, n)
		return a.submit(envelope, input)
	}

	// What the lies are made of: another execution's assignment, one of another
	// node, and a parent.
	parent := a.submitFor(node, 0, submit)
	status := a.complete(parent)
	output := status.Outcome.OutputDigest
	stranger := a.submitFor(node, 90, func(n int) (*pb.SubmitExecutionRequestResponse, error) {
		envelope, _ := a.submission(another, input, n)
		return a.submit(envelope, input)
	})
	a.complete(stranger)
	elsewhere := a.submitFor(other, 91, submit)
	stolen := f.assignmentOf(other, elsewhere)

	child := func(n int) (*pb.SubmitExecutionRequestResponse, error) { return a.submitChild(hash, parent, n) }
	swap := func(d string) func(string, []byte) []byte {
		return func(digest string, data []byte) []byte {
			if digest == d {
				return append([]byte("x"), data...)
			}
			return data
		}
	}
	module := h.arrived(parent).GetModuleDigest()
	for i, lie := range []struct {
		what, code string
		submit     func(int) (*pb.SubmitExecutionRequestResponse, error)
		alter      func(*pb.Assignment)
		instead    func(string, []byte) []byte
	}{
		{"another input", "input", submit, nil, swap(h.arrived(parent).GetInputDigest())},
		{"another input's name", "malformed", submit, func(a *pb.Assignment) { a.InputDigest = output }, nil},
		{"another contract", "inclusion", submit, func(a *pb.Assignment) { a.Contract = h.arrivals[stranger].Contract }, nil},
		{"another request", "inclusion", submit, func(a *pb.Assignment) { a.Request = h.arrivals[parent].Request }, nil},
		{"all of another execution", "execution", submit, func(a *pb.Assignment) {
			id := a.ExecutionId
			proto.Reset(a)
			proto.Merge(a, h.arrivals[stranger])
			a.ExecutionId = id
		}, nil},
		{"another module's name", "malformed", submit, func(a *pb.Assignment) { a.ModuleDigest = output }, nil},
		{"an attempt that has not begun", "attempt", submit, func(a *pb.Assignment) { a.Attempt = 1 }, nil},
		{"no epochs", "record", submit, func(a *pb.Assignment) { a.Epochs = nil }, nil},
		{"a request checkpoint without its witnesses", "request_checkpoint", submit, func(a *pb.Assignment) {
			text, _, _ := strings.Cut(string(a.RequestCheckpoint), "\n\n")
			signatures := strings.Split(strings.TrimPrefix(string(a.RequestCheckpoint), text+"\n\n"), "\n")
			a.RequestCheckpoint = []byte(text + "\n\n" + signatures[0] + "\n")
		}, nil},
		{"no parent", "parent", child, func(a *pb.Assignment) { a.ParentBundles = nil }, nil},
		{"a parent that is another", "parent", child, func(x *pb.Assignment) { x.ParentBundles[0] = a.bundle(stranger) }, nil},
		{"a parent that was altered", "parent", child, func(a *pb.Assignment) { a.ParentBundles[0][len(a.ParentBundles[0])/2] ^= 1 }, nil},
		{"another output of the parent", "input", child, nil, swap(output)},
	} {
		t.Run(lie.what, func(t *testing.T) {
			h.lie(lie.alter, lie.instead)
			id := a.submitFor(node, i+1, lie.submit)
			f.refusesToRun(node, id, lie.code)
			if n := h.attestations(t)[id]; n != 0 {
				t.Errorf("%d attestations were handed in of what was told falsely", n)
			}
			h.lie(nil, nil)
			a.complete(id)
			if n := h.attestations(t)[id]; n != 1 {
				t.Errorf("%d attestations were handed in when it was told truly, want 1", n)
			}
		})
	}

	// Work of another node.
	f.eventually("the stolen assignment is passed on", func() error { return h.assign(stolen) })
	f.refusesToRun(node, elsewhere, "not_assigned")

	// A module that the node has not fetched before.
	fresh := a.register("inventory", one)
	h.lie(nil, func(d string, data []byte) []byte {
		if d != module {
			return append([]byte("x"), data...)
		}
		return data
	})
	id := a.submitFor(node, 92, func(n int) (*pb.SubmitExecutionRequestResponse, error) {
		envelope, _ := a.submission(fresh, input, n)
		return a.submit(envelope, input)
	})
	f.refusesToRun(node, id, "module")
	h.lie(nil, nil)
	a.complete(id)

	// Nothing but what the control plane assigned, each once. The search for the
	// stolen assignment left some that nobody waited for.
	for id, n := range h.attestations(t) {
		if n != 1 || h.arrived(id) == nil {
			t.Errorf("%d attestations of %s were handed in, assigned: %t", n, id, h.arrived(id) != nil)
		}
	}
}
