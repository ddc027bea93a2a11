package controlapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/controlapi/token"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	rpc "github.com/tallystick/tallystick/proto/tallystick/v1/tallystickv1connect"
)

// as is an HTTP client that authenticates, over HTTP/1.1 or over HTTP/2 without TLS.
func as(principal string, http2 bool) *http.Client {
	base := &http.Transport{}
	if http2 {
		base.Protocols = new(http.Protocols)
		base.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: &token.Transport{
		Source: &token.Source{Principal: principal, Cluster: testCluster, Key: keyOf(principal)},
		Base:   base,
	}}
}

// TestProtocols makes one call that succeeds, one that is refused and one
// stream in every protocol, and wants the same from all of them.
func TestProtocols(t *testing.T) {
	w := newWorld(t, nil)
	for name, c := range map[string]struct {
		http2   bool
		options []connect.ClientOption
	}{
		"connect":             {false, nil},
		"connect over HTTP/2": {true, nil},
		"connect JSON":        {false, []connect.ClientOption{connect.WithProtoJSON()}},
		"gRPC":                {true, []connect.ClientOption{connect.WithGRPC()}},
		"gRPC-Web":            {false, []connect.ClientOption{connect.WithGRPCWeb()}},
		"gRPC-Web JSON":       {true, []connect.ClientOption{connect.WithGRPCWeb(), connect.WithProtoJSON()}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			client := rpc.NewControlClient(as("alice", c.http2), w.url, c.options...)
			res, err := client.SubmitExecutionRequest(ctx, connect.NewRequest(&pb.SubmitExecutionRequestRequest{Submission: []byte(name)}))
			if err != nil || res.Msg.GetReceipt().GetIndex() != 7 || res.Msg.GetProtocolVersion() != "1.0" || res.Msg.GetDuplicate() {
				t.Errorf("submit: %v, %v", res, err)
			}
			res, err = client.SubmitExecutionRequest(ctx, connect.NewRequest(&pb.SubmitExecutionRequestRequest{
				Submission: []byte(name), Wait: pb.Wait_WAIT_WITNESSED,
			}))
			if err != nil || !res.Msg.GetDuplicate() || string(res.Msg.GetReceipt().GetTlogProof()) != "tlog proof" {
				t.Errorf("submit again: %v, %v", res, err)
			}
			_, err = client.QueryExecutionStatus(ctx, connect.NewRequest(&pb.QueryExecutionStatusRequest{ExecutionId: absent.String()}))
			if connect.CodeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "[execution_unknown] ") {
				t.Errorf("query of an unknown id: %v", err)
			}
			w.core.statuses <- &pb.ExecutionStatus{State: pb.ExecutionState_EXECUTION_STATE_OPEN}
			w.core.statuses <- &pb.ExecutionStatus{State: pb.ExecutionState_EXECUTION_STATE_COMPLETE}
			w.core.statuses <- nil
			stream, err := client.WatchExecution(ctx, connect.NewRequest(&pb.WatchExecutionRequest{ExecutionId: execution.String()}))
			if err != nil {
				t.Fatal(err)
			}
			var states []pb.ExecutionState
			for stream.Receive() {
				states = append(states, stream.Msg().GetStatus().GetState())
			}
			if stream.Err() != nil || len(states) != 2 || states[1] != pb.ExecutionState_EXECUTION_STATE_COMPLETE {
				t.Errorf("watch: %v, %v", states, stream.Err())
			}
			_, err = rpc.NewMembershipClient(as("alice", c.http2), w.url, c.options...).ApplyChange(ctx, connect.NewRequest(&pb.ApplyChangeRequest{}))
			if connect.CodeOf(err) != connect.CodePermissionDenied || !strings.Contains(err.Error(), "[permission_denied] ") {
				t.Errorf("apply as tenant: %v", err)
			}
			_, err = rpc.NewControlClient(&http.Client{Transport: as("alice", c.http2).Transport.(*token.Transport).Base}, w.url, c.options...).
				GetClusterRoot(ctx, connect.NewRequest(&pb.GetClusterRootRequest{}))
			if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "[token_missing] ") {
				t.Errorf("without token: %v", err)
			}
		})
	}
}

