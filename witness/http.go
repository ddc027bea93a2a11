package witness

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Handler serves the witness over HTTP:
//
//	POST /add-checkpoint            submission prefix "/": both cosignatures
//	POST /ed25519/add-checkpoint    submission prefix "/ed25519": that of type 0x04
//	POST /mldsa/add-checkpoint      submission prefix "/mldsa": that of type 0x06
//	GET  /<origin hash>/checkpoint  monitoring prefix "/": what was cosigned last
//	GET  /healthz                   200 if the witness can cosign, 503 if not
//
// Prefixes of one key each are for clients that keep only one signature per
// witness URL. All share one head per origin.
func (w *Witness) Handler() http.Handler {
	mux := http.NewServeMux()
	edID, mldsaID := w.keys.Ed25519.Key().KeyHash(), w.keys.MLDSA44.Key().KeyHash()
	mux.Handle("POST /add-checkpoint", w.addCheckpoint(edID, mldsaID))
	mux.Handle("POST /ed25519/add-checkpoint", w.addCheckpoint(edID))
	mux.Handle("POST /mldsa/add-checkpoint", w.addCheckpoint(mldsaID))
	mux.HandleFunc("GET /{hash}/checkpoint", w.latest)
	mux.HandleFunc("GET /healthz", w.health)
	return mux
}

// addCheckpoint answers with the cosignatures by the keys with the given IDs.
func (w *Witness) addCheckpoint(keyIDs ...uint32) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		sigs, err := w.readAndAdd(rw, r)
		status := writeAnswer(rw, sigs, keyIDs, err)
		// What a log gets wrong concerns the operator; what strangers send does not.
		level := slog.LevelDebug
		if errors.Is(err, ErrInconsistent) {
			level = slog.LevelWarn
		}
		w.logger.Log(r.Context(), level, "add-checkpoint", "path", r.URL.Path, "status", status,
			"remote", r.RemoteAddr, "error", err)
	}
}

// readAndAdd reads the request body, within its bound. The body of a request
// has no required Content-Type.
func (w *Witness) readAndAdd(rw http.ResponseWriter, r *http.Request) ([]checkpoint.Signature, error) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, checkpoint.MaxAddRequestSize))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, tooLarge.Limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading body: %w", ErrMalformed, err)
	}
	return w.AddCheckpoint(body)
}

// writeAnswer writes the answer to add-checkpoint and returns its status.
func writeAnswer(rw http.ResponseWriter, sigs []checkpoint.Signature, keyIDs []uint32, err error) int {
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
		if errors.Is(err, ErrUnavailable) {
			rw.Header().Set("Retry-After", "1")
		}
		return writeBody(rw, statusOf(err), []byte(err.Error()), "\n")
	}
	var lines []byte
	for _, sig := range sigs {
		if slices.Contains(keyIDs, sig.KeyID) {
			lines = append(lines, sig.Line()...)
		}
	}
	return writeBody(rw, http.StatusOK, lines, "")
}

// statusOf is the one place where outcomes become HTTP statuses.
func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrMalformed), errors.Is(err, ErrOldSize):
		return http.StatusBadRequest
	case errors.Is(err, ErrTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrUnknownOrigin):
		return http.StatusNotFound
	case errors.Is(err, ErrSignature):
		return http.StatusForbidden
	case errors.Is(err, ErrInconsistent):
		return http.StatusUnprocessableEntity
	case errors.Is(err, ErrUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// latest serves the monitoring endpoint. Pages of any origin may read it.
func (w *Witness) latest(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Access-Control-Allow-Origin", "*")
	rw.Header().Set("Cache-Control", "no-cache")
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	signed, err := w.Latest(r.PathValue("hash"))
	if err != nil {
		writeBody(rw, statusOf(err), []byte(err.Error()), "\n")
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
