package direct

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// deadlineSlack is by how much a deadline may come early: so long, one that is
// set already is not set again.
const deadlineSlack = 500 * time.Millisecond

// lazyConn makes two things cheap that net/http does for every request on an
// HTTP/1.1 connection.
//
// While a handler runs, net/http reads one byte to notice that the client has
// gone, and breaks that off by a deadline in the past when the handler is done:
// a goroutine that enters the kernel, sleeps in the poller and is woken. None of
// our handlers wants to know. So a read of one byte that follows a longer one
// returns nothing, which an io.Reader may do at any time and which net/http
// takes for the end of its watch; whoever does want that byte reads again, and
// gets it.
//
// It also sets and clears deadlines seven times, each of which changes a timer.
// Here they are applied when a read enters the kernel, if they differ from what
// is applied already.
type lazyConn struct {
	net.Conn
	// watched is of the goroutine that reads: the last read was longer than one
	// byte, so that the next of one byte may be a watch.
	watched bool
	// unread is what was read from the connection before net/http had it.
	unread []byte
	// blanks is how many bytes of blank lines, at most, are left out at the
	// beginning of what comes.
	blanks int

	mu struct {
		sync.Mutex
		reading bool      // a read is in the kernel
		wanted  time.Time // read deadline, zero for none
		applied time.Time // that of the connection
		write   time.Time // write deadline of the connection
	}
}

func newLazyConn(conn net.Conn) *lazyConn { return &lazyConn{Conn: conn} }

// Read reads from the connection, or reads nothing in place of a watch.
func (c *lazyConn) Read(b []byte) (int, error) {
	watch := c.watched && len(b) == 1
	c.watched = len(b) > 1
	if watch {
		return 0, nil
	}
	for {
		n, err := c.read(b)
		if rest := c.leaveOut(b[:n]); rest > 0 || n == 0 || err != nil {
			return rest, err
		}
	}
}

// leaveOut removes blank lines from what has been read, and returns how much is
// left.
func (c *lazyConn) leaveOut(b []byte) int {
	blank := 0
	for c.blanks > 0 {
		if blank == len(b) {
			return 0 // the next read goes on
		}
		if b[blank] != '\r' && b[blank] != '\n' {
			c.blanks = 0
			break
		}
		blank++
		c.blanks--
	}
	return copy(b, b[blank:])
}

// read reads what was read before, or from the connection.
func (c *lazyConn) read(b []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(b, c.unread)
		if c.unread = c.unread[n:]; len(c.unread) == 0 {
			c.unread = nil
		}
		return n, nil
	}
	if err := c.enterKernel(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.mu.reading = false
	c.mu.Unlock()
	return n, err
}

// enterKernel applies the deadline for a read.
func (c *lazyConn) enterKernel() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if passed(c.mu.wanted) {
		return os.ErrDeadlineExceeded
	}
	c.mu.reading = true
	return c.applyDeadline()
}

func passed(deadline time.Time) bool { return !deadline.IsZero() && !deadline.After(time.Now()) }

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

// SetReadDeadline applies to a read in the kernel at once, and to later ones up
// to deadlineSlack early.
func (c *lazyConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.wanted = t
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

// CloseWrite lets net/http wait for the client to read a refusal.
func (c *lazyConn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}
