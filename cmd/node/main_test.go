package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/controlapi/token"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/node"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/sandbox"
)

func TestMain(m *testing.M) {
	if sandbox.IsWorker() {
		sandbox.WorkerMain()
	}
	testscript.Main(m, map[string]func(){"node": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true})
}

// module is a command that exports what it must and returns at once.
var module = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x04\x01\x60\x00\x00" + // type: () -> ()
	"\x03\x02\x01\x00" + // one function of it
	"\x05\x03\x01\x00\x01" + // one page of memory
	"\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x00" +
	"\x0a\x04\x01\x02\x00\x0b") // empty body

// endless is module with a loop for its body.
var endless = append(bytes.Clone(module[:len(module)-5]), "\x09\x01\x07\x00\x03\x40\x0c\x00\x0b\x0b"...)

// controlPlane assigns one execution of a cluster to whoever asks with a token
// of node-1.
type controlPlane struct {
	rpc.UnimplementedControlHandler
	rpc.UnimplementedProvenanceHandler
	assignment *pb.Assignment
	blobs      map[string][]byte
	received   chan []byte
}

func (p *controlPlane) WatchAssignments(ctx context.Context, _ *connect.Request[pb.WatchAssignmentsRequest], s *connect.ServerStream[pb.WatchAssignmentsResponse]) error {
	if err := s.Send(&pb.WatchAssignmentsResponse{Assignment: p.assignment}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (p *controlPlane) AbandonAssignment(context.Context, *connect.Request[pb.AbandonAssignmentRequest]) (*connect.Response[pb.AbandonAssignmentResponse], error) {
	return connect.NewResponse(&pb.AbandonAssignmentResponse{}), nil
}

func (p *controlPlane) ReportNodeStatus(context.Context, *connect.Request[pb.ReportNodeStatusRequest]) (*connect.Response[pb.ReportNodeStatusResponse], error) {
	return connect.NewResponse(&pb.ReportNodeStatusResponse{}), nil
}

func (p *controlPlane) GetBlob(_ context.Context, req *connect.Request[pb.GetBlobRequest]) (*connect.Response[pb.GetBlobResponse], error) {
	data, ok := p.blobs[req.Msg.GetDigest()]
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("[blob_unknown] no such payload"))
	}
	return connect.NewResponse(&pb.GetBlobResponse{Data: data}), nil
}

func (p *controlPlane) PutBlob(context.Context, *connect.Request[pb.PutBlobRequest]) (*connect.Response[pb.PutBlobResponse], error) {
	return connect.NewResponse(&pb.PutBlobResponse{}), nil
}

func (p *controlPlane) RecordExecutionProvenance(_ context.Context, req *connect.Request[pb.RecordExecutionProvenanceRequest]) (*connect.Response[pb.RecordExecutionProvenanceResponse], error) {
	p.received <- req.Msg.GetEnvelope()
	return connect.NewResponse(&pb.RecordExecutionProvenanceResponse{}), nil
}

// authenticated lets in whoever has a token of node-1, as the control plane does.
func authenticated(t *testing.T, cluster string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		got, err := token.Verify(raw, cluster, time.Now(), func(keyID string) (token.Key, bool) {
			key := testcluster.Public("node-1/token")
			return token.Key{Principal: "node-1", Public: key}, keyID == dsse.KeyID(key)
		})
		if err != nil || got.Principal != "node-1" {
			t.Errorf("token: %+v, %v", got, err)
		}
		next.ServeHTTP(w, r)
	})
}

