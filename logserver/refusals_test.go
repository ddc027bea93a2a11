package logserver

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// refusedRequests is how many requests have been counted under a code, by any
// route.
func refusedRequests(tl *testLog, code string) (n float64) {
	for _, route := range routeNames {
		n += counted(tl.t, tl.metrics.requests.WithLabelValues(route, code))
	}
	return n
}

// refusedAppends is how many appends the log has counted as refused under a code.
func refusedAppends(tl *testLog, code string) float64 {
	return counted(tl.t, tl.metrics.refusals.WithLabelValues(code))
}

// TestEveryRefusalIsCounted: whatever keeps the log from accepting entries, each
// append that it refuses and each read that it cannot answer is counted under the
// code that its client is told: by route, and appends by the log, too.
func TestEveryRefusalIsCounted(t *testing.T) {
	notReady := func(t *testing.T) *testLog {
		opts := testOptions(vfs.NewMem())
		a := newFakeWitness(t, opts, 11)
		a.behave(dead)
		return newTestLog(t, witnessed(t, opts, 1, a))
	}
	failed := func(t *testing.T) *testLog {
		tl := newTestLog(t, testOptions(vfs.NewMem()))
		tl.fail(io.ErrUnexpectedEOF)
		return tl
	}
	full := func(t *testing.T) *testLog {
		disk := newDiskFS(16 << 20)
		tl := newTestLog(t, diskOptions(t, disk))
		disk.hold(int64(tl.space.reserve*3/4 + tl.store.unflushed()))
		if _, _, err := tl.Append(within(t), Entry{Data: []byte("x")}); !errors.Is(err, ErrDiskFull) {
			t.Fatal(err)
		}
		return tl
	}
	busy := func(t *testing.T) *testLog {
		opts := testOptions(vfs.NewMem())
		opts.QueueEntries = 1
		held, release := make(chan struct{}), make(chan struct{})
		first := true
		opts.durable = func() error {
			if first {
				first = false
				close(held)
				<-release
			}
			return nil
		}
		tl := newTestLog(t, opts)
		done := make(chan error, 2)
		add := func() {
			_, _, err := tl.Append(within(t), Entry{Data: []byte("queued")})
			done <- err
		}
		go add()
		<-held
		go add()
		eventually(t, "the queue is full", func() bool { entries, _ := tl.queue.fill(); return entries == 1 })
		t.Cleanup(func() {
			close(release)
			if err := errors.Join(<-done, <-done); err != nil {
				t.Error(err)
			}
		})
		return tl
	}
	for code, open := range map[string]func(*testing.T) *testLog{"not_ready": notReady, "reload": failed, "disk_full": full, "pushback": busy} {
		t.Run(code, func(t *testing.T) {
			tl := open(t)
			dial := dialer(t, Handler(tl.Log))
			for name, raw := range map[string]string{
				"an entry, by the direct path": post("/add", "", "x"),
				"an entry, by net/http":        post("/add", "Idempotency-Key: k\r\n", "x"),
				"a batch":                      post("/add-batch", "", frame("x")),
				"a stream":                     post("/add-stream", "", message("x")),
			} {
				if code == "pushback" && name == "a stream" {
					continue // which waits for room instead
				}
				requests, appends := refusedRequests(tl, code), refusedAppends(tl, code)
				res, body := exchange(t, dial(), raw)
				if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get(codeHeader) != code {
					t.Errorf("%s: %s %v %s, want 503 and %q", name, res.Status, res.Header, body, code)
				}
				eventually(t, name+" is counted", func() bool {
					return refusedRequests(tl, code) == requests+1 && refusedAppends(tl, code) == appends+1
				})
			}
			for path, want := range map[string]string{"/healthz": "unhealthy", "/checkpoint": "unpublished", "/tile/0/001": "not_found", "/7.tlog-proof": "not_found"} {
				requests := refusedRequests(tl, want)
				res, body := exchange(t, dial(), "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
				if res.StatusCode == http.StatusOK {
					continue // in this state it can be answered
				}
				if got := res.Header.Get(codeHeader); got != want {
					t.Errorf("GET %s: %s, code %q, %s", path, res.Status, got, body)
				}
				eventually(t, path+" is counted", func() bool { return refusedRequests(tl, want) == requests+1 })
			}
		})
	}
	t.Run("in an open stream", func(t *testing.T) {
		tl := newTestLog(t, testOptions(vfs.NewMem()))
		r, w := io.Pipe()
		answered := make(chan []string)
		go func() {
			_, lines := streamAll(t, Handler(tl.Log), r)
			answered <- lines
		}()
		io.WriteString(w, message("a"))
		tl.integrated.wait(within(t), 1, nil)
		tl.fail(io.ErrUnexpectedEOF)
		io.WriteString(w, message("b"))
		if lines := <-answered; !strings.HasPrefix(lines[len(lines)-1], "error reload") {
			t.Errorf("answers: %q", lines)
		}
		if refusedRequests(tl, "reload") != 1 || refusedAppends(tl, "reload") != 1 {
			t.Errorf("%v requests and %v appends are counted", refusedRequests(tl, "reload"), refusedAppends(tl, "reload"))
		}
	})
}
