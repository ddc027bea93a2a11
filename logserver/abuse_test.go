package logserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/logserver/internal/direct/directtest"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// serveOn runs Serve on a listener for the length of a test.
func serveOn(t *testing.T, ln net.Listener, h http.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, h, discard) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// dialer returns how to connect to a handler that is served on a socket.
func dialer(t *testing.T, h http.Handler) func() net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ln, h)
	return func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

// exchange sends raw bytes and reads one answer.
func exchange(t *testing.T, conn net.Conn, raw string) (*http.Response, string) {
	t.Helper()
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	return answerOn(t, conn)
}

func answerOn(t *testing.T, conn net.Conn) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// post returns a request with a body.
var post = directtest.Post

// TestBadRequests: what is malformed, absurd or too large is refused with a
// code, and nothing of it reaches the log.
func TestBadRequests(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.add(Entry{Data: []byte("kept")})
	dial := dialer(t, Handler(tl.Log))
	for _, c := range []struct {
		name, raw string
		status    int
		code      string // "" if net/http refuses before the handler
	}{
		{"oversized entry", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n", 413, "too_large"},
		{"absurd length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n", 413, "too_large"},
		{"oversized batch", "POST /add-batch HTTP/1.1\r\nHost: x\r\nContent-Length: 8388609\r\n\r\n", 413, "too_large"},
		{"zero-length entry", post("/add", "", ""), 400, "empty"},
		{"zero-length batch", post("/add-batch", "", ""), 400, "empty"},
		{"zero-length entry in a batch", post("/add-batch", "", "\x00\x01a\x00\x00"), 400, "empty"},
		{"batch cut short", post("/add-batch", "", "\x00\x02a"), 400, "framing"},
		{"encoded body", post("/add", "Content-Encoding: gzip\r\n", "x"), 415, "encoded"},
		{"unknown query", post("/add?proof=none", "", "x"), 400, "query"},
		{"query of a batch", post("/add-batch?proof=receipt", "", "\x00\x01a"), 400, "query"},
		{"two idempotency keys", post("/add", "Idempotency-Key: a\r\nIdempotency-Key: b\r\n", "x"), 400, "idempotency_key"},
		{"empty idempotency key", post("/add", "Idempotency-Key:\r\n", "x"), 400, "idempotency_key"},
		{"wrong method", "DELETE /add HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method"},
		{"write to a tile", post("/tile/0/000", "", "x"), 405, "method"},
		{"absurd width", "GET /tile/0/000.p/99999999999999999999 HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"},
		{"absurd index", "GET /tile/0/x999/x999/x999/x999/x999/x999/x999/999 HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"},
		{"absurd proof", "GET /99999999999999999999.tlog-proof HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"},
		{"absurd proof size", "GET /proof/inclusion?index=0&size=9223372036854775807 HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"},
		{"malformed query", "GET /proof/inclusion?%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "query"},
		{"traversal", "GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"},
		{"header flood", "GET /checkpoint HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 2*maxHeaderBytes) + "\r\n\r\n", 431, ""},
		{"many headers", "GET /checkpoint HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", maxHeaderBytes) + "\r\n", 431, ""},
		{"negative length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, ""},
		{"two lengths", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, ""},
		{"no protocol", "GET /neither-protocol-nor-version\r\n\r\n", 400, ""},
		{"bad chunk", "POST /add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "cut_short"},
	} {
		before := refusedRequests(tl, c.code)
		res, body := exchange(t, dial(), c.raw)
		if c.code != "" {
			eventually(t, c.name+" is counted", func() bool { return refusedRequests(tl, c.code) == before+1 })
		}
		if res.StatusCode != c.status || res.Header.Get(codeHeader) != c.code || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s: %s %v %s, want %d %q", c.name, res.Status, res.Header, body, c.status, c.code)
		}
	}
	tl.check()
	if held := tl.bodies.held(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
}

// TestEndlessBody: a chunked body that does not end is refused once it is larger
// than any entry.
func TestEndlessBody(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	conn := dialer(t, Handler(tl.Log))()
	go func() {
		io.WriteString(conn, "POST /add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
		for chunk := "400\r\n" + strings.Repeat("x", 0x400) + "\r\n"; ; {
			if _, err := io.WriteString(conn, chunk); err != nil {
				return // the server has closed the connection
			}
		}
	}()
	if res, _ := answerOn(t, conn); res.StatusCode != 413 || res.Header.Get(codeHeader) != "too_large" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	if tl.Size() != 0 {
		t.Error("an endless body was sequenced")
	}
}

// TestSlowClients: whoever sends too slowly is cut off after a known time,
// holding little until then, and is told why where HTTP has a way to.
func TestSlowClients(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		after     time.Duration
		status    int    // 0: closed, or 400 from net/http
		want      string // code, or the end of the body
	}{
		{"headers", "POST /add HTTP/1.1\r\nHo", readTimeout, 0, ""},
		{"body", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\nabc", readTimeout, 408, "slow"},
		{"chunked body", "POST /add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", readTimeout, 408, "slow"},
		{"batch", "POST /add-batch HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\nabc", batchTimeout, 408, "slow"},
		{"silent stream", "POST /add-stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", streamIdle, 200, "error slow body came too slowly\n"},
		{"stream within a message", "POST /add-stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n\x00\x00\x00\x09\x00\x07\r\n", messageTimeout, 200, "error slow body came too slowly\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tl := newTestLog(t, testOptions(vfs.NewMem()))
				ln := directtest.NewPipes()
				stop := serveOn(t, ln, Handler(tl.Log))
				conn := ln.Dial()
				start := time.Now()
				if _, err := io.WriteString(conn, c.raw); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if held := tl.bodies.held(); held > largeBody {
					t.Errorf("%d bytes are held for what has not come", held)
				}
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				switch {
				case c.status == 0 && err == nil && res.StatusCode != 400:
					t.Errorf("answered with %s", res.Status)
				case c.status != 0 && (err != nil || res.StatusCode != c.status):
					t.Fatalf("%+v, %v", res, err)
				case c.status != 0:
					body, err := io.ReadAll(res.Body)
					if err != nil || res.Header.Get(codeHeader) != c.want && string(body) != c.want {
						t.Errorf("%v: %q, %v", res.Header, body, err)
					}
				}
				if took := time.Since(start); took < c.after || took > c.after+5*time.Second {
					t.Errorf("took %v, want %v", took, c.after)
				}
				conn.Close()
				stop()
				if held := tl.bodies.held(); held != 0 || tl.Size() != 0 {
					t.Errorf("%d bytes are held, %d entries", held, tl.Size())
				}
				tl.close()
			})
		})
	}
}

// TestBodyBudget: many slow uploads hold no more memory than is allowed. Those
// beyond are refused, small entries pass for longer, and all of it is given
// back.
func TestBodyBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions(vfs.NewMem())
		opts.BodyBytes = 1 << 20
		tl := newTestLog(t, opts)
		ln := directtest.NewPipes()
		stop := serveOn(t, ln, Handler(tl.Log))
		var slow []net.Conn
		codes := map[string]int{}
		for range 40 { // each wants a large buffer: its entry does not fit a small one
			conn := ln.Dial()
			go io.WriteString(conn, "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"+strings.Repeat("x", smallBody+1))
			slow = append(slow, conn)
		}
		synctest.Wait()
		if held := tl.bodies.held(); held > int64(opts.BodyBytes) || held < int64(opts.BodyBytes)/2 {
			t.Errorf("%d bytes are held", held)
		}
		conn := ln.Dial()
		go io.WriteString(conn, post("/add", "", "small"))
		if res, body := answerOn(t, conn); res.StatusCode != 200 || body != "0" {
			t.Errorf("small entry: %s %s", res.Status, body)
		}
		conn.Close()
		for _, conn := range slow { // they end at readTimeout, or have been refused
			res, _ := answerOn(t, conn)
			codes[res.Header.Get(codeHeader)]++
			conn.Close()
		}
		if codes["busy"] == 0 || codes["slow"] == 0 || codes["busy"]+codes["slow"] != 40 {
			t.Errorf("codes: %v", codes)
		}
		stop()
		if held := tl.bodies.held(); held != 0 {
			t.Errorf("%d bytes are held in the end", held)
		}
		tl.close()
	})
}

// TestRapidReset: requests that are reset as soon as they are made cost the log
// nothing that lasts, and others are served.
func TestRapidReset(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	dial := dialer(t, Handler(tl.Log))
	conn := dial()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, conn)
	framer := http2.NewFramer(conn, nil)
	err := framer.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/add"}, {":authority", "x"}} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	for i := uint32(0); i < 5000 && err == nil; i++ {
		id := 2*i + 1
		if err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}); err == nil {
			err = framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
	}
	var closed *net.OpError
	if err != nil && !errors.As(err, &closed) { // it may have had enough of us
		t.Fatal(err)
	}
	if res, body := exchange(t, dial(), post("/add", "", "honest")); res.StatusCode != 200 || body != "0" {
		t.Errorf("meanwhile: %s %s", res.Status, body)
	}
	conn.Close()
	eventually(t, "all memory is given back", func() bool { return tl.bodies.held() == 0 })
	if tl.Size() != 1 {
		t.Errorf("%d entries", tl.Size())
	}
}
