package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// fakeWitnesses are the names of the witnesses' keys, as the scripts' variables
// WITNESS, WITNESS2 and WITNESS3 have them.
var fakeWitnesses = []string{"witness", "witness 2", "witness 3"}

func cosigner(name string) (*checkpoint.Cosigner, error) {
	return checkpoint.NewEd25519Cosigner(strings.ReplaceAll(name, " ", "-")+".example", testcluster.Key(name))
}

// fakeControl is the membership side of a control plane: it keeps the log of
// changes in memory and has every checkpoint cosigned at once. It asks for no
// token, and answers what it should not when it is told to.
type fakeControl struct {
	tallystickv1connect.UnimplementedMembershipHandler
	tallystickv1connect.UnimplementedControlHandler

	mu      sync.Mutex
	history *membership.History
	entries [][]byte
	hashes  []tlog.Hash
	// lie says how it cheats: "epoch" answers for another epoch than asked for,
	// "old" with cosignatures of an hour ago, "schedule" with another schedule hash,
	// "assigned" with another assignment, "contract" with another contract.
	lie string
	// contract is the envelope of a contract, under which an execution runs that
	// pins the epoch at which the command runs was given.
	contract []byte
	epoch    uint64
}

// serveCmd is the command "serve DIR": it starts a control plane for the cluster
// that `tally cluster init --dir DIR` made, and puts its address into the
// profiles there in place of http://127.0.0.1:1.
func serveCmd(ts *testscript.TestScript, _ bool, args []string) {
	f, stop, err := serveFake(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Defer(stop)
	ts.Value("fake").(map[string]*fakeControl)["control"] = f
}

// serveFake starts a control plane for the cluster in a folder, until stop is
// called, and tells the profiles there where it is.
func serveFake(dir string) (f *fakeControl, stop func(), err error) {
	f = &fakeControl{history: membership.NewHistory()}
	genesis, err := os.ReadFile(filepath.Join(dir, "genesis.json"))
	if err == nil {
		err = f.append(genesis)
	}
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(tallystickv1connect.NewMembershipHandler(f))
	mux.Handle(tallystickv1connect.NewControlHandler(f))
	server := httptest.NewServer(mux)
	profiles, err := filepath.Glob(filepath.Join(dir, "*.json"))
	for _, path := range profiles {
		data, readErr := os.ReadFile(path)
		if filepath.Base(path) != "genesis.json" && readErr == nil {
			readErr = os.WriteFile(path, []byte(strings.ReplaceAll(string(data), `"http://127.0.0.1:1"`, `"`+server.URL+`"`)), 0o600)
		}
		err = errors.Join(err, readErr)
	}
	return f, server.Close, err
}

// lieCmd is the command "lie HOW".
func lieCmd(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value("fake").(map[string]*fakeControl)["control"]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lie = args[0]
}

// keyIDCmd is the command "keyid VAR ID".
func keyIDCmd(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value("fake").(map[string]*fakeControl)["control"]
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.history.Current().Principal(args[1])
	if !ok {
		ts.Fatalf("no principal %q", args[1])
	}
	ts.Setenv(args[0], short(p.Keys[0].ID()))
}

// successionCmd is the command "succession FILE LOG".
func successionCmd(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value("fake").(map[string]*fakeControl)["control"]
	f.mu.Lock()
	defer f.mu.Unlock()
	name := membership.LogName(args[1])
	last, err := f.signed(name)
	ts.Check(err)
	s := succession{Origin: f.history.Current().Logs().Named(name).Origin, Checkpoint: string(last), Size: uint64(len(f.entries)), Lost: 3}
	s.NewOrigin = s.Origin + "-2"
	key, err := checkpoint.Vkey(s.NewOrigin, testcluster.Public(s.NewOrigin))
	ts.Check(err)
	s.NewKeys = []string{key}
	data, err := json.Marshal(s)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// append takes a lawful change. The caller holds the lock, or nobody else knows f.
func (f *fakeControl) append(envelope []byte) error {
	if _, err := f.history.Append(envelope); err != nil {
		return err
	}
	hashes, err := tlog.StoredHashes(int64(len(f.entries)), envelope, f)
	if err != nil {
		return err
	}
	f.entries, f.hashes = append(f.entries, slices.Clone(envelope)), append(f.hashes, hashes...)
	return nil
}

// ReadHashes makes f a tlog.HashReader.
func (f *fakeControl) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = f.hashes[index]
	}
	return out, nil
}

