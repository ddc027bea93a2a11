package controlapi

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/controlapi/token"
	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
)

// world is a running edge over a fake core.
type world struct {
	t    testing.TB
	core *fakeCore
	edge *Server
	url  string
	logs *bytes.Buffer
}

// newWorld serves an edge on loopback until the test ends. Without change it
// has development quotas and short times.
func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, core: newFakeCore(t), logs: new(bytes.Buffer)}
	log := slog.New(slog.NewTextHandler(&syncWriter{w: w.logs}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg := Config{
		Cluster:   testCluster,
		Core:      w.core,
		Quotas:    DevelopmentQuotas(),
		KeepAlive: time.Hour,
		Logger:    log,
	}
	if change != nil {
		change(&cfg)
	}
	edge, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewHTTPServer(edge, log)
	go func() { _ = server.Serve(listener) }()
	w.edge, w.url = edge, "http://"+listener.Addr().String()
	t.Cleanup(func() {
		edge.stop()
		_ = server.Close()
		if !edge.hasStopped() {
			edge.StopAndWait()
		}
	})
	return w
}

func (s *Server) hasStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

func bearer(t testing.TB, principal string) string {
	t.Helper()
	raw, err := token.New(principal, testCluster, keyOf(principal), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + raw
}

// reply is an answer as a plain HTTP client sees it.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// code is the refusal's code, "" for success.
func (r reply) code() Code {
	var failure struct {
		Message string
		Error   struct{ Message string }
	}
	_ = json.Unmarshal(r.body, &failure)
	message := failure.Message + failure.Error.Message
	name, _, ok := strings.Cut(strings.TrimPrefix(message, "["), "] ")
	if !ok {
		return Code(strings.TrimSpace(message))
	}
	return Code(name)
}

// post calls a method with a JSON body as principal, "" for nobody.
func (w *world) post(principal, procedure, body string) reply {
	w.t.Helper()
	header := http.Header{"Content-Type": {"application/json"}}
	if principal != "" {
		header.Set("Authorization", bearer(w.t, principal))
	}
	return w.do(header, procedure, []byte(body))
}

func (w *world) do(header http.Header, path string, body []byte) reply {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodPost, w.url+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = header
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("%s: reading the answer: %v", path, err)
	}
	return reply{res.StatusCode, res.Header, data}
}

// postStream calls a streaming method with one JSON message in Connect's
// framing and returns the end-of-stream message.
func (w *world) postStream(principal, procedure, body string) reply {
	w.t.Helper()
	header := http.Header{"Content-Type": {"application/connect+json"}, "Authorization": {bearer(w.t, principal)}}
	r := w.do(header, procedure, frame(body))
	for len(r.body) >= 5 {
		flags, size := r.body[0], binary.BigEndian.Uint32(r.body[1:5])
		message := r.body[5 : 5+size]
		if flags&2 != 0 {
			r.body = message
			return r
		}
		r.body = r.body[5+size:]
	}
	return r
}

func frame(message string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// addNodeEnvelope is a signed change that adds a principal of the given kind.
func addNodeEnvelope(t testing.TB, kind string) []byte {
	t.Helper()
	zeros := digest.Digest{}.String()
	use := map[string]string{node: "attestation", tenant: "submission"}[kind]
	public := base64.StdEncoding.EncodeToString(keyOf("new").Public().(ed25519.PublicKey))
	payload := `{"change":{"kind":"add_principal","principal":{"id":"new","keys":[{"algorithm":"ed25519","public_key":"` + public +
		`","uses":["` + use + `"]}],"kind":"` + kind + `"}},"cluster":"example","cluster_identity_hash":"` + zeros +
		`","epoch":2,"membership_count":7,"membership_hash":"` + zeros + `","previous":"` + zeros + `","protocol_version":"1.0"}`
	signer, err := dsse.NewSigner(keyOf("root"))
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := dsse.Sign("application/vnd.tallystick.change.v1+json", []byte(payload), signer)
	if err != nil {
		t.Fatal(err)
	}
	data, err := envelope.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}
