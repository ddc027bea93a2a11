package main

import (
	"context"
	"time"

	"github.com/tallystick/tallystick/client"
)

// callPatience is how often a call is made when the server is busy or the caller
// over its quota, after ever longer waits of half a minute in sum, or as long as
// the server asks for.
const callPatience = 6

// callTimeout is how long one try may take until the answer is there as a whole: the
// largest payload comes in that time over half a megabit per second. A server that
// ends no answer would else be waited for as long as it likes.
const callTimeout = 5 * time.Minute

// patiently makes a call again when the server is busy or the caller over its
// quota. pause waits, or says that the context has ended.
func patiently[R any](ctx context.Context, pause func(context.Context, time.Duration) error, call func(context.Context) (R, error)) (R, error) {
	for try, wait := 1, time.Second; ; try, wait = try+1, 2*wait {
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		res, err := call(bounded)
		cancel()
		if err == nil {
			return res, nil
		}
		asked, again := client.RetryAfter(err)
		if !again || try == callPatience {
			return res, err
		}
		if ended := pause(ctx, max(wait, asked)); ended != nil {
			return res, ended
		}
	}
}

// pause waits for real.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