// signed returns the checkpoint of a log at its present size, cosigned now.
func (f *fakeControl) signed(log membership.LogName) ([]byte, error) {
	return f.signedAt(log, time.Now())
}

// signedAt returns the checkpoint of a log at its present size, cosigned at a time.
func (f *fakeControl) signedAt(log membership.LogName, at time.Time) ([]byte, error) {
	state := f.history.Current()
	c := checkpoint.Checkpoint{Origin: state.Logs().Named(log).Origin, Size: int64(len(f.entries))}
	var err error
	if c.Root, err = tlog.TreeHash(c.Size, f); err != nil {
		return nil, err
	}
	signer, err := checkpoint.NewSigner(c.Origin, testcluster.Key(c.Origin))
	if err != nil {
		return nil, err
	}
	signed, err := checkpoint.Sign(c, signer)
	if err != nil {
		return nil, err
	}
	if f.lie == "old" {
		at = at.Add(-time.Hour)
	}
	for _, name := range fakeWitnesses {
		w, err := cosigner(name)
		if err != nil {
			return nil, err
		}
		sig, err := w.Cosign(c.Body(), at.Unix())
		if err != nil {
			return nil, err
		}
		signed = append(signed, sig.Line()...)
	}
	return signed, nil
}

func (f *fakeControl) GetClusterRoot(context.Context, *connect.Request[pb.GetClusterRootRequest]) (*connect.Response[pb.GetClusterRootResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	members, err := f.signed(membership.LogMembership)
	if err != nil {
		return nil, err
	}
	audit, err := f.signed(membership.LogAudit)
	return connect.NewResponse(&pb.GetClusterRootResponse{MembershipCheckpoint: members, AuditCheckpoint: audit}), err
}

func (f *fakeControl) ListChanges(_ context.Context, req *connect.Request[pb.ListChangesRequest]) (*connect.Response[pb.ListChangesResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&pb.ListChangesResponse{Changes: f.entries[req.Msg.FromEpoch-1:], CurrentEpoch: uint64(len(f.entries))}), nil
}

func (f *fakeControl) ApplyChange(_ context.Context, req *connect.Request[pb.ApplyChangeRequest]) (*connect.Response[pb.ApplyChangeResponse], error) {
	epoch, err := f.apply(req.Msg.Envelope)
	return connect.NewResponse(&pb.ApplyChangeResponse{Epoch: epoch}), err
}

func (f *fakeControl) RegisterTrustedNode(_ context.Context, req *connect.Request[pb.RegisterTrustedNodeRequest]) (*connect.Response[pb.RegisterTrustedNodeResponse], error) {
	epoch, err := f.apply(req.Msg.Envelope)
	return connect.NewResponse(&pb.RegisterTrustedNodeResponse{Epoch: epoch}), err
}

func (f *fakeControl) apply(envelope []byte) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.ContainsFunc(f.entries, func(e []byte) bool { return string(e) == string(envelope) }) {
		return f.history.Size(), nil
	}
	if err := f.append(envelope); err != nil {
		return 0, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return f.history.Size(), nil
}

func (f *fakeControl) VerifyMembership(_ context.Context, req *connect.Request[pb.VerifyMembershipRequest]) (*connect.Response[pb.VerifyMembershipResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	epoch := req.Msg.Epoch
	if epoch == 0 || f.lie == "epoch" {
		epoch = f.history.Size()
	}
	state, err := f.history.StateAt(epoch)
	if err != nil {
		return nil, connect.NewError(connect.CodeNotFound, err)
	}
	out := &pb.VerifyMembershipResponse{Epoch: epoch, Change: f.entries[epoch-1]}
	leaves, err := state.ProveAbsent(req.Msg.Principal)
	if errors.Is(err, membership.ErrIsMember) {
		out.Member, leaves = true, make([]membership.Leaf, 1)
		leaves[0], err = state.ProveMember(req.Msg.Principal)
	}
	if err != nil {
		return nil, err
	}
	for _, l := range leaves {
		out.Leaves = append(out.Leaves, &pb.MembershipLeaf{Index: l.Index, Data: l.Data, InclusionProof: l.Proof})
	}
	for _, p := range []struct {
		index int64
		to    *[][]byte
	}{{int64(epoch) - 1, &out.InclusionProof}, {0, &out.GenesisProof}} {
		proof, err := tlog.ProveRecord(int64(len(f.entries)), p.index, f)
		if err != nil {
			return nil, err
		}
		for _, h := range proof {
			*p.to = append(*p.to, h[:])
		}
	}
	// As of the last change, which here is long past.
	out.MembershipCheckpoint, err = f.signedAt(membership.LogMembership, time.Now().AddDate(0, -1, 0))
	return connect.NewResponse(out), err
}

// runsID is the execution of the command "runs".
var runsID = digest.Of([]byte("an execution"))

// runsCmd is the command "runs": an execution on one node of trust level 1 with
// one more when it stays away.
func runsCmd(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value("fake").(map[string]*fakeControl)["control"]
	c := &contract.Contract{
		Agreement: 1, Capabilities: []contract.Capability{contract.CapabilityStdio}, Cluster: "example",
		Limits:      contract.Limits{DiagnosticsBytes: 1, InputBytes: 1, MemoryPages: 1, OutputBytes: 1},
		MaxAssigned: 2, MinTrustLevel: 1, Name: "echo", Nodes: 1, ProtocolVersion: contract.ProtocolVersion, Step: 1,
		Tenant: "acme", Version: "1", Versions: contract.Versions{HostInterface: 1},
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	f.contract, _, err = contract.Sign(c, testcluster.Key("acme/contract"))
	ts.Check(err)
	f.epoch = f.history.Size()
	ts.Setenv("ID", runsID.String())
}

func (f *fakeControl) GetContract(context.Context, *connect.Request[pb.GetContractRequest]) (*connect.Response[pb.GetContractResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lie == "contract" {
		other := &contract.Retirement{Cluster: "example", ProtocolVersion: contract.ProtocolVersion, Tenant: "acme"}
		envelope, _, err := contract.Sign(other, testcluster.Key("acme/contract"))
		return connect.NewResponse(&pb.GetContractResponse{Envelope: envelope}), err
	}
	return connect.NewResponse(&pb.GetContractResponse{Envelope: f.contract}), nil
}

func (f *fakeControl) QueryExecutionStatus(context.Context, *connect.Request[pb.QueryExecutionStatusRequest]) (*connect.Response[pb.QueryExecutionStatusResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state, err := f.history.StateAt(f.epoch)
	if err != nil {
		return nil, err
	}
	schedule, err := state.Schedule(runsID, membership.ScheduleRequest{Nodes: 1, Step: 1, MaxAssigned: 2, MinTrust: 1})
	if err != nil {
		return nil, err
	}
	envelope, err := dsse.Parse(f.contract)
	if err != nil {
		return nil, err
	}
	status := &pb.ExecutionStatus{
		ExecutionId: runsID.String(), ContractHash: digest.Of(envelope.Payload).String(), Epoch: f.epoch, Attempt: 1,
		AssignedNodes: schedule.Assigned(1), ClusterScheduleHash: schedule.Hash().String(),
	}
	switch f.lie {
	case "schedule":
		status.ClusterScheduleHash = digest.Of(nil).String()
	case "assigned":
		slices.Reverse(status.AssignedNodes)
	}
	return connect.NewResponse(&pb.QueryExecutionStatusResponse{Status: status}), nil
}
