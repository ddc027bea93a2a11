package webui

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func newHandler(t *testing.T) *Handler {
	t.Helper()
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(h http.Handler, path string, header ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, res *http.Response) []byte {
	t.Helper()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestHandler(t *testing.T) {
	h := newHandler(t)
	page, err := os.ReadFile(filepath.Join("static", "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	plain := get(h, "/")
	if plain.StatusCode != 200 || !bytes.Equal(body(t, plain), page) || plain.Header.Get("Content-Encoding") != "" {
		t.Errorf("plain: %d %v", plain.StatusCode, plain.Header)
	}
	packed := get(h, "/index.html", "Accept-Encoding", "br, gzip;q=0.9")
	if packed.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("packed: %v", packed.Header)
	}
	z, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(z); err != nil || !bytes.Equal(data, page) {
		t.Errorf("packed: %v", err)
	}
	if res := get(h, "/", "Accept-Encoding", "gzip;q=0"); res.Header.Get("Content-Encoding") != "" {
		t.Error("packed for a client that refuses gzip")
	}
	if res := get(h, "/", "If-None-Match", plain.Header.Get("ETag")); res.StatusCode != http.StatusNotModified || len(body(t, res)) != 0 {
		t.Errorf("unchanged: %d", res.StatusCode)
	}
	for _, path := range []string{"/nothing", "/dist/README.md", "/static/index.html", "/../handler.go", "/.gitignore"} {
		if res := get(h, path); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodHead, "/", nil))
	if w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") == "0" {
		t.Errorf("HEAD: %d, %d bytes", w.Code, w.Body.Len())
	}
}

// TestSecurityHeaders are on every answer, errors included.
func TestSecurityHeaders(t *testing.T) {
	h := newHandler(t)
	for _, path := range []string{"/", "/app.js", "/worker.js", "/nothing"} {
		header := get(h, path).Header
		policy := header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self' 'wasm-unsafe-eval'", "connect-src 'self'", "frame-ancestors 'none'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: no %q in the policy", path, want)
			}
		}
		if strings.Contains(policy, "unsafe-inline") || strings.Contains(policy, "'unsafe-eval'") || strings.Contains(policy, "http") {
			t.Errorf("%s: the policy %q allows too much", path, policy)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, header)
		}
	}
}

// TestPackedOnly: the verifier is kept packed, and served under its own name.
func TestPackedOnly(t *testing.T) {
	h := &Handler{assets: make(map[string]*asset)}
	if h.Complete() {
		t.Error("complete without a verifier")
	}
	for _, name := range []string{"dist/verifier.wasm.gz", "dist/wasm_exec.js"} {
		if err := h.add(name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	res := get(h, "/dist/verifier.wasm")
	if res.Header.Get("Content-Type") != "application/wasm" || res.Header.Get("Content-Encoding") != "gzip" || !h.Complete() {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

// TestPageIsSelfContained: no inline script, style or listener, no other host,
// no HTML made from text.
func TestPageIsSelfContained(t *testing.T) {
	forbidden := map[string]*regexp.Regexp{
		"inline script":       regexp.MustCompile(`<script(>|[^>]*[^"]>[^<])`),
		"inline style":        regexp.MustCompile(`<style|\sstyle=`),
		"inline listener":     regexp.MustCompile(`\son[a-z]+="`),
		"another host":        regexp.MustCompile(`(https?:)?//[a-z0-9.-]+\.[a-z]{2,}/`),
		"HTML made from text": regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function`),
	}
	err := filepath.WalkDir("static", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text := strings.ReplaceAll(string(data), "http://www.w3.org/2000/svg", "")
		for what, pattern := range forbidden {
			if found := pattern.FindString(text); found != "" {
				t.Errorf("%s has %s: %q", path, what, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestModulesExist: everything that a page file imports is served.
func TestModulesExist(t *testing.T) {
	h := newHandler(t)
	imports := regexp.MustCompile(`from "(\.[^"]+)"`)
	for served, a := range h.assets {
		if a.contentType != contentTypes[".js"] || strings.HasPrefix(served, "/dist/") {
			continue
		}
		for _, found := range imports.FindAllSubmatch(a.plain, -1) {
			target := filepath.Join(filepath.Dir(served), string(found[1]))
			if h.assets[target] == nil {
				t.Errorf("%s imports %s, which is not there", served, target)
			}
		}
	}
}
