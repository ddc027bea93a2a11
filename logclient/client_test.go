package logclient_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/logclient"
	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// world is a log that is served on a socket, and can be stopped and started.
type world struct {
	t       *testing.T
	options logserver.Options
	log     *logserver.Log
	url     string
	stop    func()
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, options: logserver.Options{
		Dir: t.TempDir(), Origin: "log.example/client",
		Key:        ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32))),
		ReceiptKey: ed25519.NewKeyFromSeed([]byte(strings.Repeat("b", 32))),
	}}
	if err := logserver.Create(w.options); err != nil {
		t.Fatal(err)
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) start() {
	w.t.Helper()
	var err error
	if w.log, err = logserver.Open(w.options); err != nil {
		w.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.url = "http://" + ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- logserver.Serve(ctx, ln, logserver.Handler(w.log), slog.New(slog.DiscardHandler))
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			w.t.Error(err)
		}
		if err := w.log.Close(context.Background()); err != nil {
			w.t.Error(err)
		}
	})
}

// clients returns one client for each protocol.
func (w *world) clients() map[string]*logclient.Client {
	out := map[string]*logclient.Client{}
	for _, name := range []string{"HTTP/1.1", "HTTP/2"} {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(name == "HTTP/1.1")
		transport.Protocols.SetUnencryptedHTTP2(name == "HTTP/2")
		w.t.Cleanup(transport.CloseIdleConnections)
		out[name] = &logclient.Client{URL: w.url, HTTP: &http.Client{Transport: transport}}
	}
	return out
}

// entry checks what the log holds at an index.
func (w *world) entry(index int64, want string) {
	w.t.Helper()
	if got, err := w.log.EntryAt(index); err != nil || string(got) != want {
		w.t.Errorf("entry %d is %q, %v; want %q", index, got, err, want)
	}
}