// The program as its flags make it, over TLS, with a real sandbox: it attests to
// what it is assigned, and stops when it is told.
func TestServeAttests(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	con := c.Contract()
	con.Module, con.Versions = digest.Of(module), sandbox.Metered()
	con.Limits.Gas, con.Limits.Frames = 1_000_000, 100
	id := c.Submit(c.Register(con), []byte("input"))
	size := c.Audit.Size()
	ex := c.Execution(id)
	plane := &controlPlane{
		received: make(chan []byte, 1),
		blobs:    map[string][]byte{digest.Of(module).String(): module, digest.Of([]byte("input")).String(): []byte("input")},
		assignment: &pb.Assignment{
			ExecutionId: id.String(), RequestCheckpoint: c.RequestCheckpoint(id), AuditCheckpoint: c.Audit.Signed(size),
			MembershipCheckpoint: c.Membership.Signed(1),
			Contract:             c.Proven(ex.ContractIndex, size), Request: c.Proven(ex.RequestIndex, size),
			Epochs:       []*pb.ProvenRecord{c.Proven(0, size)},
			ModuleDigest: con.Module.String(), InputDigest: ex.Submission.Input.String(),
		},
	}
	mux := http.NewServeMux()
	mux.Handle(rpc.NewNodeHandler(plane))
	mux.Handle(rpc.NewControlHandler(plane))
	mux.Handle(rpc.NewProvenanceHandler(plane))
	srv := httptest.NewUnstartedServer(authenticated(t, c.Name, mux))
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)

	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	limits, err := strictjson.Marshal(contract.DefaultClusterLimits())
	if err != nil {
		t.Fatal(err)
	}
	config := serveConfig{
		dir: filepath.Join(dir, "node"), server: srv.URL, id: "node-1",
		genesis: write("genesis", c.Genesis), audit: write("audit", c.PolicyText.Audit), membership: write("membership", c.PolicyText.Membership),
		caFile:     write("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})),
		limitsFile: write("limits", limits),
		capacity:   1,
		listen:     "127.0.0.1:0", addrFile: filepath.Join(dir, "addr"),
		maxAge: 100 * 365 * 24 * time.Hour, // the cluster's witnesses signed long ago
	}
	if err := os.MkdirAll(filepath.Join(config.dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, use := range []string{attestationName, tokenName} {
		if err := keyfile.WriteEd25519(keyPath(config.dir, use), testcluster.Key("node-1/"+use), nil); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, config, slog.New(slog.NewTextHandler(t.Output(), nil)), t.Output()) }()
	var envelope []byte
	select {
	case envelope = <-plane.received:
	case err := <-done:
		t.Fatalf("serve returned %v", err)
	}
	addr, err := os.ReadFile(config.addrFile)
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + strings.TrimSpace(string(addr))
	if status, body := fetch(t, base+"/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("health is %d %q", status, body)
	}
	if _, body := fetch(t, base+"/metrics"); !strings.Contains(body, "tallystick_node_attested_total 1\n") ||
		!strings.Contains(body, `tallystick_node_refused_total{code="fork"} 0`) || !strings.Contains(body, "tallystick_node_healthy 1\n") {
		t.Errorf("metrics are\n%s", body)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("serve returned %v", err)
	}
	_, effect := c.Append(&pb.Record{Body: &pb.Record_Attestation{Attestation: &pb.AttestationRecord{
		ExecutionId: id[:], Node: "node-1", Epoch: 1, Envelope: envelope}}})
	if effect.Void {
		t.Fatalf("attestation is void: %s", effect.Detail)
	}
	if got := c.Execution(id).Attestations[0]; got.Statement.Outcome.Kind != contract.OutcomeOK || got.Statement.RewrittenModule == nil || got.Statement.SoftwareVersion == "" {
		t.Errorf("attested %+v", got.Statement)
	}
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// What is wrong is said with its reason, and the status is red.
func TestHealthSaysWhy(t *testing.T) {
	rec := httptest.NewRecorder()
	health(rec, node.Status{Draining: true, Problems: map[node.Problem]string{node.ProblemFork: "see a file"}})
	if want := "draining: nothing new is taken\nfork: see a file\n"; rec.Code != http.StatusServiceUnavailable || rec.Body.String() != want {
		t.Errorf("%d %q, want 503 %q", rec.Code, rec.Body, want)
	}
}

// A drain of no time is what it says: zero would mean the default to package node.
func TestDrainOfNoTime(t *testing.T) {
	for drain, want := range map[time.Duration]time.Duration{0: 1, time.Second: time.Second} {
		if got := (&serveConfig{drain: drain}).timing().Drain; got != want {
			t.Errorf("--drain-timeout %v: %v, want %v", drain, got, want)
		}
	}
}

func TestSupports(t *testing.T) {
	r := runner{}
	unmetered := contract.Versions{HostInterface: sandbox.HostInterface}
	if err := r.Supports(sandbox.Metered()); err != nil {
		t.Error(err)
	}
	if err := r.Supports(unmetered); err == nil || !strings.Contains(err.Error(), "--allow-unmetered") {
		t.Errorf("unmetered contracts: %v", err)
	}
	if err := (runner{unmetered: true}).Supports(unmetered); err != nil {
		t.Errorf("unmetered contracts that the operator allowed: %v", err)
	}
	for _, v := range []contract.Versions{
		{HostInterface: sandbox.HostInterface + 1, Rewriter: sandbox.Rewriter},
		{HostInterface: sandbox.HostInterface, Rewriter: sandbox.Rewriter + 1},
		{HostInterface: sandbox.HostInterface, Rewriter: sandbox.Rewriter, CostTable: sandbox.CostTable + 1},
		{HostInterface: sandbox.HostInterface, CostTable: sandbox.CostTable},
	} {
		if r.Supports(v) == nil {
			t.Errorf("versions %+v are not those of this release", v)
		}
	}
}

// A module that the sandbox refuses is the module's fault, not the machine's.
func TestRunnerErrors(t *testing.T) {
	pool, err := sandbox.NewPool(sandbox.PoolConfig{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	r := runner{pool: pool}
	bad := testcluster.Module // exports nothing
	c := (&testcluster.Cluster{Name: "c"}).Contract()
	c.Module = digest.Of(bad)
	if _, err := r.Run(t.Context(), node.Run{Contract: c, Module: bad}); !errors.Is(err, node.ErrNotAdmitted) {
		t.Errorf("got %v, want ErrNotAdmitted", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.Module = digest.Of(module)
	if _, err := r.Run(ctx, node.Run{Contract: c, Module: module}); err == nil || errors.Is(err, node.ErrNotAdmitted) || errors.Is(err, node.ErrStopped) {
		t.Errorf("got %v, want a failure of this run", err)
	}
	c.Module = digest.Of(endless)
	if _, err := r.Run(t.Context(), node.Run{Contract: c, Module: endless, Timeout: time.Millisecond}); !errors.Is(err, node.ErrStopped) {
		t.Errorf("got %v, want ErrStopped", err)
	}
}
