package logserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// do sends one request and returns the answer with its body as sent: nothing is
// unzipped.
func do(t testing.TB, h http.Handler, method, target, body string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	res := w.Result()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, b
}

func TestReadPaths(t *testing.T) {
	t.Parallel()
	opts := testOptions(vfs.NewMem())
	opts.ReceiptKey = nil // reads end at the size that the log key signed
	opts.HoldWitness = true
	tl := newTestLog(t, opts)
	tl.addN(70000)
	tl.AllowWitness(66000)
	tl.mustPublish(66000)
	h := ReadHandler(tl.Log)
	for path, size := range map[string]int{ // -1: not found
		"/checkpoint":             len(tl.Published().Note),
		"/tile/0/000":             8192,
		"/tile/0/000.p/1":         32,
		"/tile/0/000.p/255":       255 * 32,
		"/tile/0/256":             8192,
		"/tile/0/257.p/208":       208 * 32,
		"/tile/0/257.p/209":       -1, // durable, but never signed
		"/tile/0/257":             -1,
		"/tile/0/258.p/1":         -1,
		"/tile/1/000":             8192,
		"/tile/1/001.p/1":         32,
		"/tile/1/001.p/2":         -1,
		"/tile/2/000.p/1":         32,
		"/tile/2/000":             -1,
		"/tile/3/000.p/1":         -1,
		"/tile/63/000.p/1":        -1,
		"/tile/64/000.p/1":        -1,
		"/tile/entries/000":       256 * (2 + len("entry ") + 4),
		"/tile/entries/257.p/208": 208 * (2 + len("entry ") + 4),
		"/tile/entries/257.p/209": -1,
		"/tile/0/000.p/0":         -1,
		"/tile/0/000.p/256":       -1,
		"/tile/0/000.p/01":        -1,
		"/tile/0/000.p/":          -1,
		"/tile/0/000.p/1/":        -1,
		"/tile/0/0":               -1,
		"/tile/0/0000":            -1,
		"/tile/0/x000/000":        -1,
		"/tile/00/000":            -1,
		"/tile/+0/000":            -1,
		"/tile/0/x001/x234/067":   -1,
		"/tile/0/999/999":         -1,
		"/tile/0/xx01/000":        -1,
		"/tile/0/-01":             -1,
		"/tile/0/":                -1,
		"/tile/0":                 -1,
		"/tile/":                  -1,
		"/tile/entries":           -1,
		"/tile/entries/":          -1,
		"/tile/entry/000":         -1,
		"/tile//000":              -1,
		"//tile/0/000":            -1,
		"/./tile/0/000":           -1,
		"/%74ile/0/000":           -1,
		"/tile/0%2F000":           -1,
		"/tile/0/x999/x999/x999/x999/x999/x999/999": -1,
		"/":             -1,
		"/checkpoint/":  -1,
		"/openings/000": -1,
		"/metrics":      -1,
		"/healthz":      -1,
	} {
		res, body := do(t, h, "GET", path, "")
		if res.Header.Get("Access-Control-Allow-Origin") != "*" || res.Header.Get("Content-Type") == "" {
			t.Errorf("%s: headers %v", path, res.Header)
		}
		cache := res.Header.Get("Cache-Control")
		switch {
		case size < 0:
			if res.StatusCode != 404 || strings.Contains(cache, "immutable") {
				t.Errorf("%s: status %d, cache %q; want an uncached 404", path, res.StatusCode, cache)
			}
			continue
		case res.StatusCode != 200 || len(body) != size:
			t.Errorf("%s: status %d with %d bytes, want %d", path, res.StatusCode, len(body), size)
		}
		wantType, wantCache := "application/octet-stream", cacheForever[0]
		if path == "/checkpoint" {
			wantType, wantCache = "text/plain; charset=utf-8", "no-cache"
		}
		if res.Header.Get("Content-Type") != wantType || cache != wantCache {
			t.Errorf("%s: headers %v", path, res.Header)
		}
		head, none := do(t, h, "HEAD", path, "")
		if head.StatusCode != 200 || head.Header.Get("Content-Length") != fmt.Sprint(size) {
			t.Errorf("HEAD %s: %v with %d bytes", path, head.Header, len(none))
		}
	}
}

func TestReadMethods(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	h := http.StripPrefix("/audit", ReadHandler(tl.Log))
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/audit/checkpoint", 200}, {"OPTIONS", "/audit/checkpoint", 204},
		{"POST", "/audit/add", 405}, {"POST", "/audit/add-batch", 405}, {"PUT", "/audit/checkpoint", 405}, {"DELETE", "/audit/tile/0/000", 405},
		{"GET", "/audit/add", 404}, {"GET", "/auditcheckpoint", 404}, {"GET", "/audit", 404},
	} {
		if res, _ := do(t, h, c.method, c.path, ""); res.StatusCode != c.status {
			t.Errorf("%s %s: status %d, want %d", c.method, c.path, res.StatusCode, c.status)
		}
	}
}

