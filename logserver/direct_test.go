package logserver

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/logserver/internal/direct/directtest"
)

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
// that net/http and the handler give without package direct.
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
	cases := []directtest.Request{
		{Name: "append", Raw: add}, {Name: "receipt", Raw: proof}, {Name: "pipeline", Raw: add + proof + add + add},
		{Name: "nothing", Raw: ""}, {Name: "blank lines between", Raw: add + "\r\n\r\n" + add}, {Name: "too many of them", Raw: add + "\r\n\r\n\r\n" + add},
	}
	for _, c := range directtest.Unusual {
		cases = append(cases, directtest.Request{Name: c.Name, Raw: c.Raw}, directtest.Request{Name: "append and " + c.Name, Raw: add + c.Raw}, directtest.Request{Name: c.Name + " and append", Raw: c.Raw + add})
	}
	for _, c := range cases {
		got, want := talk(t, dialOurs, c.Raw, 1<<20), talk(t, dialTheirs, c.Raw, 1<<20)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", c.Name, got, want)
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

// TestLoopAnswers: what comes on a connection that is in a loop is answered as
// net/http and the handler answer it.
func TestLoopAnswers(t *testing.T) {
	served := func(plain bool) func() net.Conn {
		h := Handler(newTestLog(t, testOptions(vfs.NewMem())).Log)
		if plain { // Serve does not recognize it
			h = http.HandlerFunc(h.ServeHTTP)
		}
		return dialer(t, h)
	}
	dialOurs, dialTheirs := served(false), served(true)
	used := func(dial func() net.Conn) func() net.Conn {
		return func() net.Conn {
			conn := dial()
			for range 3 {
				if res, body := exchange(t, conn, post("/add", "", "before")); res.StatusCode != http.StatusOK {
					t.Fatal(res.Status, body)
				}
			}
			return conn
		}
	}
	add, proof := post("/add", "", "entry"), post("/add?proof=receipt", "accept: */*\r\nUser-Agent: x\r\n", "entry")
	cases := []directtest.Request{
		{Name: "append", Raw: add}, {Name: "receipt", Raw: proof}, {Name: "pipeline", Raw: add + proof + add + add}, {Name: "nothing", Raw: ""},
		{Name: "blank lines between", Raw: add + "\r\n\r\n" + add}, {Name: "too many of them", Raw: add + "\r\n\r\n\r\n" + add},
		{Name: "exactly the buffer", Raw: post("/add", "", strings.Repeat("x", 4<<10-len(post("/add", "", ""))-3))},
	}
	for _, c := range directtest.Unusual {
		cases = append(cases, directtest.Request{Name: c.Name, Raw: c.Raw}, directtest.Request{Name: c.Name + " and append", Raw: c.Raw + add})
	}
	for _, c := range cases {
		for _, piece := range []int{1 << 20, len(c.Raw)/2 + 1, len(c.Raw) + 1} {
			got, want := talk(t, used(dialOurs), c.Raw, piece), talk(t, used(dialTheirs), c.Raw, piece)
			if !slices.Equal(got, want) {
				t.Errorf("%s, by %d bytes:\n got %q\nwant %q", c.Name, piece, got, want)
			}
		}
	}
}

// TestDirectRefusals: what the log refuses is answered and counted as the handler
// does it, and what a budget does not allow is left to net/http to say.
func TestDirectRefusals(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.BodyBytes = smallBody
	opts.ReceiptKey = nil
	tl := newTestLog(t, opts)
	dial := dialer(t, Handler(tl.Log))
	conn := dial()
	refused := func(path, code string, status int) {
		t.Helper()
		res, body := exchange(t, conn, post(path, "", "x"))
		if res.StatusCode != status || res.Header.Get(codeHeader) != code || res.Header.Get("Date") == "" || !strings.HasSuffix(body, "\n") {
			t.Errorf("%s %v %q", res.Status, res.Header, body)
		}
		eventually(t, "the request to be counted and over", func() bool { return tl.bodies.held() == 0 })
	}
	refused("/add?proof=receipt", "no_receipts", 501)
	refused("/add?proof=receipt", "no_receipts", 501)
	if !tl.bodies.take(1, 0) {
		t.Fatal("nothing is free")
	}
	if res, _ := exchange(t, conn, post("/add", "", "x")); res.StatusCode != 503 || res.Header.Get(codeHeader) != "busy" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	tl.bodies.give(1)
	conn = dial()
	tl.fail(errors.New("the disk says no"))
	refused("/add", "reload", 503)
	refused("/add", "reload", 503)
	for code, want := range map[string]float64{"no_receipts": 2, "busy": 1, "reload": 2} {
		if n := counted(t, tl.metrics.requests.WithLabelValues("add", code)); n != want {
			t.Errorf("%v requests were %s, want %v", n, code, want)
		}
	}
}
