//go:build slow

package webui

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/webui/inspect"
)

// goodToken is what the fake API accepts. Only its claims are read, by the page.
var goodToken = "eyJ0eXAiOiJKV1QifQ." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"alice","exp":4102444800}`)) + ".c2ln"

// fakeAPI answers as a control plane whose cluster is the golden bundle's.
type fakeAPI struct {
	t      *testing.T
	page   *Handler
	bundle []byte
	trust  inspect.Trust
	mux    map[string]func(body []byte) proto.Message

	mu     sync.Mutex
	lie    func(method string, answer proto.Message) // bends an answer; guarded by mu
	served map[string][]byte                         // public files; guarded by mu
	watch  chan struct{}                             // lets the watched execution go on
}

func golden(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "bundle", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newFakeAPI(t *testing.T) (*fakeAPI, *httptest.Server) {
	t.Helper()
	f := &fakeAPI{t: t, page: newHandler(t), bundle: golden(t, "golden.tallyproof"), watch: make(chan struct{})}
	if !f.page.Complete() {
		t.Skip("the page's verifier is not built: run scripts/build")
	}
	f.trust = inspect.Trust{
		AuditPolicy:      golden(t, "audit.policy"),
		MembershipPolicy: golden(t, "membership.policy"),
		Genesis:          golden(t, "genesis.json"),
	}
	f.served = map[string][]byte{
		"/genesis": f.trust.Genesis, "/audit.policy": f.trust.AuditPolicy, "/membership.policy": f.trust.MembershipPolicy,
	}
	f.answers()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, server
}

// answers makes the API's answers from the golden bundle.
func (f *fakeAPI) answers() {
	report := inspect.Bundle(f.bundle, f.trust, "")
	if !report.Verified {
		f.t.Fatal(report.Failure)
	}
	bundle, err := provenance.ParseBundle(f.bundle)
	if err != nil {
		f.t.Fatal(err)
	}
	history := membership.NewHistory()
	for _, change := range bundle.GetMembershipChanges() {
		if _, err := history.Append(change); err != nil {
			f.t.Fatal(err)
		}
	}
	state, e := history.Current(), report.Execution
	status := statusOf(e)
	status.State = pb.ExecutionState_EXECUTION_STATE_COMPLETE
	status.Outcome = &pb.Outcome{Kind: "ok", OutputLength: 6, OutputDigest: e.Outcome.OutputDigest.String()}
	for _, n := range e.Nodes {
		status.Reports = append(status.Reports, &pb.NodeReport{Node: n.ID, ResultDigest: e.ResultDigest, Index: uint64(n.Index), Agrees: true})
	}
	open := proto.CloneOf(status)
	open.ExecutionId = strings.Repeat("ab", 32)
	open.State, open.ProofReady, open.Reports, open.Outcome = pb.ExecutionState_EXECUTION_STATE_OPEN, false, nil, nil
	diverged := proto.CloneOf(open)
	diverged.ExecutionId = strings.Repeat("cd", 32)
	diverged.State = pb.ExecutionState_EXECUTION_STATE_DIVERGED
	failed := proto.CloneOf(status)
	failed.ExecutionId = strings.Repeat("ef", 32)
	failed.Outcome.Kind, failed.Outcome.ExitCode = "exit", new(uint32(7))
	known := []*pb.ExecutionStatus{open, status, diverged, failed}
	contract := &pb.ContractSummary{ContractHash: e.ContractHash, Tenant: e.Tenant, Name: e.ContractName, Version: e.ContractVersion, Module: e.ModuleDigest}
	nodes := &pb.ListClusterNodesResponse{Epoch: state.Epoch(), NodeQuorum: state.NodeQuorum()}
	for i, p := range state.Nodes() {
		n := &pb.ClusterNode{Id: p.ID, Name: p.Name, TrustLevel: p.TrustLevel, Labels: p.Labels}
		if i%4 != 3 {
			n.Connected, n.ExecutionsAttested = true, uint64(1204+i)
			n.Info = &pb.NodeInfo{SoftwareVersion: "0.1.0", Architecture: "amd64", Engine: "compiler", Isolation: []string{"process", "memory limit"}}
		}
		nodes.Nodes = append(nodes.Nodes, n)
	}
	f.mux = map[string]func([]byte) proto.Message{
		"Control/GetClusterRoot": func([]byte) proto.Message {
			return &pb.GetClusterRootResponse{
				Cluster: state.Cluster(), Epoch: state.Epoch(), MembershipHash: state.MembershipHash().String(), MembershipCount: state.Count(),
				ClusterIdentityHash: state.IdentityHash().String(), AdminThreshold: state.AdminThreshold(), NodeQuorum: state.NodeQuorum(),
				MemberNodes: uint64(len(nodes.Nodes)), MembershipCheckpoint: bundle.GetMembershipCheckpoint(),
				AuditCheckpoint: bundle.GetAuditCheckpoint(), AuditSize: 18,
			}
		},
		"Membership/ListChanges": func([]byte) proto.Message {
			return &pb.ListChangesResponse{Changes: bundle.GetMembershipChanges(), CurrentEpoch: state.Epoch()}
		},
		"Control/ListClusterNodes": func([]byte) proto.Message { return nodes },
		"Control/ListExecutions": func([]byte) proto.Message {
			return &pb.ListExecutionsResponse{Executions: known}
		},
		"Control/ListContracts": func([]byte) proto.Message {
			return &pb.ListContractsResponse{Contracts: []*pb.ContractSummary{contract}}
		},
		"Control/GetContract": func([]byte) proto.Message { return &pb.GetContractResponse{Contract: contract} },
		"Control/QueryExecutionStatus": func(body []byte) proto.Message {
			for _, s := range known {
				if bytes.Contains(body, []byte(s.ExecutionId)) {
					return &pb.QueryExecutionStatusResponse{Status: s}
				}
			}
			return nil
		},
		"Control/RetrieveExecutionProof": func([]byte) proto.Message { return &pb.RetrieveExecutionProofResponse{Bundle: f.bundle} },
		"Control/GetBlob": func(body []byte) proto.Message {
			if !bytes.Contains(body, []byte(e.Outcome.OutputDigest.String())) {
				return nil
			}
			return &pb.GetBlobResponse{Data: []byte("output")}
		},
		"Control/WatchExecution": func(body []byte) proto.Message {
			if bytes.Contains(body, []byte(diverged.ExecutionId)) {
				return &pb.WatchExecutionResponse{Status: diverged}
			}
			return &pb.WatchExecutionResponse{Status: status}
		},
	}
}

// statusOf is what the server says of an execution whose proof is ready, but for
// its state and what came of it.
func statusOf(e *verifier.Execution) *pb.ExecutionStatus {
	return &pb.ExecutionStatus{
		ExecutionId: e.ID, Tenant: e.Tenant, ContractHash: e.ContractHash,
		Epoch: e.Epoch, RequestIndex: uint64(e.RequestIndex), Witnessed: true, Attempt: e.Attempt, AssignedNodes: e.Assigned,
		ClusterScheduleHash: e.ScheduleHash, ExecutionProof: e.ExecutionProof, ProofReady: true, InputDigest: e.InputDigest,
		SubmittedUnixMs: uint64(goldenTime.Add(-3 * time.Minute).UnixMilli()),
	}
}

func (f *fakeAPI) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	public, ok := f.served[r.URL.Path]
	lie := f.lie
	f.mu.Unlock()
	if ok {
		_, _ = w.Write(public)
		return
	}
	method, ok := strings.CutPrefix(r.URL.Path, "/tallystick.v1.")
	if !ok {
		f.page.ServeHTTP(w, r)
		return
	}
	refuse := func(status int, message string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
	}
	if r.Header.Get("Authorization") != "Bearer "+goodToken {
		refuse(401, "[token_expired] the token has expired: make a new one")
		return
	}
	request, err := io.ReadAll(r.Body)
	if err != nil || f.mux[method] == nil {
		refuse(403, "[permission_denied] a principal of this kind may not call this method: use another principal's token")
		return
	}
	answer := f.mux[method](request)
	if answer == nil {
		refuse(404, "[execution_unknown] no such execution for this tenant: check the id")
		return
	}
	answer = proto.Clone(answer)
	if lie != nil {
		lie(method, answer)
	}
	data, err := protojson.Marshal(answer)
	if err != nil {
		f.t.Error(err)
	}
	if method == "Control/WatchExecution" {
		<-f.watch
		w.Header().Set("Content-Type", "application/connect+json")
		_, _ = w.Write(append([]byte{0, 0, 0, byte(len(data) >> 8), byte(len(data))}, data...))
		_, _ = w.Write([]byte{2, 0, 0, 0, 2, '{', '}'})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}
