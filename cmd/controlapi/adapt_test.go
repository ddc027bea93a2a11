package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/controlapi/orchestrator"
	"github.com/tallystick/tallystick/logserver"
)

// TestLogErrors: a log that has accepted nothing and will soon accept again, on
// a full disk too, is busy; anything else has an outcome that is unknown.
func TestLogErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		busy bool
	}{
		{logserver.ErrPushback, true},
		{logserver.ErrNotReady, true},
		{logserver.ErrDiskFull, true},
		{logserver.ErrReload, false},
		{logserver.ErrCorrupt, false},
	} {
		got := logError(fmt.Errorf("appending: %w", c.err))
		if errors.Is(got, orchestrator.ErrPushback) != c.busy || !errors.Is(got, c.err) {
			t.Errorf("%v becomes %v", c.err, got)
		}
	}
}
