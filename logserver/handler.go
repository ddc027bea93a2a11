package logserver

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Values of response headers. Every Content-Type is set by hand: sniffing has
// taken checkpoints for fonts.
const (
	contentText   = "text/plain; charset=utf-8"
	contentBinary = "application/octet-stream"
	// cacheForever is for what can never change; a resource that does not
	// exist yet is never sent with it.
	cacheForever = "public, max-age=31536000, immutable"
	cacheNever   = "no-cache"
)

// ReadHandler serves the public read interface of the log: nothing that changes
// it, and no opening. Mount it under a prefix with http.StripPrefix.
//
//	GET /checkpoint                     the published checkpoint
//	GET /tile/<L>/<N>[.p/<W>]           tiles, c2sp.org/tlog-tiles
//	GET /tile/entries/<N>[.p/<W>]       entry bundles
//	GET /proof/inclusion?index=&size=   hashes in base64, one a line
//	GET /proof/consistency?old=&new=    the same
//	GET /<index>.tlog-proof             c2sp.org/tlog-proof under the published checkpoint
//
// Tiles, bundles and proofs are served up to the last signed tree size, because
// witnesses need them before it is published, and are 404 beyond.
func ReadHandler(l *Log) http.Handler { return &readHandler{l} }

// Handler serves the whole interface of a log of its own:
//
//	POST /add         body: one entry; answer: its index
//	POST /add-batch   body: entries framed as in a bundle; answer: indexes, one a line
//	                  (either is 415 with a Content-Encoding)
//	GET /healthz      200, or 503 with the reasons
//	GET /metrics      Prometheus text format
//
// and everything that ReadHandler does. Anybody who reaches it may append.
func Handler(l *Log) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", ReadHandler(l))
	mux.Handle("POST /add", &addHandler{log: l})
	mux.Handle("POST /add-batch", &addHandler{log: l, batch: true})
	mux.HandleFunc("GET /healthz", l.serveHealth)
	mux.Handle("GET /metrics", metricsHandler(l))
	return mux
}

type readHandler struct{ log *Log }

func (h *readHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Access-Control-Allow-Origin", "*")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		header.Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		header.Set("Allow", "GET, HEAD, OPTIONS")
		refuse(w, http.StatusMethodNotAllowed, "only reading is possible here")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/")
	if !ok || r.URL.RawPath != "" {
		refuse(w, http.StatusNotFound, "no such resource") // not in canonical form
		return
	}
	switch {
	case path == "checkpoint":
		h.checkpoint(w)
	case strings.HasPrefix(path, "tile/"):
		h.tile(w, r, path)
	case path == "proof/inclusion":
		h.proof(w, r, "index", "size", h.log.InclusionProof)
	case path == "proof/consistency":
		h.proof(w, r, "old", "new", h.log.ConsistencyProof)
	case strings.HasSuffix(path, ".tlog-proof"):
		h.tlogProof(w, strings.TrimSuffix(path, ".tlog-proof"))
	default:
		refuse(w, http.StatusNotFound, "no such resource")
	}
}

func (h *readHandler) checkpoint(w http.ResponseWriter) {
	pub := h.log.Published()
	if pub.Note == nil {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "no checkpoint has satisfied the witness policy yet")
		return
	}
	serve(w, contentText, cacheNever, pub.Note)
}

func (h *readHandler) tile(w http.ResponseWriter, r *http.Request, path string) {
	p, ok := parseTilePath(path)
	if !ok || !p.within(h.log.servable()) {
		refuse(w, http.StatusNotFound, "no such tile at the last signed tree size")
		return
	}
	var b []byte
	var err error
	if p.entries {
		b, err = h.log.Bundle(p.number, p.width)
	} else {
		b, err = h.log.Tile(p.level, p.number, p.width)
	}
	if err != nil {
		h.log.refuseError(w, err)
		return
	}
	if p.entries {
		w.Header().Set("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header.Values("Accept-Encoding")) {
			w.Header().Set("Content-Encoding", "gzip")
			b = compress(b)
		}
	}
	serve(w, contentBinary, cacheForever, b)
}

