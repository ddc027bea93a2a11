package tiles

import (
	"compress/gzip"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestHTTP(t *testing.T) {
	var asked atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("/log/checkpoint", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("note")) })
	mux.HandleFunc("/log/gzip", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		z.Write([]byte(strings.Repeat("a", 1000)))
		z.Close()
	})
	mux.HandleFunc("/log/busy", func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("at last"))
	})
	mux.HandleFunc("/log/down", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusBadGateway)
	})
	mux.HandleFunc("/log/forbidden", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusForbidden)
	})
	mux.HandleFunc("/log/later", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "20")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for _, prefix := range []string{srv.URL + "/log", srv.URL + "/log/"} {
		fetch, err := httpFetch(srv.Client(), prefix, time.Microsecond)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := fetch(t.Context(), "checkpoint", 4); err != nil || string(b) != "note" {
			t.Errorf("%q, %v", b, err)
		}
		if b, err := fetch(t.Context(), "gzip", 1000); err != nil || len(b) != 1000 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if _, err := fetch(t.Context(), "gzip", 999); !errors.Is(err, errFinal) {
			t.Errorf("over the limit: %v", err)
		}
		if _, err := fetch(t.Context(), "tile/0/000", 10); !errors.Is(err, ErrNotFound) {
			t.Errorf("missing: %v", err)
		}
		asked.Store(0)
		if b, err := fetch(t.Context(), "busy", 10); err != nil || string(b) != "at last" {
			t.Errorf("busy server: %q, %v", b, err)
		}
		asked.Store(0)
		if _, err := fetch(t.Context(), "down", 10); err == nil || asked.Load() != attempts {
			t.Errorf("server that is down: %v after %d attempts", err, asked.Load())
		}
		asked.Store(0)
		if _, err := fetch(t.Context(), "forbidden", 10); !errors.Is(err, errFinal) || asked.Load() != 1 {
			t.Errorf("forbidden: %v after %d attempts", err, asked.Load())
		}
		// A pause that a server asks for ends with the context.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := fetch(ctx, "later", 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while waiting: %v", err)
		}
		cancel()
	}
	for _, prefix := range []string{"", "example.com/log", "ftp://example.com", "https://u:p@example.com/", "https://example.com/?q", "http://", "://"} {
		if _, err := HTTP(srv.Client(), prefix); err == nil {
			t.Errorf("%q is taken for a URL", prefix)
		}
	}
	srv.Close()
	fetch, err := HTTP(srv.Client(), srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := fetch(ctx, "checkpoint", 10); err == nil {
		t.Error("a server that is gone answers")
	}
}

// answers is a server without a network: what it says to each request in turn,
// the last for ever.
type answers struct {
	list  []func() http.Header // a Retry-After; nil is the resource
	asked int
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	next := a.list[min(a.asked, len(a.list)-1)]
	a.asked++
	w := httptest.NewRecorder()
	if next == nil {
		w.WriteString("at last")
	} else {
		for name, values := range next() {
			w.Header()[name] = values
		}
		w.WriteHeader(http.StatusTooManyRequests)
	}
	res := w.Result()
	res.Request = r
	return res, nil
}

// TestRetryAfter: whoever limits how often it is asked, and says when to come
// back, in either form, is asked again then, more often than one that is down.
func TestRetryAfter(t *testing.T) {
	says := func(v string) func() http.Header {
		return func() http.Header { return http.Header{"Retry-After": {v}} }
	}
	in := func(d time.Duration) func() http.Header {
		return func() http.Header {
			return http.Header{"Retry-After": {time.Now().Add(d).UTC().Format(http.TimeFormat)}}
		}
	}
	repeat := func(n int, f func() http.Header) []func() http.Header {
		var list []func() http.Header
		for range n {
			list = append(list, f)
		}
		return append(list, nil)
	}
	for name, c := range map[string]struct {
		list        []func() http.Header
		ok          bool
		asked       int
		least, most time.Duration
	}{
		"seconds, more often than attempts": {repeat(7, says("5")), true, 8, 35 * time.Second, 35 * time.Second},
		"dates, more often than attempts":   {repeat(7, in(5*time.Second)), true, 8, 28 * time.Second, 35 * time.Second},
		"a date of the past":                {repeat(7, in(-time.Hour)), false, attempts, 0, 2 * time.Second},
		"nothing":                           {repeat(7, says("")), false, attempts, 0, 2 * time.Second},
		"nonsense":                          {repeat(7, says("soon")), false, attempts, 0, 2 * time.Second},
		"zero":                              {repeat(7, says("0")), false, attempts, 0, 2 * time.Second},
		"years":                             {repeat(1, in(1e5*time.Hour)), true, 2, maxPause, maxPause},
		"more seconds than there are":       {repeat(1, says("4294967295")), true, 2, maxPause, maxPause},
		"for ever":                          {repeat(100, says("20")), false, 30 + attempts, patience + time.Minute, patience + time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &answers{list: c.list}
				fetch, err := HTTP(&http.Client{Transport: server}, "http://log.example")
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				b, err := fetch(t.Context(), "checkpoint", 100)
				took := time.Since(start)
				if (err == nil) != c.ok || c.ok != (string(b) == "at last") || server.asked != c.asked || took < c.least || took > c.most {
					t.Errorf("%q, %v after %d requests in %v; want %d in %v to %v", b, err, server.asked, took, c.asked, c.least, c.most)
				}
			})
		})
	}
}
