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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// loopTest is a listener with the direct path alone, on loopback, where loops
// take connections over.
type loopTest struct {
	*directListener
	t      *testing.T
	tl     *testLog
	passed chan net.Conn // to net/http
}

func newLoopTest(t *testing.T, opts Options) *loopTest {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tl := newTestLog(t, opts)
	l := &loopTest{newDirectListener(limitConnections(ln, 1000), Handler(tl.Log).(*handler)), t, tl, make(chan net.Conn, 1000)}
	go l.run()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			l.passed <- conn
		}
	}()
	return l
}

// dial connects and has one append answered, so that the connection comes into a
// loop.
func (l *loopTest) dial() (*net.TCPConn, *loopConn) {
	l.t.Helper()
	known := l.inLoops()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	if res, body := exchange(l.t, conn, post("/add", "", "first")); res.StatusCode != http.StatusOK {
		l.t.Fatal(res.Status, body)
	}
	var c *loopConn
	eventually(l.t, "the connection to be in a loop", func() bool {
		for _, c = range l.inLoops() {
			if !slices.Contains(known, c) && c.state.Load() == loopIdle {
				return true
			}
		}
		return false
	})
	return conn.(*net.TCPConn), c
}

// inLoops are the connections that loops have.
func (l *loopTest) inLoops() (all []*loopConn) {
	l.loops.mu.Lock()
	defer l.loops.mu.Unlock()
	for _, p := range l.loops.all {
		p.conns.Lock()
		for _, c := range p.conns.byID {
			all = append(all, c)
		}
		p.conns.Unlock()
	}
	return all
}

// end stops the listener: nothing may be left.
func (l *loopTest) end() {
	l.t.Helper()
	l.Close()
	if err := l.stop(context.Background()); err != nil {
		l.t.Error(err)
	}
	if n := l.open.Load(); n != int64(len(l.passed)) {
		l.t.Errorf("%d connections are open, %d were passed on", n, len(l.passed))
	}
	if held := l.tl.bodies.held(); held != 0 {
		l.t.Errorf("%d bytes are held", held)
	}
	l.tl.close()
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
	cases := []request{
		{"append", add}, {"receipt", proof}, {"pipeline", add + proof + add + add}, {"nothing", ""},
		{"blank lines between", add + "\r\n\r\n" + add}, {"too many of them", add + "\r\n\r\n\r\n" + add},
		{"exactly the buffer", post("/add", "", strings.Repeat("x", directBuffer-len(post("/add", "", ""))-3))},
	}
	for _, c := range unusual {
		cases = append(cases, request{c.name, c.raw}, request{c.name + " and append", c.raw + add})
	}
	for _, c := range cases {
		for _, piece := range []int{1 << 20, len(c.raw)/2 + 1, len(c.raw) + 1} {
			got, want := talk(t, used(dialOurs), c.raw, piece), talk(t, used(dialTheirs), c.raw, piece)
			if !slices.Equal(got, want) {
				t.Errorf("%s, by %d bytes:\n got %q\nwant %q", c.name, piece, got, want)
			}
		}
	}
}

// TestLoopServes: many connections at once, each of which gets its own answers.
func TestLoopServes(t *testing.T) {
	l := newLoopTest(t, testOptions(vfs.NewMem()))
	var clients sync.WaitGroup
	for client := range 50 {
		conn, _ := l.dial()
		clients.Go(func() {
			in := bufio.NewReader(conn)
			for i := range 40 {
				path := "/add"
				if i%7 == 0 {
					path = "/add?proof=receipt"
				}
				entry := fmt.Sprintf("client %d, entry %d", client, i)
				io.WriteString(conn, post(path, "", entry))
				res, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != http.StatusOK {
					t.Error(res.Status, err)
					return
				}
				if path != "/add" {
					if !bytes.HasPrefix(body, []byte("c2sp.org/tlog-proof@v1\n")) {
						t.Errorf("a receipt begins with %q", body[:min(len(body), 40)])
					}
					continue
				}
				var index int64
				if _, err := fmt.Sscan(string(body), &index); err != nil {
					t.Error(err)
					return
				}
				if e, err := l.tl.EntryAt(index); err != nil || string(e) != entry {
					t.Errorf("at %d is %q, %v; want %q", index, e, err, entry)
				}
			}
		})
	}
	clients.Wait()
	if n := len(l.inLoops()); n != 50 {
		t.Errorf("%d connections are in loops", n)
	}
	if len(l.passed) > 0 {
		t.Error("some were passed on")
	}
	l.end()
}