// proof answers with the hashes of a proof that two integers ask for. Both are
// required, and nothing else is understood.
func (h *readHandler) proof(w http.ResponseWriter, r *http.Request, first, second string, prove func(a, b int64) ([]Hash, error)) {
	query := r.URL.Query()
	a, okA := decimal(query[first])
	b, okB := decimal(query[second])
	if !okA || !okB || len(query) != 2 {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("the query must be %s=N&%s=N with decimal N", first, second))
		return
	}
	if b > h.log.servable() {
		refuse(w, http.StatusNotFound, "beyond the last signed tree size")
		return
	}
	hashes, err := prove(a, b)
	if err != nil {
		h.log.refuseError(w, err)
		return
	}
	var out []byte
	for _, hash := range hashes {
		out = append(base64.StdEncoding.AppendEncode(out, hash[:]), '\n')
	}
	serve(w, contentText, cacheForever, out)
}

func (h *readHandler) tlogProof(w http.ResponseWriter, name string) {
	index, ok := decimal([]string{name})
	if !ok {
		refuse(w, http.StatusNotFound, "no such resource")
		return
	}
	pub := h.log.Published()
	if index >= pub.Size {
		refuse(w, http.StatusNotFound, "no published checkpoint covers this index yet")
		return
	}
	hashes, err := h.log.InclusionProof(index, pub.Size)
	if err != nil {
		h.log.refuseError(w, err)
		return
	}
	p := checkpoint.Proof{Index: index, Hashes: hashes, Checkpoint: pub.Note}
	serve(w, contentText, cacheNever, p.Format())
}

// servable is the tree size up to which reads are served: that of the last
// checkpoint or receipt head that was signed.
func (l *Log) servable() int64 {
	if l.receipt != nil {
		return l.Size()
	}
	return l.Signed().Size
}

// decimal reads the only value of a parameter: an integer in canonical form,
// 0 ≤ n < 2^63.
func decimal(values []string) (int64, bool) {
	if len(values) != 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(values[0], 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == values[0]
}

// serve sends a resource. Content-Length makes HEAD tell the size.
func serve(w http.ResponseWriter, contentType, cache string, body []byte) {
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Cache-Control", cache)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

// refuse sends an error in one line of text. It is never cached.
func refuse(w http.ResponseWriter, status int, reason string) {
	header := w.Header()
	header.Set("Content-Type", contentText)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintln(w, reason)
}

// refuseError maps the outcomes of this package to status codes.
func (l *Log) refuseError(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrNotFound):
		refuse(w, http.StatusNotFound, err.Error())
	case errors.Is(err, ErrInvalid):
		refuse(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, ErrPushback), errors.Is(err, ErrNotReady), errors.Is(err, ErrClosed), errors.Is(err, ErrDiskFull):
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, err.Error())
	default: // what an operator has to look at, and not a stranger
		l.opts.Logger.Error("request failed", "origin", l.opts.Origin, "err", err)
		refuse(w, http.StatusServiceUnavailable, "log needs its operator")
	}
}

// acceptsGzip reports whether Accept-Encoding names gzip, or anything, without
// forbidding it (RFC 9110 section 12.5.3).
func acceptsGzip(values []string) bool {
	found := false
	for item := range strings.SplitSeq(strings.Join(values, ","), ",") {
		coding, params, _ := strings.Cut(item, ";")
		coding = strings.TrimSpace(coding)
		weight, ok := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
		q, err := strconv.ParseFloat(weight, 64)
		allowed := !ok || err == nil && q > 0
		if strings.EqualFold(coding, "gzip") {
			return allowed
		}
		if coding == "*" {
			found = allowed
		}
	}
	return found
}

// gzips holds writers: each costs hundreds of kilobytes to make.
var gzips = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	return z
}}

func compress(b []byte) []byte {
	z := gzips.Get().(*gzip.Writer)
	defer gzips.Put(z)
	var out bytes.Buffer
	z.Reset(&out)
	z.Write(b) // a bytes.Buffer never fails
	z.Close()
	return out.Bytes()
}
