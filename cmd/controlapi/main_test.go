package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/contract"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/internal/strictjson"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/sandbox"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func TestMain(m *testing.M) {
	if sandbox.IsWorker() {
		sandbox.WorkerMain()
	}
	testscript.Main(m, map[string]func(){"controlapi": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true})
}

const cluster = "example"

func testKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("tallystick test key " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// BenchmarkSubmit submits through the API from many callers; nobody runs
// anything.
func BenchmarkSubmit(b *testing.B) {
	r := run(b, serveConfig{dir: newDirectory(b), listen: "127.0.0.1:0", deadline: time.Hour, quotas: "development"})
	tenant := newClient(b, "http://"+r.addr, "tenant", nil)
	c := newContract()
	envelope, hash, err := contract.Sign(c, testKey("tenant"))
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	if _, err := tenant.Control.RegisterContract(ctx, connect.NewRequest(&pb.RegisterContractRequest{Envelope: envelope, Module: emptyModule})); err != nil {
		b.Fatal(err)
	}
	var n atomic.Uint64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(loop *testing.PB) {
		for loop.Next() {
			nonce := binary.BigEndian.AppendUint64(make([]byte, 8), n.Add(1))
			s := &contract.Submission{Cluster: cluster, Contract: hash, Input: digest.Of(nonce), LastEpoch: 9,
				Nonce: nonce, ProtocolVersion: "1.0", Tenant: "tenant"}
			submission, _, err := contract.Sign(s, testKey("tenant"))
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := tenant.Control.SubmitExecutionRequest(ctx, connect.NewRequest(&pb.SubmitExecutionRequestRequest{Submission: submission, Input: nonce})); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// newDirectory makes a control plane's directory with genesis and policies that
// ask for no witness: witnesses are tested end to end.
func newDirectory(t testing.TB) directory {
	t.Helper()
	d := directory{path: filepath.Join(t.TempDir(), "control")}
	if err := d.create(cluster); err != nil {
		t.Fatal(err)
	}
	var logs membership.Logs
	if err := strictjson.Unmarshal(must[[]byte](t)(d.read(logsFile, maxLogsFile)), &logs, maxLogsFile); err != nil {
		t.Fatal(err)
	}
	founding := membership.Founding{AdminThreshold: 1, NodeQuorum: 1, Limits: contract.DefaultClusterLimits(), Logs: logs}
	var signers []dsse.Signer
	for _, p := range []struct {
		id   string
		kind membership.Kind
		uses []membership.Use
	}{
		{"admin", membership.KindAdmin, []membership.Use{membership.UseChange, membership.UseToken}},
		{"node-1", membership.KindNode, []membership.Use{membership.UseAttestation, membership.UseToken}},
		{"tenant", membership.KindTenant, []membership.Use{membership.UseContract, membership.UseSubmission, membership.UseToken}},
	} {
		signer := must[dsse.Signer](t)(dsse.NewSigner(testKey(p.id)))
		signers = append(signers, signer)
		founding.Principals = append(founding.Principals, membership.Principal{ID: p.id, Kind: p.kind, Keys: []membership.Key{{
			Algorithm: membership.AlgorithmEd25519, PublicKey: signer.Public(), Uses: p.uses}}})
	}
	payload := must[[]byte](t)(membership.ProposeGenesis(cluster, founding))
	envelope := must[*dsse.Envelope](t)(dsse.Sign(membership.PayloadType, payload, signers...))
	files := map[string][]byte{genesisFile: must[[]byte](t)(envelope.Marshal())}
	for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		files[policyFile(name)] = []byte("log " + logs.Named(name).Keys[0] + "\nquorum none\n")
	}
	for name, data := range files {
		if err := os.WriteFile(d.file(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// running is a control plane in this process.
type running struct {
	addr string
	stop func() error // as SIGTERM would; returns what serve returned
	log  *bytes.Buffer
}

// run serves until the test ends or stop is called.
func run(t testing.TB, config serveConfig) *running {
	t.Helper()
	config.addrFile = filepath.Join(t.TempDir(), "addr")
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{log: new(bytes.Buffer)}
	done := make(chan error, 1)
	go func() { done <- serve(ctx, config, r.log) }()
	var once sync.Once
	var result error
	r.stop = func() error {
		once.Do(func() {
			cancel()
			result = <-done
		})
		return result
	}
	t.Cleanup(func() { r.stop() })
	for {
		if addr, err := os.ReadFile(config.addrFile); err == nil {
			r.addr = strings.TrimSpace(string(addr))
			return r
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("serve ended: %v\n%s", err, r.log)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func newClient(t testing.TB, server, id string, transport http.RoundTripper) *client.Client {
	t.Helper()
	return must[*client.Client](t)(client.New(client.Config{
		Server: server, Cluster: cluster, Principal: id, TokenKey: testKey(id), Transport: transport}))
}

// emptyModule is a command that does nothing:
// (module (memory (export "memory") 1) (func (export "_start"))).
var emptyModule = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x04\x01\x60\x00\x00" + // type: [] -> []
	"\x03\x02\x01\x00" + // function 0 of type 0
	"\x05\x03\x01\x00\x01" + // memory: 1 page
	"\x07\x13\x02\x06memory\x02\x00\x06_start\x00\x00" +
	"\x0a\x04\x01\x02\x00\x0b") // code: end

func newContract() *contract.Contract {
	return &contract.Contract{
		Agreement: 1, Capabilities: []contract.Capability{contract.CapabilityStdio}, Cluster: cluster,
		Limits:      contract.Limits{DiagnosticsBytes: 1 << 10, InputBytes: 1 << 10, MemoryPages: 16, OutputBytes: 1 << 10},
		MaxAssigned: 1, Module: digest.Of(emptyModule), Name: "empty", Nodes: 1, ProtocolVersion: "1.0",
		Tenant: "tenant", Version: "1", Versions: contract.Versions{HostInterface: 1},
	}
}

// Contracts and submissions through the real stores, twice, with a restart in
// between; then what everybody may read.
func TestServe(t *testing.T) {
	ctx := context.Background()
	d := newDirectory(t)
	config := serveConfig{dir: d, listen: "127.0.0.1:0", deadline: time.Hour, quotas: "default"}
	r := run(t, config)
	tenant := newClient(t, "http://"+r.addr, "tenant", nil)

	c := newContract()
	envelope, hash, err := contract.Sign(c, testKey("tenant"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Control.RegisterContract(ctx, connect.NewRequest(&pb.RegisterContractRequest{Envelope: envelope, Module: emptyModule})); err != nil {
		t.Fatal(err)
	}
	c.Name, c.Module = "broken", digest.Of(emptyModule[:len(emptyModule)-6])
	broken, _, err := contract.Sign(c, testKey("tenant"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tenant.Control.RegisterContract(ctx, connect.NewRequest(&pb.RegisterContractRequest{Envelope: broken, Module: emptyModule[:len(emptyModule)-6]}))
	if err == nil || !strings.Contains(err.Error(), "[module_refused]") {
		t.Errorf("a broken module: %v", err)
	}
	c.Name, c.Module, c.Versions.HostInterface = "future", digest.Of(emptyModule), 99
	future, _, err := contract.Sign(c, testKey("tenant"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tenant.Control.RegisterContract(ctx, connect.NewRequest(&pb.RegisterContractRequest{Envelope: future, Module: emptyModule}))
	if err == nil || !strings.Contains(err.Error(), "[module_refused]") {
		t.Errorf("a host interface to come: %v", err)
	}

	s := &contract.Submission{Cluster: cluster, Contract: hash, Input: digest.Of([]byte("in")), LastEpoch: 9,
		Nonce: make([]byte, 16), ProtocolVersion: "1.0", Tenant: "tenant"}
	submission, _, err := contract.Sign(s, testKey("tenant"))
	if err != nil {
		t.Fatal(err)
	}
	submit := func() *pb.SubmitExecutionRequestResponse {
		t.Helper()
		return must[*connect.Response[pb.SubmitExecutionRequestResponse]](t)(tenant.Control.SubmitExecutionRequest(ctx,
			connect.NewRequest(&pb.SubmitExecutionRequestRequest{Submission: submission, Input: []byte("in"), Wait: pb.Wait_WAIT_WITNESSED}))).Msg
	}
	first := submit()
	if first.GetDuplicate() || len(first.GetReceipt().GetTlogProof()) == 0 {
		t.Errorf("submission: duplicate %v, %d bytes of tlog proof", first.GetDuplicate(), len(first.GetReceipt().GetTlogProof()))
	}
	if err := r.stop(); err != nil {
		t.Fatalf("stopping: %v\n%s", err, r.log)
	}

	r = run(t, config)
	tenant = newClient(t, "http://"+r.addr, "tenant", nil)
	again := submit()
	if !again.GetDuplicate() || again.GetExecutionId() != first.GetExecutionId() ||
		again.GetReceipt().GetIndex() != first.GetReceipt().GetIndex() ||
		!bytes.Equal(again.GetReceipt().GetOpening(), first.GetReceipt().GetOpening()) {
		t.Errorf("after the restart: %v", again)
	}
	blob := must[*connect.Response[pb.GetBlobResponse]](t)(tenant.Control.GetBlob(ctx, connect.NewRequest(&pb.GetBlobRequest{Digest: s.Input.String()}))).Msg
	if string(blob.GetData()) != "in" {
		t.Errorf("input %q", blob.GetData())
	}
	_, err = tenant.Control.GetBlob(ctx, connect.NewRequest(&pb.GetBlobRequest{Digest: digest.Of([]byte("other")).String()}))
	if connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("a payload that is not there: %v", err)
	}

	get := func(path string) string {
		t.Helper()
		resp := must[*http.Response](t)(http.Get("http://" + r.addr + path))
		defer resp.Body.Close()
		body := must[[]byte](t)(io.ReadAll(resp.Body))
		if resp.StatusCode != http.StatusOK {
			t.Errorf("GET %s: %s: %.200s", path, resp.Status, body)
		}
		return string(body)
	}
	if get("/genesis") != string(must[[]byte](t)(os.ReadFile(d.file(genesisFile)))) {
		t.Error("/genesis is another")
	}
	for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		policy := must[*checkpoint.Policy](t)(checkpoint.ParsePolicy([]byte(get("/" + policyFile(name)))))
		if _, err := policy.Verify([]byte(get("/" + string(name) + "/checkpoint"))); err != nil {
			t.Errorf("checkpoint of the %s log: %v", name, err)
		}
		if metrics := get("/metrics"); !strings.Contains(metrics, `origin="`+cluster+"/"+string(name)+`"`) {
			t.Errorf("no metrics of the %s log", name)
		}
	}
	get("/healthz")
	get("/")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.log.String(), `"level":"ERROR"`) {
		t.Errorf("errors in the log:\n%s", r.log)
	}
}

// Beyond loopback there is TLS or nothing.
func TestTLS(t *testing.T) {
	d := newDirectory(t)
	config := serveConfig{dir: d, deadline: time.Hour, refresh: logserver.DefaultRefreshInterval, quotas: "default"}
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.com:0"} {
		config.listen = listen
		if err := config.check(); err == nil || !strings.Contains(err.Error(), "needs TLS") {
			t.Errorf("listening on %q without TLS: %v", listen, err)
		}
	}
	config.listen = "127.0.0.1"
	if err := config.check(); err == nil {
		t.Error("listening without a port")
	}

	config.listen = "0.0.0.0:0"
	config.tlsCert, config.tlsKey = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	if err := serve(context.Background(), config, io.Discard); err == nil {
		t.Error("serving without a certificate")
	}
	pool := writeCertificate(t, config.tlsCert, config.tlsKey)
	r := run(t, config)
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	resp := must[*http.Response](t)((&http.Client{Transport: transport}).Get("https://127.0.0.1:" + port + "/healthz"))
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		t.Errorf("over TLS: %s, %s", resp.Status, resp.Proto)
	}
	admin := newClient(t, "https://127.0.0.1:"+port, "admin", transport)
	root := must[*connect.Response[pb.GetClusterRootResponse]](t)(admin.Control.GetClusterRoot(context.Background(), connect.NewRequest(&pb.GetClusterRootRequest{}))).Msg
	if root.GetCluster() != cluster || root.GetEpoch() != 1 {
		t.Errorf("root %v", root)
	}
}

// writeCertificate makes a certificate for 127.0.0.1 that signs itself.
func writeCertificate(t testing.TB, certFile, keyFile string) *x509.CertPool {
	t.Helper()
	key := testKey("tls")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	pkcs8 := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(must[*x509.Certificate](t)(x509.ParseCertificate(der)))
	return pool
}

// While the witnesses keep silent the public trees are served and nothing else,
// and a request to stop is heard.
func TestWaitsForWitnesses(t *testing.T) {
	d := newDirectory(t)
	silent := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer silent.Close()
	cosigner := must[*checkpoint.Cosigner](t)(checkpoint.NewEd25519Cosigner("witness.example", testKey("witness")))
	for _, name := range []membership.LogName{membership.LogAudit, membership.LogMembership} {
		text := must[[]byte](t)(os.ReadFile(d.file(policyFile(name))))
		text = bytes.Replace(text, []byte("quorum none"), []byte("witness w "+cosigner.Key().Vkey()+" http://"+silent.Addr().String()+"/\nquorum w"), 1)
		if err := os.WriteFile(d.file(policyFile(name)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stderr, lines := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, serveConfig{dir: d, listen: "127.0.0.1:0", quotas: "default"}, lines)
		lines.Close()
	}()
	head := make([]byte, 64)
	n := must[int](t)(stderr.Read(head))
	addr, ok := strings.CutPrefix(strings.TrimSpace(string(head[:n])), "listening addr=")
	if !ok {
		t.Fatalf("the first line is %q", head[:n])
	}
	go io.Copy(io.Discard, stderr)
	for path, want := range map[string]int{"/audit/tile/0/000.p/1": http.StatusNotFound, "/healthz": http.StatusServiceUnavailable, "/genesis": http.StatusServiceUnavailable} {
		resp := must[*http.Response](t)(http.Get("http://" + addr + path))
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", path, resp.Status, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopping while waiting: %v", err)
	}
}

// deadlineWriter remembers which deadlines a handler sets.
type deadlineWriter struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (w *deadlineWriter) SetReadDeadline(t time.Time) error  { w.read = t; return nil }
func (w *deadlineWriter) SetWriteDeadline(t time.Time) error { w.write = t; return nil }

// TestWaitingHasDeadlines: nobody holds a request for ever while the logs wait for
// the witnesses, who need the same room.
func TestWaitingHasDeadlines(t *testing.T) {
	w := &deadlineWriter{ResponseRecorder: httptest.NewRecorder()}
	new(controlPlane).waiting().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	if w.Code != http.StatusServiceUnavailable || w.read.IsZero() || w.write.IsZero() {
		t.Errorf("%d, to be read by %v and taken by %v", w.Code, w.read, w.write)
	}
}
