package direct

import (
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// States of a connection in a loop. Whoever changes it from loopIdle to loopBusy
// owns the connection: one of the loop's goroutines, or the commit group that its
// request is in. Only the owner reads, writes and closes it.
const (
	loopBusy    int32 = iota
	loopIdle          // waits for a request
	loopStirred       // busy, and something has arrived meanwhile
)

// loopConn is a connection in a loop.
type loopConn struct {
	loop  *loop
	fd    int
	id    uint64
	open  *atomic.Int64 // counts it
	state atomic.Int32
	// hungUp is set, before the state, when the client will send no more.
	hungUp atomic.Bool
	// active is the uptime when it was last answered.
	active atomic.Int64

	// Of the request that is in a commit group.
	receipt bool          // is wanted
	start   time.Duration // uptime
	group   Group         // nil until it has an answer
	place   int           // in it
}

// claim makes the caller the owner, or has the owner know that something arrived.
func (c *loopConn) claim() bool {
	for {
		if c.state.CompareAndSwap(loopIdle, loopBusy) {
			return true
		}
		if c.state.CompareAndSwap(loopBusy, loopStirred) || c.state.Load() == loopStirred {
			return false
		}
	}
}

// own receives until there is nothing, or somebody else owns the connection.
func (p *loop) own(c *loopConn, s *scratch) {
	for p.receive(c, s) && !p.rest(c) {
	}
}

// rest gives up the connection until something arrives. It reports false if that
// has happened: then the caller still owns it.
func (p *loop) rest(c *loopConn) bool {
	c.active.Store(int64(uptime()))
	if !c.state.CompareAndSwap(loopBusy, loopIdle) {
		c.state.Store(loopBusy)
		return false
	}
	if p.l.stopping.Load() {
		c.finish() // who stopped us may have found it busy
	}
	return true
}

// receive reads once and asks the log if that was a request. It reports true if
// there is nothing to be done for now, and false if the caller does not own the
// connection any more.
//
// One read is enough: the kernel tells of whatever comes after it.
func (p *loop) receive(c *loopConn, s *scratch) bool {
	n, err := unix.Read(c.fd, s.buf)
	for err == unix.EINTR {
		n, err = unix.Read(c.fd, s.buf)
	}
	switch {
	case err == unix.EAGAIN:
		if c.hungUp.Load() {
			p.close(c)
			return false
		}
		return true
	case err != nil || n == 0:
		p.close(c)
		return false
	}
	in := s.buf[:n]
	r, u := parse(in)
	if u != complete || r.size != n || n == len(s.buf) || c.hungUp.Load() || !s.log.Enter() {
		p.back(c, in, nil)
		return false
	}
	c.receipt, c.start = r.receipt, uptime()
	if err := s.log.Ask(r.body, r.receipt, c); err != nil {
		return p.send(c, &s.answerer, s.refuse(err))
	}
	return false // the group has it
}

// Answered implements Asker.
func (c *loopConn) Answered(g Group, place int) {
	c.group, c.place = g, place
	p := c.loop
	p.answers.Lock()
	p.answers.list = append(p.answers.list, c)
	first := len(p.answers.list) == 1
	p.answers.Unlock()
	if first {
		p.some <- struct{}{} // there is room: the last token went before the list did
	}
}

// reply answers the request that was in a group.
func (p *loop) reply(c *loopConn, w *answerer) bool {
	code := w.answer(c.receipt, c.group, c.place)
	c.group = nil // an idle connection keeps none in memory
	return p.send(c, w, code)
}

// send sends an answer and ends the request. It reports true if the caller still
// owns the connection.
func (p *loop) send(c *loopConn, w *answerer, code string) bool {
	n, err := unix.Write(c.fd, w.out)
	w.log.Leave(code, uptime()-c.start)
	switch {
	case err == nil && n == len(w.out) && !w.stopping.Load():
		return true
	case err == nil && n < len(w.out), err == unix.EAGAIN, err == unix.EINTR:
		p.back(c, nil, w.out[max(n, 0):]) // a client that is slow to take it
	case err == nil: // its last answer
		p.dismiss(c)
	default:
		p.close(c)
	}
	return false
}

// close ends a connection. The caller owns it.
func (p *loop) close(c *loopConn) {
	p.forget(c)
	unix.Close(c.fd)
	c.open.Add(-1)
	p.l.remove(c)
}

// back gives a connection back to a goroutine of its own, with what has been
// received and what is still to be sent. The caller owns it.
func (p *loop) back(c *loopConn, in, out []byte) {
	if d := p.release(c, in, out); d != nil {
		go d.resume()
	}
}

// dismiss has a goroutine end a connection whose last answer has been sent. The
// caller owns it.
func (p *loop) dismiss(c *loopConn) {
	if d := p.release(c, nil, nil); d != nil {
		go d.leave()
	}
}

// release makes of a connection in the loop one without, or closes it and returns
// nil.
func (p *loop) release(c *loopConn, in, out []byte) *soloConn {
	p.forget(c)
	f := os.NewFile(uintptr(c.fd), "connection")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil { // there are no descriptors left
		c.open.Add(-1)
		p.l.remove(c)
		return nil
	}
	d := newSoloConn(p.l, &limitedConn{lazyConn: newLazyConn(conn), open: c.open})
	d.buf, d.out = append(d.buf, in...), append(d.out, out...)
	d.used, d.stays = true, true
	p.l.replace(c, d)
	return d
}

// finish closes the connection if it is idle. If it is not, its owner sees that
// the listener is stopping.
func (c *loopConn) finish() {
	if !c.state.CompareAndSwap(loopIdle, loopBusy) {
		return
	}
	if n, err := unix.IoctlGetInt(c.fd, unix.TIOCINQ); err == nil && n > 0 {
		c.loop.dismiss(c) // something has just arrived
		return
	}
	c.loop.close(c)
}

// cut does nothing: the commit group alone may close the connection, and does when
// it is done. Who stops the listener does not wait for that without end.
func (c *loopConn) cut() {}
