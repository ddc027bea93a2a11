package main

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
)

// refusal is one that asks to wait so many seconds, "" for none said.
func refusal(code connect.Code, seconds string) error {
	err := connect.NewWireError(code, errors.New("not now"))
	if seconds != "" {
		err.Meta().Set("Retry-After", seconds)
	}
	return err
}

// A caller waits as long as the server asks, and no less than it would by itself.
func TestPatiently(t *testing.T) {
	busy, over := refusal(connect.CodeUnavailable, "1"), refusal(connect.CodeResourceExhausted, "20")
	lasting := refusal(connect.CodePermissionDenied, "")
	for name, test := range map[string]struct {
		answers []error
		want    error
		waits   []time.Duration
	}{
		"at once":         {answers: []error{nil}},
		"over a quota":    {answers: []error{over, nil}, waits: []time.Duration{20 * time.Second}},
		"busy for longer": {answers: []error{busy, busy, busy, nil}, waits: []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}},
		"nothing said":    {answers: []error{refusal(connect.CodeUnavailable, ""), nil}, waits: []time.Duration{time.Second}},
		"refused":         {answers: []error{lasting}, want: lasting},
		"busy, refused":   {answers: []error{busy, lasting}, want: lasting, waits: []time.Duration{time.Second}},
		"away for good": {answers: []error{busy, busy, over, busy, busy, busy}, want: busy,
			waits: []time.Duration{time.Second, 2 * time.Second, 20 * time.Second, 8 * time.Second, 16 * time.Second}},
	} {
		var waits []time.Duration
		calls := 0
		_, err := patiently(t.Context(), func(_ context.Context, d time.Duration) error {
			waits = append(waits, d)
			return nil
		}, func(ctx context.Context) (int, error) {
			if end, bounded := ctx.Deadline(); !bounded || time.Until(end) > callTimeout {
				t.Errorf("%s: a try until %v", name, end)
			}
			calls++
			return calls, test.answers[calls-1]
		})
		if err != test.want || calls != len(test.answers) || !slices.Equal(waits, test.waits) {
			t.Errorf("%s: %v after %d calls and %v", name, err, calls, waits)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := patiently(ctx, pause, func(context.Context) (int, error) { return 0, busy }); !errors.Is(err, context.Canceled) {
		t.Errorf("the context has ended: %v", err)
	}
}
