package witness

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Handler serves the witness over HTTP:
//
//	POST /add-checkpoint            submission prefix "/": both cosignatures
//	POST /ed25519/add-checkpoint    submission prefix "/ed25519": that of type 0x04
//	POST /mldsa/add-checkpoint      submission prefix "/mldsa": that of type 0x06
//	GET  /<origin hash>/checkpoint  monitoring prefix, "/" or any of the above: what
//	                                was cosigned last
//	GET  /healthz                   200 if the witness can cosign, 503 if not
//	GET  /metrics                   counters for Prometheus
//
// Prefixes of one key each are for clients that keep only one signature per
// witness URL, and for those that want no more work done than they need: an
// ML-DSA-44 cosignature takes as long as twenty of Ed25519. All share one head
// per origin.
func (w *Witness) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /add-checkpoint", w.addCheckpoint("both", w.keys.places()...))
	mux.Handle("POST /ed25519/add-checkpoint", w.addCheckpoint("ed25519", placeEd25519))
	mux.Handle("POST /mldsa/add-checkpoint", w.addCheckpoint("mldsa", placeMLDSA44))
	for _, prefix := range []string{"", "/ed25519", "/mldsa"} {
		mux.HandleFunc("GET "+prefix+"/{hash}/checkpoint", w.latest)
	}
	mux.HandleFunc("GET /healthz", w.health)
	mux.Handle("GET /metrics", w.metrics.handler())
	return mux
}

// addCheckpoint answers with the cosignatures of the keys at the given places.
func (w *Witness) addCheckpoint(prefix string, keys ...int) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		lines, err := w.readAndAdd(rw, r, keys)
		status := writeAnswer(rw, lines, err)
		w.metrics.requests.WithLabelValues(prefix, outcomeOf(err).label).Inc()
		// What a log gets wrong concerns the operator; what strangers send does not.
		level := slog.LevelDebug
		if errors.Is(err, ErrInconsistent) || errors.Is(err, ErrUnlawful) || errors.Is(err, ErrForeignKey) {
			level = slog.LevelWarn
		}
		if w.logger.Enabled(r.Context(), level) {
			w.logger.Log(r.Context(), level, "add-checkpoint", "path", r.URL.Path, "status", status,
				"remote", r.RemoteAddr, "error", err)
		}
	}
}

// readAndAdd reads the request body, within its bound. The body of a request
// has no required Content-Type.
func (w *Witness) readAndAdd(rw http.ResponseWriter, r *http.Request, keys []int) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, checkpoint.MaxAddRequestSize))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, tooLarge.Limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading body: %w", ErrMalformed, err)
	}
	return w.AddCheckpoint(r.Context(), Submission{Body: body, Keys: keys})
}

// writeAnswer writes the answer to add-checkpoint and returns its status.
func writeAnswer(rw http.ResponseWriter, lines []byte, err error) int {
	var conflict *ConflictError
	if errors.As(err, &conflict) {
		// "The response body MUST consist of the tree size ... in decimal, followed by
		// a newline. The response MUST have a Content-Type of text/x.tlog.size." Exactly
		// that: clients compare it with parameters and all.
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		return writeBody(rw, http.StatusConflict, strconv.AppendInt(nil, conflict.Size, 10), "\n")
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		status := outcomeOf(err).status
		if status == http.StatusServiceUnavailable {
			rw.Header().Set("Retry-After", "1")
		}
		return writeBody(rw, status, []byte(clientText(err)), "\n")
	}
	return writeBody(rw, http.StatusOK, lines, "")
}

// clientText is what a client is told of an error. Of what concerns the witness
// alone, its disk or its way to a log, a stranger learns no more than its kind.
func clientText(err error) string {
	if errors.Is(err, ErrUnreadable) {
		return ErrUnreadable.Error()
	}
	return err.Error()
}

// outcome is what becomes of a request: its status and its label in metrics.
type outcome struct {
	status int
	label  string
}

// outcomes is the one place where errors become HTTP statuses.
var outcomes = []struct {
	err error
	outcome
}{
	{nil, outcome{http.StatusOK, "cosigned"}},
	{ErrMalformed, outcome{http.StatusBadRequest, "malformed"}},
	{ErrTooLarge, outcome{http.StatusRequestEntityTooLarge, "too_large"}},
	{ErrUnknownOrigin, outcome{http.StatusNotFound, "unknown_origin"}},
	{ErrSignature, outcome{http.StatusForbidden, "signature"}},
	{ErrForeignKey, outcome{http.StatusForbidden, "foreign_key"}},
	{ErrOldSize, outcome{http.StatusBadRequest, "old_size"}},
	{ErrConflict, outcome{http.StatusConflict, "conflict"}},
	{ErrInconsistent, outcome{http.StatusUnprocessableEntity, "inconsistent"}},
	{ErrUnlawful, outcome{http.StatusUnprocessableEntity, "unlawful"}},
	{ErrUnreadable, outcome{http.StatusServiceUnavailable, "unreadable"}},
	{ErrUnavailable, outcome{http.StatusServiceUnavailable, "unavailable"}},
}

func outcomeOf(err error) outcome {
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.outcome
		}
	}
	return outcome{http.StatusInternalServerError, "internal"}
}

// latest serves the monitoring endpoint. Pages of any origin may read it.
func (w *Witness) latest(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Access-Control-Allow-Origin", "*")
	rw.Header().Set("Cache-Control", "no-cache")
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	signed, err := w.Latest(r.PathValue("hash"))
	if err != nil {
		writeBody(rw, outcomeOf(err).status, []byte(err.Error()), "\n")
		return
	}
	writeBody(rw, http.StatusOK, signed, "")
}

func (w *Witness) health(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("Cache-Control", "no-store")
	if err := w.Healthy(); err != nil {
		writeBody(rw, http.StatusServiceUnavailable, []byte(err.Error()), "\n")
		return
	}
	writeBody(rw, http.StatusOK, []byte("ok"), "\n")
}

// writeBody writes status and body. An error means that the client has gone.
func writeBody(rw http.ResponseWriter, status int, body []byte, end string) int {
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	rw.Header().Set("Content-Length", strconv.Itoa(len(body)+len(end)))
	rw.WriteHeader(status)
	rw.Write(body)
	io.WriteString(rw, end)
	return status
}
