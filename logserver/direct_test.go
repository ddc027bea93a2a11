package logserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FuzzParseAdd: what the direct path takes for an append is the same request to
// net/http, with the same body, ending at the same byte, and with nothing in it
// that the handler would look at.
func FuzzParseAdd(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		r, u := parseAdd(in)
		if u != complete {
			return
		}
		for n := range min(len(in), r.size) { // what is ours is perhaps ours before
			if _, u := parseAdd(in[:n]); u != partial {
				t.Fatalf("after %d of %d bytes: %v", n, r.size, u)
			}
		}
		left := bufio.NewReader(bytes.NewReader(in))
		req, err := http.ReadRequest(left)
		if err != nil {
			t.Fatalf("net/http refuses it: %v", err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil || !bytes.Equal(body, r.body) || req.ContentLength != int64(len(r.body)) {
			t.Fatalf("net/http reads the body %q, %v; want %q", body, err, r.body)
		}
		form, err := (&handler{log: &Log{receipt: new(receiptSigner)}}).formOf(req)
		if err != nil || form != r.form || req.URL.Path != "/add" || req.URL.RawPath != "" || req.Method != "POST" {
			t.Fatalf("form %v, net/http %s %q: %v, %v", r.form, req.Method, req.URL, form, err)
		}
		if req.Proto != "HTTP/1.1" || req.Close || len(req.TransferEncoding)+len(req.Trailer) > 0 || req.Host == "" {
			t.Fatalf("net/http: %+v", req)
		}
		for _, name := range []string{idempotencyHeader, "Content-Encoding", "Expect", "Connection", "Upgrade", "Te"} {
			if req.Header[name] != nil {
				t.Fatalf("header %s is passed over", name)
			}
		}
		rest, err := io.ReadAll(left)
		if err != nil || !bytes.Equal(rest, in[r.size:]) {
			t.Fatalf("net/http goes on with %q, %v; want %q", rest, err, in[r.size:])
		}
	})
}

// request is what a client sends.
type request struct{ name, raw string }

