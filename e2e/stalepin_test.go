//go:build e2e

package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/provenance"
)

// doctored is a control plane in the hands of an attacker who has the keys of
// both logs and whom every witness believes, since nothing that it shows is
// inconsistent. Both logs are complete before it is served.
type doctored struct {
	tallystickv1connect.UnimplementedNodeHandler
	tallystickv1connect.UnimplementedControlHandler
	tallystickv1connect.UnimplementedProvenanceHandler
	*testcluster.Cluster

	t           *testing.T
	blobs       map[string][]byte
	assignments chan *pb.Assignment
	attested    chan []byte                       // envelopes
	abandoned   chan *pb.AbandonAssignmentRequest // executions that the node gave up
}

func newDoctored(t *testing.T) *doctored {
	d := &doctored{Cluster: testcluster.New(t, testcluster.Options{}), t: t, blobs: map[string][]byte{},
		assignments: make(chan *pb.Assignment), attested: make(chan []byte, 16), abandoned: make(chan *pb.AbandonAssignmentRequest, 16)}
	for _, log := range []*testcluster.Log{d.Audit, d.Membership} {
		log.Now = func() int64 { return time.Now().Unix() }
	}
	return d
}

// serve makes it reachable, until the test ends.
func (d *doctored) serve() (url string) {
	mux := http.NewServeMux()
	mux.Handle(tallystickv1connect.NewNodeHandler(d))
	mux.Handle(tallystickv1connect.NewControlHandler(d))
	mux.Handle(tallystickv1connect.NewProvenanceHandler(d))
	for name, log := range map[string]*testcluster.Log{"audit": d.Audit, "membership": d.Membership} {
		signed := log.Signed(log.Size())
		mux.HandleFunc("GET /"+name+"/{path...}", func(w http.ResponseWriter, r *http.Request) {
			data, ok := signed, true
			if path := r.PathValue("path"); path != "checkpoint" {
				data, ok = log.Tile(path)
			}
			if !ok {
				http.NotFound(w, r)
				return
			}
			_, _ = w.Write(data)
		})
	}
	server := httptest.NewServer(mux)
	d.t.Cleanup(server.Close)
	return server.URL
}

func (d *doctored) blob(data []byte) []byte {
	d.blobs[digest.Of(data).String()] = data
	return data
}

// register registers a contract of a tenant for a module that really runs.
func (d *doctored) register(tenant string, wasm []byte) digest.Digest {
	con := d.Contract()
	con.Tenant, con.Module = tenant, digest.Of(wasm)
	like := newContract(tenant, "canonjson", wasm)
	con.Capabilities, con.Versions, con.Limits = like.Capabilities, like.Versions, like.Limits
	r := d.ContractRecord(con)
	r.GetContract().ModuleSize = uint64(len(wasm))
	if _, effect := d.Append(r); effect.Void {
		d.t.Fatalf("the contract is void: %s", effect.Detail)
	}
	return digest.Digest(r.GetContract().GetContractHash())
}

// assignment is what is assigned of a request: pinned and proven at the size that
// the audit log has now, with these epoch records and the contract of that index.
func (d *doctored) assignment(sub *contract.Submission, wasm []byte, request, contractIndex int64, epochs ...int64) *pb.Assignment {
	size := d.Audit.Size()
	a := &pb.Assignment{
		ExecutionId:          sub.ExecutionID().String(),
		RequestCheckpoint:    d.Audit.Signed(size),
		AuditCheckpoint:      d.Audit.Signed(size),
		MembershipCheckpoint: d.Membership.Signed(d.Membership.Size()),
		Contract:             d.Proven(contractIndex, size),
		Request:              d.Proven(request, size),
		ModuleDigest:         digest.Of(wasm).String(),
		InputDigest:          sub.Input.String(),
	}
	for _, index := range epochs {
		a.Epochs = append(a.Epochs, d.Proven(index, size))
	}
	return a
}