// TestLoopHalves: a client that sends no more gets its answers before the
// connection ends, whenever it says so.
func TestLoopHalves(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	hold := make(chan struct{}, 10)
	opts.durable = func() error { <-hold; return nil }
	l := newLoopTest(t, opts)
	dial := func() (*net.TCPConn, *loopConn) {
		hold <- struct{}{}
		return l.dial()
	}
	end := func(what string, conn *net.TCPConn) {
		t.Helper()
		hold <- struct{}{}
		if res, body := answerOn(t, conn); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %q", what, res.Status, body)
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: %v after the answer", what, err)
		}
	}
	conn, _ := dial()
	io.WriteString(conn, post("/add", "", "x"))
	conn.CloseWrite()
	end("at once", conn)

	conn, c := dial()
	io.WriteString(conn, post("/add", "", "x"))
	eventually(t, "the request to be in a group", func() bool { return c.state.Load() == loopBusy })
	conn.CloseWrite()
	eventually(t, "the end to be noticed", func() bool { return c.hungUp.Load() })
	end("while it waits", conn)

	conn, _ = dial()
	conn.CloseWrite()
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("without a request: %v", err)
	}

	// One that is gone altogether.
	conn, c = dial()
	io.WriteString(conn, post("/add", "", "x"))
	eventually(t, "the request to be in a group", func() bool { return c.state.Load() == loopBusy })
	conn.SetLinger(0)
	conn.Close()
	eventually(t, "the end to be noticed", func() bool { return c.hungUp.Load() })
	hold <- struct{}{}
	eventually(t, "all to be closed", func() bool { return l.open.Load() == 0 })
	l.end()
}

// TestLoopRefusals: the log's refusals are the handler's, and what a budget does
// not allow is left to net/http to say.
func TestLoopRefusals(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.BodyBytes = smallBody
	opts.ReceiptKey = nil
	l := newLoopTest(t, opts)
	conn, c := l.dial()
	refused := func(path, code string, status int) {
		t.Helper()
		res, body := exchange(t, conn, post(path, "", "x"))
		if res.StatusCode != status || res.Header.Get(codeHeader) != code || res.Header.Get("Date") == "" || !strings.HasSuffix(body, "\n") {
			t.Errorf("%s %v %q", res.Status, res.Header, body)
		}
	}
	refused("/add?proof=receipt", "no_receipts", 501)
	l.tl.bodies.take(1, 0)
	full, _ := net.Dial("tcp", l.Addr().String())
	defer full.Close()
	io.WriteString(full, post("/add", "", "x"))
	(<-l.passed).Close()
	l.tl.bodies.give(1)
	if all := l.inLoops(); len(all) != 1 || all[0] != c {
		t.Error("a refusal ends the loop's part")
	}
	eventually(t, "the refused one to be done", func() bool { return c.state.Load() == loopIdle })
	l.tl.bodies.take(1, 0)
	io.WriteString(conn, post("/add", "", "x")) // no room for it
	(<-l.passed).Close()
	l.tl.bodies.give(1)
	conn, _ = l.dial()
	l.tl.fail(errors.New("the disk says no"))
	refused("/add", "reload", 503)
	refused("/add", "reload", 503)
	l.end()
}