func TestAdd(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	policy := map[logclient.Proof]string{
		logclient.Receipt:   w.log.ReceiptVkey(),
		logclient.Witnessed: w.log.Vkey(),
	}
	for name, c := range w.clients() {
		for _, form := range []logclient.Proof{logclient.NoProof, logclient.Receipt, logclient.Witnessed} {
			data := name + " " + string(form)
			a, err := c.Add(ctx, logclient.Entry{Data: []byte(data), Key: data[len("HTTP/"):len("HTTP/")+1] + "-" + string(form), Proof: form})
			if err != nil {
				t.Fatal(err)
			}
			w.entry(a.Index, data)
			if form == logclient.NoProof {
				continue
			}
			p, err := checkpoint.ParseProof(a.Proof)
			if err != nil {
				t.Fatal(err)
			}
			key, err := checkpoint.ParseVkey(policy[form])
			if err != nil {
				t.Fatal(err)
			}
			signed, err := checkpoint.Open(p.Checkpoint, w.options.Origin, []note.Verifier{key})
			if err != nil {
				t.Fatalf("%s: %v", form, err)
			}
			if err := checkpoint.VerifyInclusion(signed.Tree(), p.Index, tlog.RecordHash([]byte(data)), p.Hashes); err != nil {
				t.Errorf("%s: %v", form, err)
			}
		}
		indexes, err := c.AddBatch(ctx, [][]byte{[]byte("x"), []byte("yy")})
		if err != nil || len(indexes) != 2 || indexes[1] != indexes[0]+1 {
			t.Fatalf("%s: batch: %v, %v", name, indexes, err)
		}
		w.entry(indexes[1], "yy")
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	c := w.clients()["HTTP/1.1"]
	ctx := t.Context()
	if _, err := c.Add(ctx, logclient.Entry{Data: []byte("one"), Key: "key"}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		entry  logclient.Entry
		status int
		code   string
	}{
		{logclient.Entry{}, 400, "empty"},
		{logclient.Entry{Data: make([]byte, logclient.MaxEntrySize+1)}, 413, "too_large"},
		{logclient.Entry{Data: []byte("two"), Key: "key"}, 422, "key_reused"},
		{logclient.Entry{Data: []byte("two"), Key: "white space"}, 400, "idempotency_key"},
		{logclient.Entry{Data: []byte("two"), Key: strings.Repeat("k", 65)}, 400, "idempotency_key"},
		{logclient.Entry{Data: []byte("two"), Proof: "of-work"}, 400, "query"},
	} {
		_, err := c.Add(ctx, x.entry)
		var refused *logclient.Error
		if !errors.As(err, &refused) || refused.Status != x.status || refused.Code != x.code {
			t.Errorf("%.20q: %v, want %d %s", x.entry.Data, err, x.status, x.code)
		}
	}
	if _, err := c.AddBatch(ctx, [][]byte{nil}); err == nil {
		t.Error("an empty entry was sent")
	}
	if _, err := c.AddBatch(ctx, nil); err == nil {
		t.Error("an empty batch was accepted")
	}
	if w.log.Size() != 1 {
		t.Errorf("%d entries", w.log.Size())
	}
}

// TestRetryStorm: however often one key is sent, by however many, and however
// often the log is restarted, there is one index.
func TestRetryStorm(t *testing.T) {
	w := newWorld(t)
	const callers, rounds = 16, 3
	e := logclient.Entry{Data: []byte("charge once"), Key: "0123456789abcdef"}
	for round := range rounds {
		var wg sync.WaitGroup
		clients := w.clients()
		for _, c := range clients {
			for range callers {
				wg.Go(func() {
					a, err := c.Add(t.Context(), e)
					if err != nil || a.Index != 0 || round > 0 && !a.Duplicate {
						t.Errorf("round %d: %+v, %v", round, a, err)
					}
				})
			}
		}
		wg.Wait()
		for _, c := range clients {
			c.HTTP.CloseIdleConnections() // or the server waits for unused ones
		}
		w.stop()
		w.start()
	}
	w.entry(0, "charge once")
	if w.log.Size() != 1 {
		t.Errorf("%d entries for one key", w.log.Size())
	}
}

func TestStream(t *testing.T) {
	w := newWorld(t)
	for name, c := range w.clients() {
		s, err := c.Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		const messages, each = 100, 7
		go func() {
			for i := range messages {
				var entries [][]byte
				for j := range each {
					entries = append(entries, fmt.Appendf(nil, "%s %d %d", name, i, j))
				}
				if err := s.Send(entries); err != nil {
					t.Error(err)
				}
			}
			s.CloseSend()
		}()
		for i := range messages {
			first, count, err := s.Receive()
			if err != nil || count != each {
				t.Fatalf("%s: answer %d: %d, %d, %v", name, i, first, count, err)
			}
			for j := range int64(each) {
				w.entry(first+j, fmt.Sprintf("%s %d %d", name, i, j))
			}
		}
		for range 2 {
			if _, _, err := s.Receive(); err != io.EOF {
				t.Errorf("%s: end: %v", name, err)
			}
		}
		s.Close()
	}
}

// TestStreamEnds: a stream that the log ends says why, and is cut off otherwise.
func TestStreamEnds(t *testing.T) {
	for _, name := range []string{"HTTP/1.1", "HTTP/2"} {
		w := newWorld(t)
		s, err := w.clients()[name].Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send([][]byte{[]byte("before")}); err != nil {
			t.Fatal(err)
		}
		if first, _, err := s.Receive(); err != nil || first != 0 {
			t.Fatal(first, err)
		}
		w.stop()
		var refused *logclient.Error
		if _, _, err := s.Receive(); !errors.As(err, &refused) || refused.Code != "closed" {
			t.Errorf("%s: log was stopped: %v", name, err)
		}
		s.Close()
		if err := s.Send([][]byte{[]byte("after")}); err == nil {
			t.Errorf("%s: sent after the end", name)
		}
	}
	w := newWorld(t)
	s, err := w.clients()["HTTP/1.1"].Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, entries := range [][][]byte{nil, {nil}, {make([]byte, logclient.MaxEntrySize+1)}} {
		if err := s.Send(entries); err == nil {
			t.Errorf("message of %d entries was sent", len(entries))
		}
	}
	s.Close()
	if _, _, err := s.Receive(); !errors.Is(err, logclient.ErrCutOff) {
		t.Errorf("closed: %v", err)
	}
	w.stop()
	if _, err := w.clients()["HTTP/1.1"].Stream(t.Context()); err == nil {
		t.Error("opened a stream to nobody")
	}
}

// TestSuspectAnswers: whatever a log answers, the client does not take it for an
// index.
func TestSuspectAnswers(t *testing.T) {
	var answer string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength >= 0 {
			io.WriteString(w, answer)
			return
		}
		// A stream: net/http would wait for its end.
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"+answer)
		conn.Close()
	}))
	defer server.Close()
	c := &logclient.Client{URL: server.URL}
	for _, answer = range []string{"", "x", "01", "-1", "1\n", "9223372036854775808", "end", strings.Repeat("9", 1<<13) + "\n"} {
		if a, err := c.Add(t.Context(), logclient.Entry{Data: []byte("x")}); err == nil {
			t.Errorf("%.20q is index %d", answer, a.Index)
		}
		if _, err := c.Add(t.Context(), logclient.Entry{Data: []byte("x"), Proof: logclient.Receipt}); err == nil {
			t.Errorf("%.20q is a proof", answer)
		}
		if i, err := c.AddBatch(t.Context(), [][]byte{[]byte("x"), []byte("y")}); err == nil {
			t.Errorf("%.20q is indexes %d", answer, i)
		}
	}
	for _, answer = range []string{"", "1", "1 1", "1\n", "1 0\n", "1 4097\n", "01 1\n", "1  1\n", "\n", strings.Repeat("9", 1<<13) + "\n"} {
		s, err := c.Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if first, count, err := s.Receive(); err == nil || err == io.EOF {
			t.Errorf("%.20q answers %d %d %v", answer, first, count, err)
		}
		s.Close()
	}
	if _, err := (&logclient.Client{URL: "::"}).Add(t.Context(), logclient.Entry{Data: []byte("x")}); err == nil {
		t.Error("URL :: is fine")
	}
}

