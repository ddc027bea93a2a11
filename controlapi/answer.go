package controlapi

import (
	"net/http"
)

// answer is the response writer of one operation. It lets nothing out before
// the operation has been recorded. Whoever writes earlier is Connect itself,
// about a request that never reached its handler (a body that breaks off or is
// over its bound, an unknown content type), or a handler that forgot: then the
// operation is recorded as malformed and answered so, and what was written is
// dropped.
//
// It belongs to the goroutine of its HTTP request.
type answer struct {
	http.ResponseWriter
	server  *Server
	request *http.Request
	op      *operation

	begun   bool
	dropped http.Header // not nil once the answer was replaced; its contents go nowhere
}

// Header returns the header to fill in.
func (a *answer) Header() http.Header {
	if a.dropped != nil {
		return a.dropped
	}
	return a.ResponseWriter.Header()
}

// WriteHeader sends the header.
func (a *answer) WriteHeader(status int) {
	a.begin()
	if a.dropped == nil {
		a.ResponseWriter.WriteHeader(status)
	}
}

// Write sends a part of the body and charges it to the principal.
func (a *answer) Write(p []byte) (int, error) {
	a.begin()
	if a.dropped != nil {
		return len(p), nil
	}
	a.op.account.sent(len(p), a.server.cfg.Now())
	return a.ResponseWriter.Write(p)
}

// Flush sends what is buffered.
func (a *answer) Flush() {
	a.begin()
	if a.dropped == nil {
		// A connection that cannot flush has no streams, so nobody waits.
		_ = http.NewResponseController(a.ResponseWriter).Flush()
	}
}

// Unwrap lets http.ResponseController set deadlines.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// begin holds the invariant of the type: it runs before anything goes out.
func (a *answer) begin() {
	if a.begun {
		return
	}
	a.begun = true
	if a.op.settled {
		return
	}
	a.replace(a.server.unread(a.op))
}

// unread says why a request never reached its handler.
func (s *Server) unread(op *operation) error {
	if op.bodyErr != nil {
		return op.bodyErr
	}
	return refuse(CodeMalformed, "the body is not one message of this method within %d bytes: check content type, encoding and length",
		s.cfg.bound(op.method))
}

// replace answers with err instead of whatever the handler has to say. It must
// come before anything went out.
func (a *answer) replace(err error) {
	a.begun = true
	a.dropped = make(http.Header)
	err = a.server.settle(a.request.Context(), a.op, err)
	a.server.writeError(a.ResponseWriter, a.request, a.server.answerError(a.op, err))
}
