package direct

import (
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLoops bounds the loops of a listener. Each has two goroutines, and a log
	// has not more to do than some of them bring.
	maxLoops = 8
	// loopEvents is how many connections a loop is told of at once.
	loopEvents = 128
	// loopSweep is how often a loop looks for connections that are idle.
	loopSweep = time.Second
)

// loops are those of a Listener, made when the first connection is given to them.
type loops struct {
	mu   sync.Mutex
	all  []*loop
	next int
}

// adopt takes a connection over from its goroutine, which has nothing to do for
// it, or reports that it does not: it knows TCP only.
func (s *loops) adopt(c *soloConn) bool {
	tcp, ok := c.lazyConn.Conn.(*net.TCPConn)
	if !ok {
		return false
	}
	p := s.pick(c.l)
	return p != nil && p.adopt(c, tcp)
}

// pick returns the loop whose turn it is, or nil.
func (s *loops) pick(l *Listener) *loop {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		for range min(max(runtime.GOMAXPROCS(0)/2, 1), maxLoops) {
			p, err := newLoop(l)
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
func (s *loops) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.all {
		close(p.some)
		p.epoll.Close()
		p.ended.Wait()
	}
	s.all = nil
}

// loop answers appends on many connections with two goroutines: one reads what
// has arrived and asks the log, the other sends the answers of a commit group. So
// no goroutine has to be woken for a request, or for its answer.
//
// It knows the usual case: whole requests that parse understands, one at a time,
// and a client that takes its answers. A connection with anything else goes back
// to a goroutine of its own, with every byte that was read.
type loop struct {
	l *Listener
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

func newLoop(l *Listener) (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.SetNonblock(fd, true) // or the poller would not have it
	p := &loop{l: l, epoll: os.NewFile(uintptr(fd), "epoll"), some: make(chan struct{}, 1)}
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

// scratch is what a goroutine needs to receive requests.
type scratch struct {
	answerer
	buf []byte // bufferSize bytes
}

func (p *loop) newScratch(buf []byte) *scratch {
	return &scratch{answerer: p.l.newAnswerer(), buf: buf}
}

// adopt takes over the connection of c with a descriptor of its own: the one of c
// is in the poller of the runtime.
func (p *loop) adopt(c *soloConn, tcp *net.TCPConn) bool {
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
func (p *loop) watch(c *loopConn) error {
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
func (p *loop) forget(c *loopConn) {
	p.conns.Lock()
	delete(p.conns.byID, c.id)
	p.conns.Unlock()
	_ = p.control(unix.EPOLL_CTL_DEL, c, nil)
}

func (p *loop) control(op int, c *loopConn, e *unix.EpollEvent) (err error) {
	controlErr := p.wait.Control(func(fd uintptr) { err = unix.EpollCtl(int(fd), op, c.fd, e) })
	if controlErr != nil {
		return controlErr
	}
	return err
}

// read receives what arrives, until the loop is stopped.
func (p *loop) read() {
	events := make([]unix.EpollEvent, loopEvents)
	s := p.newScratch(make([]byte, bufferSize))
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
func (p *loop) arrived(e *unix.EpollEvent, s *scratch) {
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

// write sends answers, and looks for idle connections, until the loop is stopped.
func (p *loop) write() {
	s := p.newScratch(make([]byte, bufferSize))
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

// sweep closes the connections that have been idle for too long.
func (p *loop) sweep() {
	var idle []*loopConn
	last := int64(uptime() - p.l.timeouts.Idle)
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
