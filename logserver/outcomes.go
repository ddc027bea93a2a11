package logserver

import (
	"errors"
	"net/http"
)

// outcome is how one kind of refusal is told apart by machines: over HTTP and
// in the metrics. The set is closed, and codes never change their meaning;
// docs/formats/log-http.md lists them for clients.
type outcome struct {
	err    error
	code   string // value of the header X-Tallystick-Code and of metric labels
	status int    // HTTP status
	// retryAfter is when the same request may succeed without anybody's doing,
	// in seconds; 0 means never, and no Retry-After header.
	retryAfter int
	// operator marks what an operator has to look at: the text of the error
	// goes to the log of the process and not to strangers.
	operator bool
	// unread marks refusals of bodies that have not been read to their end.
	unread bool
}

// Seconds after which a client should try again: at once when the log only has
// to catch up, at leisure when somebody has to come and see.
const (
	soon  = 1
	later = 30
)

// outcomes are tried in order, by errors.Is.
var outcomes = []outcome{
	// Outcomes of the log.
	{err: ErrPushback, code: "pushback", status: http.StatusServiceUnavailable, retryAfter: soon},
	{err: ErrGuard, code: "guard", status: http.StatusConflict},
	{err: ErrInvalid, code: "invalid", status: http.StatusBadRequest},
	{err: ErrDiskFull, code: "disk_full", status: http.StatusServiceUnavailable, retryAfter: later},
	{err: ErrImporting, code: "importing", status: http.StatusServiceUnavailable, retryAfter: later},
	{err: ErrNotReady, code: "not_ready", status: http.StatusServiceUnavailable, retryAfter: soon},
	{err: ErrClosed, code: "closed", status: http.StatusServiceUnavailable, retryAfter: soon},
	{err: ErrSucceeded, code: "succeeded", status: http.StatusGone},
	{err: ErrRestored, code: "restored", status: http.StatusServiceUnavailable, retryAfter: later, operator: true},
	{err: ErrForked, code: "forked", status: http.StatusServiceUnavailable, retryAfter: later, operator: true},
	{err: ErrCorrupt, code: "corrupt", status: http.StatusServiceUnavailable, retryAfter: later, operator: true},
	{err: ErrReload, code: "reload", status: http.StatusServiceUnavailable, retryAfter: later, operator: true},
	{err: ErrNotFound, code: "not_found", status: http.StatusNotFound},

	// Outcomes of the HTTP interface alone.
	{err: errNoResource, code: "not_found", status: http.StatusNotFound},
	{err: errMethod, code: "method", status: http.StatusMethodNotAllowed},
	{err: errQuery, code: "query", status: http.StatusBadRequest},
	{err: errEncoded, code: "encoded", status: http.StatusUnsupportedMediaType, unread: true},
	{err: errEmpty, code: "empty", status: http.StatusBadRequest},
	{err: errTooLarge, code: "too_large", status: http.StatusRequestEntityTooLarge, unread: true},
	{err: errCutShort, code: "cut_short", status: http.StatusBadRequest, unread: true},
	{err: errSlow, code: "slow", status: http.StatusRequestTimeout, unread: true},
	{err: errFraming, code: "framing", status: http.StatusBadRequest},
	{err: errIdempotencyKey, code: "idempotency_key", status: http.StatusBadRequest},
	{err: errKeyReused, code: "key_reused", status: http.StatusUnprocessableEntity},
	{err: errNoReceipts, code: "no_receipts", status: http.StatusNotImplemented},
	{err: errBusy, code: "busy", status: http.StatusServiceUnavailable, retryAfter: soon, unread: true},
	{err: errUnpublished, code: "unpublished", status: http.StatusServiceUnavailable, retryAfter: soon},
	{err: errUnhealthy, code: "unhealthy", status: http.StatusServiceUnavailable, retryAfter: later},
}

// unknownOutcome is that of every other error: a store that did not do what it
// should.
var unknownOutcome = outcome{code: "other", status: http.StatusServiceUnavailable, retryAfter: later, operator: true}

// Why a request is refused before the log is asked. They are wrapped where more
// can be said.
var (
	errNoResource     = errors.New("no such resource")
	errMethod         = errors.New("method is not allowed here")
	errQuery          = errors.New("query is not understood")
	errEncoded        = errors.New("body is encoded: send it without Content-Encoding")
	errEmpty          = errors.New("entry is empty")
	errTooLarge       = errors.New("body is too large")
	errCutShort       = errors.New("body was cut short")
	errSlow           = errors.New("body came too slowly")
	errFraming        = errors.New("framing is wrong")
	errIdempotencyKey = errors.New("Idempotency-Key is not acceptable")
	errKeyReused      = errors.New("Idempotency-Key was used for another entry")
	errNoReceipts     = errors.New("log signs no receipt heads")
	errBusy           = errors.New("too many bytes are under way, try again")
	errUnpublished    = errors.New("no checkpoint has satisfied the witness policy yet")
	errUnhealthy      = errors.New("unhealthy")
)

// outcomeOf finds the outcome that an error stands for.
func outcomeOf(err error) *outcome {
	for i := range outcomes {
		if errors.Is(err, outcomes[i].err) {
			return &outcomes[i]
		}
	}
	return &unknownOutcome
}
