package direct

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"
)

// FuzzParse: what parse takes for an append is the same request to
// net/http, with the same body, ending at the same byte, and with nothing in it
// that a log would look at.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		r, u := parse(in)
		if u != complete {
			return
		}
		for n := range min(len(in), r.size) { // what is ours is perhaps ours before
			if _, u := parse(in[:n]); u != partial {
				t.Fatalf("after %d of %d bytes: %v", n, r.size, u)
			}
		}
		left := bufio.NewReader(bytes.NewReader(in))
		req, err := http.ReadRequest(left)
		if err != nil {
			t.Fatalf("net/http refuses it: %v", err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil || !bytes.Equal(body, r.body) || req.ContentLength != int64(len(r.body)) {
			t.Fatalf("net/http reads the body %q, %v; want %q", body, err, r.body)
		}
		query := ""
		if r.receipt {
			query = "proof=receipt"
		}
		if req.URL.RawQuery != query || req.URL.Path != "/add" || req.URL.RawPath != "" || req.Method != "POST" {
			t.Fatalf("receipt %v, net/http %s %q", r.receipt, req.Method, req.URL)
		}
		if req.Proto != "HTTP/1.1" || req.Close || len(req.TransferEncoding)+len(req.Trailer) > 0 || req.Host == "" {
			t.Fatalf("net/http: %+v", req)
		}
		for _, name := range []string{"Idempotency-Key", "Content-Encoding", "Expect", "Connection", "Upgrade", "Te"} {
			if req.Header[name] != nil {
				t.Fatalf("header %s is passed over", name)
			}
		}
		rest, err := io.ReadAll(left)
		if err != nil || !bytes.Equal(rest, in[r.size:]) {
			t.Fatalf("net/http goes on with %q, %v; want %q", rest, err, in[r.size:])
		}
	})
}
