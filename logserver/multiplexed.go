package logserver

import (
	"fmt"
	"net/http"
)

// maxMultiplexed bounds the requests of all HTTP/2 connections together that are
// under way. Half of them are served, the others told that there are too many, and
// what is beyond is reset: of HTTP/1.1 a connection has one, of HTTP/2 hundreds.
const maxMultiplexed = 4096

// serveMultiplexed answers a request of an HTTP/2 connection. It is under way until
// its client has taken the answer: left to itself net/http would wait for that
// after the handler has returned, and keep the request meanwhile.
func (h *handler) serveMultiplexed(w http.ResponseWriter, r *http.Request) {
	room := h.log.multiplexed
	if !room.take(1, 0) {
		h.log.metrics.request(h.routeOf(r), outcomeOf(errBusy).code, 0)
		panic(http.ErrAbortHandler) // an answer might have to wait for the client
	}
	defer room.give(1)
	var err error
	if most := room.total / 2; room.held() > most {
		err = fmt.Errorf("%w: %d requests", errBusy, most)
	}
	h.serve(w, r, err)
	_ = http.NewResponseController(w).Flush() // an error is the client's, who is gone
}
