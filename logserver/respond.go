package logserver

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// codeHeader carries the code of a refusal: see outcome.
const codeHeader = "X-Tallystick-Code"

// Values of response headers, shared by all responses: net/http only reads
// them. Every Content-Type is set by hand: sniffing has taken checkpoints for
// fonts.
var (
	contentText    = []string{"text/plain; charset=utf-8"}
	contentBinary  = []string{"application/octet-stream"}
	contentMetrics = []string{"text/plain; version=0.0.4; charset=utf-8"}
	// cacheForever is for what can never change; a resource that does not
	// exist yet is never sent with it.
	cacheForever = []string{"public, max-age=31536000, immutable"}
	cacheNever   = []string{"no-cache"}
	cacheNone    = []string{"no-store"}
	noSniff      = []string{"nosniff"}
	gzipped      = []string{"gzip"}
	varyEncoding = []string{"Accept-Encoding"}
	// closeConnection keeps net/http from reading the rest of a body before it
	// sends the answer.
	closeConnection = []string{"close"}
	trueValue       = []string{"true"}

	anyOrigin      = []string{"*"}
	readMethods    = []string{"GET, HEAD, OPTIONS"}
	writeMethods   = []string{"POST"}
	exposedHeaders = []string{codeHeader + ", Retry-After"}
	preflightAge   = []string{"86400"}
)

// serve sends a resource. Content-Length makes HEAD tell the size.
func serve(w http.ResponseWriter, contentType, cache []string, body []byte) {
	serveLength(w, contentType, cache, body, []string{strconv.Itoa(len(body))})
}

func serveLength(w http.ResponseWriter, contentType, cache []string, body []byte, length []string) {
	header := w.Header()
	header["Content-Type"] = contentType
	header["Cache-Control"] = cache
	header["X-Content-Type-Options"] = noSniff
	header["Content-Length"] = length
	w.Write(body)
}

// send sends a resource that is not in memory anyway, if the budget for large ones
// has room for what its client may be slow to take.
func (h *handler) send(w http.ResponseWriter, contentType, cache []string, body []byte) error {
	if len(body) > largeReply {
		if !h.log.replies.take(int64(len(body)), 0) {
			return errBusy
		}
		defer h.log.replies.give(int64(len(body)))
	}
	serve(w, contentType, cache, body)
	return nil
}

// refuse answers with the outcome that an error stands for: one line of text,
// and a code for machines. It is never cached. It returns the code.
func (l *Log) refuse(w http.ResponseWriter, err error) string {
	o, reason := outcomeOf(err), l.publicReason(err)
	header := w.Header()
	header["Content-Type"] = contentText
	header["Cache-Control"] = cacheNone
	header["X-Content-Type-Options"] = noSniff
	header[codeHeader] = []string{o.code}
	if o.retryAfter > 0 {
		header["Retry-After"] = []string{strconv.Itoa(o.retryAfter)}
	}
	w.WriteHeader(o.status)
	fmt.Fprintln(w, reason)
	return o.code
}

// publicReason is what a stranger is told about an error. What an operator has
// to look at goes to the log of the process instead, at most once a second.
func (l *Log) publicReason(err error) string {
	if !outcomeOf(err).operator {
		return err.Error()
	}
	now, last := int64(uptime()), l.complained.Load()
	if (last == 0 || now-last >= int64(time.Second)) && l.complained.CompareAndSwap(last, now) {
		l.opts.Logger.Error("request failed", "origin", l.opts.Origin, "err", err)
	}
	return "log needs its operator"
}

// memoryWriter is a ResponseWriter in memory.
type memoryWriter struct {
	header http.Header
	status int // 0 if WriteHeader was not called
	body   bytes.Buffer
}

func (w *memoryWriter) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *memoryWriter) WriteHeader(status int) { w.status = status }

func (w *memoryWriter) Write(p []byte) (int, error) { return w.body.Write(p) }
