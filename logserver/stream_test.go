package logserver

import (
	"bytes"
	"context"
	"crypto"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// duplexRecorder is a response writer that can do what a stream needs.
type duplexRecorder struct{ *httptest.ResponseRecorder }

func (duplexRecorder) EnableFullDuplex() error          { return nil }
func (duplexRecorder) SetReadDeadline(time.Time) error  { return nil }
func (duplexRecorder) SetWriteDeadline(time.Time) error { return nil }

// streamAll sends a whole stream and returns the lines of the answer.
func streamAll(t testing.TB, h http.Handler, body io.Reader) (status int, lines []string) {
	t.Helper()
	w := duplexRecorder{httptest.NewRecorder()}
	h.ServeHTTP(w, httptest.NewRequest("POST", "/add-stream", body))
	return w.Code, strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n")
}

// message frames a message of a stream.
func message(entries ...string) string {
	frames := frame(entries...)
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(frames)))) + frames
}

func TestStream(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	h := Handler(tl.Log)
	many := make([]string, MaxBatch+1)
	for i := range many {
		many[i] = "x"
	}
	large := strings.Repeat("y", MaxEntrySize)
	for _, c := range []struct {
		body  string
		want  string // the answer, in which N is the tree size before
		added []string
	}{
		{"", "end", nil},
		{message("a", "bc"), "N+0 2\nend", []string{"a", "bc"}},
		{message("a") + message("b", "c") + message(large, large, large), "N+0 1\nN+1 2\nN+3 3\nend", []string{"a", "b", "c", large, large, large}},
		{message(many[1:]...), "N+0 4096\nend", many[1:]},
		{message("a") + message(many...), "N+0 1\nerror too_large", []string{"a"}},
		{message("a") + "\x00", "N+0 1\nerror cut_short", []string{"a"}},
		{message("a") + message("b")[:6], "N+0 1\nerror cut_short", []string{"a"}},
		{message("a") + "\x00\x00\x00\x00", "N+0 1\nerror empty", []string{"a"}},
		{message("a", ""), "error empty", nil},
		{"\x00\x00\x00\x01\x00", "error framing", nil},
		{"\x00\x00\x00\x04\x00\x03ab", "error framing", nil},
		{"\x00\x80\x00\x01", "error too_large", nil},
		{"\xff\xff\xff\xff", "error too_large", nil},
	} {
		size := tl.Size()
		status, lines := streamAll(t, h, strings.NewReader(c.body))
		want := c.want
		for i := int64(5); i >= 0; i-- {
			want = strings.ReplaceAll(want, fmt.Sprint("N+", i), fmt.Sprint(size+i))
		}
		got := strings.Join(lines, "\n")
		if status != 200 || got != want && !strings.HasPrefix(got, want+" ") {
			t.Errorf("%.20q: %d %q, want %q", c.body, status, got, want)
		}
		for _, e := range c.added {
			tl.sequence(Entry{Data: []byte(e)})
		}
		if tl.bodies.held() != 0 || tl.streams.Load() != 0 {
			t.Errorf("%.20q: %d bytes held, %d streams open", c.body, tl.bodies.held(), tl.streams.Load())
		}
	}
	tl.check()
}

func TestStreamRefused(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	h := Handler(tl.Log)
	for _, c := range []struct {
		target string
		header string
		code   string
		status int
	}{
		{"/add-stream?x", "X-Other", "query", 400},
		{"/add-stream", idempotencyHeader, "idempotency_key", 400},
		{"/add-stream", "Content-Encoding", "encoded", 415},
	} {
		res, _ := do(t, h, "POST", c.target, message("a"), c.header, "gzip")
		if res.StatusCode != c.status || res.Header.Get(codeHeader) != c.code {
			t.Errorf("%s %s: %s %v", c.target, c.header, res.Status, res.Header)
		}
	}
	// A writer that cannot send while it receives.
	if res, _ := do(t, h, "POST", "/add-stream", message("a")); res.StatusCode != 405 {
		t.Errorf("without full duplex: %s", res.Status)
	}
	tl.streams.Store(maxAppendStreams)
	if status, lines := streamAll(t, h, strings.NewReader("")); status != 503 {
		t.Errorf("a stream too many: %d %q", status, lines)
	}
	tl.streams.Store(0)
	tl.bodies.take(tl.bodies.total, 0)
	if status, lines := streamAll(t, h, strings.NewReader("")); status != 503 {
		t.Errorf("without memory: %d %q", status, lines)
	}
	tl.bodies.give(tl.bodies.total)
	tl.fail(io.ErrUnexpectedEOF)
	if status, lines := streamAll(t, h, strings.NewReader("")); status != 503 || lines[0] != "log needs its operator" {
		t.Errorf("failed log: %d %q", status, lines)
	}
	if tl.Size() != 0 {
		t.Errorf("%d entries", tl.Size())
	}
}

// gatedKey signs when it may.
type gatedKey struct {
	crypto.Signer
	gate chan struct{} // closed: open
}

func (k gatedKey) Sign(r io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	<-k.gate
	return k.Signer.Sign(r, message, o)
}

// countingReader counts what has been read.
type countingReader struct {
	io.Reader
	n atomic.Int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n.Add(int64(n))
	return n, err
}

