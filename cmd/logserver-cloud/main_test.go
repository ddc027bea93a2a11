package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/internal/logcmd"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// object is what a bucket tells a reader.
type object struct {
	data                                       []byte
	contentType, cacheControl, contentEncoding string
}

// bucket is one below test, through the eyes of its service.
type bucket struct {
	url string // as the operator names it, with a prefix "log/"
	// get returns an object by its name in the bucket.
	get func(t *testing.T, name string) (object, bool)
	// list returns all names.
	list func(t *testing.T) []string
}

// logserver runs a command.
func logserver(ctx context.Context, stderr io.Writer, args ...string) (string, error) {
	var stdout bytes.Buffer
	root := logcmd.Root("logserver-cloud")
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	return strings.TrimSpace(stdout.String()), err
}

// newLog makes a log and returns its directory and verifier key.
func newLog(t *testing.T, origin string) (dir, vkey string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "log")
	vkey, err := logserver(t.Context(), io.Discard, "init", "--dir", dir, "--origin", origin)
	if err != nil {
		t.Fatal(err)
	}
	return dir, vkey
}

// serve runs a log that keeps its copy in a target; stop ends it and waits.
func serve(t *testing.T, dir, target string) (url string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := logserver(ctx, writer, "serve", "--dir", dir, "--listen", "127.0.0.1:0",
			"--disk-reserve", "none", "--export", target, "--export-interval", "10ms")
		writer.Close()
		ended <- err
	}()
	address := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			if addr, ok := strings.CutPrefix(lines.Text(), "listening addr="); ok {
				address <- addr
			}
		}
		close(address)
	}()
	addr, ok := <-address
	if !ok {
		t.Fatalf("the log does not serve: %v", <-ended)
	}
	return "http://" + addr, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the log ended with %v", err)
		}
	}
}

func add(t *testing.T, url string, first, n int) {
	t.Helper()
	for i := first; i < first+n; i++ {
		res, err := http.Post(url+"/add", "", strings.NewReader(fmt.Sprint("entry ", i)))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(res.Body)
		if res.Body.Close(); err != nil || res.StatusCode != http.StatusOK || string(answer) != fmt.Sprint(i) {
			t.Fatalf("adding entry %d: %s, %q, %v", i, res.Status, answer, err)
		}
	}
}

// testBucket keeps a copy in a bucket up to date, and reads it as strangers do.
func testBucket(t *testing.T, b bucket) {
	const origin = "example.com/log"
	dir, vkey := newLog(t, origin)
	for _, size := range []int{300, 700} { // the second run finds what the first left
		url, stop := serve(t, dir, b.url)
		from := 0
		if size > 300 {
			from = 300
		}
		add(t, url, from, size-from)
		stop() // brings the last entries to the copy
		if report := audit(t, b, vkey); report.Size != int64(size) {
			t.Errorf("the copy has size %d, the log %d", report.Size, size)
		}
	}
	checkHeaders(t, b)

	// What is complete is not written again; a bucket belongs to one log.
	if out, err := logserver(t.Context(), io.Discard, "export", "--dir", dir, "--to", b.url); err != nil ||
		out != origin+": copy of size 700, was 700; 0 objects written" {
		t.Errorf("exporting again: %q, %v", out, err)
	}
	before := len(b.list(t))
	other, _ := newLog(t, "example.com/other")
	_, stop := serve(t, other, t.TempDir()) // publishes
	stop()
	if _, err := logserver(t.Context(), io.Discard, "export", "--dir", other, "--to", b.url); err == nil ||
		!strings.Contains(err.Error(), "target is not a copy of this log") {
		t.Errorf("exporting another log to the same place: %v", err)
	}
	if after := len(b.list(t)); after != before {
		t.Errorf("a refused export made %d objects of %d", after, before)
	}
}

// audit verifies the copy.
func audit(t *testing.T, b bucket, vkey string) *tiles.Report {
	t.Helper()
	policy, err := checkpoint.ParsePolicy([]byte("log " + vkey + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := tiles.Audit{Policy: policy, Workers: 1, Fetch: func(_ context.Context, name string, _ int64) ([]byte, error) {
		o, ok := b.get(t, "log/"+name)
		if !ok {
			return nil, tiles.ErrNotFound
		}
		return o.data, nil
	}}
	report, _, err := a.Run(t.Context(), nil)
	if err != nil {
		t.Fatalf("the copy: %v", err)
	}
	return report
}

// checkHeaders holds the objects against c2sp.org/tlog-tiles: who serves the
// bucket passes on what is stored.
func checkHeaders(t *testing.T, b bucket) {
	t.Helper()
	names := b.list(t)
	for _, name := range []string{"log/checkpoint", "log/tile/0/000", "log/tile/0/002.p/188", "log/tile/1/000.p/2", "log/tile/entries/001"} {
		if _, ok := b.get(t, name); !ok {
			t.Errorf("there is no object %q, only %q", name, names)
		}
	}
	for _, name := range names {
		o, _ := b.get(t, name)
		contentType, cacheControl := "application/octet-stream", "public, max-age=31536000, immutable"
		if name == "log/checkpoint" {
			contentType, cacheControl = "text/plain; charset=utf-8", "no-cache"
		}
		if o.contentType != contentType || o.cacheControl != cacheControl || o.contentEncoding != "" {
			t.Errorf("%q has Content-Type %q, Cache-Control %q, Content-Encoding %q", name, o.contentType, o.cacheControl, o.contentEncoding)
		}
	}
}
