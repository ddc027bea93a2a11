//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/provenance"
)

// fabricated is a control plane that holds the keys of both logs and whose
// witnesses cosign whatever extends them: it writes into the audit log what it
// likes, and proves it. The node before it is the real program.
type fabricated struct {
	rpc.UnimplementedControlHandler
	rpc.UnimplementedProvenanceHandler
	*testcluster.Cluster
	f     *founded
	later []int64 // indexes of the epoch records after the first

	assignments chan *pb.Assignment

	mu       sync.Mutex
	blobs    map[string][]byte // guarded by mu
	handedIn [][]byte          // guarded by mu: attestations
}

// command is a module that exports what it must and returns at once.
var command = []byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x05\x03\x01\x00\x01" +
	"\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x00\x0a\x04\x01\x02\x00\x0b")

// fabricate starts the control plane and a node of its cluster.
func fabricate(t *testing.T, node string) *fabricated {
	t.Helper()
	x := &fabricated{Cluster: testcluster.New(t, testcluster.Options{Nodes: 4}), assignments: make(chan *pb.Assignment, 64), blobs: make(map[string][]byte)}
	now := func() int64 { return time.Now().Unix() }
	x.Audit.Now, x.Membership.Now = now, now
	x.put(command)
	mux := http.NewServeMux()
	mux.Handle(rpc.NewNodeHandler(x))
	mux.Handle(rpc.NewControlHandler(x))
	mux.Handle(rpc.NewProvenanceHandler(x))
	for name, log := range map[membership.LogName]*testcluster.Log{membership.LogAudit: x.Audit, membership.LogMembership: x.Membership} {
		mux.Handle("/"+string(name)+"/", http.StripPrefix("/"+string(name)+"/", x.tiles(log)))
	}
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.CloseClientConnections)

	x.f = &founded{cluster: &cluster{t: t, out: &bytes.Buffer{}}, base: t.TempDir(), processes: map[string]*process{}}
	dir := x.f.dirOf(node)
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, use := range []string{"attestation", "token"} {
		if err := keyfile.WriteEd25519(filepath.Join(dir, "keys", use+".pem"), testcluster.Key(node+"/"+use), nil); err != nil {
			t.Fatal(err)
		}
	}
	x.f.write(filepath.Join(dir, "genesis.json"), string(x.Genesis))
	x.f.write(filepath.Join(dir, "audit.policy"), string(x.PolicyText.Audit))
	x.f.write(filepath.Join(dir, "membership.policy"), string(x.PolicyText.Membership))
	p := x.f.process(node, "node", true, "serve", "--dir", dir, "--server", srv.URL, "--id", node, "--capacity", "1",
		"--genesis", filepath.Join(dir, "genesis.json"), "--policy", filepath.Join(dir, "audit.policy"), "--membership-policy", filepath.Join(dir, "membership.policy"))
	t.Cleanup(func() {
		p.stop()
		if log, err := os.ReadFile(p.log); err == nil && t.Failed() {
			showTail(t, node, log)
		}
	})
	p.start()
	return x
}

func (x *fabricated) put(data []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.blobs[digest.Of(data).String()] = bytes.Clone(data)
}

