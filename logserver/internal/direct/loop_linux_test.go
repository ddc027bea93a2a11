package direct

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// loopTest is a listener on loopback, where loops take connections over.
type loopTest struct {
	*Listener
	t      *testing.T
	fake   *fakeLog
	passed chan net.Conn // to net/http
}

func newLoopTest(t *testing.T, log *fakeLog) *loopTest {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &loopTest{NewListener(Limit(ln, 1000, []byte(refusalText)), log, timeouts), t, log, make(chan net.Conn, 1000)}
	go l.Run()
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
	if err := l.Stop(context.Background()); err != nil {
		l.t.Error(err)
	}
	if n := l.open.Load(); n != int64(len(l.passed)) {
		l.t.Errorf("%d connections are open, %d were passed on", n, len(l.passed))
	}
	if held := l.fake.held(1000); held != 0 {
		l.t.Errorf("%d requests have not left", held)
	}
}

// TestLoopServes: many connections at once, each of which gets its own answers.
func TestLoopServes(t *testing.T) {
	l := newLoopTest(t, newFakeLog())
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
					if !bytes.HasPrefix(body, []byte("receipt of ")) {
						t.Errorf("a receipt begins with %q", body[:min(len(body), 40)])
					}
					continue
				}
				var index int
				if _, err := fmt.Sscan(string(body), &index); err != nil {
					t.Error(err)
					return
				}
				if e := l.fake.entry(index); e != entry {
					t.Errorf("at %d is %q, want %q", index, e, entry)
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
	log := newFakeLog()
	log.hold = make(chan struct{}, 10)
	l := newLoopTest(t, log)
	dial := func() (*net.TCPConn, *loopConn) {
		log.hold <- struct{}{}
		return l.dial()
	}
	end := func(what string, conn *net.TCPConn) {
		t.Helper()
		log.hold <- struct{}{}
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
	log.hold <- struct{}{}
	eventually(t, "all to be closed", func() bool { return l.open.Load() == 0 })
	l.end()
}

// TestLoopRefusals: what the log refuses is answered in its words, and what there
// is no room for is passed on.
func TestLoopRefusals(t *testing.T) {
	log := newFakeLog()
	l := newLoopTest(t, log)
	conn, c := l.dial()
	refused := func() {
		t.Helper()
		res, body := exchange(t, conn, post("/add", "", "x"))
		if res.StatusCode != 503 || res.Header.Get(codeHeader) != refusedCode || res.Header.Get("Date") == "" || body != errNo.Error()+"\n" {
			t.Errorf("%s %v %q", res.Status, res.Header, body)
		}
	}
	log.fail(errNo)
	refused()
	log.refuse(errNo)
	refused()
	if all := l.inLoops(); len(all) != 1 || all[0] != c {
		t.Error("a refusal ends the loop's part")
	}
	eventually(t, "the refused ones to have left", func() bool { return log.left(refusedCode) == 2 })
	log.free(0)
	io.WriteString(conn, post("/add", "", "x"))
	(<-l.passed).Close()
	log.free(1000)
	l.end()
}

// TestLoopSlowClient: a client that does not take an answer goes back to a
// goroutine, which waits for it; others are served meanwhile.
func TestLoopSlowClient(t *testing.T) {
	l := newLoopTest(t, newFakeLog())
	slow, c := l.dial()
	other, _ := l.dial()
	if !c.claim() {
		t.Fatal("the connection is not idle")
	}
	long := bytes.Repeat([]byte("answer"), 10<<20) // more than the kernel keeps
	l.fake.Enter()
	c.start = uptime()
	if c.loop.send(c, &answerer{log: l.fake, stopping: &l.stopping, out: long}, "") {
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
	l.fake.Enter()
	c.loop.send(c, &answerer{log: l.fake, stopping: &l.stopping, out: long}, "")
	l.Close()
	stopped := make(chan error)
	go func() { stopped <- l.Stop(context.Background()) }()
	if n, err := io.Copy(io.Discard, slow); n != int64(len(long)) || err != nil {
		t.Errorf("%d bytes of %d, %v", n, len(long), err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestLoopIdle: connections that have been silent for long are closed, others
// stay.
func TestLoopIdle(t *testing.T) {
	l := newLoopTest(t, newFakeLog())
	silent, c := l.dial()
	fresh, _ := l.dial()
	c.active.Store(int64(uptime() - timeouts.Idle - time.Second))
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
	log := newFakeLog()
	log.hold = make(chan struct{}, 10)
	l := newLoopTest(t, log)
	log.hold <- struct{}{}
	idle, _ := l.dial()
	log.hold <- struct{}{}
	busy, c := l.dial()
	io.WriteString(busy, post("/add", "", "x"))
	eventually(t, "the request to be in a group", func() bool { return c.state.Load() == loopBusy })
	l.Close()
	stopped := make(chan error)
	go func() { stopped <- l.Stop(context.Background()) }()
	if _, err := idle.Read(make([]byte, 1)); err != io.EOF {
		t.Error("idle:", err)
	}
	log.hold <- struct{}{}
	if res, body := answerOn(t, busy); res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("%s %v %q", res.Status, res.Header, body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if n := len(l.inLoops()); n != 0 || l.open.Load() != 0 {
		t.Errorf("%d are in loops, %d open", n, l.open.Load())
	}
}

// TestLoopStopHung: so it is when a commit group does not end, but who stops the
// server does not wait for that. The answer comes when the group does end.
func TestLoopStopHung(t *testing.T) {
	log := newFakeLog()
	log.hold = make(chan struct{}, 10)
	l := newLoopTest(t, log)
	log.hold <- struct{}{}
	busy, c := l.dial()
	io.WriteString(busy, post("/add", "", "x"))
	eventually(t, "the request to be in a group", func() bool { return c.state.Load() == loopBusy })
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Stop(ctx); err != context.Canceled {
		t.Error(err)
	}
	log.hold <- struct{}{}
	if res, body := answerOn(t, busy); res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("%s %v %q", res.Status, res.Header, body)
	}
	busy.Close()
	eventually(t, "the connections to end", func() bool { return l.open.Load() == 0 })
	eventually(t, "the loops to end", func() bool {
		l.loops.mu.Lock()
		defer l.loops.mu.Unlock()
		return l.loops.all == nil
	})
}

// TestStopUnread: a client that has sent more requests than were read when the
// server stops gets its last answer whole, that says that the connection ends,
// and then the end of the stream: no reset, which could have overtaken it. So it
// is in a loop and in a goroutine.
func TestStopUnread(t *testing.T) {
	for _, looped := range []bool{true, false} {
		log := newFakeLog()
		log.hold = make(chan struct{}, 10)
		l := newLoopTest(t, log)
		log.hold <- struct{}{}
		conn, c := l.dial()
		if looped {
			io.WriteString(conn, post("/add", "", "x"))
			eventually(t, "the request to be in a group", func() bool { return c.state.Load() == loopBusy })
		} else { // two at once are not for a loop
			io.WriteString(conn, post("/add", "", "x")+post("/add", "", "y"))
			eventually(t, "the connection to have left the loop", func() bool { return len(l.inLoops()) == 0 })
			eventually(t, "the request to wait", func() bool { return l.fake.size() > 1 })
		}
		if _, err := io.WriteString(conn, strings.Repeat(post("/add", "", "z"), 100)); err != nil {
			t.Fatal(err)
		}
		l.Close()
		stopped := make(chan error)
		go func() { stopped <- l.Stop(context.Background()) }()
		eventually(t, "the listener to stop", l.stopping.Load)
		for range 5 {
			log.hold <- struct{}{}
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
	}
}
