package logserver

import (
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxDirectLoops bounds the loops of a listener. Each has two goroutines,
	// and a sequencer has not more to do than some of them bring.
	maxDirectLoops = 8
	// loopEvents is how many connections a loop is told of at once.
	loopEvents = 128
	// loopSweep is how often a loop looks for connections that are idle.
	loopSweep = time.Second
)

// directLoops are the loops of a directListener, made when the first connection
// is given to them.
type directLoops struct {
	mu   sync.Mutex
	all  []*directLoop
	next int
}

// adopt takes a connection over from its goroutine, which has nothing to do for
// it, or reports that it does not: it knows TCP only.
func (s *directLoops) adopt(c *directConn) bool {
	tcp, ok := c.lazyConn.Conn.(*net.TCPConn)
	if !ok {
		return false
	}
	p := s.pick(c.l)
	return p != nil && p.adopt(c, tcp)
}

// pick returns the loop whose turn it is, or nil.
func (s *directLoops) pick(l *directListener) *directLoop {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		for range min(max(runtime.GOMAXPROCS(0)/2, 1), maxDirectLoops) {
			p, err := newDirectLoop(l)
			if err != nil {
				break // as many as there are have to do
			}
			s.all = append(s.all, p)
		}
	}
	if len(s.all) == 0 {
		return nil
	}
	s.next++
	return s.all[s.next%len(s.all)]
}

// stop ends the loops. They have no connections any more, and get none.
func (s *directLoops) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.all {
		close(p.some)
		p.epoll.Close()
		p.ended.Wait()
	}
	s.all = nil
}

// directLoop answers appends on many connections with two goroutines: one reads
// what has arrived and asks the log, the other sends the answers of a commit
// group. So no goroutine has to be woken for a request, or for its answer.
//
// It knows the usual case: whole requests that parseAdd understands, one at a
// time, and a client that takes its answers. A connection with anything else
// goes back to a goroutine of its own, with every byte that was read.
type directLoop struct {
	l *directListener
	// epoll is edge-triggered. It is in the poller of the runtime itself, so
	// that waiting for it holds no thread.
	epoll *os.File
	wait  syscall.RawConn

	conns struct {
		sync.Mutex
		last uint64 // id given
		byID map[uint64]*loopConn
	}
	// answers are the connections whose group is done, in order; some holds a
	// token if there are any that nobody has taken.
	answers struct {
		sync.Mutex
		list []*loopConn
	}
	some  chan struct{}
	ended sync.WaitGroup // the goroutines
}

func newDirectLoop(l *directListener) (*directLoop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.SetNonblock(fd, true) // or the poller would not have it
	p := &directLoop{l: l, epoll: os.NewFile(uintptr(fd), "epoll"), some: make(chan struct{}, 1)}
	p.conns.byID = make(map[uint64]*loopConn)
	if err == nil {
		err = p.epoll.SetReadDeadline(time.Time{}) // fails for what the poller has not
	}
	if err == nil {
		p.wait, err = p.epoll.SyscallConn()
	}
	if err != nil {
		p.epoll.Close()
		return nil, err
	}
	p.ended.Go(p.read)
	p.ended.Go(p.write)
	return p, nil
}

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
	loop  *directLoop
	fd    int
	id    uint64
	open  *atomic.Int64 // counts it
	state atomic.Int32
	// hungUp is set, before the state, when the client will send no more.
	hungUp atomic.Bool
	// active is the uptime when it was last answered.
	active atomic.Int64

	// Of the request that is in a commit group.
	form   addForm
	start  time.Duration // uptime
	answer *answer
	place  int
}

// scratch is what a goroutine needs to receive requests.
type scratch struct {
	answerer
	buf   []byte // directBuffer bytes
	entry [1]Entry
	leaf  [1]Hash
}

func (p *directLoop) newScratch(buf []byte) *scratch {
	return &scratch{answerer: answerer{h: p.l.h, stopping: &p.l.stopping}, buf: buf}
}