// TestTLS makes sure that nothing depends on plain text.
func TestTLS(t *testing.T) {
	s, err := New(Config{Cluster: testCluster, Core: newFakeCore(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.StopAndWait()
	server := newTLSServer(t, s)
	base := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.roots}, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: &token.Transport{
		Source: &token.Source{Principal: "alice", Cluster: testCluster, Key: keyOf("alice")}, Base: base,
	}}
	res, err := rpc.NewControlClient(client, server.url, connect.WithGRPC()).GetClusterRoot(t.Context(), connect.NewRequest(&pb.GetClusterRootRequest{}))
	if err != nil || res.Msg.GetCluster() != testCluster {
		t.Errorf("gRPC over TLS: %v, %v", res, err)
	}
}

// TestNothingLeavesBeforeItsRecord holds the record back and looks at the wire.
func TestNothingLeavesBeforeItsRecord(t *testing.T) {
	w := newWorld(t, nil)
	w.core.blobs["alice/"+digestOfA] = []byte("a")
	for _, c := range []struct{ name, procedure, body string }{
		{"a read", rpc.ControlGetBlobProcedure, `{"digest":"` + digestOfA + `"}`},
		{"a store", rpc.ControlPutBlobProcedure, `{"data":"YQ=="}`},
		{"a refusal of the core", rpc.ControlQueryExecutionStatusProcedure, `{"executionId":"` + absent.String() + `"}`},
		{"a refusal by kind", rpc.MembershipApplyChangeProcedure, `{}`},
		{"a malformed body", rpc.ControlPutBlobProcedure, `{`},
		{"a body of another type", rpc.ControlPutBlobProcedure, ``},
		{"a body too large", rpc.ControlGetBlobProcedure, `{"digest":"` + strings.Repeat("a", 10_000) + `"}`},
	} {
		release := make(chan struct{})
		w.core.set(func() { w.core.held = release })
		answered := make(chan reply, 1)
		before := len(w.core.recorded())
		go func() { answered <- w.post("alice", c.procedure, c.body) }()
		<-w.core.recording
		select {
		case r := <-answered:
			t.Errorf("%s: answered %q before its record", c.name, r.body)
		default:
		}
		w.core.set(func() { w.core.held = nil })
		close(release)
		<-answered
		if n := len(w.core.recorded()) - before; n != 1 {
			t.Errorf("%s: %d records, want 1", c.name, n)
		}
	}
}

// TestForeignIsUnknown compares what bob learns about alice's things with what
// he learns about things that do not exist.
func TestForeignIsUnknown(t *testing.T) {
	w := newWorld(t, nil)
	w.core.blobs["alice/"+digestOfA] = []byte("a")
	for procedure, c := range map[string]struct{ field, exists string }{
		rpc.ControlQueryExecutionStatusProcedure:      {"executionId", execution.String()},
		rpc.ControlRetrieveExecutionProofProcedure:    {"executionId", execution.String()},
		rpc.ControlGetContractProcedure:               {"contractHash", contractOne.String()},
		rpc.ControlGetBlobProcedure:                   {"digest", digestOfA},
		rpc.ProvenanceGetExecutionProvenanceProcedure: {"executionId", execution.String()},
		rpc.ProvenanceVerifyProvenanceChainProcedure:  {"executionId", execution.String()},
		rpc.ControlWatchExecutionProcedure:            {"executionId", execution.String()},
	} {
		ask := func(id string) (reply, *pb.Record) {
			before := len(w.core.recorded())
			post := w.post
			if methods[procedure].effect == streams {
				post = w.postStream
			}
			r := post("bob", procedure, fmt.Sprintf(`{%q:%q}`, c.field, id))
			made := w.core.recorded()[before:]
			if len(made) != 1 {
				t.Fatalf("%s: %d records, want 1", procedure, len(made))
			}
			return r, made[0]
		}
		foreign, foreignRecord := ask(c.exists)
		unknown, unknownRecord := ask(absent.String())
		if foreign.status != unknown.status || !bytes.Equal(foreign.body, unknown.body) {
			t.Errorf("%s: alice's id answers %q, an unknown one %q", procedure, foreign.body, unknown.body)
		}
		if len(foreign.code()) == 0 {
			t.Errorf("%s: bob sees alice's", procedure)
		}
		a, b := foreignRecord.GetOperation(), unknownRecord.GetOperation()
		if a == nil || b == nil || a.GetTenant() != "bob" || a.GetTenant() != b.GetTenant() || a.GetCode() != b.GetCode() ||
			len(a.GetObject()) != len(b.GetObject()) {
			t.Errorf("%s: recorded as %v, an unknown one as %v", procedure, a, b)
		}
	}
}

func TestScopes(t *testing.T) {
	w := newWorld(t, nil)
	w.core.blobs["assigned/"+digestOfA] = []byte("a")
	if got := w.post("node-1", rpc.ControlGetBlobProcedure, `{"digest":"`+digestOfA+`"}`); got.code() != "" {
		t.Errorf("a node reading an assigned blob: %s", got.body)
	}
	if got := w.post("alice", rpc.ControlGetBlobProcedure, `{"digest":"`+digestOfA+`"}`).code(); got != orchestrator.CodeBlobUnknown {
		t.Errorf("a tenant reading a node's blob: %q", got)
	}
	// An auditor names the execution; nobody else does.
	named := `{"digest":"` + digestOfA + `","executionId":"` + execution.String() + `"}`
	w.core.blobs["replayed/"+digestOfA] = []byte("a")
	if got := w.post("eve", rpc.ControlGetBlobProcedure, named); got.code() != "" {
		t.Errorf("an auditor reading a payload: %s", got.body)
	}
	if got := w.post("eve", rpc.ControlGetBlobProcedure, `{"digest":"`+digestOfA+`"}`).code(); got != orchestrator.CodeArgument {
		t.Errorf("an auditor that names no execution: %q", got)
	}
	for _, principal := range []string{"alice", "node-1"} {
		if got := w.post(principal, rpc.ControlGetBlobProcedure, named).code(); got != orchestrator.CodeArgument {
			t.Errorf("%s names an execution: %q", principal, got)
		}
	}
	for principal, want := range map[string]string{"alice": "seen by alice", "eve": "seen by "} {
		res, err := rpc.NewLogClient(as(principal, false), w.url).ListRecords(t.Context(), connect.NewRequest(&pb.ListRecordsRequest{PageSize: 9_999}))
		if err != nil || string(res.Msg.GetRecords()[0].GetOpening()) != want || res.Msg.GetNext() != 2 {
			t.Errorf("records for %s: %v, %v", principal, res, err)
		}
	}
}

func TestDuplicateIsRecorded(t *testing.T) {
	w := newWorld(t, nil)
	body := `{"submission":"YQ=="}`
	w.post("alice", rpc.ControlSubmitExecutionRequestProcedure, body)
	if n := len(w.core.recorded()); n != 0 {
		t.Fatalf("the edge made %d records of a mutation that has its own", n)
	}
	w.post("alice", rpc.ControlSubmitExecutionRequestProcedure, body)
	op := w.core.recorded()[0].GetOperation()
	sum := sha256.Sum256([]byte("a"))
	if op.GetCode() != "ok" || op.GetDuplicateOf() != 7 || op.GetTenant() != "alice" || !bytes.Equal(op.GetObject(), sum[:]) {
		t.Errorf("the duplicate is recorded as %v", op)
	}
}

func TestRegisterTrustedNodeTakesNothingElse(t *testing.T) {
	w := newWorld(t, nil)
	client := rpc.NewMembershipClient(as("root", false), w.url)
	register := func(envelope []byte) error {
		_, err := client.RegisterTrustedNode(t.Context(), connect.NewRequest(&pb.RegisterTrustedNodeRequest{Envelope: envelope}))
		return err
	}
	for name, c := range map[string]struct {
		envelope []byte
		want     string
	}{
		"no envelope": {[]byte("{}"), "[envelope_malformed]"},
		"no change":   {bytes.Replace(addNodeEnvelope(t, node), []byte(`"payload":"`), []byte(`"payload":"AAAA`), 1), "[change_refused]"},
		"a tenant":    {addNodeEnvelope(t, tenant), "[invalid_argument]"},
	} {
		if err := register(c.envelope); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if err := register(addNodeEnvelope(t, node)); err != nil {
		t.Error(err)
	}
}

func TestWaitThatTakesTooLong(t *testing.T) {
	// What comes before the wait takes milliseconds.
	w := newWorld(t, func(c *Config) { c.Timeout = 4 * time.Second })
	w.core.proofErr = context.DeadlineExceeded
	got := w.post("alice", rpc.ControlSubmitExecutionRequestProcedure, `{"submission":"YQ==","wait":"WAIT_WITNESSED"}`)
	if got.code() != CodeNotWitnessed || !strings.Contains(string(got.body), "index 7") {
		t.Errorf("%s", got.body)
	}
	if n := len(w.core.recorded()); n != 0 {
		t.Errorf("%d records of the edge; the core has made the mutation's", n)
	}
	w.core.set(func() { w.core.proofErr = errors.New("secret") })
	got = w.post("alice", rpc.ControlSubmitExecutionRequestProcedure, `{"submission":"Yg==","wait":"WAIT_WITNESSED"}`)
	if got.code() != CodeInternal || strings.Contains(string(got.body), "secret") {
		t.Errorf("%s", got.body)
	}
}

// TestHostileBodies sends what is no request. Each must be refused in words,
// recorded, and leave the server working.
func TestHostileBodies(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxPayload = 64 << 10 })
	zip := func(data []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = z.Write(data)
		_ = z.Close()
		return out.Bytes()
	}
	large := bytes.Repeat([]byte("a"), 1<<20)
	jsonType := map[string]string{"Content-Type": "application/json"}
	with := func(pairs ...string) map[string]string {
		h := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			h[pairs[i]] = pairs[i+1]
		}
		return h
	}
	for name, c := range map[string]struct {
		procedure string
		header    map[string]string
		body      []byte
		want      Code
	}{
		"nothing":             {rpc.ControlPutBlobProcedure, jsonType, nil, CodeMalformed},
		"no JSON":             {rpc.ControlPutBlobProcedure, jsonType, []byte("<xml/>"), CodeMalformed},
		"unknown member":      {rpc.ControlPutBlobProcedure, jsonType, []byte(`{"data":"YQ==","dta":1}`), CodeMalformed},
		"member twice":        {rpc.ControlPutBlobProcedure, jsonType, []byte(`{"data":"YQ==","data":"YQ=="}`), CodeMalformed},
		"member in two names": {rpc.ControlGetContractProcedure, jsonType, []byte(`{"contractHash":"","contract_hash":""}`), CodeMalformed},
		"trailing bytes":      {rpc.ControlPutBlobProcedure, jsonType, []byte(`{"data":"YQ=="}{}`), CodeMalformed},
		"not base64":          {rpc.ControlPutBlobProcedure, jsonType, []byte(`{"data":"secret-payload!"}`), CodeMalformed},
		"not UTF-8":           {rpc.ControlGetBlobProcedure, jsonType, []byte("{\"digest\":\"\xff\"}"), CodeMalformed},
		"deep":                {rpc.NodeWatchAssignmentsProcedure, jsonType, bytes.Repeat([]byte("["), 1_000), CodePermission},
		"deep in a value":     {rpc.ControlPutBlobProcedure, jsonType, []byte(`{"data":` + strings.Repeat("[", 1_000)), CodeMalformed},
		"too large":           {rpc.ControlGetBlobProcedure, jsonType, large, CodeBodyTooLarge},
		"payload too large":   {rpc.ControlPutBlobProcedure, jsonType, append(append([]byte(`{"data":"`), bytes.Repeat([]byte("AAAA"), 22_000)...), `"}`...), CodeBodyTooLarge},
		"gzip bomb":           {rpc.ControlPutBlobProcedure, with("Content-Type", "application/json", "Content-Encoding", "gzip"), zip(large), CodeEncoding},
		"no gzip":             {rpc.ControlPutBlobProcedure, with("Content-Type", "application/json", "Content-Encoding", "gzip"), []byte("x"), CodeEncoding},
		"unknown encoding":    {rpc.ControlPutBlobProcedure, with("Content-Type", "application/json", "Content-Encoding", "zstd"), []byte("{}"), CodeEncoding},
		"unknown type":        {rpc.ControlPutBlobProcedure, with("Content-Type", "text/html"), []byte("{}"), CodeMalformed},
		"no type":             {rpc.ControlPutBlobProcedure, nil, []byte("{}"), CodeMalformed},
		"no protobuf":         {rpc.ControlPutBlobProcedure, with("Content-Type", "application/proto"), []byte{0xff}, CodeMalformed},
		"unknown field":       {rpc.ControlPutBlobProcedure, with("Content-Type", "application/proto"), []byte{0x78, 1}, CodeMalformed},
		"forged decode error": {rpc.ControlPutBlobProcedure, with("Content-Type", "application/proto"), forgedError(), CodeMalformed},
		"bad timeout":         {rpc.ControlPutBlobProcedure, with("Content-Type", "application/json", "Connect-Timeout-Ms", "x"), []byte("{}"), CodeMalformed},
		"short frame":         {rpc.ControlWatchExecutionProcedure, with("Content-Type", "application/connect+json"), []byte{0, 0, 0, 9, 9, 1}, CodeMalformed},
		"huge frame":          {rpc.ControlWatchExecutionProcedure, with("Content-Type", "application/connect+json"), []byte{0, 0xff, 0xff, 0xff, 0xff, 1}, CodeMalformed},
		"compressed frame":    {rpc.ControlWatchExecutionProcedure, with("Content-Type", "application/connect+json"), append([]byte{1}, frame("{}")[1:]...), CodeMalformed},
		"compressed stream":   {rpc.ControlWatchExecutionProcedure, with("Content-Type", "application/connect+json", "Connect-Content-Encoding", "gzip"), frame("{}"), CodeEncoding},
		"stream member":       {rpc.ControlWatchExecutionProcedure, with("Content-Type", "application/connect+json"), frame(`{"x":1}`), CodeMalformed},
		"id in upper case":    {rpc.ControlQueryExecutionStatusProcedure, jsonType, []byte(`{"executionId":"` + strings.ToUpper(execution.String()) + `"}`), orchestrator.CodeArgument},
		"id of a watch":       {rpc.ControlWatchExecutionProcedure, with("Content-Type", "application/connect+json"), frame(`{"executionId":"x"}`), orchestrator.CodeArgument},
		"no id":               {rpc.ControlRetrieveExecutionProofProcedure, jsonType, []byte(`{}`), orchestrator.CodeArgument},
		"no id, provenance":   {rpc.ProvenanceGetExecutionProvenanceProcedure, jsonType, []byte(`{}`), orchestrator.CodeArgument},
		"no id, chain":        {rpc.ProvenanceVerifyProvenanceChainProcedure, jsonType, []byte(`{}`), orchestrator.CodeArgument},
		"no id, contract":     {rpc.ControlGetContractProcedure, jsonType, []byte(`{}`), orchestrator.CodeArgument},
		"no digest":           {rpc.ControlGetBlobProcedure, jsonType, []byte(`{}`), orchestrator.CodeArgument},
		"unknown state":       {rpc.ControlListExecutionsProcedure, jsonType, []byte(`{"state":77}`), orchestrator.CodeArgument},
		"no log":              {rpc.LogGetCheckpointProcedure, jsonType, []byte(`{}`), orchestrator.CodeArgument},
		"unknown log":         {rpc.LogGetTlogProofProcedure, jsonType, []byte(`{"log":9}`), orchestrator.CodeArgument},
		"index beyond int64":  {rpc.LogGetInclusionProofProcedure, jsonType, []byte(`{"log":1,"index":"9223372036854775808"}`), orchestrator.CodeArgument},
		"size beyond int64":   {rpc.LogGetConsistencyProofProcedure, jsonType, []byte(`{"log":1,"newSize":"18446744073709551615"}`), orchestrator.CodeArgument},
		"start beyond int64":  {rpc.LogListRecordsProcedure, jsonType, []byte(`{"start":"18446744073709551615"}`), orchestrator.CodeArgument},
		"module too large":    {rpc.ControlRegisterContractProcedure, jsonType, append(append([]byte(`{"module":"`), bytes.Repeat([]byte("AAAA"), 22_000)...), `"}`...), CodeBodyTooLarge},
		"input too large":     {rpc.ControlSubmitExecutionRequestProcedure, jsonType, append(append([]byte(`{"input":"`), bytes.Repeat([]byte("AAAA"), 22_000)...), `"}`...), CodeBodyTooLarge},
	} {
		before := len(w.core.recorded())
		header := http.Header{"Authorization": {bearer(t, "alice")}}
		for k, v := range c.header {
			header.Set(k, v)
		}
		var got reply
		if strings.HasPrefix(header.Get("Content-Type"), "application/connect") {
			got = w.do(header, c.procedure, c.body)
			got.body = got.body[5:]
		} else {
			got = w.do(header, c.procedure, c.body)
		}
		if got.code() != c.want {
			t.Errorf("%s: %q (%s), want %q", name, got.code(), got.body, c.want)
		}
		if strings.Contains(string(got.body), "secret-payload") {
			t.Errorf("%s: the answer quotes the payload: %s", name, got.body)
		}
		if n := len(w.core.recorded()) - before; n != 1 {
			t.Errorf("%s: %d records, want 1", name, n)
		}
	}
	if got := w.post("alice", rpc.ControlGetClusterRootProcedure, "{}"); got.code() != "" {
		t.Errorf("afterwards: %s", got.body)
	}
}

