package logserver

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tallystick/tallystick/logserver/internal/direct"
)

// plainAppends is the log to package direct, which answers appends without
// net/http: what it does here is what the handler does.
type plainAppends struct{ log *Log }

// Enter takes the buffer of a body from the budget.
func (p plainAppends) Enter() bool { return p.log.bodies.take(smallBody, 0) }

// Ask queues an entry.
func (p plainAppends) Ask(entry []byte, receipt bool, by direct.Asker) error {
	if receipt && p.log.receipt == nil {
		return errNoReceipts
	}
	return p.log.ask(entry, by)
}

// Refuse returns what the handler answers.
func (p plainAppends) Refuse(err error) (*http.Response, string) {
	var w memoryWriter
	code := p.log.refuse(&w, err)
	return &http.Response{
		StatusCode: w.status, Header: w.header,
		ContentLength: int64(w.body.Len()), Body: io.NopCloser(&w.body),
	}, code
}

// Leave counts the request and gives the buffer back.
func (p plainAppends) Leave(code string, took time.Duration) {
	if code == "" {
		code = codeOK
	}
	p.log.metrics.request(routeAdd, code, took)
	p.log.bodies.give(smallBody)
}

// Index implements direct.Group.
func (a *answer) Index(place int) (int64, error) {
	if a.err != nil {
		return 0, a.err
	}
	r := a.result(place)
	return r.Index, r.Err
}

// Receipt implements direct.Group.
func (a *answer) Receipt(place int) ([]byte, error) {
	index, err := a.Index(place)
	if err != nil {
		return nil, err
	}
	signed, err := a.head.Note()
	if err != nil {
		return nil, err
	}
	return a.log.proofUnder(index, a.head.Size, signed)
}

// tooManyConnections is the answer to a connection beyond the limit.
func tooManyConnections() []byte {
	o := outcomeOf(errBusy)
	const reason = "too many connections, try again\n"
	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s: %s\r\nRetry-After: %d\r\nConnection: close\r\n\r\n%s",
		o.status, http.StatusText(o.status), contentText[0], len(reason), codeHeader, o.code, o.retryAfter, reason)
	return out.Bytes()
}
