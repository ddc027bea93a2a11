package direct

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// TestLazyConn: one read of one byte is passed over after a longer one, nothing
// is lost by that, and deadlines hold.
func TestLazyConn(t *testing.T) {
	t.Run("watches", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			conn := newLazyConn(server)
			go client.Write([]byte("abcdefgh"))
			one := make([]byte, 1)
			for i, want := range []string{"a", "b"} { // nobody watches a fresh connection
				if n, err := conn.Read(one); n != 1 || err != nil || string(one) != want {
					t.Errorf("byte %d is %q: %d, %v", i, one, n, err)
				}
			}
			if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil {
				t.Error(err)
			}
			if n, err := conn.Read(one); n != 0 || err != nil {
				t.Errorf("a watch reads %d, %v", n, err)
			}
			for _, want := range []string{"e", "f"} { // who goes on gets it
				if n, err := conn.Read(one); n != 1 || err != nil || string(one) != want {
					t.Errorf("%q: %d, %v", one, n, err)
				}
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(bufio.NewReaderSize(conn, 16), one); err != nil || string(one) != "h" {
				t.Errorf("%q, %v", one, err)
			}
			conn.Close()
			client.Close()
		})
	})
	t.Run("a deadline ends a read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			conn := newLazyConn(server)
			ended := make(chan error)
			go func() {
				_, err := conn.Read(make([]byte, 9))
				ended <- err
			}()
			synctest.Wait()
			conn.SetDeadline(time.Unix(1, 0))
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			conn.Close()
			client.Close()
		})
	})
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
}