// adopt takes over the connection of c with a descriptor of its own: the one of c
// is in the poller of the runtime.
func (p *directLoop) adopt(c *directConn, tcp *net.TCPConn) bool {
	fd := duplicate(tcp)
	if fd < 0 {
		return false
	}
	lc := &loopConn{loop: p, fd: fd, open: c.limitedConn.open} // and busy
	if err := p.watch(lc); err != nil || !p.l.add(lc) {
		p.forget(lc)
		unix.Close(fd)
		return false
	}
	ours := false
	c.closed.Do(func() { ours = true }) // it stays open
	if !ours {                          // somebody has just cut it off
		p.forget(lc)
		unix.Close(fd)
		p.l.remove(lc)
		return false
	}
	tcp.Close()
	if !p.rest(lc) { // clients are fast
		p.own(lc, p.newScratch(c.buf[:cap(c.buf)]))
	}
	return true
}

// duplicate returns another descriptor of a connection, or -1.
func duplicate(tcp *net.TCPConn) int {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return -1
	}
	dup := -1
	if raw.Control(func(fd uintptr) {
		if n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			dup = n
		}
	}) != nil {
		return -1
	}
	return dup
}

// watch makes the loop be told of what arrives on a connection.
func (p *directLoop) watch(c *loopConn) error {
	p.conns.Lock()
	p.conns.last++
	c.id = p.conns.last
	p.conns.byID[c.id] = c
	p.conns.Unlock()
	return p.control(unix.EPOLL_CTL_ADD, c, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(c.id), Pad: int32(c.id >> 32)})
}

// forget undoes watch: what the loop is told of the connection later is nothing
// to it, also if the descriptor is another's by then.
func (p *directLoop) forget(c *loopConn) {
	p.conns.Lock()
	delete(p.conns.byID, c.id)
	p.conns.Unlock()
	_ = p.control(unix.EPOLL_CTL_DEL, c, nil)
}

func (p *directLoop) control(op int, c *loopConn, e *unix.EpollEvent) (err error) {
	controlErr := p.wait.Control(func(fd uintptr) { err = unix.EpollCtl(int(fd), op, c.fd, e) })
	if controlErr != nil {
		return controlErr
	}
	return err
}

// read receives what arrives, until the loop is stopped.
func (p *directLoop) read() {
	events := make([]unix.EpollEvent, loopEvents)
	s := p.newScratch(make([]byte, directBuffer))
	for {
		n := 0
		err := p.wait.Read(func(fd uintptr) bool {
			var err error
			for {
				if n, err = unix.EpollWait(int(fd), events, 0); err != unix.EINTR {
					return n > 0
				}
			}
		})
		if err != nil {
			return
		}
		for i := range events[:n] {
			p.arrived(&events[i], s)
		}
	}
}

