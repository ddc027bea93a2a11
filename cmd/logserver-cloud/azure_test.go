package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// azure is as much of Azure Blob Storage as a copy needs: one container whose
// blobs are put in one request each, read, and listed.
type azure struct {
	t         *testing.T
	container string // its path
	mu        sync.Mutex
	blobs     map[string]object
	readOnly  bool
}

func (a *azure) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name, inside := strings.CutPrefix(r.URL.Path, a.container+"/")
	w.Header().Set("x-ms-version", r.Header.Get("x-ms-version"))
	w.Header().Set("Last-Modified", "Mon, 23 Nov 2026 00:00:00 GMT")
	w.Header().Set("ETag", `"1"`)
	if !strings.HasPrefix(r.Header.Get("Authorization"), "SharedKey account:") {
		a.t.Errorf("%s %s is not signed", r.Method, r.URL)
	}
	switch {
	case r.Method == http.MethodPut && inside && r.URL.RawQuery == "" && r.Header.Get("x-ms-blob-type") == "BlockBlob":
		data, err := io.ReadAll(r.Body)
		if err != nil {
			a.t.Error(err)
		}
		if a.readOnly {
			refuse(w, "AuthorizationFailure", http.StatusForbidden)
			return
		}
		a.blobs[name] = object{data, r.Header.Get("x-ms-blob-content-type"), r.Header.Get("x-ms-blob-cache-control"), r.Header.Get("x-ms-blob-content-encoding")}
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodGet && inside:
		blob, ok := a.blobs[name]
		if !ok {
			refuse(w, "BlobNotFound", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", blob.contentType)
		w.Header().Set("Content-Length", fmt.Sprint(len(blob.data)))
		w.Write(blob.data)
	case r.Method == http.MethodGet && r.URL.Path == a.container && r.URL.Query().Get("comp") == "list":
		w.Header().Set("Content-Type", "application/xml")
		io.WriteString(w, `<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>`)
	case r.Method == http.MethodGet && r.URL.Query().Get("comp") == "list":
		refuse(w, "ContainerNotFound", http.StatusNotFound)
	default:
		a.t.Errorf("%s %s is not expected", r.Method, r.URL)
		w.WriteHeader(http.StatusBadRequest)
	}
}

func refuse(w http.ResponseWriter, code string, status int) {
	w.Header().Set("x-ms-error-code", code)
	w.WriteHeader(status)
}

// TestAzure runs against a double: there is no server of that protocol in Go.
func TestAzure(t *testing.T) {
	service := &azure{t: t, container: "/account/bucket", blobs: map[string]object{}}
	server := httptest.NewServer(service)
	t.Cleanup(server.Close)
	t.Setenv("AZURE_STORAGE_ACCOUNT", "account")
	t.Setenv("AZURE_STORAGE_KEY", "c2VjcmV0")
	options := "?protocol=http&localemu=true&domain=" + strings.TrimPrefix(server.URL, "http://")
	testBucket(t, bucket{
		url: "azblob://bucket" + options + "&prefix=log/",
		get: func(t *testing.T, name string) (object, bool) {
			service.mu.Lock()
			defer service.mu.Unlock()
			blob, ok := service.blobs[name]
			return blob, ok
		},
		list: func(t *testing.T) []string {
			service.mu.Lock()
			defer service.mu.Unlock()
			return slices.Sorted(maps.Keys(service.blobs))
		},
	})
	dir, _ := newLog(t, "example.com/log")
	if _, err := logserver(t.Context(), io.Discard, "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--export", "azblob://nowhere"+options); err == nil ||
		!strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a container that does not exist: %v", err)
	}

	// A bucket that refuses writes is a reason to be red, and not to end.
	service.mu.Lock()
	service.readOnly = true
	service.mu.Unlock()
	url, stop := serve(t, dir, "azblob://bucket"+options+"&prefix=other/")
	add(t, url, 0, 3)
	for metrics := ""; !strings.Contains(metrics, `tallystick_log_copy_failures_total{log="example.com/log"} 1`); {
		o, _ := get(t, url+"/metrics")
		metrics = string(o.data)
	}
	add(t, url, 3, 1)
	stop()
	if _, err := logserver(t.Context(), io.Discard, "export", "--dir", dir, "--to", "azblob://bucket"+options+"&prefix=other/"); err == nil ||
		!strings.Contains(err.Error(), "AuthorizationFailure") {
		t.Errorf("exporting to a bucket that refuses writes: %v", err)
	}
}
