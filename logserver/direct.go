package logserver

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// directBuffer is what a connection on the direct path holds: the head and
	// body of a request together. Larger ones are for net/http.
	directBuffer = 4 << 10
	// directGrace is how long the rest of a request is waited for before
	// net/http may do so.
	directGrace = time.Second
	// lingerTimeout is how long what a client still sends is read after its last
	// answer, as long as net/http takes for it.
	lingerTimeout = 500 * time.Millisecond
)

// directListener answers the appends among the requests on its connections,
// and passes each connection, with what has been read from it, to net/http as
// soon as anything else is on it, for good. A request for an index or a receipt
// then costs one read, one write, and little else: net/http takes as long for
// its part as the log for the whole append.
//
// It is the listener of an http.Server: Accept returns the connections that are
// passed on. docs/design/028-what-bounds-latency.md says what it is worth.
//
// A connection begins with a goroutine of its own (directConn). Where the system
// allows it, one whose first request has been answered goes on in a loop with
// others (directLoop), which costs no goroutine to be woken for every request,
// until it does anything that the loop does not know: then it comes back for good.
type directListener struct {
	*limitedListener
	h       *handler
	passing chan net.Conn
	failing chan error // of the listener
	closed  chan struct{}
	closing sync.Once

	stopping atomic.Bool
	conns    struct {
		sync.Mutex
		open  map[directEnd]struct{}
		ended sync.WaitGroup // counts those in open
	}
	loops directLoops
}

// directEnd is a connection on the direct path, whoever serves it.
type directEnd interface {
	finish() // closes it, when the request that is being answered has been
	cut()    // ends it now
}

func newDirectListener(ln *limitedListener, h *handler) *directListener {
	l := &directListener{
		limitedListener: ln, h: h,
		passing: make(chan net.Conn), failing: make(chan error), closed: make(chan struct{}),
	}
	l.conns.open = make(map[directEnd]struct{})
	return l
}

// run accepts connections until the listener is closed. net/http decides how
// long to wait after an error: the next one is tried when it has taken the last.
func (l *directListener) run() {
	for {
		conn, err := l.limitedListener.Accept()
		if err != nil {
			select {
			case l.failing <- err:
				continue
			case <-l.closed:
				return
			}
		}
		c := &directConn{
			limitedConn: conn.(*limitedConn), answerer: answerer{h: l.h, stopping: &l.stopping},
			l: l, buf: make([]byte, 0, directBuffer),
		}
		if !l.add(c) {
			c.Close()
			return
		}
		go c.serve()
	}
}

