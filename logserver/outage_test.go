package logserver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestLogKeyOutage: while the service that has the log key is away, whoever asks
// over HTTP sees a log that takes entries, signs and shows nothing new, and turns
// red; also after a restart. When the service is back it goes on by itself.
func TestLogKeyOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := &moodySigner{Signer: testKey(1)}
		opts := testOptions(vfs.NewMem())
		opts.Key, opts.MinInterval = key, 100*time.Millisecond
		tl := newTestLog(t, opts)
		const stale = staleRounds*DefaultWitnessTimeout + time.Second
		expect := func(when, method, path, body string, status int, text string) {
			t.Helper()
			res, answer := do(t, Handler(tl.Log), method, path, body)
			if res.StatusCode != status || !strings.Contains(string(answer), text) {
				t.Errorf("%s: %s %s: %s, %q; want %d and %q", when, method, path, res.Status, answer, status, text)
			}
		}
		tl.addN(3)
		tl.mustPublish(3)
		synctest.Wait()
		_, before := do(t, Handler(tl.Log), http.MethodGet, "/checkpoint", "")
		expect("before", http.MethodGet, "/healthz", "", http.StatusOK, "ok")

		outage := func(when string, from int64) {
			t.Helper()
			tl.addN(2)
			// A receipt is signed by the receipt key, which is not away.
			entry := Entry{Data: fmt.Append(nil, "with a receipt ", when)}
			expect(when, http.MethodPost, "/add?proof=receipt", string(entry.Data), http.StatusOK, "— log.example/test/receipt ")
			tl.sequence(entry)
			expect(when, http.MethodGet, "/healthz", "", http.StatusOK, "ok") // for a while nobody notices
			time.Sleep(stale)
			expect(when, http.MethodGet, "/healthz", "", http.StatusServiceUnavailable, "3 signed, 3 published")
			expect(when, http.MethodGet, "/checkpoint", "", http.StatusOK, string(before))
			expect(when, http.MethodGet, "/tile/entries/000.p/3", "", http.StatusOK, "")
			expect(when, http.MethodGet, fmt.Sprintf("/tile/entries/000.p/%d", from+4), "", http.StatusNotFound, "")
			expect(when, http.MethodPost, "/add?proof=sometime", "x", http.StatusBadRequest, "")
			if s := tl.Status(); s.Signed != 3 || s.Published != 3 || s.Integrated != from+3 || !s.Ready || s.Healthy {
				t.Errorf("%s: %+v", when, s)
			}
		}
		key.away.Store(true)
		outage("away", 3)
		// A stop does not wait for the key, and a start does not ask for it.
		tl.reopen()
		expect("restarted", http.MethodGet, "/checkpoint", "", http.StatusOK, string(before))
		outage("still away after a restart", 6)

		key.away.Store(false)
		tl.mustPublish(9)
		synctest.Wait()
		expect("back", http.MethodGet, "/healthz", "", http.StatusOK, "ok")
		expect("back", http.MethodGet, "/checkpoint", "", http.StatusOK, "log.example/test\n9\n")
		expect("back", http.MethodGet, "/tile/entries/000.p/9", "", http.StatusOK, "")
		tl.check()
		tl.close()
	})
}
