package direct

import (
	"io"
	"net"
	"time"
)

const (
	// bufferSize is what a connection holds: the head and body of a request
	// together, in bytes. Larger ones are for net/http.
	bufferSize = 4 << 10
	// grace is how long the rest of a request is waited for before net/http may do
	// so.
	grace = time.Second
	// lingerTimeout is how long what a client still sends is read after its last
	// answer, as long as net/http takes for it.
	lingerTimeout = 500 * time.Millisecond
)

// soloConn is a connection with a goroutine of its own, which owns it.
type soloConn struct {
	*limitedConn
	answerer
	l *Listener

	buf   []byte       // received and not yet answered
	told  chan inGroup // has room for the one that may come
	used  bool         // a request has been answered
	stays bool         // with its goroutine: a loop has given it back, or does not want it
}

// inGroup is the place of an entry in a group that has been answered.
type inGroup struct {
	group Group
	place int
}

func newSoloConn(l *Listener, conn *limitedConn) *soloConn {
	return &soloConn{
		limitedConn: conn, answerer: l.newAnswerer(), l: l,
		buf: make([]byte, 0, bufferSize), told: make(chan inGroup, 1),
	}
}

func (c *soloConn) finish() { c.SetReadDeadline(time.Now()) }
func (c *soloConn) cut()    { c.Close() }

// resume goes on with a connection that a loop has given back: it sends what is
// left of an answer first.
func (c *soloConn) resume() {
	if len(c.out) > 0 {
		if err := c.send(); err != nil {
			c.Close()
			c.l.remove(c)
			return
		}
	}
	c.serve()
}

// serve answers appends until the connection ends or somebody else goes on.
func (c *soloConn) serve() {
	defer c.l.remove(c)
	idle := c.l.timeouts.Read
	for {
		if c.used {
			idle = c.l.timeouts.Idle
		}
		r, u := c.next(idle)
		if u == notOurs && len(c.buf) > 0 && !c.l.stopping.Load() {
			c.pass()
			return
		}
		if u == complete && !c.log.Enter() {
			c.pass() // to be told so
			return
		}
		if u != complete {
			c.end(c.used && c.l.stopping.Load())
			return
		}
		err := c.exchange(r)
		if err != nil || c.l.stopping.Load() {
			c.end(err == nil)
			return
		}
		c.buf, c.used = c.buf[:copy(c.buf, c.buf[r.size:])], true
		if c.stays || len(c.buf) > 0 {
			continue
		}
		if c.l.loops.adopt(c) {
			return
		}
		c.stays = true
	}
}

// end closes the connection, after an answer so that the client gets it.
func (c *soloConn) end(lingers bool) {
	defer c.Close()
	if lingers {
		linger(c.lazyConn.Conn) // not through lazyConn: finish sets its deadline
	}
}

// leave ends a connection that a loop has given back after its last answer.
func (c *soloConn) leave() {
	defer c.l.remove(c)
	c.end(true)
}

// next reads until a request is complete. It waits for the first byte of one for
// as long as idle, and from then on for grace in all, however many pieces
// come. What does not become ours in time is not.
func (c *soloConn) next(idle time.Duration) (request, understanding) {
	deadline, begun := time.Now().Add(idle), false
	for {
		if len(c.buf) > 0 {
			r, u := parse(c.buf)
			if u != partial {
				return r, u
			}
			if len(c.buf) == cap(c.buf) {
				return r, notOurs // larger than we care for
			}
			if !begun {
				deadline, begun = time.Now().Add(grace), true
			}
		}
		c.SetReadDeadline(deadline)
		if c.l.stopping.Load() { // its deadline may have been before ours
			return request{}, notOurs
		}
		n, err := c.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+n]
		if err != nil {
			return request{}, notOurs
		}
	}
}

// pass hands the connection to net/http, which reads first what was read here.
// After a POST net/http skips up to four bytes of blank lines, which old clients
// sent; about those that were answered here it does not know.
func (c *soloConn) pass() {
	c.unread = c.buf
	if c.used {
		c.blanks = 4
	}
	select {
	case c.l.passing <- c.limitedConn:
	case <-c.l.closed:
		c.Close()
	}
}

// exchange appends the entry of a request and sends the answer.
func (c *soloConn) exchange(r request) error {
	start := uptime()
	code := c.append(r)
	err := c.send()
	c.log.Leave(code, uptime()-start)
	return err
}

// append appends the entry of a request and makes the answer.
func (c *soloConn) append(r request) (code string) {
	if err := c.log.Ask(r.body, r.receipt, c); err != nil {
		return c.refuse(err)
	}
	in := <-c.told
	return c.answer(r.receipt, in.group, in.place)
}

// Answered implements Asker.
func (c *soloConn) Answered(g Group, place int) { c.told <- inGroup{g, place} }

// send sends what is in out.
func (c *soloConn) send() error {
	c.SetWriteDeadline(time.Now().Add(c.l.timeouts.Write))
	_, err := c.Write(c.out)
	return err
}

// linger closes this side of a connection and throws away what the client sends,
// until that has closed its side or the time is up. The kernel resets a connection
// that is closed with bytes that nobody has read, such as requests that the client
// sent without waiting, and a client that sees the reset may lose answers that it
// has not read yet.
func linger(conn net.Conn) {
	half, ok := conn.(interface{ CloseWrite() error })
	if ok && half.CloseWrite() == nil && conn.SetReadDeadline(time.Now().Add(lingerTimeout)) == nil {
		io.Copy(io.Discard, conn)
	}
}