// Accept returns the next connection that net/http is to serve.
func (l *directListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.passing:
		return conn, nil
	case err := <-l.failing:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close stops accepting. Connections go on.
func (l *directListener) Close() error {
	err := net.ErrClosed
	l.closing.Do(func() {
		close(l.closed)
		err = l.limitedListener.Close()
	})
	return err
}

func (l *directListener) add(c directEnd) bool {
	l.conns.Lock()
	defer l.conns.Unlock()
	if l.stopping.Load() {
		return false
	}
	l.conns.open[c] = struct{}{}
	l.conns.ended.Add(1)
	return true
}

func (l *directListener) remove(c directEnd) {
	l.conns.Lock()
	defer l.conns.Unlock()
	delete(l.conns.open, c)
	l.conns.ended.Done()
}

// replace has a connection served by another, also while the listener stops.
func (l *directListener) replace(c, by directEnd) {
	l.conns.Lock()
	defer l.conns.Unlock()
	delete(l.conns.open, c)
	l.conns.open[by] = struct{}{}
}

// stop lets requests that have arrived be answered and closes the connections.
// What is left when ctx ends is cut off, and is the error.
func (l *directListener) stop(ctx context.Context) error {
	l.each(directEnd.finish)
	unhook := context.AfterFunc(ctx, func() { l.each(directEnd.cut) })
	l.conns.ended.Wait()
	l.loops.stop()
	if !unhook() {
		return ctx.Err()
	}
	return nil
}

// each calls f for every connection; none is added any more, but what replaces
// one of them asks whether we are stopping.
func (l *directListener) each(f func(directEnd)) {
	l.conns.Lock()
	l.stopping.Store(true)
	open := slices.Collect(maps.Keys(l.conns.open))
	l.conns.Unlock()
	for _, c := range open {
		f(c)
	}
}

// directConn is a connection on the direct path. Its goroutine owns it.
type directConn struct {
	*limitedConn
	answerer
	l *directListener

	buf      []byte // received and not yet answered
	entry    [1]Entry
	leaf     [1]Hash
	answered bool // a request
	stays    bool // with its goroutine: a loop has given it back, or does not want it
}

func (c *directConn) finish() { c.SetReadDeadline(time.Now()) }
func (c *directConn) cut()    { c.Close() }

// resume goes on with a connection that a loop has given back: it sends what is
// left of an answer first.
func (c *directConn) resume() {
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
func (c *directConn) serve() {
	defer c.l.remove(c)
	idle := readTimeout
	for {
		if c.answered {
			idle = idleTimeout
		}
		r, u := c.next(idle)
		if u == notOurs && len(c.buf) > 0 && !c.l.stopping.Load() {
			c.pass()
			return
		}
		if u == complete && !c.h.log.bodies.take(smallBody, 0) {
			c.pass() // to be told so
			return
		}
		if u != complete {
			c.end(c.answered && c.l.stopping.Load())
			return
		}
		err := c.answer(r)
		c.h.log.bodies.give(smallBody)
		if err != nil || c.l.stopping.Load() {
			c.end(err == nil)
			return
		}
		c.buf, c.answered = c.buf[:copy(c.buf, c.buf[r.size:])], true
		if c.stays || len(c.buf) > 0 {
			continue
		}
		if c.l.loops.adopt(c) {
			return
		}
		c.stays = true
	}
}

// end closes the connection. The kernel resets one that is closed with bytes that
// nobody has read, such as requests that the client sent without waiting, and a
// client that sees the reset may lose answers that it has not read yet. So after
// an answer the client is told first that nothing more comes, and what it sends is
// thrown away until it has closed its side or the time is up.
func (c *directConn) end(linger bool) {
	defer c.Close()
	if !linger || c.CloseWrite() != nil {
		return
	}
	// Not through lazyConn: finish sets its deadline.
	conn := c.lazyConn.Conn
	if conn.SetReadDeadline(time.Now().Add(lingerTimeout)) == nil {
		io.Copy(io.Discard, conn)
	}
}

// leave ends a connection that a loop has given back after its last answer.
func (c *directConn) leave() {
	defer c.l.remove(c)
	c.end(true)
}

// next reads until a request is complete. It waits for the first byte of one for
// as long as idle, and from then on for directGrace in all, however many pieces
// come. What does not become ours in time is not.
func (c *directConn) next(idle time.Duration) (addRequest, understanding) {
	deadline, begun := time.Now().Add(idle), false
	for {
		if len(c.buf) > 0 {
			r, u := parseAdd(c.buf)
			if u != partial {
				return r, u
			}
			if len(c.buf) == cap(c.buf) {
				return r, notOurs // larger than we care for
			}
			if !begun {
				deadline, begun = time.Now().Add(directGrace), true
			}
		}
		c.SetReadDeadline(deadline)
		if c.l.stopping.Load() { // its deadline may have been before ours
			return addRequest{}, notOurs
		}
		n, err := c.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+n]
		if err != nil {
			return addRequest{}, notOurs
		}
	}
}

// pass hands the connection to net/http, which reads first what was read here.
// After a POST net/http skips up to four bytes of blank lines, which old clients
// sent; about those that were answered here it does not know.
func (c *directConn) pass() {
	c.unread = c.buf
	for range 4 {
		if c.answered && len(c.unread) > 0 && (c.unread[0] == '\r' || c.unread[0] == '\n') {
			c.unread = c.unread[1:]
		}
	}
	select {
	case c.l.passing <- c.limitedConn:
	case <-c.l.closed:
		c.Close()
	}
}

// answer appends the entry and sends the answer.
func (c *directConn) answer(r addRequest) error {
	start := uptime()
	code, err := codeOK, c.append(r)
	if err != nil {
		code = c.refuse(err)
	}
	err = c.send()
	c.h.log.metrics.request(routeAdd, code, uptime()-start)
	return err
}

// send sends what is in out.
func (c *directConn) send() error {
	c.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.Write(c.out)
	return err
}

// append appends the entry and makes the answer.
func (c *directConn) append(r addRequest) error {
	if err := c.possible(r.form); err != nil {
		return err
	}
	c.entry[0].Data = r.body
	a, place, err := c.h.log.join(context.Background(), c.entry[:], c.leaf[:])
	c.entry[0].Data = nil
	if err != nil {
		return err
	}
	return c.render(r.form, a, place)
}

// answerer makes the answers of the direct path. One goroutine at a time uses it.
type answerer struct {
	h        *handler
	stopping *atomic.Bool // answers say that the connection ends
	out      []byte       // the answer
}

// possible reports why a form of answer is not.
func (w *answerer) possible(form addForm) error {
	if form == formReceipt && w.h.log.receipt == nil {
		return errNoReceipts
	}
	return nil
}

// render makes the answer to an append from that of its commit group, which did
// not fail.
func (w *answerer) render(form addForm, a *answer, place int) error {
	result := a.result(place)
	if result.Err != nil {
		return result.Err
	}
	if form == formIndex {
		var index [20]byte
		w.reply(directIndexHead, strconv.AppendInt(index[:0], result.Index, 10))
		return nil
	}
	signed, err := a.head.Note()
	if err != nil {
		return err
	}
	proof, err := w.h.log.proofUnder(result.Index, a.head.Size, signed)
	if err != nil {
		return err
	}
	w.reply(directProofHead, proof)
	return nil
}

// Heads of answers, up to the value of Date: the same headers that net/http
// sends for the handler.
const (
	directIndexHead = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nDate: "
	directProofHead = "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nDate: "
)

func (w *answerer) reply(head string, body []byte) {
	w.out = append(append(w.out[:0], head...), httpDate()...)
	w.out = strconv.AppendInt(append(w.out, "\r\nContent-Length: "...), int64(len(body)), 10)
	if w.stopping.Load() {
		w.out = append(w.out, "\r\nConnection: close"...)
	}
	w.out = append(append(w.out, "\r\n\r\n"...), body...)
}

// refuse makes the answer that the handler would give, and returns its code.
func (w *answerer) refuse(err error) string {
	var r refusal
	code := w.h.log.refuse(&r, err)
	r.Header()["Date"] = []string{httpDate()}
	res := http.Response{
		StatusCode: r.status, ProtoMajor: 1, ProtoMinor: 1, Header: r.header,
		ContentLength: int64(r.body.Len()), Body: io.NopCloser(&r.body), Close: w.stopping.Load(),
	}
	var out bytes.Buffer
	_ = res.Write(&out) // to memory, which does not fail
	w.out = append(w.out[:0], out.Bytes()...)
	return code
}

// refusal is a ResponseWriter in memory.
type refusal struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *refusal) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *refusal) WriteHeader(status int) { w.status = status }

func (w *refusal) Write(p []byte) (int, error) { return w.body.Write(p) }

// dateText is the value of a Date header, for one second.
type dateText struct {
	second int64
	text   string
}

var lastDate atomic.Pointer[dateText]

// httpDate returns the time as RFC 9110 section 5.6.7 has it.
func httpDate() string {
	now := time.Now()
	d := lastDate.Load()
	if d == nil || d.second != now.Unix() {
		d = &dateText{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
		lastDate.Store(d)
	}
	return d.text
}