func (x *fabricated) WatchAssignments(ctx context.Context, _ *connect.Request[pb.WatchAssignmentsRequest], s *connect.ServerStream[pb.WatchAssignmentsResponse]) error {
	if err := s.Send(&pb.WatchAssignmentsResponse{}); err != nil {
		return err
	}
	for {
		select {
		case a := <-x.assignments:
			if err := s.Send(&pb.WatchAssignmentsResponse{Assignment: a}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (x *fabricated) AbandonAssignment(context.Context, *connect.Request[pb.AbandonAssignmentRequest]) (*connect.Response[pb.AbandonAssignmentResponse], error) {
	return connect.NewResponse(&pb.AbandonAssignmentResponse{}), nil
}

func (x *fabricated) ReportNodeStatus(context.Context, *connect.Request[pb.ReportNodeStatusRequest]) (*connect.Response[pb.ReportNodeStatusResponse], error) {
	return connect.NewResponse(&pb.ReportNodeStatusResponse{}), nil
}

func (x *fabricated) GetBlob(_ context.Context, req *connect.Request[pb.GetBlobRequest]) (*connect.Response[pb.GetBlobResponse], error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	data, ok := x.blobs[req.Msg.GetDigest()]
	if !ok {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such payload"))
	}
	return connect.NewResponse(&pb.GetBlobResponse{Data: data}), nil
}

func (x *fabricated) PutBlob(_ context.Context, req *connect.Request[pb.PutBlobRequest]) (*connect.Response[pb.PutBlobResponse], error) {
	x.put(req.Msg.GetData())
	return connect.NewResponse(&pb.PutBlobResponse{}), nil
}

func (x *fabricated) RecordExecutionProvenance(_ context.Context, req *connect.Request[pb.RecordExecutionProvenanceRequest]) (*connect.Response[pb.RecordExecutionProvenanceResponse], error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.handedIn = append(x.handedIn, req.Msg.GetEnvelope())
	return connect.NewResponse(&pb.RecordExecutionProvenanceResponse{}), nil
}

func (x *fabricated) attestations() [][]byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	return append([][]byte(nil), x.handedIn...)
}

// tiles serves a log in memory. The test appends while nobody asks.
func (x *fabricated) tiles(log *testcluster.Log) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "checkpoint" {
			w.Write(log.Signed(log.Size()))
			return
		}
		text := strings.Replace(strings.Replace(r.URL.Path, "tile/", "tile/8/", 1), "/entries/", "/data/", 1)
		tile, err := tlog.ParseTilePath(text)
		if err != nil || tile.N<<8+int64(tile.W) > log.Size()>>(8*max(tile.L, 0)) {
			http.NotFound(w, r)
			return
		}
		if tile.L >= 0 {
			data, err := tlog.ReadTileData(tile, log)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
			w.Write(data)
			return
		}
		for _, e := range log.Entries[tile.N<<8 : tile.N<<8+int64(tile.W)] {
			w.Write([]byte{byte(len(e) >> 8), byte(len(e))})
			w.Write(e)
		}
	})
}

// propose puts an assignment together of records as they are in the log, whatever
// they mean.
func (x *fabricated) propose(id digest.Digest, contractIndex, request int64, reschedules ...int64) *pb.Assignment {
	size := x.Audit.Size()
	a := &pb.Assignment{ExecutionId: id.String(), Attempt: uint64(len(reschedules)),
		RequestCheckpoint: x.Audit.Signed(size), AuditCheckpoint: x.Audit.Signed(size), MembershipCheckpoint: x.Membership.Signed(x.Membership.Size()),
		Contract: x.Proven(contractIndex, size), Request: x.Proven(request, size), Epochs: []*pb.ProvenRecord{x.Proven(0, size)},
		ModuleDigest: digest.Of(command).String(), InputDigest: digest.Of([]byte("input")).String()}
	for _, index := range x.later {
		a.Epochs = append(a.Epochs, x.Proven(index, size))
	}
	for _, index := range reschedules {
		a.Reschedules = append(a.Reschedules, x.Proven(index, size))
	}
	return a
}

