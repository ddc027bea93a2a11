package logserver

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestLazyConn: a read of one byte is late, and otherwise like any other.
func TestLazyConn(t *testing.T) {
	type result struct {
		n    int
		err  error
		took time.Duration
	}
	begin := func(c net.Conn) chan result {
		done := make(chan result, 1)
		go func() {
			start := time.Now()
			n, err := c.Read(make([]byte, 1))
			done <- result{n, err, time.Since(start)}
		}()
		return done
	}
	for _, c := range []struct {
		name  string
		act   func(c *lazyConn, client net.Conn)
		first bool // act before the read
		want  result
	}{
		{"data", func(_ *lazyConn, client net.Conn) { client.Write([]byte("x")) }, false, result{1, nil, watchDelay}},
		{"a deadline", func(c *lazyConn, _ net.Conn) { c.SetReadDeadline(time.Unix(1, 0)) }, false, result{0, os.ErrDeadlineExceeded, 0}},
		{"a deadline before", func(c *lazyConn, _ net.Conn) { c.SetDeadline(time.Unix(1, 0)) }, true, result{0, os.ErrDeadlineExceeded, 0}},
		{"a deadline later", func(c *lazyConn, _ net.Conn) { c.SetReadDeadline(time.Now().Add(time.Second)) }, false, result{0, os.ErrDeadlineExceeded, time.Second}},
		{"a deadline in the kernel", func(c *lazyConn, _ net.Conn) {
			time.Sleep(2 * watchDelay) // in the bubble
			c.SetReadDeadline(time.Unix(1, 0))
		}, false, result{0, os.ErrDeadlineExceeded, 2 * watchDelay}},
		{"the end of the client", func(_ *lazyConn, client net.Conn) { client.Close() }, false, result{0, io.EOF, watchDelay}},
		{"closing", func(c *lazyConn, _ net.Conn) { c.Close() }, false, result{0, net.ErrClosed, 0}},
		{"closing before", func(c *lazyConn, _ net.Conn) { c.Close() }, true, result{0, net.ErrClosed, 0}},
		{"a deadline that is taken back", func(c *lazyConn, client net.Conn) {
			c.SetReadDeadline(time.Unix(1, 0))
			c.SetReadDeadline(time.Time{})
			go client.Write([]byte("x"))
		}, true, result{1, nil, watchDelay}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				conn := newLazyConn(server)
				if c.first {
					c.act(conn, client)
				}
				done := begin(conn)
				synctest.Wait()
				if !c.first {
					go c.act(conn, client)
				}
				if got := <-done; got.n != c.want.n || !errors.Is(got.err, c.want.err) || got.took != c.want.took {
					t.Errorf("%+v, want %+v", got, c.want)
				}
				conn.Close()
				client.Close()
			})
		})
	}
	t.Run("deadlines", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			conn := newLazyConn(server)
			read := func() (time.Duration, error) {
				start := time.Now()
				_, err := conn.Read(make([]byte, 9))
				return time.Since(start), err
			}
			conn.SetReadDeadline(time.Now().Add(time.Second))
			conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			if took, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || took != 2*time.Second {
				t.Errorf("the last deadline counts: %v after %v", err, took)
			}
			if took, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || took != 0 {
				t.Errorf("it has passed: %v after %v", err, took)
			}
			for range 20 { // each is a little later, and none is missed for long
				conn.SetReadDeadline(time.Now().Add(time.Second))
				time.Sleep(deadlineSlack / 4)
			}
			if took, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || took > time.Second || took < time.Second-2*deadlineSlack {
				t.Errorf("moving deadline: %v after %v", err, took)
			}
			conn.SetReadDeadline(time.Time{})
			go func() {
				time.Sleep(time.Minute)
				client.Write([]byte("x"))
			}()
			if took, err := read(); err != nil || took != time.Minute {
				t.Errorf("no deadline: %v after %v", err, took)
			}
			for range 9 {
				conn.SetWriteDeadline(time.Now().Add(time.Second))
				time.Sleep(deadlineSlack / 4)
			}
			start := time.Now()
			if _, err := conn.Write([]byte("nobody reads")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > time.Second || time.Since(start) < time.Second-2*deadlineSlack {
				t.Errorf("write: %v after %v", err, time.Since(start))
			}
			if err := conn.CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("closing one direction of a pipe: %v", err)
			}
			conn.Close()
			client.Close()
		})
	})
	t.Run("HTTP/2", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			conn := newLazyConn(server)
			go client.Write([]byte("PRI * HTTP/2.0x"))
			if _, err := io.ReadFull(conn, make([]byte, 14)); err != nil {
				t.Fatal(err)
			}
			if got := <-begin(conn); got.n != 1 || got.took != 0 {
				t.Errorf("a byte of a frame: %+v", got)
			}
			conn.Close()
			client.Close()
		})
	})
}
