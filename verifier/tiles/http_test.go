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