// TestLoopSlowClient: a client that does not take an answer goes back to a
// goroutine, which waits for it; others are served meanwhile.
func TestLoopSlowClient(t *testing.T) {
	l := newLoopTest(t, testOptions(vfs.NewMem()))
	slow, c := l.dial()
	other, _ := l.dial()
	if !c.claim() {
		t.Fatal("the connection is not idle")
	}
	long := bytes.Repeat([]byte("answer"), 10<<20) // more than the kernel keeps
	l.tl.bodies.take(smallBody, 0)
	c.start = uptime()
	if c.loop.send(c, &answerer{h: l.h, stopping: &l.stopping, out: long}, codeOK) {
		t.Fatal("the kernel took all of it")
	}
	if slices.Contains(l.inLoops(), c) {
		t.Error("the loop still has it")
	}
	if res, body := exchange(t, other, post("/add", "", "x")); res.StatusCode != http.StatusOK {
		t.Error(res.Status, body)
	}
	got := make([]byte, len(long))
	if _, err := io.ReadFull(slow, got); err != nil || !bytes.Equal(got, long) {
		t.Errorf("the answer is not what was sent: %v", err)
	}
	if res, body := exchange(t, slow, post("/add", "", "x")); res.StatusCode != http.StatusOK {
		t.Error("when it has caught up:", res.Status, body)
	}
	// A server that stops waits for it too.
	slow, c = l.dial()
	if !c.claim() {
		t.Fatal("the connection is not idle")
	}
	l.tl.bodies.take(smallBody, 0)
	c.loop.send(c, &answerer{h: l.h, stopping: &l.stopping, out: long}, codeOK)
	l.Close()
	stopped := make(chan error)
	go func() { stopped <- l.stop(context.Background()) }()
	if n, err := io.Copy(io.Discard, slow); n != int64(len(long)) || err != nil {
		t.Errorf("%d bytes of %d, %v", n, len(long), err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	l.tl.close()
}

// TestLoopIdle: connections that have been silent for long are closed, others
// stay.
func TestLoopIdle(t *testing.T) {
	l := newLoopTest(t, testOptions(vfs.NewMem()))
	silent, c := l.dial()
	fresh, _ := l.dial()
	c.active.Store(int64(uptime() - idleTimeout - time.Second))
	if _, err := silent.Read(make([]byte, 1)); err != io.EOF {
		t.Error("the silent one:", err)
	}
	if res, body := exchange(t, fresh, post("/add", "", "x")); res.StatusCode != http.StatusOK {
		t.Error("the other:", res.Status, body)
	}
	l.end()
}

// TestLoopStop: idle connections end when the server stops, an append that is
// under way is answered, and the answer says that the connection ends.
func TestLoopStop(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	hold := make(chan struct{}, 10)
	opts.durable = func() error { <-hold; return nil }
	l := newLoopTest(t, opts)
	hold <- struct{}{}
	idle, _ := l.dial()
	hold <- struct{}{}
	busy, c := l.dial()
	io.WriteString(busy, post("/add", "", "x"))
	eventually(t, "the request to be in a group", func() bool { return c.state.Load() == loopBusy })
	l.Close()
	stopped := make(chan error)
	go func() { stopped <- l.stop(context.Background()) }()
	if _, err := idle.Read(make([]byte, 1)); err != io.EOF {
		t.Error("idle:", err)
	}
	hold <- struct{}{}
	if res, body := answerOn(t, busy); res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("%s %v %q", res.Status, res.Header, body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if n := len(l.inLoops()); n != 0 || l.open.Load() != 0 {
		t.Errorf("%d are in loops, %d open", n, l.open.Load())
	}
	l.tl.close()
}

// TestStopUnread: a client that has sent more requests than were read when the
// server stops gets its last answer whole, that says that the connection ends,
// and then the end of the stream: no reset, which could have overtaken it. So it
// is in a loop and in a goroutine.
func TestStopUnread(t *testing.T) {
	for _, looped := range []bool{true, false} {
		opts := testOptions(vfs.NewMem())
		hold := make(chan struct{}, 10)
		opts.durable = func() error { <-hold; return nil }
		l := newLoopTest(t, opts)
		hold <- struct{}{}
		conn, c := l.dial()
		if looped {
			io.WriteString(conn, post("/add", "", "x"))
			eventually(t, "the request to be in a group", func() bool { return c.state.Load() == loopBusy })
		} else { // two at once are not for a loop
			io.WriteString(conn, post("/add", "", "x")+post("/add", "", "y"))
			eventually(t, "the connection to have left the loop", func() bool { return len(l.inLoops()) == 0 })
			eventually(t, "the request to wait", func() bool { entries, _ := l.tl.queue.fill(); return entries > 0 || l.tl.applied.Load() > 1 })
		}
		if _, err := io.WriteString(conn, strings.Repeat(post("/add", "", "z"), 100)); err != nil {
			t.Fatal(err)
		}
		l.Close()
		stopped := make(chan error)
		go func() { stopped <- l.stop(context.Background()) }()
		eventually(t, "the listener to stop", l.stopping.Load)
		for range 5 {
			hold <- struct{}{}
		}
		r := bufio.NewReader(conn)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "1" || !res.Close {
			t.Errorf("looped %v: %s %v %q, %v", looped, res.Status, res.Header, body, err)
		}
		if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
			t.Errorf("looped %v: after the answer: %q, %v", looped, b, err)
		}
		conn.Close()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if n := l.open.Load(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
		l.tl.close()
	}
}
