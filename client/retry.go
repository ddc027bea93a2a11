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
// control plane asks to wait before, 0 to one minute; 0 leaves it to the caller.
// The answer is what the control plane says, or what no control plane answered.
func RetryAfter(err error) (time.Duration, bool) {
	var refusal *connect.Error
	if !errors.As(err, &refusal) {
		return 0, false
	}
	if code := refusal.Code(); code != connect.CodeResourceExhausted && code != connect.CodeUnavailable {
		return 0, false
	}
	seconds, err := strconv.ParseUint(refusal.Meta().Get("Retry-After"), 10, 32)
	if err != nil {
		return 0, true // none, or a date, which the control plane never sends
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter), true
}