func TestBundleCompression(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.addN(256)
	tl.mustPublish(256)
	h := ReadHandler(tl.Log)
	_, plain := do(t, h, "GET", "/tile/entries/000", "")
	for accept, want := range map[string]bool{
		"": false, "identity": false, "gzip": true, "gzip, identity": true, "br, GZIP;q=0.5": true, "*": true,
		"gzip;q=0": false, "gzip; q=0.0, *": false, "gzip;q=x": false, "*;q=0": false,
		"gzip;Q=0": false, "gzip\t;\tq=0": false, "gzip ;\tQ=0.1": true, "deflate": false,
	} {
		res, body := do(t, h, "GET", "/tile/entries/000", "", "Accept-Encoding", accept)
		if zipped := res.Header.Get("Content-Encoding") == "gzip"; zipped != want {
			t.Errorf("Accept-Encoding %q: zipped %v", accept, zipped)
			continue
		}
		if res.Header.Get("Vary") != "Accept-Encoding" || res.Header.Get("Content-Length") != fmt.Sprint(len(body)) {
			t.Errorf("Accept-Encoding %q: headers %v", accept, res.Header)
		}
		if want {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(body, plain) {
			t.Errorf("Accept-Encoding %q: another bundle", accept)
		}
	}
	if res, _ := do(t, h, "GET", "/tile/0/000", "", "Accept-Encoding", "gzip"); res.Header.Get("Content-Encoding") != "" {
		t.Error("a hash tile was compressed")
	}
}

// httpTiles is the tile reader of x/mod/sumdb/tlog over HTTP: the reference for
// what a stranger's client asks for.
type httpTiles struct {
	t testing.TB
	h http.Handler
}

func (r httpTiles) Height() int { return 8 }

func (r httpTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range tiles {
		path := strings.TrimPrefix(tile.Path(), "tile/8/") // ours name no height
		res, b := do(r.t, r.h, "GET", "/tile/"+path, "")
		if res.StatusCode != 200 {
			return nil, fmt.Errorf("%s: %s", path, res.Status)
		}
		out = append(out, b)
	}
	return out, nil
}

func (r httpTiles) SaveTiles([]tlog.Tile, [][]byte) {}

func TestStrangersClient(t *testing.T) {
	t.Parallel()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	h := ReadHandler(tl.Log)
	sizes := map[int]bool{255: true, 256: true, 257: true, 511: true, 512: true, 513: true, 1000: true, 65535: true, 65536: true, 65537: true, 66000: true}
	for i := range 40 {
		sizes[i+1] = true
	}
	for size := 1; size <= 66000; size++ {
		if !sizes[size] {
			continue
		}
		tl.addN(size - len(tl.data))
	}
	// All of them from the one log: it serves the partial tiles of every size.
	for size := range sizes {
		tree := tlog.Tree{N: int64(size), Hash: tl.root(t, int64(size))}
		r := tlog.TileHashReader(tree, httpTiles{t, h})
		if root, err := tlog.TreeHash(tree.N, r); err != nil || root != tree.Hash {
			t.Fatalf("size %d: root %v, %v", size, root, err)
		}
		for _, index := range []int64{0, tree.N / 2, tree.N - 1} {
			hashes, err := r.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
			if err != nil || hashes[0] != tlog.RecordHash(tl.data[index]) {
				t.Fatalf("size %d: leaf hash %d: %v", size, index, err)
			}
			if _, err := tlog.ProveRecord(tree.N, index, r); err != nil {
				t.Fatalf("size %d: proving %d: %v", size, index, err)
			}
		}
	}
}

func TestProofEndpoints(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.addN(1000)
	tl.mustPublish(1000)
	h := ReadHandler(tl.Log)
	hashes := func(target string) []tlog.Hash {
		res, body := do(t, h, "GET", target, "")
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != contentText[0] {
			t.Fatalf("%s: %s", target, res.Status)
		}
		var out []tlog.Hash
		for line := range strings.Lines(string(body)) {
			b, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(line, "\n"))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, tlog.Hash(b))
		}
		return out
	}
	if err := tlog.CheckRecord(hashes("/proof/inclusion?index=77&size=999"), 999, tl.root(t, 999), 77, tlog.RecordHash(tl.data[77])); err != nil {
		t.Error(err)
	}
	if err := tlog.CheckTree(hashes("/proof/consistency?old=500&new=999"), 999, tl.root(t, 999), 500, tl.root(t, 500)); err != nil {
		t.Error(err)
	}
	_, text := do(t, h, "GET", "/77.tlog-proof", "")
	p, err := checkpoint.ParseProof(text)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := checkpoint.ParsePolicy([]byte("log " + tl.Vkey() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policy.VerifyProof(p, tlog.RecordHash(tl.data[77])); err != nil {
		t.Error(err)
	}
	for target, status := range map[string]int{
		"/proof/inclusion":                                  400,
		"/proof/inclusion?index=1":                          400,
		"/proof/inclusion?index=1&size=2&x=3":               400,
		"/proof/inclusion?index=1&index=1&size=2":           400,
		"/proof/inclusion?index=01&size=2":                  400,
		"/proof/inclusion?index=-1&size=2":                  400,
		"/proof/inclusion?index=1&size=9223372036854775808": 400,
		"/proof/inclusion?size=2":                           400,
		"/proof/inclusion?index=1&size=":                    400,
		"/proof/inclusion?index=1&size=2&":                  400,
		"/proof/inclusion?&index=1&size=2":                  400,
		"/proof/inclusion?index=%31&size=2":                 400,
		"/proof/inclusion?index=1&%73ize=2":                 400,
		"/proof/inclusion?index=1&size=%32":                 400,
		"/proof/inclusion?index=1;size=2":                   400,
		"/proof/inclusion?index=+1&size=2":                  400,
		"/proof/inclusion?size=2&index=1":                   200,
		"/%30.tlog-proof":                                   404,
		"/proof/%69nclusion?index=1&size=2":                 404,
		"/proof/inclusion?index=1&size=9223372036854775807": 404,
		"/proof/inclusion?index=5&size=5":                   404,
		"/proof/inclusion?index=5&size=1001":                404,
		"/proof/consistency?old=6&new=5":                    404,
		"/proof/consistency?old=6&new=1001":                 404,
		"/1000.tlog-proof":                                  404,
		"/01.tlog-proof":                                    404,
		"/x.tlog-proof":                                     404,
		"/.tlog-proof":                                      404,
	} {
		if res, body := do(t, h, "GET", target, ""); res.StatusCode != status || strings.Contains(res.Header.Get("Cache-Control"), "immutable") != (status == 200) {
			t.Errorf("%s: %s, want %d: %s", target, res.Status, status, body)
		}
	}
}

func frame(entries ...string) string {
	var b []byte
	for _, e := range entries {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(e))), e...)
	}
	return string(b)
}

