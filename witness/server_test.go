package witness

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestServeFinishesRequests: shutting down lets a request that has begun finish
// and takes no new ones.
func TestServeFinishesRequests(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 9)
	f := newFixture(t, newMemDisk())
	ctx, stop := context.WithCancel(t.Context())
	f.beforeSwap = func(checkpoint.Checkpoint) { stop() }

	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	done := make(chan error)
	go func() { done <- (Server{Handler: f.Handler(), Logger: slog.New(slog.DiscardHandler)}).Serve(ctx, ln) }()
	resp := must(http.Post("http://"+ln.Addr().String()+"/add-checkpoint", "", strings.NewReader(string(l.request(0, 9)))))
	if status, _, body := f.read(resp); status != 200 {
		t.Errorf("status %d: %s", status, body)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		conn.Close()
		t.Error("still listening")
	}
}

func TestServeReportsListenerErrors(t *testing.T) {
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	ln.Close()
	if err := (Server{Handler: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler)}).Serve(t.Context(), ln); err == nil {
		t.Error("no error")
	}
}

// TestCutOffBody: a client that goes away within its body gets no answer and
// changes nothing.
func TestCutOffBody(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 9)
	f := newFixture(t, newMemDisk())
	conn := must(net.Dial("tcp", strings.TrimPrefix(f.url, "http://")))
	defer conn.Close()
	body := l.request(0, 9)
	fmt.Fprintf(conn, "POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body)+1, body)
	conn.(*net.TCPConn).CloseWrite()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, answer := f.read(resp); status != 400 {
		t.Errorf("status %d: %s", status, answer)
	}
	if size := f.size(testOrigin); size != 0 {
		t.Errorf("head of size %d", size)
	}
}
