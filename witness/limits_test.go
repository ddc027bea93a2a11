package witness

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are in memory, so that time can be the
// test's own.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// TestTimeLimits: every way to keep a connection busy without a request ends, and
// not before its time. Nothing here waits for real time.
func TestTimeLimits(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 9)
	body := l.request(0, 9)
	head := fmt.Sprintf("POST /ed25519/add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(body))
	write := func(t *testing.T, c net.Conn, s string) {
		if _, err := io.WriteString(c, s); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		limit time.Duration
		begin func(t *testing.T, c net.Conn, in *bufio.Reader)
	}{
		"nothing sent":  {readHeaderTimeout, func(*testing.T, net.Conn, *bufio.Reader) {}},
		"half a header": {readHeaderTimeout, func(t *testing.T, c net.Conn, _ *bufio.Reader) { write(t, c, head[:40]) }},
		"half a body":   {readTimeout, func(t *testing.T, c net.Conn, _ *bufio.Reader) { write(t, c, head+string(body[:40])) }},
		"idle afterwards": {idleTimeout, func(t *testing.T, c net.Conn, in *bufio.Reader) {
			write(t, c, head+string(body))
			resp, err := http.ReadResponse(in, nil)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%v, %v", resp, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
		}},
		"answer not read": {writeTimeout, func(t *testing.T, c net.Conn, _ *bufio.Reader) { write(t, c, head+string(body)) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newQuietWitness(t, newMemDisk())
				defer w.Close()
				ln := pipes{make(chan net.Conn), make(chan struct{})}
				ctx, stop := context.WithCancel(t.Context())
				served := make(chan error)
				go func() {
					served <- Server{Handler: w.Handler(), Logger: slog.New(slog.DiscardHandler)}.Serve(ctx, ln)
				}()
				conn := ln.dial()
				in := bufio.NewReader(conn)
				test.begin(t, conn, in)
				start := time.Now()
				if name == "answer not read" {
					time.Sleep(writeTimeout + time.Second) // of the bubble
				}
				io.Copy(io.Discard, in) // ends when the server hangs up
				if took := time.Since(start); took < test.limit || took > test.limit+2*time.Second {
					t.Errorf("hung up after %v, the limit is %v", took, test.limit)
				}
				stop()
				if err := <-served; err != nil {
					t.Error(err)
				}
				conn.Close()
			})
		})
	}
}

// TestHeaderFlood: a header without end is refused at its bound.
func TestHeaderFlood(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	w := newQuietWitness(t, newMemDisk())
	defer w.Close()
	done := make(chan error)
	go func() { done <- Server{Handler: w.Handler(), Logger: slog.New(slog.DiscardHandler)}.Serve(ctx, ln) }()
	conn := must(net.Dial("tcp", ln.Addr().String()))
	defer conn.Close()
	go func() {
		io.WriteString(conn, "POST /add-checkpoint HTTP/1.1\r\nHost: x\r\n")
		for {
			if _, err := io.WriteString(conn, "X: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
				return
			}
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %s", resp.Status)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestConnectionLimit: connections beyond the limit wait, and are served when
// others end.
func TestConnectionLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newQuietWitness(t, newMemDisk())
		defer w.Close()
		ln := pipes{make(chan net.Conn), make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error)
		go func() {
			served <- Server{Handler: w.Handler(), Logger: slog.New(slog.DiscardHandler)}.Serve(ctx, ln)
		}()
		var conns []net.Conn
		for range maxConnections {
			conns = append(conns, ln.dial())
		}
		synctest.Wait()
		accepted := make(chan net.Conn)
		go func() { accepted <- ln.dial() }()
		synctest.Wait()
		select {
		case <-accepted:
			t.Error("one connection too many")
		default:
		}
		conns[0].Close()
		conns = append(conns, <-accepted)
		for _, c := range conns {
			c.Close()
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}
