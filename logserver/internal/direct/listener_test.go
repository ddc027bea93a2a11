package direct

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/logserver/internal/direct/directtest"
)

// listen runs a listener, and tells what it passes on.
func listen(log Log) (l *Listener, dial func() net.Conn, passed chan net.Conn) {
	ln := directtest.NewPipes()
	l = NewListener(Limit(ln, 10, []byte(refusalText)), log, timeouts)
	passed = make(chan net.Conn)
	go l.Run()
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
	return l, ln.Dial, passed
}

// TestPasses: appends are answered without net/http, everything else is
// passed to it whole.
func TestPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, dial, passed := listen(newFakeLog())
		conn := dial()
		for i := range 3 {
			go io.WriteString(conn, post("/add", "Content-Type: application/octet-stream\r\n", "x"))
			if res, body := answerOn(t, conn); res.StatusCode != 200 || body != fmt.Sprint(i) {
				t.Errorf("%s %q", res.Status, body)
			}
		}
		// net/http answers this one only after it has waited for the rest.
		for _, c := range append(directtest.Unusual, directtest.Request{Name: "too long", Raw: "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\nx"}) {
			conn := dial()
			go io.WriteString(conn, c.Raw)
			got := make([]byte, len(c.Raw))
			to := <-passed
			if n, err := io.ReadFull(to, got); err != nil || string(got) != c.Raw {
				t.Errorf("%s: %q, %v", c.Name, got[:n], err)
			}
			to.Close()
			conn.Close()
		}
		l.Close()
		conn.Close()
		if err := l.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		<-passed
	})
}

// TestBlankLines: after an append up to four bytes of blank lines are left out of
// what is passed on, as net/http leaves them out after a POST, in whatever pieces
// they come.
func TestBlankLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, dial, passed := listen(newFakeLog())
		const get = "GET / HTTP/1.1\r\n\r\n"
		for _, c := range []struct {
			used   bool
			pieces []string
			want   string
		}{
			{true, []string{"\r\n\r\n" + get}, get},
			{true, []string{"\r\n" + get}, get},
			{true, []string{"\r\n\r", "\n" + get}, get},
			{true, []string{"\r", "\n", "\r", "\n", get}, get},
			{true, []string{"\n\n\n\n\n" + get}, "\n" + get},
			{true, []string{get + "\r\n" + get}, get + "\r\n" + get},
			{false, []string{"\r\n" + get}, "\r\n" + get},
		} {
			conn := dial()
			if c.used {
				go io.WriteString(conn, post("/add", "", "x"))
				answerOn(t, conn)
			}
			go func() {
				for _, piece := range c.pieces {
					io.WriteString(conn, piece)
				}
				conn.Close()
			}()
			to := <-passed
			if got, err := io.ReadAll(to); string(got) != c.want || err != nil {
				t.Errorf("%q: %q, %v", c.pieces, got, err)
			}
			to.Close()
		}
		l.Close()
		if err := l.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		<-passed
	})
}

// TestTime: a request that does not arrive whole is passed on after a
// moment, and silence ends the connection.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, dial, passed := listen(newFakeLog())
		start := time.Now()
		slow := dial()
		go io.WriteString(slow, "POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
		(<-passed).Close()
		if took := time.Since(start); took != grace {
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
				time.Sleep(grace / 5)
			}
		}()
		select {
		case to := <-passed:
			to.Close()
		case <-time.After(2 * grace):
			t.Error("a request that arrives byte by byte is not passed on")
		}
		if took := time.Since(start); took > grace {
			t.Errorf("passed on after %v", took)
		}
		dripping.Close()
		<-ended
		silent := dial()
		start = time.Now()
		if _, err := silent.Read(make([]byte, 1)); err != io.EOF || time.Since(start) != timeouts.Read {
			t.Errorf("a new connection ends after %v: %v", time.Since(start), err)
		}
		used := dial()
		go io.WriteString(used, post("/add", "", "x"))
		answerOn(t, used)
		start = time.Now()
		if _, err := used.Read(make([]byte, 1)); err != io.EOF || time.Since(start) < timeouts.Idle-deadlineSlack || time.Since(start) > timeouts.Idle {
			t.Errorf("an idle connection ends after %v: %v", time.Since(start), err)
		}
		// One that takes no answer is cut off, at the latest when the server stops.
		deaf := dial()
		io.WriteString(deaf, post("/add", "", "x"))
		synctest.Wait()
		l.Close()
		stop, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := l.Stop(stop); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stopped: %v", err)
		}
		<-passed
		if n := l.open.Load(); n != 0 {
			t.Errorf("%d connections are open", n)
		}
	})
}

// TestRefusals: what the log refuses is answered in its words, and what there is
// no room for is passed on.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		l, dial, passed := listen(log)
		refused := func(conn net.Conn) {
			t.Helper()
			go io.WriteString(conn, post("/add", "", "x"))
			res, body := answerOn(t, conn)
			if res.StatusCode != 503 || res.Header.Get(codeHeader) != refusedCode || res.Header.Get("Date") == "" || body != errNo.Error()+"\n" {
				t.Errorf("%s %v %q", res.Status, res.Header, body)
			}
		}
		conn := dial()
		log.fail(errNo)
		refused(conn)
		log.refuse(errNo)
		refused(conn)
		synctest.Wait() // they have left
		if n := log.left(refusedCode); n != 2 {
			t.Errorf("%d were refused, says the log", n)
		}
		log.free(0)
		go io.WriteString(conn, post("/add", "", "x"))
		(<-passed).Close()
		l.Close()
		if err := l.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the stop: %v", err)
		}
		<-passed
	})
}

// TestStopHung: who stops is not kept by a commit group that does not end. When it
// does after all, so do the connections.
func TestStopHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		log.hold = make(chan struct{})
		l, dial, passed := listen(log)
		conn := dial()
		go io.WriteString(conn, post("/add", "", "x"))
		synctest.Wait()
		l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if err := l.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute+cutGrace {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection: %v", err)
		}
		close(log.hold)
		l.conns.ended.Wait()
		if len(l.conns.open) != 0 {
			t.Errorf("%d connections are left", len(l.conns.open))
		}
		<-passed
	})
}

// TestStop: an append that is under way when the server stops is answered,
// and the answer says that the connection ends.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		log.hold = make(chan struct{})
		l, dial, passed := listen(log)
		conn := dial()
		go io.WriteString(conn, post("/add", "", "x"))
		synctest.Wait()
		l.Close()
		stopped := make(chan error)
		go func() { stopped <- l.Stop(context.Background()) }()
		synctest.Wait()
		close(log.hold)
		if res, body := answerOn(t, conn); res.StatusCode != 200 || body != "0" || !res.Close {
			t.Errorf("%s %v %q", res.Status, res.Header, body)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		<-passed
	})
}
