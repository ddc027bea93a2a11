package client

import (
	"errors"
	"strconv"
	"time"

	"connectrpc.com/connect"
)

// maxRetryAfter bounds what RetryAfter returns: the control plane's own quotas
// never ask for more, and a caller that means to wait must not be put to sleep.
const maxRetryAfter = time.Minute

// RetryAfter reports whether the same call may succeed later, and how long the
// control plane asks to wait before, 0 to one minute; 0 leaves it to the caller. It
// may when the control plane is busy or the caller over a quota, and when nobody
// could be reached. It may not when an answer or a request is too large here.
func RetryAfter(err error) (time.Duration, bool) {
	var refusal *connect.Error
	if !errors.As(err, &refusal) {
		return 0, false
	}
	switch refusal.Code() {
	case connect.CodeUnavailable:
	case connect.CodeResourceExhausted:
		if !connect.IsWireError(refusal) {
			return 0, false // a bound of this side
		}
	default:
		return 0, false
	}
	seconds, err := strconv.ParseUint(refusal.Meta().Get("Retry-After"), 10, 32)
	if err != nil {
		return 0, true // none, or a date, which the control plane never sends
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter), true
}