func forgedError() []byte {
	m := &pb.PutBlobRequest{}
	carryError(m, errors.New("forged"))
	return m.ProtoReflect().GetUnknown()
}

func TestWhatIsNoOperation(t *testing.T) {
	w := newWorld(t, nil)
	if got := w.post("alice", "/tallystick.v1.Control/Nothing", "{}"); got.status != http.StatusNotFound {
		t.Errorf("unknown method: %d", got.status)
	}
	res, err := http.Get(w.url + rpc.ControlGetClusterRootProcedure)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "POST" {
		t.Errorf("GET of a method: %d", res.StatusCode)
	}
	if n := len(w.core.recorded()); n != 0 {
		t.Errorf("%d records", n)
	}
}

// TestPanic: one call's fault is its own, and tells the client nothing.
func TestPanic(t *testing.T) {
	w := newWorld(t, nil)
	w.core.set(func() { w.core.panics = true })
	got := w.post("alice", rpc.ControlGetClusterRootProcedure, "{}")
	if got.code() != CodeInternal || strings.Contains(string(got.body), "secret") {
		t.Errorf("%s", got.body)
	}
	if op := w.core.recorded()[0].GetOperation(); op.GetCode() != string(CodeInternal) {
		t.Errorf("recorded as %v", op)
	}
	w.core.set(func() { w.core.panics = false })
	if got := w.post("alice", rpc.ControlGetClusterRootProcedure, "{}"); got.code() != "" {
		t.Errorf("afterwards: %s", got.body)
	}
}