// unusual are requests that net/http answers, because they are not appends, or
// not spelled as the direct path knows them, or wrong, or meant to be taken for
// two requests by one reader and for one by another.
var unusual = []request{
	{"read", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"},
	{"head", "HEAD /add HTTP/1.1\r\nHost: x\r\n\r\n"},
	{"batch", post("/add-batch", "", "\x00\x01a")},
	{"witnessed", post("/add?proof=witnessed", "", "x")},
	{"unknown query", post("/add?proof=receipt&", "", "x")},
	{"escaped path", post("/%61dd", "", "x")},
	{"absolute target", post("http://x/add", "", "x")},
	{"idempotency key", post("/add", "Idempotency-Key: k\r\n", "x")},
	{"encoded", post("/add", "Content-Encoding: gzip\r\n", "x")},
	{"unknown header", post("/add", "X-Forwarded-For: 192.0.2.1\r\n", "x")},
	{"connection ends", post("/add", "Connection: close\r\n", "x")},
	{"expectation", post("/add", "Expect: 100-continue\r\n", "x")},
	{"unknown expectation", post("/add", "Expect: miracles\r\n", "x")},
	{"upgrade", post("/add", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "x")},
	{"empty", post("/add", "", "")},
	{"no length", "POST /add HTTP/1.1\r\nHost: x\r\n\r\n"},
	{"length and chunks", post("/add", "Transfer-Encoding: chunked\r\n", "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")},
	{"chunks", "POST /add HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"},
	{"hidden chunks", post("/add", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n")},
	{"two lengths", post("/add", "Content-Length: 3\r\n", "x")},
	{"the same length twice", post("/add", "Content-Length: 1\r\n", "x")},
	{"list of lengths", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\nx"},
	{"signed length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx"},
	{"padded length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 01\r\n\r\nx"},
	{"hexadecimal length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\nx"},
	{"absurd length", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551617\r\n\r\nx"},
	{"folded header", "POST /add HTTP/1.1\r\nHost: x\r\nAccept: a\r\n Content-Length: 9\r\nContent-Length: 1\r\n\r\nx"},
	{"bare line feeds", "POST /add HTTP/1.1\nHost: x\nContent-Length: 1\n\nx"},
	{"carriage return in a value", post("/add", "Accept: a\rContent-Length: 9\r\n", "x")},
	{"control character", post("/add", "Accept: \x00\r\n", "x")},
	{"bytes that are not ASCII", post("/add", "Accept: \xff\r\n", "x")},
	{"no name", post("/add", ": x\r\n", "x")},
	{"no colon", post("/add", "Accept\r\n", "x")},
	{"blank before the colon", post("/add", "Accept : x\r\n", "x")},
	{"no host", "POST /add HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"},
	{"two hosts", post("/add", "Host: y\r\n", "x")},
	{"strange host", "POST /add HTTP/1.1\r\nHost: a/b\r\nContent-Length: 1\r\n\r\nx"},
	{"older version", "POST /add HTTP/1.0\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"},
	{"later version", "POST /add HTTP/1.2\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"},
	{"method in lower case", "post /add HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"},
	{"blank line first", "\r\n" + post("/add", "", "x")},
	{"large head", post("/add", "Accept: "+strings.Repeat("a", directBuffer)+"\r\n", "x")},
	{"too large a head", post("/add", "Accept: "+strings.Repeat("a", 2*maxHeaderBytes)+"\r\n", "x")},
	{"large entry", post("/add", "", strings.Repeat("x", directBuffer))},
	{"largest entry", post("/add", "", strings.Repeat("x", MaxEntrySize))},
	{"garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
}

// talk sends raw bytes, in pieces of a size, with a last request that ends the
// connection, and returns the lines of all answers in alphabetical order, without
// what differs from time to time.
func talk(t *testing.T, dial func() net.Conn, raw string, piece int) []string {
	t.Helper()
	conn := dial()
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		all := raw + "GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
		for part := range slices.Chunk([]byte(all), piece) {
			if _, err := conn.Write(part); err != nil {
				return // the server has had enough
			}
		}
	}()
	answers, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q: no end after %q", raw[:min(len(raw), 200)], answers)
	}
	var lines []string
	for line := range strings.Lines(string(answers)) {
		if !strings.HasPrefix(line, "Date: ") && !strings.HasPrefix(line, "\u2014 ") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// TestDirectAnswers: whatever is sent, in whatever pieces, the answers are those
// that net/http and the handler give without the direct path.
func TestDirectAnswers(t *testing.T) {
	served := func(plain bool) (*testLog, func() net.Conn) {
		tl := newTestLog(t, testOptions(vfs.NewMem()))
		h := Handler(tl.Log)
		if plain { // Serve does not recognize it
			h = http.HandlerFunc(h.ServeHTTP)
		}
		return tl, dialer(t, h)
	}
	ours, dialOurs := served(false)
	theirs, dialTheirs := served(true)
	add, proof := post("/add", "", "entry"), post("/add?proof=receipt", "accept: */*\r\nUser-Agent: x\r\n", "entry")
	cases := []request{
		{"append", add}, {"receipt", proof}, {"pipeline", add + proof + add + add},
		{"nothing", ""}, {"blank lines between", add + "\r\n\r\n" + add}, {"too many of them", add + "\r\n\r\n\r\n" + add},
	}
	for _, c := range unusual {
		cases = append(cases, request{c.name, c.raw}, request{"append and " + c.name, add + c.raw}, request{c.name + " and append", c.raw + add})
	}
	for _, c := range cases {
		got, want := talk(t, dialOurs, c.raw, 1<<20), talk(t, dialTheirs, c.raw, 1<<20)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, want)
		}
	}
	if got, want := talk(t, dialOurs, add+proof+add, 1), talk(t, dialTheirs, add+proof+add, 1); !slices.Equal(got, want) {
		t.Errorf("byte for byte:\n got %q\nwant %q", got, want)
	}
	if ours.Size() != theirs.Size() {
		t.Errorf("%d entries, want %d", ours.Size(), theirs.Size())
	}
	if held := ours.bodies.held(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
}

// directOn runs only the direct path, and tells what it passes on.
func directOn(t *testing.T, tl *testLog) (l *directListener, dial func() net.Conn, passed chan net.Conn) {
	t.Helper()
	ln := newPipeListener()
	l = newDirectListener(limitConnections(ln, 10), Handler(tl.Log).(*handler))
	passed = make(chan net.Conn)
	go l.run()
	go func() {
		defer close(passed)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			passed <- conn
		}
	}()
	return l, ln.dial, passed
}

// TestDirectPasses: appends are answered without net/http, everything else is
// passed to it whole.
func TestDirectPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := newTestLog(t, testOptions(vfs.NewMem()))
		l, dial, passed := directOn(t, tl)
		conn := dial()
		for i := range 3 {
			go io.WriteString(conn, post("/add", "Content-Type: application/octet-stream\r\n", "x"))
			if res, body := answerOn(t, conn); res.StatusCode != 200 || body != fmt.Sprint(i) {
				t.Errorf("%s %q", res.Status, body)
			}
		}
		// net/http answers this one only after it has waited for the rest.
		for _, c := range append(unusual, request{"too long", "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\nx"}) {
			conn := dial()
			go io.WriteString(conn, c.raw)
			got := make([]byte, len(c.raw))
			to := <-passed
			if n, err := io.ReadFull(to, got); err != nil || string(got) != c.raw {
				t.Errorf("%s: %q, %v", c.name, got[:n], err)
			}
			to.Close()
			conn.Close()
		}
		l.Close()
		conn.Close()
		if err := l.stop(context.Background()); err != nil {
			t.Error(err)
		}
		<-passed
		tl.close()
	})
}

// TestDirectTime: a request that does not arrive whole is passed on after a
// moment, and silence ends the connection.
func TestDirectTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := newTestLog(t, testOptions(vfs.NewMem()))
		l, dial, passed := directOn(t, tl)
		start := time.Now()
		slow := dial()
		go io.WriteString(slow, "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
		(<-passed).Close()
		if took := time.Since(start); took != directGrace {
			t.Errorf("passed on after %v", took)
		}
		// Nor does a byte now and then keep it here.
		dripping, ended := dial(), make(chan struct{})
		start = time.Now()
		go func() {
			defer close(ended)
			for b := range slices.Chunk([]byte(post("/add", "", strings.Repeat("x", 100))), 1) {
				if _, err := dripping.Write(b); err != nil {
					return
				}
				time.Sleep(directGrace / 5)
			}
		}()
		select {
		case to := <-passed:
			to.Close()
		case <-time.After(2 * directGrace):
			t.Error("a request that arrives byte by byte is not passed on")
		}
		if took := time.Since(start); took > directGrace {
			t.Errorf("passed on after %v", took)
		}
		dripping.Close()
		<-ended
		silent := dial()
		start = time.Now()
		if _, err := silent.Read(make([]byte, 1)); err != io.EOF || time.Since(start) != readTimeout {
			t.Errorf("a new connection ends after %v: %v", time.Since(start), err)
		}
		used := dial()
		go io.WriteString(used, post("/add", "", "x"))
		answerOn(t, used)
		start = time.Now()
		if _, err := used.Read(make([]byte, 1)); err != io.EOF || time.Since(start) < idleTimeout-deadlineSlack || time.Since(start) > idleTimeout {
			t.Errorf("an idle connection ends after %v: %v", time.Since(start), err)
		}
		// One that takes no answer is cut off, at the latest when the server stops.
		deaf := dial()
		io.WriteString(deaf, post("/add", "", "x"))
		synctest.Wait()
		l.Close()
		stop, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := l.stop(stop); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stopped: %v", err)
		}
		<-passed
		if n := l.open.Load(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
		tl.close()
	})
}

