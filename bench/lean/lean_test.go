package lean

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// echo answers with the length of the body and then the body.
func echo(t *testing.T) netip.AddrPort {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	}))
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String())
}

// TestRun sends bodies of many sizes, also larger than a socket's buffer, and
// expects each back on the connection that sent it.
func TestRun(t *testing.T) {
	for _, rate := range []float64{0, 500} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			const conns = 7
			sent := make([][]byte, conns)
			requests, answers, begun, ended := 0, 0, 0, 0
			load := Load{
				Addr: echo(t), Conns: conns, Warm: 20 * time.Millisecond, Measure: 200 * time.Millisecond, Rate: rate,
				Request: func(c int) []byte {
					requests++
					n := 1 << (requests % 22)
					sent[c] = bytes.Repeat([]byte{byte(requests)}, n)
					return append(fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n", n), sent[c]...)
				},
				Answer: func(c, status int, body []byte) error {
					answers++
					if status != http.StatusOK || !bytes.Equal(body, sent[c]) {
						return fmt.Errorf("status %d and %d bytes, want 200 and %d", status, len(body), len(sent[c]))
					}
					return nil
				},
				Begin: func() { begun++ },
				End:   func() { ended++ },
			}
			result, err := Run(load)
			if err != nil {
				t.Fatal(err)
			}
			if begun != 1 || ended != 1 {
				t.Errorf("begun %d times, ended %d times", begun, ended)
			}
			if result.Answers == 0 || int64(len(result.Latencies)) != result.Answers || int64(answers) < result.Answers {
				t.Errorf("%d answers, %d latencies, %d seen", result.Answers, len(result.Latencies), answers)
			}
			if result.Elapsed < load.Measure {
				t.Errorf("elapsed %v, want at least %v", result.Elapsed, load.Measure)
			}
		})
	}
}

// TestOpenLoopCountsFromDue holds a server back and expects that the latencies
// tell, also of requests that waited for a connection.
func TestOpenLoopCountsFromDue(t *testing.T) {
	release := make(chan struct{})
	var once sync.Once
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-release
		w.Header().Set("Content-Length", "0")
	}))
	defer server.Close()
	request := []byte("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
	const held = 100 * time.Millisecond
	timer := time.AfterFunc(held, func() { once.Do(func() { close(release) }) })
	defer timer.Stop()
	result, err := Run(Load{
		Addr: netip.MustParseAddrPort(server.Listener.Addr().String()), Conns: 1, Measure: 300 * time.Millisecond, Rate: 1000,
		Request: func(int) []byte { return request },
	})
	once.Do(func() { close(release) })
	if err != nil {
		t.Fatal(err)
	}
	late := 0
	for _, l := range result.Latencies {
		if l > held/2 {
			late++
		}
	}
	// Of those due in the first half of the wait, all but one had no connection.
	if late < 20 {
		t.Errorf("%d of %d requests were late", late, len(result.Latencies))
	}
}

func TestRunErrors(t *testing.T) {
	for name, raw := range map[string]string{
		"no length":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"not HTTP":       "SSH-2.0-OpenSSH\r\n\r\n",
		"bad length":     "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
		"huge length":    "HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n",
		"too much":       "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
		"cut short":      "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
		"endless header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 2*maxHeader),
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				io.WriteString(c, raw)
			}))
			defer server.Close()
			_, err := Run(Load{
				Addr: netip.MustParseAddrPort(server.Listener.Addr().String()), Conns: 1, Measure: 5 * time.Second,
				Request: func(int) []byte { return []byte("GET / HTTP/1.1\r\nHost: test\r\n\r\n") },
			})
			if err == nil {
				t.Fatal("no error")
			}
		})
	}
}

func TestRunRefused(t *testing.T) {
	server := httptest.NewServer(nil)
	addr := netip.MustParseAddrPort(server.Listener.Addr().String())
	server.Close()
	if _, err := Run(Load{Addr: addr, Conns: 1, Measure: time.Second, Request: func(int) []byte { return nil }}); err == nil {
		t.Fatal("no error")
	}
}

func TestParseHeader(t *testing.T) {
	const answer = "HTTP/1.1 404 Not Found\r\nDate: x\r\ncontent-LENGTH:  12 \r\nX-Content-Length: 7\r\n\r\nhello"
	status, body, length, err := parseHeader([]byte(answer))
	if err != nil || status != 404 || answer[body:] != "hello" || length != 12 {
		t.Errorf("status %d, body %q, length %d, %v", status, answer[body:], length, err)
	}
	for i := range strings.Index(answer, "hello") {
		if _, body, _, err := parseHeader([]byte(answer[:i])); body != 0 || err != nil {
			t.Fatalf("after %d bytes: body at %d, %v", i, body, err)
		}
	}
}
