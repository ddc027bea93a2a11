// Package lean is an HTTP/1.1 load client that costs so little that what it
// measures is the server: one thread, one epoll, raw sockets, requests that
// exist beforehand, and of an answer only the status, the length and the body.
// One request at a time is on a connection, so nothing is pipelined.
//
// It is for a server on the same machine that is trusted to speak HTTP/1.1 with
// Content-Length: anything else ends the run with an error. It works on Linux.
package lean

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// maxHeader bounds the header of an answer: no server here sends a kilobyte.
const maxHeader = 8 << 10

// tick is how often an open loop looks for requests that are due. Half of it is in
// every latency: a shorter one costs the server CPU.
const tick = 200 * time.Microsecond

// Load is one run.
type Load struct {
	Addr  netip.AddrPort
	Conns int
	// Warm is not measured; Measure is.
	Warm, Measure time.Duration
	// Rate, if positive, is the number of requests that become due in a second
	// (open loop): latency counts from when a request was due, also if no
	// connection was free then. Otherwise each connection sends the next
	// request as soon as the last one was answered (closed loop).
	Rate float64
	// Request returns the next request for a connection. The bytes belong to
	// the run until the next call for the same connection.
	Request func(conn int) []byte
	// Answer, if set, judges an answer; an error ends the run.
	Answer func(conn, status int, body []byte) error
	// Begin and End, if set, are called when the measured time begins and ends.
	Begin, End func()
}

// Result is what a run measured.
type Result struct {
	Answers   int64
	Elapsed   time.Duration
	Latencies []time.Duration // of every answer in the measured time, in order of arrival
	// Unsent is how many requests were due and had not been sent at the end of
	// an open loop.
	Unsent int64
}

// conn is one connection. It is owned by the goroutine of Run.
type conn struct {
	fd     int
	out    []byte // what is left of the request
	in     []byte // received of the answer
	due    time.Time
	asked  bool // an answer is outstanding
	body   int  // where the body begins in in, 0 while the header is incomplete
	length int  // of the body
	status int
}

// run is the state of Run.
type run struct {
	Load
	epoll, timer int
	conns        []conn
	idle         []int
	start        time.Time
	sent         int64 // open loop: requests taken from the schedule
	measuring    bool
	result       Result
}

// Run connects, runs the load and disconnects.
func Run(l Load) (result Result, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := &run{Load: l, conns: make([]conn, l.Conns), timer: -1}
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return Result{}, fmt.Errorf("epoll: %w", err)
	}
	defer unix.Close(r.epoll)
	defer r.disconnect()
	if err := r.connect(); err != nil {
		return Result{}, fmt.Errorf("connecting to %s: %w", l.Addr, err)
	}
	if l.Rate > 0 {
		if err := r.startTimer(); err != nil {
			return Result{}, fmt.Errorf("timer: %w", err)
		}
		defer unix.Close(r.timer)
	}
	if err := r.loop(); err != nil {
		return Result{}, err
	}
	return r.result, nil
}

func (r *run) connect() error {
	to := &unix.SockaddrInet4{Port: int(r.Addr.Port()), Addr: r.Addr.Addr().As4()}
	for i := range r.conns {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		r.conns[i] = conn{fd: fd, in: make([]byte, 0, maxHeader)}
		if err := errors.Join(unix.Connect(fd, to),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
			unix.SetNonblock(fd, true),
			// Edge-triggered: registered once, and never asked for again.
			unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
				Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(i)}),
		); err != nil {
			return err
		}
		r.idle = append(r.idle, i)
	}
	return nil
}

func (r *run) disconnect() {
	for i := range r.conns {
		if r.conns[i].fd > 0 {
			unix.Close(r.conns[i].fd)
		}
	}
}

func (r *run) startTimer() (err error) {
	if r.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return err
	}
	every := unix.NsecToTimespec(int64(tick))
	if err := unix.TimerfdSettime(r.timer, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		return err
	}
	return unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, r.timer, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
}

