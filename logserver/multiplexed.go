package logserver

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// maxMultiplexed bounds the requests under way of all HTTP/2 connections together,
// beyond the first of each: of HTTP/1.1 a connection has one, of HTTP/2 hundreds.
const maxMultiplexed = 4096

// What a connection may have of the requests that are free. Whoever comes late
// finds few free, and some: a few connections cannot take them all, and every
// connection has its first.
const (
	servedShare = 8 // an eighth is served
	toldShare   = 4 // up to a quarter is told that there are too many, the rest is reset
)

// multiplexed counts the requests under way of HTTP/2 connections.
type multiplexed struct {
	total int

	mu      sync.Mutex     // guards all below
	conns   map[string]int // by the remote address, which each connection has for itself
	further int            // of all connections, beyond the first of each
}

// verdict says what becomes of a request.
type verdict int

const (
	verdictServe verdict = iota
	verdictTell          // that there are too many
	verdictReset
)

func newMultiplexed(total int) *multiplexed {
	return &multiplexed{total: total, conns: map[string]int{}}
}

// enter counts a request of a connection, until leave, unless it is to be reset.
func (m *multiplexed) enter(conn string) verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	others, free := m.conns[conn], m.total-m.further
	if others > 0 {
		if others > free/toldShare {
			return verdictReset
		}
		m.further++
	}
	m.conns[conn]++
	if others > free/servedShare {
		return verdictTell
	}
	return verdictServe
}

func (m *multiplexed) leave(conn string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns[conn]--; m.conns[conn] > 0 {
		m.further--
	} else {
		delete(m.conns, conn)
	}
}

// held returns how many requests are under way.
func (m *multiplexed) held() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.further + len(m.conns)
}

// serveMultiplexed answers a request of an HTTP/2 connection. It is under way until
// its client has taken the answer: left to itself net/http would wait for that
// after the handler has returned, and keep the request meanwhile. How long that may
// take is set here, since not every server that the handler is mounted in does. A
// stream that is opened lifts that, and sets another for each of its answers.
func (h *handler) serveMultiplexed(w http.ResponseWriter, r *http.Request) {
	var err error
	switch h.log.multiplexed.enter(r.RemoteAddr) {
	case verdictReset:
		h.log.metrics.request(h.routeOf(r), outcomeOf(errBusy).code, 0)
		panic(http.ErrAbortHandler) // an answer might have to wait for the client
	case verdictTell:
		err = fmt.Errorf("%w: too many requests of this connection", errBusy)
	}
	defer h.log.multiplexed.leave(r.RemoteAddr)
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(writeTimeout)) // writers that know none are tests'
	h.serve(w, r, err)
	_ = control.Flush() // an error is the client's, who is gone
}
