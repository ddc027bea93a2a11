// Package webui is the page that the control plane serves: plain ES modules
// that talk to the public HTTP API with the token that their user pastes, and
// verify what they get with the verifier itself, compiled to WebAssembly.
//
// # Trust
//
// The page comes from the server whose claims it checks. It protects against a
// server that is wrong and against everybody between, not against one that
// serves another page; it says so where it shows a verdict. It relies on three
// files, the genesis and two policies: the user's own, once pinned, else those
// that the server suggests, and it shows which.
//
// The browser is told to allow nothing but the page's own files: no inline
// script or style, no other host, no frame.
//
// # Building
//
// The verifier is built into dist/ by scripts/build, before the programs that
// embed it, and is not kept in the repository. A program that was built without
// it serves a page that says so.
//
// A Handler is immutable and safe for concurrent use.
package webui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// all: takes whatever scripts/build has put into dist; its README is always there.
//
//go:embed static all:dist
var files embed.FS

// contentTypes are those of the page's files. Nothing else is served.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	".wasm": "application/wasm",
}

// securityPolicy lets the page run its own scripts, compile its WebAssembly and
// ask its own server; nothing else.
const securityPolicy = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'; " +
	"connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// asset is one file, ready to be served.
type asset struct {
	contentType string
	etag        string
	plain       []byte // nil if only the packed form is there
	packed      []byte // gzip; nil if that is no smaller
}

// Handler serves the page.
type Handler struct {
	assets map[string]*asset // by path
}

// New reads the embedded files.
func New() (*Handler, error) {
	h := &Handler{assets: make(map[string]*asset)}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		return h.add(name, data)
	})
	if err != nil {
		return nil, err
	}
	h.assets["/"] = h.assets["/index.html"]
	return h, nil
}

// add serves one file under its path: static/ is the root, dist/ keeps its name.
// The build packs what is large.
func (h *Handler) add(name string, data []byte) error {
	name, packed := strings.CutSuffix(name, ".gz")
	contentType := contentTypes[path.Ext(name)]
	if contentType == "" {
		return nil
	}
	sum := sha256.Sum256(data)
	a := &asset{contentType: contentType, etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
	if packed {
		a.packed = data
	} else {
		a.plain = data
		var out bytes.Buffer
		z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := z.Write(data); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		if out.Len() < len(data) {
			a.packed = out.Bytes()
		}
	}
	h.assets["/"+strings.TrimPrefix(name, "static/")] = a
	return nil
}

// Complete reports whether the build has put the verifier in.
func (h *Handler) Complete() bool {
	return h.assets["/dist/verifier.wasm"] != nil && h.assets["/dist/wasm_exec.js"] != nil
}

// ServeHTTP serves one file.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", securityPolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Embedder-Policy", "require-corp")
	header.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "the page is only read", http.StatusMethodNotAllowed)
		return
	}
	a := h.assets[r.URL.Path]
	if a == nil {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	header.Set("Content-Type", a.contentType)
	header.Set("Cache-Control", "no-cache") // asks each time, and is told by the ETag
	header.Set("ETag", a.etag)
	header.Set("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := a.plain
	if a.packed != nil && (body == nil || acceptsGzip(r)) {
		// Every browser that runs WebAssembly unpacks gzip, so what is kept
		// packed only is sent so to whoever asks.
		header.Set("Content-Encoding", "gzip")
		body = a.packed
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body)
	}
}

func acceptsGzip(r *http.Request) bool {
	for _, part := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		name, weight, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" && strings.TrimSpace(weight) != "q=0" {
			return true
		}
	}
	return false
}