// arrived handles one event.
func (p *directLoop) arrived(e *unix.EpollEvent, s *scratch) {
	p.conns.Lock()
	c := p.conns.byID[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
	p.conns.Unlock()
	if c == nil {
		return
	}
	if e.Events&^unix.EPOLLIN != 0 {
		c.hungUp.Store(true)
	}
	if c.claim() {
		p.own(c, s)
	}
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
func (p *directLoop) own(c *loopConn, s *scratch) {
	for p.receive(c, s) && !p.rest(c) {
	}
}

// rest gives up the connection until something arrives. It reports false if that
// has happened: then the caller still owns it.
func (p *directLoop) rest(c *loopConn) bool {
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
func (p *directLoop) receive(c *loopConn, s *scratch) bool {
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
	r, u := parseAdd(in)
	if u != complete || r.size != n || n == len(s.buf) || c.hungUp.Load() || !s.h.log.bodies.take(smallBody, 0) {
		p.back(c, in, nil)
		return false
	}
	c.form, c.start = r.form, uptime()
	if err = s.possible(r.form); err == nil {
		s.entry[0].Data = r.body
		err = s.h.log.ask(s.entry[:], s.leaf[:], c)
		s.entry[0].Data = nil
	}
	if err == nil {
		return false // the group has it
	}
	return p.send(c, &s.answerer, s.refuse(err))
}

// answered implements asker.
func (c *loopConn) answered(a *answer, place int) {
	c.answer, c.place = a, place
	p := c.loop
	p.answers.Lock()
	p.answers.list = append(p.answers.list, c)
	first := len(p.answers.list) == 1
	p.answers.Unlock()
	if first {
		p.some <- struct{}{} // there is room: the last token went before the list did
	}
}

// write sends answers, and looks for idle connections, until the loop is stopped.
func (p *directLoop) write() {
	s := p.newScratch(make([]byte, directBuffer))
	sweep := time.NewTicker(loopSweep)
	defer sweep.Stop()
	var list []*loopConn
	for {
		select {
		case _, ok := <-p.some:
			if !ok {
				return
			}
		case <-sweep.C:
			p.sweep()
			continue
		}
		p.answers.Lock()
		list, p.answers.list = p.answers.list, list[:0]
		p.answers.Unlock()
		for i, c := range list {
			list[i] = nil
			if p.reply(c, &s.answerer) && !p.rest(c) {
				p.own(c, s)
			}
		}
	}
}

// reply answers the request that was in a group.
func (p *directLoop) reply(c *loopConn, w *answerer) bool {
	a, code := c.answer, codeOK
	c.answer = nil
	err := a.err
	if err == nil {
		err = w.render(c.form, a, c.place)
	}
	if err != nil {
		code = w.refuse(err)
	}
	return p.send(c, w, code)
}

// send sends an answer and ends the request. It reports true if the caller still
// owns the connection.
func (p *directLoop) send(c *loopConn, w *answerer, code string) bool {
	n, err := unix.Write(c.fd, w.out)
	w.h.log.bodies.give(smallBody)
	w.h.log.metrics.request(routeAdd, code, uptime()-c.start)
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
func (p *directLoop) close(c *loopConn) {
	p.forget(c)
	unix.Close(c.fd)
	c.open.Add(-1)
	p.l.remove(c)
}

// back gives a connection back to a goroutine of its own, with what has been
// received and what is still to be sent. The caller owns it.
func (p *directLoop) back(c *loopConn, in, out []byte) {
	if d := p.release(c, in, out); d != nil {
		go d.resume()
	}
}

// dismiss has a goroutine end a connection whose last answer has been sent. The
// caller owns it.
func (p *directLoop) dismiss(c *loopConn) {
	if d := p.release(c, nil, nil); d != nil {
		go d.leave()
	}
}

// release makes of a connection in the loop one without, or closes it and returns
// nil.
func (p *directLoop) release(c *loopConn, in, out []byte) *directConn {
	p.forget(c)
	f := os.NewFile(uintptr(c.fd), "connection")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil { // there are no descriptors left
		c.open.Add(-1)
		p.l.remove(c)
		return nil
	}
	d := &directConn{
		limitedConn: &limitedConn{lazyConn: newLazyConn(conn), open: c.open},
		answerer:    answerer{h: p.l.h, stopping: &p.l.stopping, out: append([]byte(nil), out...)},
		l:           p.l, buf: append(make([]byte, 0, directBuffer), in...), answered: true, stays: true,
	}
	p.l.replace(c, d)
	return d
}

// sweep closes the connections that have been idle for too long.
func (p *directLoop) sweep() {
	var idle []*loopConn
	last := int64(uptime() - idleTimeout)
	p.conns.Lock()
	for _, c := range p.conns.byID {
		if c.active.Load() < last {
			idle = append(idle, c)
		}
	}
	p.conns.Unlock()
	for _, c := range idle {
		c.finish()
	}
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

// cut does nothing: the answer of a commit group is waited for in any case, and
// the owner closes the connection then.
func (c *loopConn) cut() {}