// TestFabricatedRecords: a control plane with witnesses on its side writes what it
// likes into its log: submissions that no tenant made, attempts that never were,
// records out of their turn. The node runs and signs nothing of it.
func TestFabricatedRecords(t *testing.T) {
	const node = "node-1"
	x := fabricate(t, node)
	x.put([]byte("input"))
	like := newContract("tenant", "x", command) // for the versions that nodes run
	con := x.Contract()
	con.Module, con.Versions, con.Limits, con.Capabilities = digest.Of(command), like.Versions, like.Limits, like.Capabilities
	con.Nodes, con.Agreement, con.MaxAssigned, con.Step = 1, 1, 3, 1
	hash := x.Register(con)
	contractIndex := x.Audit.Size() - 1

	// ranked makes submissions until the node has a rank in the schedule.
	ranked := func(rank int, change func(*contract.Submission)) *contract.Submission {
		t.Helper()
		for {
			s := x.Submission(hash, []byte("input"))
			if change != nil {
				change(s)
			}
			order, err := x.History.Current().Schedule(s.ExecutionID(), membership.ScheduleRequest{Nodes: 1, Step: 1, MaxAssigned: 4})
			if err != nil {
				t.Fatal(err)
			}
			if order.Ranking[rank] == node {
				return s
			}
		}
	}
	append_ := func(r *pb.Record) int64 { index, _ := x.Append(r); return index }
	honest := func(rank int) (digest.Digest, int64) {
		s := ranked(rank, nil)
		return s.ExecutionID(), append_(x.RequestRecord(s))
	}
	envelope := func(s *contract.Submission, key string) []byte {
		signed, _, err := contract.Sign(s, testcluster.Key(key))
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	forged := func(s *contract.Submission, key string) int64 {
		r := x.RequestRecord(s)
		r.GetRequest().Envelope = envelope(s, key)
		return append_(r)
	}
	reschedule := func(id digest.Digest, attempt uint64) int64 {
		return append_(x.Fill(&pb.Record{Body: &pb.Record_Reschedule{Reschedule: &pb.RescheduleRecord{ExecutionId: id[:], Attempt: attempt}}}))
	}

	for _, lie := range []struct {
		what, code string
		tell       func() *pb.Assignment
	}{
		{"a submission that nobody signed", "record", func() *pb.Assignment {
			s := ranked(0, nil)
			return x.propose(s.ExecutionID(), contractIndex, forged(s, "nobody"))
		}},
		{"a submission that another tenant signed", "record", func() *pb.Assignment {
			s := ranked(0, nil)
			return x.propose(s.ExecutionID(), contractIndex, forged(s, testcluster.Other+"/submission"))
		}},
		{"a submission that a key for tokens signed", "record", func() *pb.Assignment {
			s := ranked(0, nil)
			return x.propose(s.ExecutionID(), contractIndex, forged(s, testcluster.Tenant+"/token"))
		}},
		{"a submission to another cluster", "record", func() *pb.Assignment {
			s := ranked(0, func(s *contract.Submission) { s.Cluster = "elsewhere" })
			return x.propose(s.ExecutionID(), contractIndex, append_(x.RequestRecord(s)))
		}},
		{"a request before its contract", "record", func() *pb.Assignment {
			s := ranked(0, nil)
			late := *con
			late.Version = "late"
			_, lateHash, err := contract.Sign(&late, testcluster.Key(testcluster.Tenant+"/contract"))
			if err != nil {
				t.Fatal(err)
			}
			s.Contract = lateHash
			request := append_(x.RequestRecord(s))
			x.Register(&late)
			return x.propose(s.ExecutionID(), x.Audit.Size()-1, request)
		}},
		{"an attempt without its record", "attempt", func() *pb.Assignment {
			id, request := honest(1)
			a := x.propose(id, contractIndex, request)
			a.Attempt = 1
			return a
		}},
		{"the next rank, though nobody asked it", "not_assigned", func() *pb.Assignment {
			id, request := honest(1)
			return x.propose(id, contractIndex, request)
		}},
		{"the second attempt without the first", "record", func() *pb.Assignment {
			id, request := honest(2)
			return x.propose(id, contractIndex, request, reschedule(id, 2))
		}},
		{"the same attempt twice", "record", func() *pb.Assignment {
			id, request := honest(2)
			return x.propose(id, contractIndex, request, reschedule(id, 1), reschedule(id, 1))
		}},
		{"a rank beyond the most that the contract assigns", "record", func() *pb.Assignment {
			id, request := honest(3)
			return x.propose(id, contractIndex, request, reschedule(id, 1), reschedule(id, 2), reschedule(id, 3))
		}},
		{"a reschedule before the request", "record", func() *pb.Assignment {
			s := ranked(1, nil)
			early := reschedule(s.ExecutionID(), 1)
			return x.propose(s.ExecutionID(), contractIndex, append_(x.RequestRecord(s)), early)
		}},
		{"an attestation in the place of a reschedule", "malformed", func() *pb.Assignment {
			id, request := honest(0)
			r := x.AttestationRecord(x.Statement(id, node, testcluster.OK("")))
			return x.propose(id, contractIndex, request, append_(r))
		}},
		{"a parent whose provenance record is untrue", "parent", func() *pb.Assignment {
			parent, _ := honest(0)
			outcome, gas, rewritten := testcluster.OK("input"), uint64(1), digest.Of(command)
			outcome.Gas = &gas
			s := x.Statement(parent, node, outcome)
			s.RewrittenModule = &rewritten
			_, effect := x.Append(x.AttestationRecord(s))
			if effect.Derived == nil {
				t.Fatalf("the parent is not complete: %+v", effect)
			}
			lie := proto.CloneOf(effect.Derived)
			lie.GetProvenance().OutputDigest[0] ^= 1
			untrue := append_(lie)
			append_(effect.Derived)
			content, _ := x.Fold.BundleContent(parent)
			content.Records[len(content.Records)-1] = untrue
			file, err := provenance.FormatBundle(x.BundleOf(parent, content))
			if err != nil {
				t.Fatal(err)
			}
			child := ranked(0, func(s *contract.Submission) { s.Parents = []digest.Digest{parent} })
			a := x.propose(child.ExecutionID(), contractIndex, append_(x.RequestRecord(child)))
			a.ParentBundles = [][]byte{file}
			return a
		}},
		{"a submission by a key that was removed", "record", func() *pb.Assignment {
			s := ranked(0, nil)
			x.Change(membership.RotateKey{ID: testcluster.Tenant, Remove: dsse.KeyID(testcluster.Public(testcluster.Tenant + "/submission"))})
			x.later = append(x.later, x.Audit.Size()-1)
			return x.propose(s.ExecutionID(), contractIndex, append_(x.RequestRecord(s)))
		}},
	} {
		t.Run(lie.what, func(t *testing.T) {
			a := lie.tell()
			x.assignments <- a
			x.f.refusesToRun(node, a.ExecutionId, lie.code)
			if lie.code == "parent" { // and says what about it
				id, err := digest.Parse(a.ExecutionId)
				if err != nil {
					t.Fatal(err)
				}
				x.f.says(node, id, "differs from what the records before imply")
			}
			if n := len(x.attestations()); n != 0 {
				t.Fatalf("%d attestations were handed in", n)
			}
		})
	}

	// The other tenant is what it was, and so is the node.
	con.Tenant = testcluster.Other
	hash = x.Register(con)
	contractIndex = x.Audit.Size() - 1
	s := ranked(0, func(s *contract.Submission) { s.Tenant, s.Contract = testcluster.Other, hash })
	// An attestation that is in the log before the request it is about has no
	// effect, now or later.
	early := append_(x.Fill(&pb.Record{Body: &pb.Record_Attestation{Attestation: &pb.AttestationRecord{
		ExecutionId: idBytes(s.ExecutionID()), Node: node, Epoch: x.Fold.Epoch(), Envelope: envelope(s, "nobody")}}}))
	x.assignments <- x.propose(s.ExecutionID(), contractIndex, append_(x.RequestRecord(s)))
	x.f.eventually("what is lawful is attested", func() error {
		if n := len(x.attestations()); n != 1 {
			return fmt.Errorf("%d attestations", n)
		}
		return nil
	})
	if early >= x.Audit.Size()-1 {
		t.Error("the attestation is not early")
	}
}

func idBytes(d digest.Digest) []byte { return d[:] }
