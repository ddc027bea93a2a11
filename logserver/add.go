package logserver

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// maxBatchBody bounds the body of /add-batch, in bytes: a full bundle of the
// largest entries has to be sent in parts, thousands of small ones fit.
const maxBatchBody = 8 << 20

// addHandler serves POST /add and /add-batch.
type addHandler struct {
	log   *Log
	batch bool
}

// bodies holds buffers for single entries; Append copies what it keeps.
var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

func (h *addHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// What was sent would become the entry, and what was meant would not be in
	// the log.
	for _, encoding := range r.Header.Values("Content-Encoding") {
		if encoding != "" && encoding != "identity" {
			refuse(w, http.StatusUnsupportedMediaType, "body is encoded: send it without Content-Encoding")
			return
		}
	}
	limit := int64(MaxEntrySize)
	if h.batch {
		limit = maxBatchBody
	}
	if r.ContentLength > limit {
		refuse(w, http.StatusRequestEntityTooLarge, "body is too large")
		return
	}
	p := bodies.Get().(*[]byte)
	defer bodies.Put(p)
	body, err := readBody((*p)[:0], r.Body, limit)
	if cap(body) <= MaxEntrySize+1 {
		*p = body
	}
	switch {
	case errors.Is(err, errBodyTooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, "body is too large")
		return
	case err != nil:
		refuse(w, http.StatusBadRequest, "body was cut short")
		return
	case len(body) == 0:
		refuse(w, http.StatusBadRequest, "body is empty")
		return
	}
	if h.batch {
		h.addBatch(w, r, body)
		return
	}
	result, _, err := h.log.Append(r.Context(), Entry{Data: body})
	if err != nil {
		h.log.refuseError(w, err)
		return
	}
	serve(w, contentText, "no-store", strconv.AppendInt(nil, result.Index, 10))
}

func (h *addHandler) addBatch(w http.ResponseWriter, r *http.Request, body []byte) {
	entries, status, reason := parseFrames(body)
	if reason != "" {
		refuse(w, status, reason)
		return
	}
	results, _, err := h.log.AppendBatch(r.Context(), entries)
	if err != nil {
		h.log.refuseError(w, err)
		return
	}
	var out []byte
	for _, res := range results { // without keys and guards nothing is refused
		out = append(strconv.AppendInt(out, res.Index, 10), '\n')
	}
	serve(w, contentText, "no-store", out)
}

// parseFrames reads entries in the framing of an entry bundle. Like /add it
// refuses empty ones. If it refuses it gives a status and a reason.
func parseFrames(body []byte) (entries []Entry, status int, reason string) {
	for len(body) > 0 {
		if len(body) < 2 {
			return nil, http.StatusBadRequest, "body ends within an entry"
		}
		n := int(binary.BigEndian.Uint16(body))
		switch {
		case n == 0:
			return nil, http.StatusBadRequest, "entry is empty"
		case len(body) < 2+n:
			return nil, http.StatusBadRequest, "body ends within an entry"
		case len(entries) == MaxBatch:
			return nil, http.StatusRequestEntityTooLarge, "more than " + strconv.Itoa(MaxBatch) + " entries"
		}
		entries = append(entries, Entry{Data: body[2 : 2+n]})
		body = body[2+n:]
	}
	return entries, 0, ""
}

var errBodyTooLarge = errors.New("body is too large")

// readBody appends up to limit bytes to buf.
func readBody(buf []byte, body io.Reader, limit int64) ([]byte, error) {
	for {
		if int64(len(buf)) > limit {
			return buf, errBodyTooLarge
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := body.Read(buf[len(buf):min(int64(cap(buf)), limit+1)])
		buf = buf[:len(buf)+n]
		if err == io.EOF && int64(len(buf)) <= limit {
			return buf, nil
		}
		if err != nil && err != io.EOF {
			return buf, err
		}
	}
}