// loop runs the load until its time is over.
func (r *run) loop() error {
	r.start = time.Now()
	begin := r.start.Add(r.Warm)
	end := begin.Add(r.Measure)
	events := make([]unix.EpollEvent, len(r.conns)+1)
	for {
		now := time.Now()
		if !r.measuring && !now.Before(begin) {
			r.measuring, begin = true, now
			end = begin.Add(r.Measure)
			if r.Begin != nil {
				r.Begin()
			}
		}
		if r.measuring && !now.Before(end) {
			r.result.Elapsed = now.Sub(begin)
			if r.Rate > 0 {
				r.result.Unsent = r.scheduled(now) - r.sent
			}
			if r.End != nil {
				r.End()
			}
			return nil
		}
		if err := r.dispatch(now); err != nil {
			return err
		}
		n, err := unix.EpollWait(r.epoll, events, 100)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd < 0 {
				var expirations [8]byte
				_, _ = unix.Read(r.timer, expirations[:]) // only to make it wait again
				continue
			}
			if err := r.serve(int(e.Fd), e.Events); err != nil {
				return fmt.Errorf("connection %d: %w", e.Fd, err)
			}
		}
	}
}

// scheduled is how many requests are due at a time.
func (r *run) scheduled(now time.Time) int64 {
	return int64(now.Sub(r.start).Seconds() * r.Rate)
}

// dispatch sends what is due on connections that are free.
func (r *run) dispatch(now time.Time) error {
	for len(r.idle) > 0 {
		due := now
		if r.Rate > 0 {
			if r.sent >= r.scheduled(now) {
				return nil
			}
			due = r.start.Add(time.Duration(float64(r.sent+1) / r.Rate * float64(time.Second)))
			r.sent++
		}
		i := r.idle[len(r.idle)-1]
		r.idle = r.idle[:len(r.idle)-1]
		if err := r.send(i, due); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return nil
}

func (r *run) send(i int, due time.Time) error {
	c := &r.conns[i]
	c.out, c.due, c.asked = r.Request(i), due, true
	c.in, c.body = c.in[:0], 0
	return c.flush()
}

// flush writes as much of the request as the socket takes.
func (c *conn) flush() error {
	for len(c.out) > 0 {
		n, err := unix.Write(c.fd, c.out)
		switch {
		case err == unix.EAGAIN:
			return nil
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("sending: %w", err)
		default:
			c.out = c.out[n:]
		}
	}
	return nil
}

// serve handles the events of one connection.
func (r *run) serve(i int, events uint32) error {
	c := &r.conns[i]
	if events&unix.EPOLLOUT != 0 && len(c.out) > 0 {
		if err := c.flush(); err != nil {
			return err
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		return nil
	}
	complete, err := c.receive()
	if err != nil || !complete {
		return err
	}
	now := time.Now()
	if r.measuring {
		r.result.Answers++
		r.result.Latencies = append(r.result.Latencies, now.Sub(c.due))
	}
	if r.Answer != nil {
		if err := r.Answer(i, c.status, c.in[c.body:c.body+c.length]); err != nil {
			return err
		}
	}
	c.asked = false
	if r.Rate > 0 {
		r.idle = append(r.idle, i)
		return r.dispatch(now)
	}
	return r.send(i, now)
}

// receive reads until the answer is complete or nothing more is there.
func (c *conn) receive() (complete bool, err error) {
	for {
		if len(c.in) == cap(c.in) {
			c.in = append(c.in, 0)[:len(c.in)]
		}
		n, err := unix.Read(c.fd, c.in[len(c.in):cap(c.in)])
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case err == unix.EINTR:
			continue
		case err != nil:
			return false, fmt.Errorf("receiving: %w", err)
		case n == 0:
			return false, fmt.Errorf("receiving: server closed the connection: %w", io.ErrUnexpectedEOF)
		case !c.asked:
			return false, fmt.Errorf("%d bytes that nobody asked for", n)
		}
		c.in = c.in[:len(c.in)+n]
		if c.body == 0 {
			if c.status, c.body, c.length, err = parseHeader(c.in); err != nil {
				return false, err
			}
		}
		if c.body > 0 && len(c.in) >= c.body+c.length {
			if len(c.in) > c.body+c.length {
				return false, errors.New("more bytes than the answer has")
			}
			return true, nil
		}
	}
}
