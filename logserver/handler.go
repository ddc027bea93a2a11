package logserver

import (
	"net/http"
	"strings"
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
// witnesses need them before it is published, and are 404 beyond. Every
// resource has one path; no other spelling of it is answered.
//
// docs/formats/log-http.md specifies the whole interface, refusals included.
func ReadHandler(l *Log) http.Handler { return &handler{log: l} }

// Handler serves the whole interface of a log of its own:
//
//	POST /add         body: one entry; answer: its index
//	POST /add-batch   body: entries framed as in a bundle; answer: indexes, one a line
//	POST /add-stream  messages of entries, answered in order while they arrive
//	GET /healthz      200, or 503 with the reasons
//	GET /metrics      Prometheus text format
//
// and everything that ReadHandler does. Anybody who reaches it may append.
//
// Run it under Serve, which bounds connections and slow clients; the handler
// itself bounds the bytes that requests hold in memory.
func Handler(l *Log) http.Handler {
	return &handler{log: l, writes: true, metrics: newMetricsPages(l)}
}

// handler dispatches by path without a mux: the paths are few, no other
// spelling of one may match, and appending is worth the microsecond.
type handler struct {
	log     *Log
	writes  bool          // also /add and what else only Handler serves
	metrics *metricsPages // nil without writes
}

// route names a kind of request in the metrics.
type route int

const (
	routeOther route = iota
	routeAdd
	routeAddBatch
	routeAddStream
	routeCheckpoint
	routeTile
	routeEntries
	routeProof
	routeHealth
	routeMetrics
	numRoutes
)

var routeNames = [numRoutes]string{"other", "add", "add_batch", "add_stream", "checkpoint", "tile", "entries", "proof", "healthz", "metrics"}

// routeOf sorts a request by its path.
func (h *handler) routeOf(r *http.Request) route {
	path := r.URL.Path
	switch {
	case r.URL.RawPath != "": // spelled in another than the canonical way
		return routeOther
	case strings.HasPrefix(path, "/tile/entries/"):
		return routeEntries
	case strings.HasPrefix(path, "/tile/"):
		return routeTile
	case path == "/checkpoint":
		return routeCheckpoint
	case path == "/proof/inclusion", path == "/proof/consistency", strings.HasSuffix(path, proofSuffix):
		return routeProof
	case !h.writes:
		return routeOther
	}
	switch path {
	case "/add":
		return routeAdd
	case "/add-batch":
		return routeAddBatch
	case "/add-stream":
		return routeAddStream
	case "/healthz":
		return routeHealth
	case "/metrics":
		return routeMetrics
	}
	return routeOther
}

// ServeHTTP answers, and counts, every request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor > 1 {
		h.serveMultiplexed(w, r)
		return
	}
	h.serve(w, r, nil)
}

// serve answers a request, with a refusal if err says why.
func (h *handler) serve(w http.ResponseWriter, r *http.Request, err error) {
	start := uptime()
	route, code := h.routeOf(r), codeOK
	if err == nil {
		err = h.dispatch(route, w, r)
	}
	if err != nil {
		code = h.conclude(w, r, err)
	}
	h.log.metrics.request(route, code, uptime()-start)
}

// conclude answers a request that ended with an error, unless it has been.
func (h *handler) conclude(w http.ResponseWriter, r *http.Request, err error) string {
	if told, ok := err.(toldError); ok {
		return outcomeOf(told.err).code
	}
	if outcomeOf(err).unread && r.ProtoMajor == 1 {
		w.Header()["Connection"] = closeConnection
	}
	return h.log.refuse(w, err)
}

// toldError is an error that the client has been told about in an answer that
// had begun, or that came too late to be told.
type toldError struct{ err error }

func (e toldError) Error() string { return e.err.Error() }

// dispatch answers a request, or returns why it is refused with nothing sent.
func (h *handler) dispatch(route route, w http.ResponseWriter, r *http.Request) error {
	switch route {
	case routeAdd, routeAddBatch, routeAddStream:
		if r.Method != http.MethodPost {
			w.Header()["Allow"] = writeMethods
			return errMethod
		}
		return h.append(route, w, r)
	}
	header := w.Header()
	header["Access-Control-Allow-Origin"] = anyOrigin
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		header["Access-Control-Allow-Methods"] = readMethods
		header["Access-Control-Allow-Headers"] = anyOrigin
		header["Access-Control-Max-Age"] = preflightAge
		w.WriteHeader(http.StatusNoContent)
		return nil
	default:
		header["Allow"] = readMethods
		return errMethod
	}
	header["Access-Control-Expose-Headers"] = exposedHeaders
	switch route {
	case routeTile, routeEntries:
		return h.tile(w, r)
	case routeCheckpoint:
		return h.checkpoint(w)
	case routeProof:
		return h.proof(w, r)
	case routeHealth:
		return h.health(w)
	case routeMetrics:
		page, err := h.metrics.page()
		if err != nil {
			return err
		}
		return h.send(w, contentMetrics, cacheNone, page)
	}
	return errNoResource
}

// append dispatches what changes the log.
func (h *handler) append(route route, w http.ResponseWriter, r *http.Request) error {
	// What was sent would become the entry, and what was meant would not be in
	// the log.
	for _, encoding := range r.Header["Content-Encoding"] {
		if encoding != "" && encoding != "identity" {
			return errEncoded
		}
	}
	switch route {
	case routeAdd:
		return h.add(w, r)
	case routeAddBatch:
		return h.addBatch(w, r)
	default:
		return h.addStream(w, r)
	}
}

func (h *handler) checkpoint(w http.ResponseWriter) error {
	pub := h.log.Published()
	if pub.Note == nil {
		return errUnpublished
	}
	serve(w, contentText, cacheNever, pub.Note)
	return nil
}

// servable is the tree size up to which reads are served: that of the last
// checkpoint that was signed, or receipt head that may be.
func (l *Log) servable() int64 {
	if l.receipt != nil {
		return l.Size()
	}
	return l.Signed().Size
}