// TestHostileRefusals: a log cannot send its submitters elsewhere, make them wait
// for ever, or write to their terminals.
func TestHostileRefusals(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was sent elsewhere", r.Method, r.URL)
	}))
	defer elsewhere.Close()
	status, after := 0, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", elsewhere.URL+"/add")
		w.Header().Set("Retry-After", after)
		w.Header().Set("Connection", "close") // the body of a stream goes on
		w.WriteHeader(status)
		io.WriteString(w, "\x1b]0;owned\x07\x1b[2J")
	}))
	defer server.Close()
	c := &logclient.Client{URL: server.URL, HTTP: server.Client()}
	var refusal *logclient.Error
	for _, status = range []int{301, 302, 303, 307, 308, 503} {
		_, addErr := c.Add(t.Context(), logclient.Entry{Data: []byte("x")})
		_, batchErr := c.AddBatch(t.Context(), [][]byte{[]byte("x")})
		_, streamErr := c.Stream(t.Context())
		for _, err := range []error{addErr, batchErr, streamErr} {
			if !errors.As(err, &refusal) || refusal.Status != status || strings.ContainsAny(err.Error(), "\x1b\x07") {
				t.Errorf("%d: %q", status, err)
			}
		}
	}
	for text, want := range map[string]time.Duration{
		"7": 7 * time.Second, "-7": 0, "": 0, "soon": 0,
		"999999999": 24 * time.Hour, "9223372036854775807": 24 * time.Hour, "92233720368547758070": 24 * time.Hour,
	} {
		after = text
		if _, err := c.Add(t.Context(), logclient.Entry{Data: []byte("x")}); !errors.As(err, &refusal) || refusal.RetryAfter != want {
			t.Errorf("Retry-After %s: %v", text, refusal.RetryAfter)
		}
	}
	for in, want := range map[time.Duration]time.Duration{time.Hour: time.Hour, -time.Hour: 0, 99 * time.Hour: 24 * time.Hour} {
		after = time.Now().Add(in).UTC().Format(http.TimeFormat)
		_, err := c.Add(t.Context(), logclient.Entry{Data: []byte("x")})
		if !errors.As(err, &refusal) || refusal.RetryAfter > want || want > 0 && refusal.RetryAfter < want-time.Minute {
			t.Errorf("Retry-After %s: %v, want %v", after, refusal.RetryAfter, want)
		}
	}
}

// TestStreamWithoutAnswer: a log that ends the connection instead of opening a
// stream is waited for until ctx ends, and no longer.
func TestStreamWithoutAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 1)) // of the request
			io.WriteString(conn, "no HTTP\r\n\r\n")
			conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := &logclient.Client{URL: "http://" + ln.Addr().String()}
	if s, err := c.Stream(ctx); err == nil {
		t.Errorf("opened %v", s)
	}
}
