package logserver

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

type fakeCopy struct {
	status CopyStatus
	err    error
}

func (c fakeCopy) CopyStatus() CopyStatus { return c.status }
func (c fakeCopy) Health() error          { return c.err }

func TestCopyIsReported(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	metrics := func() string {
		page, err := newMetricsPages(tl.Log).page()
		if err != nil {
			t.Error(err)
		}
		return string(page)
	}
	if strings.Contains(metrics(), "copy") || tl.Status().Copy != nil {
		t.Error("a log without a copy reports one")
	}
	tl.ReportCopy(fakeCopy{status: CopyStatus{Target: "dir", Size: 7, Runs: 3}})
	if text, err := json.Marshal(tl.Status()); err != nil || !strings.Contains(string(text), `"copy":{"target":"dir","size":7,"runs":3,"failures":0}`) {
		t.Errorf("status: %s, %v", text, err)
	}
	if tl.Health() != nil {
		t.Error(tl.Health())
	}
	if text := metrics(); !strings.Contains(text, `tallystick_log_copy_size{log="log.example/test"} 7`) ||
		!strings.Contains(text, `tallystick_log_copy_failing_seconds{log="log.example/test"} 0`) {
		t.Errorf("metrics: %s", text)
	}
	tl.ReportCopy(fakeCopy{CopyStatus{Failing: time.Now().Add(-time.Hour), Runs: 3, Failures: 2}, errors.New("the bucket is gone")})
	if err := tl.Health(); err == nil || !strings.Contains(err.Error(), "the bucket is gone") {
		t.Errorf("health: %v", err)
	}
	if text := metrics(); !strings.Contains(text, `copy_failures_total{log="log.example/test"} 2`) || strings.Contains(text, `failing_seconds{log="log.example/test"} 0`) {
		t.Errorf("metrics: %s", text)
	}
	tl.add(tl.nextEntry()) // the log goes on
}
