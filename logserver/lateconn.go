package logserver

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// watchDelay is how long a handler may run before anybody looks whether its
// client is still there.
const watchDelay = 100 * time.Millisecond

// lateConn makes the watch for clients that go away cheap. While a handler runs,
// net/http reads one byte from an HTTP/1.1 connection to notice its end, and
// breaks that off by a deadline in the past when the handler is done. For every
// request that is a goroutine which enters the kernel, sleeps in the poller and
// is woken: a fifth of what a request costs. Here a read of one byte that finds
// nothing else to do waits a while before it enters the kernel, and most never
// do.
//
// Nothing depends on who reads a single byte and why: such a read is at most
// late, and a deadline ends it at any time. HTTP/2 reads frames directly and may
// well read one byte; its connections are left alone.
type lateConn struct {
	net.Conn
	// begun and http2 are of the goroutine that reads; net/http never reads
	// from two.
	begun, http2 bool
	timer        *time.Timer // of the reader, made by the first late read

	mu struct {
		sync.Mutex
		late   bool // a read waits and has not entered the kernel
		past   bool // the read deadline has passed
		armed  bool // the connection has a read deadline
		closed bool
	}
	// broken has a token after a deadline, or Close, ended a late read.
	broken chan struct{}
}

func newLateConn(conn net.Conn) *lateConn {
	return &lateConn{Conn: conn, broken: make(chan struct{}, 1)}
}

// Read reads from the connection, late if that is for one byte.
func (c *lateConn) Read(b []byte) (int, error) {
	late := len(b) == 1 && !c.http2
	if err := c.beginRead(late); err != nil {
		return 0, err
	}
	if late {
		if c.timer == nil {
			c.timer = time.NewTimer(watchDelay)
		} else {
			c.timer.Reset(watchDelay)
		}
		select {
		case <-c.broken:
			c.timer.Stop()
			return 0, os.ErrDeadlineExceeded
		case <-c.timer.C:
		}
		if !c.enterKernel() {
			return 0, os.ErrDeadlineExceeded
		}
	}
	n, err := c.Conn.Read(b)
	if !c.begun {
		c.begun, c.http2 = true, n >= 3 && string(b[:3]) == "PRI" // the connection preface
	}
	return n, err
}

// beginRead fails if nothing can be read, and announces a late read.
func (c *lateConn) beginRead(late bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.closed:
		return net.ErrClosed
	case c.mu.past:
		return os.ErrDeadlineExceeded
	}
	c.mu.late = late
	return nil
}

// enterKernel ends the lateness of a read. It reports false if the read has been
// broken off at the same time.
func (c *lateConn) enterKernel() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.late {
		<-c.broken // there already
		return false
	}
	c.mu.late = false
	return true
}

// SetReadDeadline ends a late read if t has passed. Otherwise, and always for a
// read in the kernel, it is that of the connection.
func (c *lateConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.past = !t.IsZero() && !t.After(time.Now())
	if c.mu.past && c.mu.late {
		c.breakOff()
		return nil
	}
	if t.IsZero() && !c.mu.armed {
		return nil
	}
	c.mu.armed = !t.IsZero()
	return c.Conn.SetReadDeadline(t)
}

// breakOff ends a late read. The lock is held.
func (c *lateConn) breakOff() {
	c.mu.late = false
	c.broken <- struct{}{}
}

// SetDeadline sets both deadlines.
func (c *lateConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.Conn.SetWriteDeadline(t)
}

// Close ends a late read, too.
func (c *lateConn) Close() error {
	c.mu.Lock()
	c.mu.closed = true
	if c.mu.late {
		c.breakOff()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets net/http wait for the client to read a refusal.
func (c *lateConn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}
