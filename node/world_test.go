package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/record"
	"github.com/tallystick/tallystick/verifier"
)

// world is a cluster with a control plane that tests make lie: real logs, keys
// and connections, and a runner that computes without WebAssembly.
type world struct {
	*testcluster.Cluster
	t      testing.TB
	plane  *plane
	server *httptest.Server
	logs   *treeSource
	runner *upper
	log    *syncBuffer

	skew     atomic.Int64  // added to the clock by tests that use it, in nanoseconds
	contract digest.Digest // hash of the default contract, once registered
}

func newWorld(t testing.TB, o testcluster.Options) *world {
	t.Helper()
	w := &world{Cluster: testcluster.New(t, o), t: t, runner: &upper{}, log: &syncBuffer{}}
	w.logs = &treeSource{trees: map[membership.LogName]*testcluster.Log{
		membership.LogAudit: w.Audit, membership.LogMembership: w.Membership,
	}}
	w.plane = &plane{blobs: make(map[string][]byte), received: make(chan *pb.RecordExecutionProvenanceRequest, 16),
		connected: make(chan *pb.NodeInfo, 16), streams: make(chan []*pb.Assignment, 16)}
	w.plane.put(testcluster.Module)
	mux := http.NewServeMux()
	mux.Handle(tallystickv1connect.NewNodeHandler(w.plane))
	mux.Handle(tallystickv1connect.NewControlHandler(w.plane))
	mux.Handle(tallystickv1connect.NewProvenanceHandler(w.plane))
	w.server = httptest.NewServer(mux)
	t.Cleanup(w.server.Close)
	return w
}

// now is the clock of the world: just after the witnesses signed.
func (w *world) now() time.Time {
	return time.Unix(1_767_225_600+w.Membership.Size()*60+60, 0)
}

// config returns the configuration of a node that trusts this cluster.
func (w *world) config(id string) Config {
	return Config{
		ID:             id,
		Dir:            w.t.TempDir(),
		AttestationKey: testcluster.Key(id + "/attestation"),
		Trust:          verifier.Trust{Genesis: w.Genesis, AuditPolicy: w.AuditPolicy, MembershipPolicy: w.MembershipPolicy},
		ControlPlane: struct {
			tallystickv1connect.NodeClient
			tallystickv1connect.ControlClient
			tallystickv1connect.ProvenanceClient
		}{
			tallystickv1connect.NewNodeClient(w.server.Client(), w.server.URL),
			tallystickv1connect.NewControlClient(w.server.Client(), w.server.URL),
			tallystickv1connect.NewProvenanceClient(w.server.Client(), w.server.URL),
		},
		Logs:   w.logs,
		Runner: w.runner,
		Info:   &pb.NodeInfo{SoftwareVersion: "v1.0.0"},
		Timing: Timing{BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond, Call: 10 * time.Second, Drain: 10 * time.Second, Retry: 10 * time.Millisecond},
		Now:    w.now,
		Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	}
}

// open opens a node and closes it with the test.
func (w *world) open(config Config) *Node {
	w.t.Helper()
	n, err := Open(config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { n.Close() })
	return n
}

func (w *world) node(id string) *Node { w.t.Helper(); return w.open(w.config(id)) }

// submit makes an execution of the default contract on an input that the control
// plane has.
func (w *world) submit(input string) digest.Digest {
	w.t.Helper()
	w.plane.put([]byte(input))
	if w.contract.IsZero() {
		w.contract = w.Register(nil)
	}
	return w.Submit(w.contract, []byte(input))
}

// assignment returns what an honest control plane assigns now.
func (w *world) assignment(id digest.Digest) *pb.Assignment {
	w.t.Helper()
	ex := w.Execution(id)
	requestCheckpoint := w.RequestCheckpoint(id)
	verified, err := w.AuditPolicy.Verify(requestCheckpoint)
	if err != nil {
		w.t.Fatal(err)
	}
	requestSize, size := verified.Checkpoint.Size, w.Audit.Size()
	a := &pb.Assignment{
		ExecutionId:          id.String(),
		Attempt:              ex.Attempt,
		RequestCheckpoint:    requestCheckpoint,
		AuditCheckpoint:      w.Audit.Signed(size),
		MembershipCheckpoint: w.Membership.Signed(w.Membership.Size()),
		Contract:             w.Proven(ex.ContractIndex, requestSize),
		Request:              w.Proven(ex.RequestIndex, requestSize),
		ModuleDigest:         ex.Contract.Module.String(),
		InputDigest:          ex.Submission.Input.String(),
	}
	next := ex.Epoch
	for index := range size {
		r := w.record(index)
		if r.GetEpoch().GetEpoch() == next { // a second record of an epoch is void
			next++
			a.Epochs = append(a.Epochs, w.Proven(index, size))
		}
		if bytes.Equal(r.GetReschedule().GetExecutionId(), id[:]) {
			a.Reschedules = append(a.Reschedules, w.Proven(index, size))
		}
	}
	for _, parent := range ex.Submission.Parents {
		a.ParentBundles = append(a.ParentBundles, w.bundle(parent))
	}
	return a
}