// TestIdleClusterWritesNothing: connected nodes and open watches are no growth.
func TestIdleClusterWritesNothing(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.KeepAlive = time.Millisecond })
	stream, err := rpc.NewNodeClient(as("node-1", true), w.url).WatchAssignments(t.Context(), connect.NewRequest(&pb.WatchAssignmentsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // twenty keep-alives
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
	}
	if n := len(w.core.recorded()); n != 1 {
		t.Errorf("%d records, want the one of the stream", n)
	}
}

func TestReflection(t *testing.T) {
	w := newWorld(t, nil)
	client := grpcreflect.NewClient(as("node-1", true), w.url, connect.WithGRPC())
	stream := client.NewStream(t.Context())
	names, err := stream.ListServices()
	if err != nil || len(names) != 5 {
		t.Errorf("ListServices = %v, %v", names, err)
	}
	if _, err := stream.Close(); err != nil {
		t.Error(err)
	}
	if n := len(w.core.recorded()); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
	base := as("alice", true).Transport.(*token.Transport).Base
	anonymous := grpcreflect.NewClient(&http.Client{Transport: base}, w.url, connect.WithGRPC()).NewStream(t.Context())
	if _, err := anonymous.ListServices(); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without token: %v", err)
	}
}

func TestLogAndMetricsKeepSecrets(t *testing.T) {
	w := newWorld(t, nil)
	raw := bearer(t, "alice")
	w.do(http.Header{"Content-Type": {"application/json"}, "Authorization": {raw}}, rpc.ControlSubmitExecutionRequestProcedure,
		[]byte(`{"submission":"c2VjcmV0LXBheWxvYWQ="}`))
	w.post("alice", rpc.ControlQueryExecutionStatusProcedure, `{"executionId":"`+execution.String()+`"}`)
	w.core.set(func() { w.core.panics = true })
	w.edge.StopAndWait()
	text := w.logs.String()
	if !strings.Contains(text, "Control/SubmitExecutionRequest") {
		t.Errorf("no line about the call in %q", text)
	}
	for _, secret := range []string{raw, "secret-payload", "c2VjcmV0LXBheWxvYWQ", execution.String()} {
		if strings.Contains(text, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestStopAndWait(t *testing.T) {
	w := newWorld(t, nil)
	stream, err := rpc.NewNodeClient(as("node-1", true), w.url, connect.WithGRPC()).WatchAssignments(t.Context(), connect.NewRequest(&pb.WatchAssignmentsRequest{}))
	if err != nil || !stream.Receive() {
		t.Fatal(err, stream.Err())
	}
	release := make(chan struct{})
	w.core.set(func() { w.core.held = release })
	answered := make(chan reply, 1)
	go func() { answered <- w.post("alice", rpc.ControlGetClusterRootProcedure, "{}") }()
	<-w.core.recording
	stopped := make(chan struct{})
	go func() { w.edge.StopAndWait(); close(stopped) }()
	for stream.Receive() {
	}
	if err := stream.Err(); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("the stream ended with %v", err)
	}
	select {
	case <-stopped:
		t.Error("stopped while an operation waited for its record")
	default:
	}
	if got := w.post("alice", rpc.ControlGetClusterRootProcedure, "{}").code(); got != orchestrator.CodeUnavailable {
		t.Errorf("a new call: %q", got)
	}
	close(release)
	if got := <-answered; got.code() != "" {
		t.Errorf("the operation under way: %s", got.body)
	}
	<-stopped
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("New took a config without cluster and core")
	}
}

func TestPublicRoutes(t *testing.T) {
	sick := errors.New("disk is full")
	var health error
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.URL.Path)) })
	w := newWorld(t, func(c *Config) {
		c.AuditTiles, c.MembershipTiles, c.Web, c.Metrics = echo, echo, echo, echo
		c.Genesis, c.AuditPolicy, c.MembershipPolicy = []byte("genesis"), []byte("a"), []byte("m")
		c.Health = func() error { return health }
	})
	get := func(path string) (int, string) {
		res, err := http.Get(w.url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var body bytes.Buffer
		_, _ = body.ReadFrom(res.Body)
		return res.StatusCode, body.String()
	}
	for path, want := range map[string]string{
		"/audit/checkpoint": "/checkpoint", "/membership/tile/0/000": "/tile/0/000", "/genesis": "genesis",
		"/audit.policy": "a", "/membership.policy": "m", "/healthz": "ok\n", "/metrics": "/metrics", "/": "/", "/app.js": "/app.js",
	} {
		if status, body := get(path); status != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", path, status, body, want)
		}
	}
	health = sick
	if status, body := get("/healthz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "disk is full") {
		t.Errorf("sick: %d %q", status, body)
	}
	bare := newWorld(t, nil)
	for _, path := range []string{"/genesis", "/audit/checkpoint", "/", "/metrics"} {
		res, err := http.Get(bare.url + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("%s of a bare edge: %d", path, res.StatusCode)
		}
	}
}
