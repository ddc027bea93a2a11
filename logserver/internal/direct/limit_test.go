package direct

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/logserver/internal/direct/directtest"
)

// TestLimit: connections beyond the limit are told so, and room that
// is given back is used.
func TestLimit(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limited := Limit(ln, 2, []byte(refusalText))
	defer limited.Close()
	accepted := make(chan net.Conn)
	go func() {
		for {
			conn, err := limited.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	var served []net.Conn
	for range 2 {
		defer dial().Close()
		served = append(served, <-accepted)
	}
	for range 20 {
		conn := dial()
		res, body := exchange(t, conn, post("/add", "", "x"))
		if res.StatusCode != 503 || res.Header.Get(codeHeader) != "busy" {
			t.Fatalf("%s %v %s", res.Status, res.Header, body)
		}
		conn.Close()
	}
	served[0].Close()
	served[0].Close() // counts once
	defer dial().Close()
	served[0] = <-accepted
	if n := limited.open.Load(); n != 2 {
		t.Errorf("%d connections are open", n)
	}
	for _, conn := range served {
		conn.Close()
	}
	limited.Close()
	limited.Wait()
}

// TestRefusalArrives: who is refused and has sent more than was read gets the
// answer and the end of the stream, not a reset.
func TestRefusalArrives(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, post("/add", "", strings.Repeat("x", 10000))); err != nil {
		t.Fatal(err)
	}
	limited := Limit(ln, 0, []byte(refusalText))
	go limited.Accept()
	if got, err := io.ReadAll(conn); err != nil || string(got) != refusalText {
		t.Errorf("%q, %v", got, err)
	}
	conn.Close()
	limited.Close()
	limited.Wait()
}

// TestRefusalWaits: nobody is answered before having asked, for a while, and those
// who make everybody wait for that are not waited for.
func TestRefusalWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := directtest.NewPipes()
		limited := Limit(ln, 0, []byte(refusalText))
		go limited.Accept()
		refused := func(conn net.Conn, after time.Duration) {
			t.Helper()
			start := time.Now()
			if res, body := answerOn(t, conn); res.StatusCode != 503 || body != "busy" || time.Since(start) != after {
				t.Errorf("%s %q after %v, want %v", res.Status, body, time.Since(start), after)
			}
			conn.Close()
		}
		conn := ln.Dial()
		conn.SetReadDeadline(time.Now().Add(hearTimeout / 2))
		if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes come before a request, %v", n, err)
		}
		conn.SetReadDeadline(time.Time{})
		go io.WriteString(conn, post("/add", "", "x"))
		refused(conn, 0)
		refused(ln.Dial(), hearTimeout)
		synctest.Wait()
		var silent []net.Conn
		for range MaxRefusing {
			silent = append(silent, ln.Dial())
		}
		refused(ln.Dial(), 0)
		for _, conn := range silent {
			conn.Close()
		}
		limited.Close()
		limited.Wait()
		if limited.refusing.n != 0 || limited.beginRefusing() {
			t.Error("some are still being refused")
		}
	})
}