// TestDirectRefusals: the log's refusals are the handler's, and what a budget
// does not allow is left to net/http to say.
func TestDirectRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions(vfs.NewMem())
		opts.BodyBytes = smallBody
		opts.ReceiptKey = nil
		tl := newTestLog(t, opts)
		l, dial, passed := directOn(t, tl)
		ask := func(conn net.Conn, path, code string, status int) {
			t.Helper()
			go io.WriteString(conn, post(path, "", "x"))
			res, body := answerOn(t, conn)
			if res.StatusCode != status || res.Header.Get(codeHeader) != code || res.Header.Get("Date") == "" || !strings.HasSuffix(body, "\n") {
				t.Errorf("%s %v %q", res.Status, res.Header, body)
			}
		}
		conn := dial()
		ask(conn, "/add?proof=receipt", "no_receipts", 501)
		synctest.Wait() // it gives back what it held
		if !tl.bodies.take(1, 0) {
			t.Fatal("nothing is free")
		}
		full := dial()
		go io.WriteString(full, post("/add", "", "x"))
		(<-passed).Close()
		tl.bodies.give(1)
		tl.fail(errors.New("the disk says no"))
		ask(conn, "/add", "reload", 503)
		ask(conn, "/add", "reload", 503)
		l.Close()
		if err := l.stop(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the stop: %v", err)
		}
		<-passed
		tl.close()
	})
}

// TestDirectStop: an append that is under way when the server stops is answered,
// and the answer says that the connection ends.
func TestDirectStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions(vfs.NewMem())
		hold := make(chan struct{})
		opts.durable = func() error { <-hold; return nil }
		tl := newTestLog(t, opts)
		l, dial, passed := directOn(t, tl)
		conn := dial()
		go io.WriteString(conn, post("/add", "", "x"))
		synctest.Wait()
		l.Close()
		stopped := make(chan error)
		go func() { stopped <- l.stop(context.Background()) }()
		synctest.Wait()
		close(hold)
		if res, body := answerOn(t, conn); res.StatusCode != 200 || body != "0" || !res.Close {
			t.Errorf("%s %v %q", res.Status, res.Header, body)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		<-passed
		tl.close()
	})
}