func (d *doctored) WatchAssignments(ctx context.Context, _ *connect.Request[pb.WatchAssignmentsRequest], stream *connect.ServerStream[pb.WatchAssignmentsResponse]) error {
	if err := stream.Send(&pb.WatchAssignmentsResponse{}); err != nil {
		return err
	}
	for {
		select {
		case a := <-d.assignments:
			if err := stream.Send(&pb.WatchAssignmentsResponse{Assignment: a}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *doctored) ReportNodeStatus(context.Context, *connect.Request[pb.ReportNodeStatusRequest]) (*connect.Response[pb.ReportNodeStatusResponse], error) {
	return connect.NewResponse(&pb.ReportNodeStatusResponse{}), nil
}

func (d *doctored) AbandonAssignment(_ context.Context, req *connect.Request[pb.AbandonAssignmentRequest]) (*connect.Response[pb.AbandonAssignmentResponse], error) {
	d.abandoned <- req.Msg
	return connect.NewResponse(&pb.AbandonAssignmentResponse{}), nil
}

func (d *doctored) GetBlob(_ context.Context, req *connect.Request[pb.GetBlobRequest]) (*connect.Response[pb.GetBlobResponse], error) {
	data, ok := d.blobs[req.Msg.Digest]
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, os.ErrNotExist)
	}
	return connect.NewResponse(&pb.GetBlobResponse{Data: data}), nil
}

func (d *doctored) PutBlob(context.Context, *connect.Request[pb.PutBlobRequest]) (*connect.Response[pb.PutBlobResponse], error) {
	return connect.NewResponse(&pb.PutBlobResponse{}), nil
}

func (d *doctored) RecordExecutionProvenance(_ context.Context, req *connect.Request[pb.RecordExecutionProvenanceRequest]) (*connect.Response[pb.RecordExecutionProvenanceResponse], error) {
	d.attested <- req.Msg.GetEnvelope()
	return connect.NewResponse(&pb.RecordExecutionProvenanceResponse{}), nil
}

// TestStalePin has a node at work for a control plane that pins an epoch of the
// past: a tenant was removed at epoch 2, and the control plane accepts a
// submission of it afterwards, pinned to epoch 1. Both logs are witnessed, every
// proof holds, and the tenant's key was valid at epoch 1. It even repeats the
// record of epoch 2 behind the request, as if that were where it began. A node
// that has seen where epoch 2 began runs nothing of it, also after a restart, and
// goes on with honest work.
func TestStalePin(t *testing.T) {
	wasm, err := os.ReadFile(module(t, "canonjson"))
	if err != nil {
		t.Fatal(err)
	}
	d := newDoctored(t)
	d.blob(wasm)

	// One honest history, and what the attacker does in it.
	contracts := map[string]int64{testcluster.Tenant: d.Audit.Size()}
	honest := d.register(testcluster.Tenant, wasm)
	contracts[testcluster.Other] = d.Audit.Size()
	removed := d.register(testcluster.Other, wasm)
	first := d.Submission(honest, d.blob([]byte("[1]")))
	firstIndex, _ := d.Append(d.RequestRecord(first))
	stale := d.Submission(removed, d.blob([]byte("[2]")))
	stale.Tenant = testcluster.Other
	pinned := d.RequestRecord(stale) // epoch 1
	epoch2 := d.Audit.Size()
	d.Change(membership.RemovePrincipal{ID: testcluster.Other})
	before := d.assignment(first, wasm, firstIndex, contracts[testcluster.Tenant], 0, epoch2)
	staleIndex, effect := d.Append(pinned)
	if !effect.Void {
		t.Fatal("the log's readers take the stale request for valid")
	}
	again, _ := d.Append(d.EpochRecord(2))
	honestly := d.assignment(stale, wasm, staleIndex, contracts[testcluster.Other], 0, epoch2)
	repeated := d.assignment(stale, wasm, staleIndex, contracts[testcluster.Other], 0, again)
	last := d.Submission(honest, d.blob([]byte("[3]")))
	lastIndex, effect := d.Append(d.RequestRecord(last))
	if effect.Void {
		t.Fatalf("the last request is void: %s", effect.Detail)
	}
	after := d.assignment(last, wasm, lastIndex, contracts[testcluster.Tenant], epoch2)

	c := &cluster{t: t}
	node := d.node(c, testcluster.NodeID(1))
	run := func(what string, a *pb.Assignment) {
		t.Helper()
		d.assign(c, what, a)
		select {
		case envelope := <-d.attested:
			if id := executionOf(t, envelope); id != a.ExecutionId {
				t.Fatalf("%s: the node attests execution %s", what, id)
			}
		case lost := <-d.abandoned:
			t.Fatalf("%s: the node gave up: %v", what, lost)
		case <-time.After(patience):
			t.Fatalf("%s: the node does nothing", what)
		}
	}
	refuse := func(what, code string, a *pb.Assignment) {
		t.Helper()
		d.assign(c, what, a)
		select {
		case envelope := <-d.attested:
			t.Fatalf("%s: the node attests execution %s", what, executionOf(t, envelope))
		case lost := <-d.abandoned:
			if lost.Code != code || lost.ExecutionId != a.ExecutionId {
				t.Errorf("%s: the node gave up: %v", what, lost)
			}
		case <-time.After(patience):
			t.Fatalf("%s: the node does nothing", what)
		}
	}
	run("an honest request", before)
	refuse("a stale pin", "record", honestly) // void to every reader of the log
	refuse("a stale pin before a repeated epoch record", "stale_pin", repeated)
	node.restart()
	refuse("a stale pin after a restart", "stale_pin", repeated)
	run("another honest request", after)
	if len(d.attested) > 0 {
		t.Errorf("the node attests execution %s", executionOf(t, <-d.attested))
	}
}

// node starts the real node, configured to trust the cluster.
func (d *doctored) node(c *cluster, id string) *process {
	dir := d.t.TempDir()
	files := map[string][]byte{"genesis.json": d.Genesis, "audit.policy": d.PolicyText.Audit, "membership.policy": d.PolicyText.Membership}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		d.t.Fatal(err)
	}
	for _, use := range []string{"attestation", "token"} {
		if err := keyfile.WriteEd25519(filepath.Join(dir, "keys", use+".pem"), testcluster.Key(id+"/"+use), nil); err != nil {
			d.t.Fatal(err)
		}
	}
	p := &process{t: d.t, binary: "node", log: filepath.Join(dir, "node.log"), args: []string{"serve", "--dir", dir, "--server", d.serve(), "--id", id,
		"--genesis", filepath.Join(dir, "genesis.json"), "--policy", filepath.Join(dir, "audit.policy"), "--membership-policy", filepath.Join(dir, "membership.policy")}}
	p.start()
	d.t.Cleanup(func() {
		p.stop()
		if log, err := os.ReadFile(p.log); err == nil && d.t.Failed() {
			showTail(d.t, id, log)
		}
	})
	return p
}

func (d *doctored) assign(c *cluster, what string, a *pb.Assignment) {
	c.t.Helper()
	select {
	case d.assignments <- a:
	case <-time.After(patience):
		c.t.Fatalf("%s: the node holds no stream", what)
	}
}

// executionOf returns the execution that an attestation is about.
func executionOf(t *testing.T, envelope []byte) string {
	t.Helper()
	e, err := dsse.Parse(envelope)
	if err != nil {
		t.Fatal(err)
	}
	s, err := provenance.ParseStatement(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return s.Execution.String()
}