func TestAdd(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	h := Handler(tl.Log)
	many := make([]string, MaxBatch+1)
	for i := range many {
		many[i] = "x"
	}
	for _, c := range []struct {
		path, body string
		status     int
		want       string
		added      []string
	}{
		{"/add", "hello", 200, "0", []string{"hello"}},
		{"/add", "hello", 200, "1", []string{"hello"}},
		{"/add", "", 400, "", nil},
		{"/add", strings.Repeat("x", MaxEntrySize), 200, "2", []string{strings.Repeat("x", MaxEntrySize)}},
		{"/add", strings.Repeat("x", MaxEntrySize+1), 413, "", nil},
		{"/add-batch", frame("a", "bc", "def"), 200, "3\n4\n5\n", []string{"a", "bc", "def"}},
		{"/add-batch", "", 400, "", nil},
		{"/add-batch", frame("a", ""), 400, "", nil},
		{"/add-batch", frame("a") + "\x00", 400, "", nil},
		{"/add-batch", frame("a") + "\x00\x02x", 400, "", nil},
		{"/add-batch", frame(many...), 413, "", nil},
		{"/add-batch", strings.Repeat("\x00\x01x", maxBatchBody/3+1), 413, "", nil},
	} {
		for _, method := range []string{"GET", "PUT"} {
			if res, _ := do(t, h, method, c.path, c.body); res.StatusCode == 200 {
				t.Errorf("%s %s: %s", method, c.path, res.Status)
			}
		}
		res, body := do(t, h, "POST", c.path, c.body)
		if res.StatusCode != c.status || c.status == 200 && string(body) != c.want {
			t.Fatalf("%s %.20q: %s %q, want %d %q", c.path, c.body, res.Status, body, c.status, c.want)
		}
		if res.Header.Get("Content-Type") != contentText[0] {
			t.Errorf("%s: headers %v", c.path, res.Header)
		}
		for _, e := range c.added {
			tl.sequence(Entry{Data: []byte(e)})
		}
	}
	tl.check()
	// A body of unknown length is bounded, too.
	r := httptest.NewRequest("POST", "/add", io.MultiReader(strings.NewReader("x"), bytes.NewReader(make([]byte, MaxEntrySize))))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 413 {
		t.Errorf("endless body: %d", w.Code)
	}
	r = httptest.NewRequest("POST", "/add", io.MultiReader(strings.NewReader("x"), failingReader{}))
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 400 {
		t.Errorf("body cut short: %d", w.Code)
	}
	// An encoded body is not the entry that its sender means.
	for path, encodings := range map[string][]string{"/add": {"gzip"}, "/add-batch": {"identity", "br"}} {
		r = httptest.NewRequest("POST", path, strings.NewReader("\x1f\x8b"))
		r.Header["Content-Encoding"] = encodings
		w = httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusUnsupportedMediaType {
			t.Errorf("%s, encoded: %d %s", path, w.Code, w.Body)
		}
	}
	tl.check()
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestAddRefused(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a := newFakeWitness(t, opts, 11)
	a.behave(dead)
	tl := newTestLog(t, witnessed(t, opts, 1, a))
	h := Handler(tl.Log)
	refused := func(when string) {
		t.Helper()
		for _, path := range []string{"/add", "/add-batch"} {
			res, body := do(t, h, "POST", path, frame("a"))
			if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
				t.Errorf("%s %s: %s %s", path, when, res.Status, body)
			}
		}
	}
	refused("before the start-up check has ended")
	if res, body := do(t, h, "GET", "/healthz", ""); res.StatusCode != 503 || !strings.Contains(string(body), "waiting for the witnesses") {
		t.Errorf("health before the start-up check has ended: %s %s", res.Status, body)
	}
	if res, _ := do(t, h, "GET", "/checkpoint", ""); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("checkpoint before any was published: %s", res.Status)
	}
	a.behave(nil)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.mustPublish(0)
	if res, body := do(t, h, "GET", "/healthz", ""); res.StatusCode != 200 || string(body) != "ok\n" {
		t.Errorf("health: %s %s", res.Status, body)
	}
	tl.queue.refuse(ErrPushback)
	refused("when the queue is full")
	tl.fail(io.ErrUnexpectedEOF)
	if res, body := do(t, h, "GET", "/healthz", ""); res.StatusCode != 503 {
		t.Errorf("health after a failure: %s %s", res.Status, body)
	}
}

