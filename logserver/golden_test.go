package logserver

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

// TestStoreFormat pins every key and value of a small log: a store written by
// this version must be readable by later ones, so a difference asks for a new
// storeFormat and a way to migrate.
func TestStoreFormat(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	opts.HoldWitness = true
	tl := newTestLog(t, opts)
	tl.addN(300) // in one commit group
	tl.add(
		Entry{Data: []byte("one"), Opening: []byte("salt and record"), Dedup: []byte("key"), Sets: []Register{{"epoch", 7}}},
		Entry{Data: nil, Guards: []Guard{{"epoch", 7}}},
	)
	tl.AllowWitness(302)
	tl.mustPublish(302)

	var got bytes.Buffer
	err := tl.store.scan([]byte{0}, []byte{0xff}, func(key, value []byte) error {
		if len(value) > 512 {
			fmt.Fprintf(&got, "%+q = %d bytes, SHA-256 %x\n", key, len(value), sha256.Sum256(value))
		} else {
			fmt.Fprintf(&got, "%+q = %+q\n", key, value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "store.txt", got.Bytes())
}

// TestWireFormat pins what the public endpoints answer for the same log.
func TestWireFormat(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.addN(3)
	tl.mustPublish(3)
	var got bytes.Buffer
	for _, path := range []string{
		"/checkpoint", "/tile/0/000.p/3", "/tile/entries/000.p/3", "/tile/0/000.p/4",
		"/proof/inclusion?index=1&size=3", "/proof/consistency?old=2&new=3", "/1.tlog-proof",
	} {
		res, body := do(t, ReadHandler(tl.Log), "GET", path, "")
		fmt.Fprintf(&got, "GET %s\n%s\n", path, res.Status)
		for _, name := range []string{"Content-Type", "Cache-Control", "Content-Length", "Vary", "Access-Control-Allow-Origin", codeHeader} {
			if v := res.Header.Get(name); v != "" {
				fmt.Fprintf(&got, "%s: %s\n", name, v)
			}
		}
		fmt.Fprintf(&got, "\n%+q\n\n", body)
	}
	for _, c := range []struct{ path, body string }{
		{"/add", "an entry"}, {"/add?proof=receipt", "another"}, {"/add-batch", frame("a", "bc")}, {"/add-stream", message("a", "bc") + message("def")},
		{"/add-stream", message("a") + "\x00\x00\x00\x00"}, {"/add", ""}, {"/add-batch", "\x00\x02a"}, {"/checkpoint", "x"},
	} {
		w := duplexRecorder{httptest.NewRecorder()}
		Handler(tl.Log).ServeHTTP(w, httptest.NewRequest("POST", c.path, strings.NewReader(c.body)))
		fmt.Fprintf(&got, "POST %s\n%+q\n\n%d\n", c.path, c.body, w.Code)
		for _, name := range []string{"Content-Type", "Cache-Control", "Allow", "Retry-After", codeHeader} {
			if v := w.Header().Get(name); v != "" {
				fmt.Fprintf(&got, "%s: %s\n", name, v)
			}
		}
		fmt.Fprintf(&got, "\n%+q\n\n", w.Body)
	}
	compareGolden(t, "wire.txt", got.Bytes())
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("..", "testdata", "logserver", name)
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s; if that is meant, run this test with -rewrite\n%s", path, got)
	}
}
