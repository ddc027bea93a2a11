//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/dsse"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
	"github.com/tallystick/tallystick/provenance"
)

// relay stands between nodes and their control plane, and holds the nodes' keys:
// a node behind it verifies and runs as every other, and says what the test wants
// it to say. So it is a lying node in all that the rest of the cluster sees of it:
// its stream, its token, its signatures.
//
// What it does not alter passes as it came.
type relay struct {
	url string
	c   *cluster

	mu    sync.Mutex
	speak speech               // guarded by mu
	told  map[word]chan string // guarded by mu: closed with the answer sent to it when the node has spoken
}

// speech decides what a node hands in in place of its attestation: any number of
// envelopes, of which the node hears the answer to the last. It may block: then the
// node's word is late. nil hands in what the node has signed.
type speech func(s *provenance.Statement, signed []byte) [][]byte

// word is what a node says about an execution.
type word struct {
	execution digest.Digest
	node      string
}

const attestPath = "/tallystick.v1.Provenance/RecordExecutionProvenance"

// newRelay starts a relay to the control plane of a cluster.
func newRelay(t *testing.T, c *cluster) *relay {
	t.Helper()
	server, err := url.Parse(c.server)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{c: c, told: map[word]chan string{}}
	proxy := httputil.NewSingleHostReverseProxy(server)
	proxy.FlushInterval = -1 // streams are passed on as they come
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost && req.URL.Path == attestPath {
			r.attest(w, req, proxy)
			return
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections() // streams do not end by themselves
		s.Close()
	})
	r.url = s.URL
	return r
}

// attest passes on what a node says, or what it is made to say.
func (r *relay) attest(w http.ResponseWriter, req *http.Request, proxy http.Handler) {
	body, err := io.ReadAll(req.Body)
	var m pb.RecordExecutionProvenanceRequest
	if err == nil {
		err = proto.Unmarshal(body, &m)
	}
	var e *dsse.Envelope
	if err == nil {
		e, err = dsse.Parse(m.Envelope)
	}
	var s *provenance.Statement
	if err == nil {
		s, err = provenance.ParseStatement(e.Payload)
	}
	if err != nil {
		r.c.t.Errorf("a node hands in what cannot be read: %v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	speak := r.speak
	r.mu.Unlock()
	envelopes := [][]byte{m.Envelope}
	if speak != nil {
		envelopes = speak(s, m.Envelope)
	}
	if len(envelopes) == 0 {
		http.Error(w, "lost on the way", http.StatusServiceUnavailable) // the node tries again
		return
	}
	var answer *httptest.ResponseRecorder
	for _, envelope := range envelopes {
		m.Envelope = envelope
		body, err := proto.Marshal(&m)
		if err != nil {
			r.c.t.Errorf("marshalling: %v", err)
			return
		}
		again := req.Clone(req.Context())
		again.Body, again.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		again.Header.Set("Content-Length", strconv.Itoa(len(body)))
		again.Header.Set("Accept-Encoding", "identity") // the test reads the answer
		answer = httptest.NewRecorder()
		proxy.ServeHTTP(answer, again)
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
	r.answered(word{s.Execution, s.Node}, answer.Body.String())
}

// script says how nodes speak from now on.
func (r *relay) script(speak speech) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.speak = speak
}

func (r *relay) channel(w word) chan string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told[w] == nil {
		r.told[w] = make(chan string, 1)
	}
	return r.told[w]
}

func (r *relay) answered(w word, body string) {
	select {
	case r.channel(w) <- body:
	default: // a node that says it again
	}
}

// answer waits until the control plane has answered what a node said about an
// execution, and returns the answer: a message, or the text of a refusal.
func (r *relay) answer(id digest.Digest, node string) string {
	c := r.channel(word{id, node})
	body := <-c
	c <- body // for whoever else waits
	return body
}

// sign signs a statement with the key in a file.
func (r *relay) sign(s *provenance.Statement, keyFile string) []byte {
	key, err := loadKey(keyFile)
	if err != nil {
		r.c.t.Errorf("loading a node's key: %v", err)
		return nil
	}
	payload, err := s.Marshal()
	if err != nil {
		r.c.t.Errorf("marshalling a statement: %v", err)
		return nil
	}
	signer, err := dsse.NewSigner(key)
	if err != nil {
		r.c.t.Errorf("signing: %v", err)
		return nil
	}
	e, err := dsse.Sign(provenance.AttestationType, payload, signer)
	if err != nil {
		r.c.t.Errorf("signing: %v", err)
		return nil
	}
	envelope, err := e.Marshal()
	if err != nil {
		r.c.t.Errorf("signing: %v", err)
	}
	return envelope
}