func TestStaleHeadIsUnhealthy(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a := newFakeWitness(t, opts, 11)
	tl := newTestLog(t, witnessed(t, opts, 1, a))
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.mustPublish(0)
	a.behave(dead)
	tl.addN(1)
	eventually(t, "a round has begun", func() bool { return tl.publisher.behindSince.Load() != 0 && tl.Signed().Size == 1 })
	tl.publisher.behindSince.Store(int64(uptime() - time.Hour))
	if err := tl.Health(); err == nil || !strings.Contains(err.Error(), "size 1 is sequenced, 1 signed, 0 published") {
		t.Errorf("health: %v", err)
	}
	a.behave(nil)
	tl.mustPublish(1)
	eventually(t, "healthy again", func() bool { return tl.Health() == nil })
}

func TestMetrics(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	h := Handler(tl.Log)
	tl.addN(5)
	tl.mustPublish(5)
	tl.Append(context.Background(), Entry{Guards: []Guard{{"r", 9}}})
	eventually(t, "group counted", func() bool { return counted(t, tl.metrics.refusals.WithLabelValues("guard")) == 1 })
	res, body := do(t, h, "GET", "/metrics", "")
	if res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	for _, want := range []string{
		`tallystick_log_entries_total{log="log.example/test"} 5`,
		`tallystick_log_refusals_total{log="log.example/test",outcome="guard"} 1`,
		`tallystick_log_integrated_size{log="log.example/test"} 5`,
		`tallystick_log_published_size{log="log.example/test"} 5`,
		`tallystick_log_healthy{log="log.example/test"} 1`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestServe(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, Handler(tl.Log), discard) }()
	for _, h2 := range []bool{false, true} {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(!h2)
		transport.Protocols.SetUnencryptedHTTP2(h2)
		res, err := (&http.Client{Transport: transport}).Get("http://" + ln.Addr().String() + "/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != 200 || !bytes.HasPrefix(body, []byte("log.example/test\n0\n")) || (res.ProtoMajor == 2) != h2 {
			t.Errorf("HTTP/2 %v: %s %s %s", h2, res.Proto, res.Status, body)
		}
		transport.CloseIdleConnections()
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := Serve(context.Background(), ln, nil, discard); err == nil {
		t.Error("served on a closed listener")
	}
}