// bundle returns the proof bundle file of a completed execution.
func (w *world) bundle(id digest.Digest) []byte {
	w.t.Helper()
	file, err := provenance.FormatBundle(w.Bundle(id))
	if err != nil {
		w.t.Fatal(err)
	}
	return file
}

func (w *world) record(index int64) *pb.Record {
	w.t.Helper()
	opening, err := record.ParseOpening(w.Audit.Openings[index])
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := record.Parse(opening.Record())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// assigned returns a node that attempt 0 assigns, and one that it does not.
func (w *world) assigned(id digest.Digest) (in, out string) {
	w.t.Helper()
	ex := w.Execution(id)
	for _, p := range w.History.Current().Nodes() {
		if attempt, ok := ex.Schedule.FirstAttempt(p.ID); ok && attempt == 0 {
			in = p.ID
		} else {
			out = p.ID
		}
	}
	return in, out
}

// record what a node handed in, as the control plane would; the fold must find
// it valid.
func (w *world) take(envelope []byte) *provenance.Statement {
	w.t.Helper()
	e, err := dsse.Parse(envelope)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := provenance.ParseStatement(e.Payload)
	if err != nil {
		w.t.Fatal(err)
	}
	_, effect := w.Append(&pb.Record{Body: &pb.Record_Attestation{Attestation: &pb.AttestationRecord{
		ExecutionId: s.Execution[:], Node: s.Node, Epoch: w.Fold.Epoch(), Envelope: envelope}}})
	if effect.Void {
		w.t.Fatalf("attestation is void: %s: %s", effect.Code, effect.Detail)
	}
	if effect.Derived != nil {
		if _, effect := w.Append(effect.Derived); effect.Void {
			w.t.Fatalf("derived record is void: %s", effect.Detail)
		}
	}
	return s
}

// upper is a runner whose module turns its input into capital letters.
type upper struct {
	err         error             // what Run returns, if not nil
	unsupported error             // what Supports returns
	outcome     *contract.Outcome // what Run returns instead of the truth
	running     chan struct{}     // if not nil, Run sends here
	release     chan struct{}     // and then waits for this
}

func (u *upper) Supports(contract.Versions) error { return u.unsupported }

func (u *upper) Run(ctx context.Context, run Run) (*Result, error) {
	if u.running != nil {
		u.running <- struct{}{}
		select {
		case <-u.release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if u.err != nil {
		return nil, u.err
	}
	out := bytes.ToUpper(run.Input)
	r := &Result{Output: out, Outcome: testcluster.OK(string(out))}
	if u.outcome != nil {
		r.Outcome = *u.outcome
	}
	return r, nil
}

// switched is a runner that fails while it is off.
type switched struct {
	Runner
	off atomic.Bool
}

func (s *switched) Run(ctx context.Context, run Run) (*Result, error) {
	if s.off.Load() {
		return nil, errors.New("engine fault")
	}
	return s.Runner.Run(ctx, run)
}

func failSync(*os.File) error { return errors.New("disk on fire") }

// plane is the control plane's side of the API.
type plane struct {
	tallystickv1connect.UnimplementedControlHandler
	tallystickv1connect.UnimplementedProvenanceHandler

	connected chan *pb.NodeInfo                         // one for each stream opened
	streams   chan []*pb.Assignment                     // what the next stream brings; nil ends it
	received  chan *pb.RecordExecutionProvenanceRequest // attestations handed in

	// opening, if not nil, is what each stream brings first.
	opening func() []*pb.Assignment
	// reported, if not nil, gets each report.
	reported chan *pb.NodeStatus
	// abandon, if not nil, answers AbandonAssignment.
	abandon func(context.Context, *pb.AbandonAssignmentRequest) error

	mu       sync.Mutex
	blobs    map[string][]byte // guarded by mu; by digest
	failPuts int               // guarded by mu; how many of the next payloads are not taken
	refuse   []error           // guarded by mu; answers to the next attestations
}

func (p *plane) put(data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blobs[digest.Of(data).String()] = bytes.Clone(data)
}

// replace makes the digest resolve to other data; nil removes it.
func (p *plane) replace(d digest.Digest, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if data == nil {
		delete(p.blobs, d.String())
		return
	}
	p.blobs[d.String()] = data
}

func (p *plane) blob(d string) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	data, ok := p.blobs[d]
	return data, ok
}

func (p *plane) refuseNext(errs ...error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = errs
}

func (p *plane) WatchAssignments(ctx context.Context, req *connect.Request[pb.WatchAssignmentsRequest], stream *connect.ServerStream[pb.WatchAssignmentsResponse]) error {
	if err := stream.Send(&pb.WatchAssignmentsResponse{}); err != nil { // keep-alive
		return err
	}
	p.connected <- req.Msg.GetInfo()
	if p.opening != nil {
		for _, a := range p.opening() {
			if err := stream.Send(&pb.WatchAssignmentsResponse{Assignment: a}); err != nil {
				return err
			}
		}
	}
	for {
		select {
		case list := <-p.streams:
			if list == nil {
				return nil
			}
			for _, a := range list {
				if err := stream.Send(&pb.WatchAssignmentsResponse{Assignment: a}); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *plane) AbandonAssignment(ctx context.Context, req *connect.Request[pb.AbandonAssignmentRequest]) (*connect.Response[pb.AbandonAssignmentResponse], error) {
	if p.abandon != nil {
		if err := p.abandon(ctx, req.Msg); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&pb.AbandonAssignmentResponse{}), nil
}

func (p *plane) ReportNodeStatus(_ context.Context, req *connect.Request[pb.ReportNodeStatusRequest]) (*connect.Response[pb.ReportNodeStatusResponse], error) {
	if p.reported != nil {
		p.reported <- req.Msg.GetStatus()
	}
	return connect.NewResponse(&pb.ReportNodeStatusResponse{}), nil
}

func (p *plane) GetBlob(_ context.Context, req *connect.Request[pb.GetBlobRequest]) (*connect.Response[pb.GetBlobResponse], error) {
	data, ok := p.blob(req.Msg.GetDigest())
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("[blob_unknown] no such payload"))
	}
	return connect.NewResponse(&pb.GetBlobResponse{Data: data}), nil
}

func (p *plane) PutBlob(_ context.Context, req *connect.Request[pb.PutBlobRequest]) (*connect.Response[pb.PutBlobResponse], error) {
	p.mu.Lock()
	fail := p.failPuts > 0
	if fail {
		p.failPuts--
	}
	p.mu.Unlock()
	if fail {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("no space"))
	}
	p.put(req.Msg.GetData())
	return connect.NewResponse(&pb.PutBlobResponse{}), nil
}

func (p *plane) RecordExecutionProvenance(_ context.Context, req *connect.Request[pb.RecordExecutionProvenanceRequest]) (*connect.Response[pb.RecordExecutionProvenanceResponse], error) {
	p.received <- req.Msg
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.refuse) > 0 {
		err := p.refuse[0]
		p.refuse = p.refuse[1:]
		return nil, err
	}
	return connect.NewResponse(&pb.RecordExecutionProvenanceResponse{}), nil
}

// treeSource serves the tiles of logs in memory.
type treeSource struct {
	mu    sync.Mutex
	trees map[membership.LogName]*testcluster.Log // guarded by mu
	// checkpoint is what the membership log publishes.
	checkpoint []byte
	// get, if not nil, answers instead; it may call serve.
	get func(log membership.LogName, path string) ([]byte, error)
	// requests counts what was asked for.
	requests int
}

func (s *treeSource) Get(_ context.Context, log membership.LogName, path string, limit int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	get := s.serve
	if s.get != nil {
		get = s.get
	}
	data, err := get(log, path)
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%q has %d bytes, the limit is %d", path, len(data), limit)
	}
	return data, err
}

