package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/keyfile"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// auditedControl is the side of a control plane that auditors see, over a cluster
// in memory. Its fields say how it lies; the zero value is honest.
type auditedControl struct {
	tallystickv1connect.UnimplementedControlHandler
	tallystickv1connect.UnimplementedLogHandler
	tallystickv1connect.UnimplementedMembershipHandler

	// list changes what is answered for a page.
	list func(res *pb.ListExecutionsResponse, token string)
	// sign signs the audit checkpoint of a size; nth counts from 1.
	sign func(c *testcluster.Cluster, size int64, nth int) []byte
	// epochs are how many changes are shown, or if negative withheld of those that
	// the checkpoint covers; records is how many openings are shown. 0 means all.
	epochs  int64
	records int
	// without is the index of a record that is left out; 0 leaves out none.
	without int
	// stalls makes no answer to the question for a checkpoint end.
	stalls bool
	// write appends to the log what it should not.
	write func(c *testcluster.Cluster)
	// answer is what every question about executions fails with.
	answer error

	mu      sync.Mutex // guards what follows
	cluster *testcluster.Cluster
	asked   int // checkpoints
}

// serveAudited starts a control plane with three executions, at epoch 2, and
// returns the office of its auditor, an admin here.
func serveAudited(t *testing.T, f *auditedControl) *office {
	t.Helper()
	c := testcluster.New(t, testcluster.Options{})
	c.Audit.Now = func() int64 { return time.Now().Unix() }
	c.Membership.Now = c.Audit.Now
	contract := c.Register(nil)
	c.Submit(contract, []byte("one"))
	c.AddNode("node-4")
	c.Submit(contract, []byte("two"))
	c.Run(c.Submit(contract, []byte("three")), testcluster.OK("output"))
	if f.write != nil {
		f.write(c)
	}
	f.cluster = c

	mux := http.NewServeMux()
	mux.Handle(tallystickv1connect.NewControlHandler(f))
	mux.Handle(tallystickv1connect.NewLogHandler(f))
	mux.Handle(tallystickv1connect.NewMembershipHandler(f))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	o := &office{t, t.TempDir()}
	for name, text := range map[string][]byte{"genesis": c.Genesis, "audit.policy": c.PolicyText.Audit, "membership.policy": c.PolicyText.Membership} {
		if err := os.WriteFile(o.path(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := keyfile.WriteEd25519(o.path("token.pem"), testcluster.Key("auditor/token"), nil); err != nil {
		t.Fatal(err)
	}
	if err := writeProfile(o.path("auditor.json"), &profile{Server: server.URL, Cluster: c.Name, Principal: testcluster.Admin,
		Keys: map[string]string{"token": "token.pem"}, Genesis: "genesis", AuditPolicy: "audit.policy", MembershipPolicy: "membership.policy"}); err != nil {
		t.Fatal(err)
	}
	return o
}

// GetCheckpoint leaves a record, as asking does, so that there is a later one.
func (f *auditedControl) GetCheckpoint(ctx context.Context, _ *connect.Request[pb.GetCheckpointRequest]) (*connect.Response[pb.GetCheckpointResponse], error) {
	if f.stalls {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	f.cluster.Append(&pb.Record{Body: &pb.Record_Operation{Operation: &pb.OperationRecord{Code: "ok"}}})
	sign := f.sign
	if sign == nil {
		sign = func(c *testcluster.Cluster, size int64, _ int) []byte { return c.Audit.Signed(size) }
	}
	return connect.NewResponse(&pb.GetCheckpointResponse{Checkpoint: sign(f.cluster, f.cluster.Audit.Size(), f.asked)}), nil
}

func (f *auditedControl) ListRecords(_ context.Context, req *connect.Request[pb.ListRecordsRequest]) (*connect.Response[pb.ListRecordsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &pb.ListRecordsResponse{}
	for i, opening := range f.cluster.Audit.Openings {
		if uint64(i) >= req.Msg.Start && (f.records == 0 || i < f.records) && (f.without == 0 || i != f.without) {
			out.Records = append(out.Records, &pb.ProvenRecord{Index: uint64(i), Opening: opening})
		}
	}
	return connect.NewResponse(out), nil
}

// ListExecutions answers in pages of two.
func (f *auditedControl) ListExecutions(_ context.Context, req *connect.Request[pb.ListExecutionsRequest]) (*connect.Response[pb.ListExecutionsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answer != nil {
		return nil, f.answer
	}
	list := slices.Collect(f.cluster.Fold.Executions())
	slices.Reverse(list)
	out := &pb.ListExecutionsResponse{NextPageToken: "2"}
	if req.Msg.PageToken != "" {
		list, out.NextPageToken = list[2:], ""
	} else {
		list = list[:2]
	}
	for _, ex := range list {
		out.Executions = append(out.Executions, justRequested(ex))
	}
	if f.list != nil {
		f.list(out, req.Msg.PageToken)
	}
	return connect.NewResponse(out), nil
}

// justRequested is what an honest control plane answers about an execution as long
// as no node has said anything.
func justRequested(ex provenance.Execution) *pb.ExecutionStatus {
	return &pb.ExecutionStatus{ExecutionId: ex.ID.String(), Tenant: ex.Tenant, ContractHash: ex.ContractHash.String(), Epoch: ex.Epoch,
		State: pb.ExecutionState_EXECUTION_STATE_OPEN, RequestIndex: uint64(ex.RequestIndex), AssignedNodes: ex.Schedule.Assigned(0),
		ClusterScheduleHash: ex.Schedule.Hash().String(), InputDigest: ex.Submission.Input.String()}
}

func (f *auditedControl) GetClusterRoot(context.Context, *connect.Request[pb.GetClusterRootRequest]) (*connect.Response[pb.GetClusterRootResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&pb.GetClusterRootResponse{MembershipCheckpoint: f.cluster.Membership.Signed(f.shown())}), nil
}

func (f *auditedControl) ListChanges(_ context.Context, req *connect.Request[pb.ListChangesRequest]) (*connect.Response[pb.ListChangesResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&pb.ListChangesResponse{Changes: f.cluster.Membership.Entries[req.Msg.FromEpoch-1 : f.shown()+min(f.epochs, 0)], CurrentEpoch: uint64(f.shown() + min(f.epochs, 0))}), nil
}

func (f *auditedControl) shown() int64 {
	if f.epochs > 0 {
		return f.epochs
	}
	return f.cluster.Membership.Size()
}

// tripleSign signs the first three checkpoints, of which the first tree is taken,
// otherwise than the rest.
func tripleSign(other func(c *testcluster.Cluster, size int64) []byte) func(c *testcluster.Cluster, size int64, nth int) []byte {
	return func(c *testcluster.Cluster, size int64, nth int) []byte {
		if nth <= 3 {
			return other(c, size)
		}
		return c.Audit.Signed(size)
	}
}

// The audit finds what a control plane says otherwise than its log, what it does not
// say, and what it writes into the log that does not follow. It tells that from
// having seen too little.
func TestAudit(t *testing.T) {
	page := func(token string, lie func(res *pb.ListExecutionsResponse)) *auditedControl {
		return &auditedControl{list: func(res *pb.ListExecutionsResponse, at string) {
			if at == token {
				lie(res)
			}
		}}
	}
	for name, test := range map[string]struct {
		server *auditedControl
		code   int
		error  string
		says   string
	}{
		"honest": {&auditedControl{}, 0, "", "compared        3 answers"},
		"one is left out": {page("", func(res *pb.ListExecutionsResponse) { res.Executions = res.Executions[:1] }), exitFalse,
			"the log contradicts 1 answer of the control plane", "it is not listed, the log has its request at index 4"},
		"none is listed": {&auditedControl{list: func(res *pb.ListExecutionsResponse, _ string) { res.Executions, res.NextPageToken = nil, "" }}, exitFalse,
			"the log contradicts 3 answers of the control plane", "it is not listed"},
		"one twice": {page("2", func(res *pb.ListExecutionsResponse) { res.Executions = append(res.Executions, res.Executions[0]) }), exitFalse,
			"one is there twice", ""},
		"no end": {page("2", func(res *pb.ListExecutionsResponse) { res.NextPageToken = "2" }), exitFalse, "one is there twice", ""},
		"empty pages": {&auditedControl{list: func(res *pb.ListExecutionsResponse, _ string) { res.Executions, res.NextPageToken = nil, "2" }}, exitFalse,
			"lists no execution and says that there are more", ""},
		"another tenant's": {page("2", func(res *pb.ListExecutionsResponse) { res.Executions[0].Tenant = "other\x1b[2J" }), exitFalse,
			"the log contradicts 1 answer of the control plane", "tenant is other\ufffd[2J, the log says tenant-1"},
		"a provenance record that differs": {&auditedControl{write: falseProvenance}, exitFalse, "the log has 1 void record",
			`(provenance): differs: "output_digest" differs from what the records before imply`},
		"an attempt out of turn": {&auditedControl{write: earlyReschedule}, exitFalse, "the log has 1 void record", "(reschedule): attempt: attempt 7, want 1"},
		"an old membership":      {&auditedControl{epochs: 1}, exitBlind, "the membership log is behind the audit log: record 3", ""},
		"changes withheld":       {&auditedControl{epochs: -1}, exitFalse, "changes are withheld", ""},
		"a record left out":      {&auditedControl{without: 3}, exitFalse, "the control plane shows record 4 where record 3 is due", ""},
		"records withheld":       {&auditedControl{records: 5}, exitFalse, "the control plane shows 5 records", ""},
		"an old checkpoint": {&auditedControl{sign: tripleSign(func(c *testcluster.Cluster, size int64) []byte {
			now := c.Audit.Now
			defer func() { c.Audit.Now = now }()
			c.Audit.Now = func() int64 { return now() - 3600 }
			return c.Audit.Signed(size)
		})}, exitBlind, "witness quorum not fresh: size", ""},
		"no newer checkpoint": {&auditedControl{sign: func(c *testcluster.Cluster, _ int64, _ int) []byte { return c.Audit.Signed(7) }}, exitBlind,
			"has been shown for 1ns: ", ""},
		"no checkpoint": {&auditedControl{stalls: true}, exitBlind, "has been shown for 50ms: none has been shown at all", ""},
		"gone back": {&auditedControl{sign: func(c *testcluster.Cluster, size int64, nth int) []byte {
			if nth > 3 {
				size = int64(nth) - 2
			}
			return c.Audit.Signed(size)
		}}, exitBlind, "shows a checkpoint of size 4 after one of size", ""},
		"too few witnesses": {&auditedControl{sign: func(c *testcluster.Cluster, size int64, _ int) []byte {
			return c.Audit.Sign(c.Audit.Checkpoint(size), 1)
		}}, exitBlind, "witness quorum not reached", ""},
		"another log's key": {&auditedControl{sign: func(c *testcluster.Cluster, size int64, _ int) []byte { return c.Membership.Signed(1) }}, exitFalse,
			"checkpoint of another origin", ""},
		"two histories": {&auditedControl{sign: tripleSign(func(c *testcluster.Cluster, size int64) []byte {
			return c.Audit.Sign(checkpoint.Checkpoint{Origin: c.Audit.Origin, Size: size, Root: c.Audit.Checkpoint(1).Root}, 2)
		})}, exitFalse, "two histories of the audit log", ""},
		"it broke":         {&auditedControl{answer: connect.NewError(connect.CodeInternal, errors.New("a fault"))}, exitBlind, "a fault", ""},
		"it will not tell": {&auditedControl{answer: connect.NewError(connect.CodePermissionDenied, errors.New("not you"))}, exitError, "not you", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"audit"}
			switch name { // there never will be one
			case "no newer checkpoint":
				args = append(args, "--wait", "1ns")
			case "no checkpoint":
				args = append(args, "--wait", "50ms")
			}
			out, err := serveAudited(t, test.server).try("auditor", args...)
			if test.code == 0 {
				if err != nil {
					t.Fatal(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.error) || report(io.Discard, unreached(err, "the server")) != test.code {
				t.Fatalf("%v, want %q and exit code %d\n%s", err, test.error, test.code, out)
			}
			if !strings.Contains(out, test.says) {
				t.Errorf("no %q in\n%s", test.says, out)
			}
		})
	}
}

// falseProvenance completes an execution, and says in its record that another
// output came of it than the nodes attested.
func falseProvenance(c *testcluster.Cluster) {
	id := slices.Collect(c.Fold.Executions())[0].ID
	var due *pb.Record
	for _, node := range c.Execution(id).Assigned()[:2] {
		if _, effect := c.Append(c.AttestationRecord(c.Statement(id, node, testcluster.OK("output")))); effect.Derived != nil {
			due = effect.Derived
		}
	}
	due.GetProvenance().OutputDigest[0] ^= 1
	c.Append(due)
}

// earlyReschedule skips attempts to come to the nodes that it prefers.
func earlyReschedule(c *testcluster.Cluster) {
	r := c.RescheduleRecord(slices.Collect(c.Fold.Executions())[0].ID)
	r.GetReschedule().Attempt = 7
	c.Append(r)
}

// The report says how old the audited checkpoint is and what it does not speak
// of, also to programs.
func TestAuditSaysWhatItDidNotSee(t *testing.T) {
	o := serveAudited(t, &auditedControl{})
	o.must("auditor", []string{"audit", "--max-age", "10m"}, "newest          cosigned by the quorum at ", "not seen        what was recorded from index ",
		"it could show one as old as --max-age, 10m0s", "verifier replay --all", "verifier compare")
	var r auditReport
	if err := json.Unmarshal([]byte(o.must("auditor", []string{"audit", "--json"})), &r); err != nil {
		t.Fatal(err)
	}
	if r.CosignedAt == nil || r.AgeSeconds == nil || *r.AgeSeconds < 0 || len(r.NotSeen) < 3 {
		t.Errorf("%+v", r)
	}
	r = auditReport{}
	r.limits(seenTree{}, time.Minute, time.Now())
	if r.CosignedAt != nil || !strings.Contains(strings.Join(r.NotSeen, "\n"), "as old as the control plane likes") {
		t.Errorf("without witnesses: %+v", r)
	}
}

// What is wrong with the command line, or with the way to the control plane, is
// not taken for a verdict.
func TestAuditWithoutAnAnswer(t *testing.T) {
	o := serveAudited(t, &auditedControl{})
	p, err := loadProfile(o.path("auditor.json"))
	if err != nil {
		t.Fatal(err)
	}
	p.Principal = testcluster.Tenant
	if err := writeProfile(o.path("tenant.json"), p); err != nil {
		t.Fatal(err)
	}
	p.Server = "http://127.0.0.1:1"
	if err := writeProfile(o.path("away.json"), p); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		as   string
		args []string
		code int
	}{
		"nobody answers":  {"away", []string{"audit"}, exitBlind},
		"no time to wait": {"auditor", []string{"audit", "--wait", "0s"}, exitUsage},
		"no such flag":    {"auditor", []string{"audit", "--since", "5"}, exitUsage},
		"a tenant asks":   {"tenant", []string{"audit"}, exitError},
		"no profile":      {"nobody", []string{"audit"}, exitError},
	} {
		if _, err := o.try(test.as, test.args...); err == nil || report(io.Discard, unreached(err, p.Server)) != test.code {
			t.Errorf("%s: %v, want exit code %d", name, err, test.code)
		}
	}
}

// The file of openings says what checkpoint was published, and has as much at
// least; a control plane that shows less is refused, and no file is left.
func TestSaveOpenings(t *testing.T) {
	f := &auditedControl{}
	o := serveAudited(t, f)
	o.must("auditor", []string{"log", "openings", "-o", o.path("openings")}, "openings")
	file, err := os.Open(o.path("openings"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := provenance.NewOpeningReader(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := f.cluster.Audit.Checkpoint(f.cluster.Audit.Size()); r.Tree() != want.Tree() || r.Origin() != want.Origin {
		t.Errorf("it says %+v of %q, want %+v", r.Tree(), r.Origin(), want)
	}
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}

	f = &auditedControl{records: 5}
	o = serveAudited(t, f)
	o.refused("auditor", []string{"log", "openings", "-o", o.path("openings")}, "shows 5 records, its checkpoint covers")
	if left, err := filepath.Glob(o.path("*openings*")); err != nil || len(left) > 0 {
		t.Errorf("left %q, %v", left, err)
	}
}
