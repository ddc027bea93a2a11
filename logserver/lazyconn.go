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

// deadlineSlack is by how much a deadline may come early: so long, one that is
// set already is not set again.
const deadlineSlack = 500 * time.Millisecond

// lazyConn makes two things cheap that net/http does for every request on an
// HTTP/1.1 connection.
//
// While a handler runs, net/http reads one byte to notice that the client has
// gone, and breaks that off by a deadline in the past when the handler is done:
// a goroutine that enters the kernel, sleeps in the poller and is woken. Here a
// read of one byte that finds nothing else to do waits a while before it enters
// the kernel, and most never do.
//
// It also sets and clears deadlines seven times, each of which changes a timer.
// Here they are applied when a read enters the kernel, if they differ from what
// is applied already.
//
// Nothing depends on who reads a single byte and why: such a read is at most
// late, and a deadline ends it at any time. HTTP/2 reads frames directly and may
// well read one byte; its reads are never late.
type lazyConn struct {
	net.Conn
	// begun and http2 are of the goroutine that reads; net/http never reads
	// from two.
	begun, http2 bool
	// wake tells a late read to go on (true) or that it has been broken off. It
	// has room for the one message that a late read is sent.
	wake chan bool

	mu struct {
		sync.Mutex
		closed  bool
		reading bool      // a read is in the kernel
		late    bool      // a read waits to enter it
		since   time.Time // when the late read began
		timer   *time.Timer
		timing  bool      // the timer runs
		wanted  time.Time // read deadline, zero for none
		applied time.Time // that of the connection
		write   time.Time // write deadline of the connection
	}
}

func newLazyConn(conn net.Conn) *lazyConn { return &lazyConn{Conn: conn, wake: make(chan bool, 1)} }

// Read reads from the connection, late if that is for one byte.
func (c *lazyConn) Read(b []byte) (int, error) {
	if len(b) == 1 && !c.http2 {
		if err := c.beginLate(); err != nil {
			return 0, err
		}
		if !<-c.wake {
			return 0, os.ErrDeadlineExceeded
		}
	}
	if err := c.enterKernel(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.mu.reading = false
	c.mu.Unlock()
	if !c.begun {
		c.begun, c.http2 = true, n >= 3 && string(b[:3]) == "PRI" // the connection preface
	}
	return n, err
}

// readable says why nothing can be read, if that is so. The lock is held.
func (c *lazyConn) readable() error {
	switch {
	case c.mu.closed:
		return net.ErrClosed
	case passed(c.mu.wanted):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func passed(deadline time.Time) bool { return !deadline.IsZero() && !deadline.After(time.Now()) }

// beginLate announces a late read. The timer is not stopped when one ends: while
// requests are quick it runs out every now and then instead of being set for
// each.
func (c *lazyConn) beginLate() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.readable(); err != nil {
		return err
	}
	c.mu.late, c.mu.since = true, time.Now()
	switch {
	case c.mu.timer == nil:
		c.mu.timer = time.AfterFunc(watchDelay, c.onTimer)
	case !c.mu.timing:
		c.mu.timer.Reset(watchDelay)
	}
	c.mu.timing = true
	return nil
}

// onTimer lets a late read go on that has waited for long enough.
func (c *lazyConn) onTimer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.timing = c.mu.late; !c.mu.late {
		return
	}
	if rest := watchDelay - time.Since(c.mu.since); rest > 0 {
		c.mu.timer.Reset(rest)
		return
	}
	c.mu.timing = false
	c.endLate(true)
}

// endLate ends the waiting of a late read. The lock is held.
func (c *lazyConn) endLate(goOn bool) {
	c.mu.late = false
	c.wake <- goOn
}

// enterKernel applies the deadline for a read.
func (c *lazyConn) enterKernel() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.readable(); err != nil {
		return err
	}
	c.mu.reading = true
	return c.applyDeadline()
}

// applyDeadline sets the read deadline of the connection if it has to. The lock
// is held.
func (c *lazyConn) applyDeadline() error {
	if near(c.mu.applied, c.mu.wanted) {
		return nil
	}
	c.mu.applied = c.mu.wanted
	return c.Conn.SetReadDeadline(c.mu.wanted)
}

// near reports whether a deadline that is set does for one that is wanted.
func near(set, wanted time.Time) bool {
	if set.IsZero() || wanted.IsZero() {
		return set.IsZero() && wanted.IsZero()
	}
	early := wanted.Sub(set)
	return early >= 0 && early < deadlineSlack
}

// SetReadDeadline breaks off a late read if t has passed. It applies to a read
// in the kernel at once, and to later ones up to deadlineSlack early.
func (c *lazyConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.wanted = t
	if c.mu.late && passed(t) {
		c.endLate(false)
	}
	if c.mu.reading {
		c.mu.applied = t
		return c.Conn.SetReadDeadline(t)
	}
	return nil
}

// SetWriteDeadline sets the write deadline, up to deadlineSlack early.
func (c *lazyConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !passed(t) && near(c.mu.write, t) {
		return nil
	}
	c.mu.write = t
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline sets both deadlines.
func (c *lazyConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close ends a late read, too.
func (c *lazyConn) Close() error {
	c.mu.Lock()
	c.mu.closed = true
	if c.mu.late {
		c.endLate(true) // to find out that the connection is closed
	}
	if c.mu.timer != nil {
		c.mu.timer.Stop()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets net/http wait for the client to read a refusal.
func (c *lazyConn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}
