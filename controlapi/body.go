package controlapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// A body that holds a part of the budget must arrive at minPace bytes per second
// on average, after slowStart: twice as fast as the slowest usual uplink.
const (
	minPace   = 128 << 10
	slowStart = 10 * time.Second
	// paceStep is after how many bytes the deadline moves on.
	paceStep = 256 << 10
)

// encodings are the headers by which the protocols announce a compressed body.
var encodings = []string{"Content-Encoding", "Connect-Content-Encoding", "Grpc-Encoding"}

// checkEncoding refuses compressed requests. Their length says nothing about
// the memory they take, which every bound and quota here is about. (A message
// that has the flag of a compressed one in spite of this is malformed, because
// the handlers know no compression.)
func checkEncoding(h http.Header) error {
	for _, name := range encodings {
		for _, value := range h.Values(name) {
			if value != "" && value != "identity" {
				return refuse(CodeEncoding, "requests must not be compressed: send the body without %s", name)
			}
		}
	}
	return nil
}

// meter reads a request body within its bound, charges it to the principal, and
// holds a part of the budget for it until close.
type meter struct {
	io.ReadCloser
	ctx    context.Context // of the request
	server *Server
	op     *operation
	most   int64  // bytes that it may have
	read   int64  // bytes so far
	ended  func() // called once at the end of the body

	// For methods whose requests are small, nothing of what follows is used.
	lease *lease
	known bool      // the lease covers the whole body
	begun time.Time // when reading began
	paced int64     // bytes up to which the deadline is set
}

// newMeter waits for the first claim on the budget. The caller puts the meter
// in place of the body, and calls close when nothing needs the request any more.
func (s *Server) newMeter(r *http.Request, op *operation) (*meter, error) {
	m := &meter{ReadCloser: r.Body, ctx: r.Context(), server: s, op: op, most: int64(s.cfg.bound(op.method)) + maxFraming}
	if op.method.size == smallRequest {
		return m, nil
	}
	m.lease = &lease{budget: s.bodies, principal: op.caller.id}
	first := min(firstClaim, m.most)
	if r.ContentLength >= 0 {
		m.known, first = true, min(r.ContentLength, m.most)
	}
	if err := m.lease.grow(m.ctx, first); err != nil {
		return nil, err
	}
	m.begun = time.Now()
	m.pace()
	// With the body in, a deadline would only end the call: see WrapUnary.
	m.ended = func() { _ = op.control.SetReadDeadline(time.Time{}) }
	return m, nil
}

// close gives back what the meter holds of the budget.
func (m *meter) close() {
	if m.lease != nil {
		m.lease.release()
	}
}

// Read reads on, or notes in the operation why it may not.
func (m *meter) Read(p []byte) (int, error) {
	if m.lease != nil {
		var err error
		if p, err = m.claim(p); err != nil {
			return 0, m.fail(err)
		}
	}
	n, err := m.ReadCloser.Read(p)
	m.read += int64(n)
	switch {
	case err == io.EOF && m.ended != nil:
		m.ended()
		m.ended = nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, m.fail(refuse(CodeDeadline, "the body came too slowly: send at least %d bytes per second", minPace))
	case m.lease != nil && m.read >= m.paced:
		m.pace()
	}
	if m.read > m.most {
		return 0, m.fail(refuse(CodeBodyTooLarge, "the request is larger than the %d bytes of this method: send less",
			m.server.cfg.bound(m.op.method)))
	}
	if n > 0 {
		if quotaErr := m.op.account.received(n, m.server.cfg.Now()); quotaErr != nil {
			return 0, m.fail(quotaErr)
		}
	}
	return n, err
}

// claim makes sure that the budget has room for what is read next, and returns
// the part of p that it has room for.
func (m *meter) claim(p []byte) ([]byte, error) {
	if m.known {
		return p, nil
	}
	if m.read >= m.lease.held {
		waiting := time.Now()
		if err := m.lease.grow(m.ctx, m.most); err != nil {
			return nil, err
		}
		m.known = true
		m.begun = m.begun.Add(time.Since(waiting)) // the client could not send
		m.pace()
		return p, nil
	}
	return p[:min(int64(len(p)), m.lease.held-m.read)], nil
}

// pace sets the deadline by which the next paceStep bytes must be there. The
// call's own deadline stays the last one.
func (m *meter) pace() {
	m.paced = m.read + paceStep
	deadline := m.begun.Add(slowStart + time.Duration(m.read)*time.Second/minPace)
	if last := m.op.start.Add(m.server.cfg.Timeout); deadline.After(last) {
		deadline = last
	}
	_ = m.op.control.SetReadDeadline(deadline)
}

func (m *meter) fail(err error) error {
	m.op.bodyErr = err
	return err
}