// set makes get answer from now on; nil is the truth.
func (s *treeSource) set(get func(membership.LogName, string) ([]byte, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.get = get
}

func (s *treeSource) serve(log membership.LogName, path string) ([]byte, error) {
	if path == "checkpoint" {
		return s.checkpoint, nil
	}
	tree := s.trees[log]
	text := strings.Replace(path, "tile/", "tile/8/", 1)
	text = strings.Replace(text, "/entries/", "/data/", 1)
	tile, err := tlog.ParseTilePath(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, path)
	}
	// Like a log that drops partial tiles once the full one exists.
	level := max(tile.L, 0)
	whole := tree.Size() >> (level * tile.H)
	first := tile.N << tile.H
	if have := whole - first; have < int64(tile.W) || tile.W < 1<<tile.H && have >= 1<<tile.H {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, path)
	}
	if tile.L >= 0 {
		return tlog.ReadTileData(tile, tree)
	}
	var bundle []byte
	for _, e := range tree.Entries[first : first+int64(tile.W)] {
		bundle = append(bundle, byte(len(e)>>8), byte(len(e)))
		bundle = append(bundle, e...)
	}
	return bundle, nil
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var _ io.Writer = (*syncBuffer)(nil)

// do works on an assignment as offer has it worked on, and waits for its end.
func (n *Node) do(ctx context.Context, a *pb.Assignment) {
	tenant := claimedTenant(a)
	if n.slots.acquire(ctx, tenant) {
		defer n.slots.release(tenant)
		n.work(ctx, tenant, a)
	}
}
