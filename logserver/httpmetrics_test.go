package logserver

import (
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// TestHTTPMetrics: every request is counted once, under labels of closed sets
// whatever it asks for; names and units are as Prometheus wants them.
func TestHTTPMetrics(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.addN(3)
	tl.mustPublish(3)
	h := Handler(tl.Log)
	requests := 0
	for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "BREW"} {
		for _, path := range []string{
			"/", "/add", "/add-batch", "/add-stream", "/checkpoint", "/tile/0/000.p/3", "/tile/entries/000.p/3", "/tile/7/x999/999",
			"/proof/inclusion", "/0.tlog-proof", "/healthz", "/metrics", "/%61dd", "/" + strings.Repeat("long", 99), "/add?x=y",
		} {
			do(t, h, method, path, "x")
			requests++
		}
	}
	if !slices.ContainsFunc(tl.metrics.collector, func(c prometheus.Collector) bool { return c == tl.metrics.requests }) {
		t.Error("requests are not collected")
	}
	r := prometheus.NewRegistry()
	r.MustRegister(tl.Metrics())
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{codeOK: true, unknownOutcome.code: true}
	for _, o := range outcomes {
		codes[o.code] = true
	}
	counted := 0
	for _, f := range families {
		if f.GetName() != "tallystick_log_http_requests_total" {
			continue
		}
		for _, m := range f.Metric {
			counted += int(m.GetCounter().GetValue())
			for _, l := range m.Label {
				switch l.GetName() {
				case "route":
					if !slices.Contains(routeNames[:], l.GetValue()) {
						t.Errorf("route %q", l.GetValue())
					}
				case "code":
					if !codes[l.GetValue()] {
						t.Errorf("code %q", l.GetValue())
					}
				}
			}
		}
	}
	if counted != requests {
		t.Errorf("%d requests are counted, %d were made", counted, requests)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