// TestStreamBackPressure: a log that does not get on stops reading.
func TestStreamBackPressure(t *testing.T) {
	for name, one := range map[string]string{
		"messages": message("small"),
		"bytes":    message(strings.Repeat("z", 60000), strings.Repeat("z", 60000)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{})
				opts := testOptions(vfs.NewMem())
				opts.durable = func() error { <-gate; return nil }
				tl := newTestLog(t, opts)
				const messages = 100
				in := &countingReader{Reader: strings.NewReader(strings.Repeat(one, messages))}
				answered := make(chan []string)
				go func() {
					_, lines := streamAll(t, Handler(tl.Log), in)
					answered <- lines
				}()
				synctest.Wait() // nobody can get on
				if n := in.n.Load(); n == 0 || n > streamBytes+3*int64(len(one)) || n > (streamMessages+3)*int64(len(one)) {
					t.Errorf("read %d bytes, %d messages, while nothing was answered", n, n/int64(len(one)))
				}
				close(gate)
				lines := <-answered
				if len(lines) != messages+1 || lines[messages] != "end" {
					t.Errorf("%d answers, the last is %q", len(lines), lines[len(lines)-1])
				}
				tl.close()
			})
		})
	}
}

// TestStreamWaitsForRoom: what the queue has no room for waits in the stream,
// and is refused when the log stalls.
func TestStreamWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		opts := testOptions(vfs.NewMem())
		opts.QueueEntries = 2
		opts.durable = func() error { <-gate; return nil }
		tl := newTestLog(t, opts)
		h := Handler(tl.Log)
		answered := make(chan []string)
		for range 3 { // the third has no room
			go func() {
				_, lines := streamAll(t, h, strings.NewReader(message("a", "b")+message("c", "d")+message("e", "f")))
				answered <- lines
			}()
		}
		synctest.Wait()
		time.Sleep(pushbackTimeout / 2) // in the bubble
		close(gate)
		seen := map[string]bool{}
		for range 3 {
			for _, line := range <-answered {
				seen[line] = true
			}
		}
		for i := range 9 {
			if !seen[fmt.Sprint(2*i, " 2")] {
				t.Errorf("nobody got %d: %v", 2*i, seen)
			}
		}
		tl.close()
	})
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		opts := testOptions(vfs.NewMem())
		opts.QueueEntries = 2
		opts.durable = func() error { <-gate; return nil }
		tl := newTestLog(t, opts)
		answered := make(chan []string)
		go func() {
			_, lines := streamAll(t, Handler(tl.Log), strings.NewReader(strings.Repeat(message("a", "b"), 10)))
			answered <- lines
		}()
		time.Sleep(2 * pushbackTimeout) // in the bubble
		close(gate)
		lines := <-answered
		if last := lines[len(lines)-1]; !strings.HasPrefix(last, "error pushback ") {
			t.Errorf("stalled log: %q", lines)
		}
		tl.close()
	})
}

// TestStreamFailure: the message whose commit fails, and those after it, have no
// index.
func TestStreamFailure(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	r, w := io.Pipe()
	answered := make(chan []string)
	go func() {
		_, lines := streamAll(t, Handler(tl.Log), r)
		answered <- lines
	}()
	io.WriteString(w, message("a"))
	tl.integrated.wait(context.Background(), 1, nil)
	tl.fail(io.ErrUnexpectedEOF)
	io.WriteString(w, message("b"))
	if lines := <-answered; len(lines) != 2 || lines[0] != "0 1" || lines[1] != "error reload log needs its operator" {
		t.Errorf("answers: %q", lines)
	}
}

// FuzzStream: a stream is answered as a parser of the plainest kind says, and
// holds no memory afterwards.
func FuzzStream(f *testing.F) {
	tl := newTestLog(f, testOptions(vfs.NewMem()))
	h := Handler(tl.Log)
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 1<<16 {
			t.Skip()
		}
		size := tl.Size()
		status, lines := streamAll(t, h, bytes.NewReader(body))
		want, code := plainStream(body)
		if status != 200 || len(lines) != len(want)+1 {
			t.Fatalf("%d answers to %d messages: %q", len(lines)-1, len(want), lines)
		}
		for i, count := range want {
			if lines[i] != fmt.Sprint(size, " ", count) {
				t.Fatalf("answer %d is %q, want %d %d", i, lines[i], size, count)
			}
			size += int64(count)
		}
		if last := lines[len(lines)-1]; last != code && !strings.HasPrefix(last, "error "+code+" ") {
			t.Fatalf("ended with %q, want %q", last, code)
		}
		if tl.bodies.held() != 0 || tl.Size() != size {
			t.Fatalf("%d bytes held, size %d, want %d", tl.bodies.held(), tl.Size(), size)
		}
	})
}

// plainStream returns how many entries each message has that must be answered,
// and how the stream ends.
func plainStream(b []byte) (counts []int, code string) {
	for len(b) > 0 {
		if len(b) < 4 {
			return counts, "cut_short"
		}
		n := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		switch b = b[4:]; {
		case n == 0:
			return counts, "empty"
		case n > 8<<20:
			return counts, "too_large"
		case n > uint64(len(b)):
			return counts, "cut_short"
		}
		m := b[:n]
		b = b[n:]
		count := 0
		for len(m) > 0 {
			if len(m) < 2 {
				return counts, "framing"
			}
			size := int(m[0])<<8 | int(m[1])
			switch {
			case size == 0:
				return counts, "empty"
			case size > len(m)-2:
				return counts, "framing"
			case count == MaxBatch:
				return counts, "too_large"
			}
			m, count = m[2+size:], count+1
		}
		counts = append(counts, count)
	}
	return counts, "end"
}
