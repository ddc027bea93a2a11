package loadgen

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// testServer is a real log behind a handler that may lie.
type testServer struct {
	log    *logserver.Log
	url    string
	policy *checkpoint.Policy
	// lie, if not nil, answers in place of the log when it returns true.
	lie atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
}

func serve(t *testing.T) *testServer {
	t.Helper()
	key := func(seed byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	}
	options := logserver.Options{Dir: t.TempDir(), Origin: "log.example/load", Key: key(1), ReceiptKey: key(2), MinInterval: time.Millisecond}
	if err := logserver.Create(options); err != nil {
		t.Fatal(err)
	}
	log, err := logserver.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	s := &testServer{log: log}
	if s.policy, err = checkpoint.ParsePolicy([]byte("log " + log.Vkey() + "\nquorum none\n")); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + ln.Addr().String()
	handler := logserver.Handler(log)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- logserver.Serve(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if lie := s.lie.Load(); lie != nil && (*lie)(w, r) {
				return
			}
			handler.ServeHTTP(w, r)
		}), slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		log.Close(context.Background())
	})
	return s
}

// run makes a load and verifies it.
func (s *testServer) run(t *testing.T, o Options) *Report {
	t.Helper()
	o.URL = s.url
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l.Run(t.Context())
	fetch, err := tiles.HTTP(http.DefaultClient, s.url)
	if err != nil {
		t.Fatal(err)
	}
	progress := int64(0)
	r, err := l.Verify(t.Context(), fetch, s.policy, func(done, _ int64) { progress = done })
	if err != nil {
		t.Fatal(err)
	}
	if r.Acknowledged > 0 && progress != r.Verified.Size {
		t.Errorf("progress ended at %d of %d", progress, r.Verified.Size)
	}
	return r
}

func TestLoadsAreVerified(t *testing.T) {
	s := serve(t)
	receipt, err := note.NewVerifier(s.log.ReceiptVkey())
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"single":   {Mode: Single, Connections: 8, EntrySize: MinEntrySize, Entries: 500},
		"receipts": {Mode: Single, Connections: 8, EntrySize: 100, Entries: 200, Receipt: receipt},
		"rate":     {Mode: Single, Connections: 8, EntrySize: 99, Entries: 200, Rate: 1e6},
		"batch":    {Mode: Batch, Connections: 3, EntrySize: 300, BatchSize: 64, Entries: 2000},
		"stream":   {Mode: Stream, Connections: 2, EntrySize: 300, BatchSize: 64, InFlight: 4, Entries: 5000},
		"lockstep": {Mode: Stream, Connections: 1, EntrySize: 300, BatchSize: 1, Entries: 50},
		"duration": {Mode: Batch, Connections: 2, EntrySize: 300, BatchSize: 10, Duration: 50 * time.Millisecond},
	} {
		r := s.run(t, o)
		if err := r.Err(); err != nil || r.Acknowledged != r.Sent || o.Entries > 0 && r.Sent != o.Entries || r.Verified.Confirmed != r.Sent || r.Sent == 0 {
			t.Errorf("%s: %+v %+v, %v", name, r, r.Verified, err)
		}
		if r.Latency.P50 <= 0 || r.Latency.Max < r.Latency.P999 || r.Latency.P99 < r.Latency.P50 || r.Throughput <= 0 {
			t.Errorf("%s: %+v", name, r.Latency)
		}
	}
}

// TestLiesAreFound makes the log break its promise in each way that a client can
// notice.
func TestLiesAreFound(t *testing.T) {
	receipt := func(s *testServer) note.Verifier {
		v, err := note.NewVerifier(s.log.ReceiptVkey())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for name, c := range map[string]struct {
		lie     func(s *testServer, n int, w http.ResponseWriter, r *http.Request) bool
		receipt bool
		want    string
	}{
		"an entry is dropped": {func(s *testServer, n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 20 {
				io.WriteString(w, "3")
			}
			return n == 20
		}, false, "1 of 40 acknowledged entries are not in the log where it said, the first: index 3 "},
		"an entry is altered": {func(_ *testServer, n int, _ http.ResponseWriter, r *http.Request) bool {
			if n == 20 {
				body, _ := io.ReadAll(r.Body)
				body[len(body)-1] ^= 1
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			return false
		}, false, "does not hold entry number"},
		"a receipt is of another entry": {func(s *testServer, n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 20 {
				r.Body = io.NopCloser(strings.NewReader(strings.Repeat("x", 50)))
			}
			return false
		}, true, "1 proofs do not verify, the first: receipt of index"},
		"a receipt is under the wrong key": {func(s *testServer, n int, w http.ResponseWriter, r *http.Request) bool {
			if n != 20 {
				return false
			}
			note := s.log.Published().Note
			w.Write(checkpoint.Proof{Index: 0, Checkpoint: note}.Format())
			return true
		}, true, "proofs do not verify"},
	} {
		s := serve(t)
		n := atomic.Int64{}
		lie := func(w http.ResponseWriter, r *http.Request) bool {
			return r.Method == http.MethodPost && c.lie(s, int(n.Add(1)), w, r)
		}
		s.lie.Store(&lie)
		o := Options{Mode: Single, Connections: 1, EntrySize: 50, Entries: 40}
		if c.receipt {
			o.Receipt = receipt(s)
		}
		if err := s.run(t, o).Err(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusalsAreCounted(t *testing.T) {
	s := serve(t)
	n := atomic.Int64{}
	lie := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		switch n.Add(1) {
		case 1, 2:
			w.Header().Set("X-Tallystick-Code", "busy")
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			w.WriteHeader(http.StatusTeapot)
		case 4:
			io.WriteString(w, "what?")
		default:
			return false
		}
		return true
	}
	s.lie.Store(&lie)
	r := s.run(t, Options{Mode: Single, Connections: 1, EntrySize: 50, Entries: 20, Rate: 1e6})
	if r.Pushback != 2 || r.Refused != 1 || r.Unknown != 1 || r.Acknowledged != 16 || r.Refusals["busy"] != 2 || r.Refusals["status 418"] != 1 ||
		!strings.Contains(r.LastError, "what?") || r.Err() != nil {
		t.Errorf("%+v, %v", r, r.Err())
	}
}

// TestEndedStream cuts a stream off: what was on the way is unknown, and the load
// goes on over another one.
func TestEndedStream(t *testing.T) {
	s := serve(t)
	n := atomic.Int64{}
	lie := func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/add-stream" {
			return false
		}
		http.NewResponseController(w).EnableFullDuplex() // the body is not read first
		switch n.Add(1) {
		case 1:
			w.Header().Set("X-Tallystick-Code", "busy")
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			io.WriteString(w, "error busy come back later\n")
		case 3:
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return true
			}
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			conn.Close()
		default:
			return false
		}
		return true
	}
	s.lie.Store(&lie)
	r := s.run(t, Options{Mode: Stream, Connections: 1, EntrySize: 50, BatchSize: 10, InFlight: 3, Entries: 1000, Rate: 1e6})
	if r.Pushback != 10 || r.Unknown == 0 || r.Acknowledged+r.Unknown+r.Pushback != 1000 || r.Acknowledged == 0 || r.Err() != nil {
		t.Errorf("%+v, %v", r, r.Err())
	}
}

// stalling is a log that answers at once, but for one pause.
type stalling struct {
	n     atomic.Int64
	at    int64
	pause time.Duration
}

func (s *stalling) RoundTrip(*http.Request) (*http.Response, error) {
	n := s.n.Add(1)
	if n == s.at {
		time.Sleep(s.pause)
	}
	time.Sleep(time.Millisecond)
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(strconv.FormatInt(n-1, 10)))}, nil
}

// TestNoCoordinatedOmission lets a log stall for a second under 100 messages a
// second on one connection. About 100 messages were due meanwhile, and waited half
// a second on average: a tenth of all 1,000 have to show it.
func TestNoCoordinatedOmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := New(Options{Mode: Single, Connections: 1, EntrySize: 50, Rate: 100, Duration: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		l.client.HTTP.Transport = &stalling{at: 500, pause: time.Second}
		l.Run(t.Context())
		r := l.Report()
		if r.Sent != 1000 || r.Acknowledged != 1000 || r.Latency.P50 > 1.1 || r.Latency.P90 < 1 || r.Latency.P99 < 850 || r.Latency.Max < 1000 {
			t.Errorf("%+v", r)
		}
		if r.Service.P99 > 1.1 || r.Service.Max < 1000 || r.LateMessages < 90 || r.LateMessages > 120 {
			t.Errorf("service time %+v, %d late", r.Service, r.LateMessages)
		}
	})
}

func TestBusyLogIsGivenTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := New(Options{Mode: Single, Connections: 2, EntrySize: 50, Duration: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		l.client.HTTP.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"1"}}, Body: http.NoBody}, nil
		})
		l.Run(t.Context())
		if r := l.Report(); r.Pushback != 20 || r.Sent != 20 || r.Err() != nil {
			t.Errorf("%+v", r)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := New(Options{Mode: Single, Connections: 2, EntrySize: 50, Rate: 1, Duration: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		l.client.HTTP.Transport = &stalling{}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+time.Millisecond/2)
		defer cancel()
		l.Run(ctx)
		if r := l.Report(); r.Acknowledged != 11 || r.Unknown != 0 {
			t.Errorf("%+v", r)
		}
	})
}

func TestVerifyFindsNothingOut(t *testing.T) {
	s := serve(t)
	l, err := New(Options{Mode: Single, Connections: 1, EntrySize: 50, Entries: 5, URL: s.url, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l.Run(t.Context())
	l.claims.set(4, 1<<40) // an index that no checkpoint will cover
	if _, err := l.Verify(t.Context(), s.log.Resource, s.policy, nil); err == nil || !strings.Contains(err.Error(), "covers index 1099511627776") {
		t.Errorf("beyond the checkpoint: %v", err)
	}
	nowhere := func(context.Context, string, int64) ([]byte, error) { return nil, tiles.ErrNotFound }
	if _, err := l.Verify(t.Context(), nowhere, s.policy, nil); err == nil || !strings.Contains(err.Error(), "waiting for a checkpoint") {
		t.Errorf("no log: %v", err)
	}
	idle, err := New(Options{Mode: Single, Connections: 1, EntrySize: 50, Entries: 5})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := idle.Verify(t.Context(), nowhere, s.policy, nil); err != nil || r.Verified.Confirmed != 0 {
		t.Errorf("nothing was written: %+v, %v", r, err)
	}
}

func TestOptions(t *testing.T) {
	good := Options{Mode: Batch, Connections: 1, EntrySize: 100, BatchSize: 10, Entries: 1}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"mode":        func(o *Options) { o.Mode = "other" },
		"rate":        func(o *Options) { o.Rate = -1 },
		"connections": func(o *Options) { o.Connections = MaxConnections + 1 },
		"small":       func(o *Options) { o.EntrySize = MinEntrySize - 1 },
		"large":       func(o *Options) { o.EntrySize = MaxEntrySize + 1 },
		"endless":     func(o *Options) { o.Entries = 0 },
		"batch":       func(o *Options) { o.BatchSize = MaxBatch + 1 },
		"bytes":       func(o *Options) { o.BatchSize, o.EntrySize = 200, MaxEntrySize },
		"receipts":    func(o *Options) { o.Receipt = new(checkpoint.Key) },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestHostilePauses: a log that refuses everything cannot keep a load from ending,
// nor show what it likes where its codes are counted.
func TestHostilePauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for code, want := range map[string]string{"pushback": "pushback", "\x1b[2J": "status 503", "": "status 503", strings.Repeat("a", 99): "status 503"} {
			l, err := New(Options{URL: "http://log.example", Mode: Single, Connections: 1, EntrySize: 50, Duration: 20 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			l.client.HTTP.Transport = refusing{code}
			start := time.Now()
			l.Run(t.Context())
			if took := time.Since(start); took != 20*time.Second {
				t.Errorf("%q: took %v", code, took)
			}
			r := l.Report()
			if len(r.Refusals) != 1 || r.Refusals[want] != r.Sent || r.Sent == 0 {
				t.Errorf("%q: %v of %d", code, r.Refusals, r.Sent)
			}
		}
	})
}

// refusing is a log that answers 503, and come again in a year.
type refusing struct{ code string }

func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Body.Close()
	header := http.Header{"Retry-After": {"31536000"}, "X-Tallystick-Code": {r.code}}
	return &http.Response{StatusCode: 503, Header: header, Body: http.NoBody, Request: req}, nil
}

// TestMuteStreams: a log that does not open a stream, or not end it, cannot keep a
// load from ending.
func TestMuteStreams(t *testing.T) {
	for _, opens := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l, err := New(Options{URL: "http://log.example", Mode: Stream, Connections: 1, EntrySize: 50, BatchSize: 1, Entries: 1, Timeout: 5 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			l.client.HTTP.Transport = mute{opens}
			start := time.Now()
			l.Run(t.Context())
			if took := time.Since(start); took != 5*time.Second+unreachablePause {
				t.Errorf("opens %v: took %v", opens, took)
			}
			if r := l.Report(); r.Acknowledged+r.Unknown != 1 || (r.Acknowledged == 1) != opens || r.LastError == "" && !opens {
				t.Errorf("opens %v: %+v", opens, r)
			}
		})
	}
}

// mute is a log that says nothing, or nothing after its first answer.
type mute struct{ opens bool }

func (m mute) RoundTrip(req *http.Request) (*http.Response, error) {
	done := req.Context().Done()
	if !m.opens {
		<-done
		req.Body.Close()
		return nil, req.Context().Err()
	}
	go io.Copy(io.Discard, req.Body)
	r, w := io.Pipe()
	go func() {
		io.WriteString(w, "0 1\n")
		<-done
		w.CloseWithError(req.Context().Err())
	}()
	return &http.Response{StatusCode: 200, Body: r, Request: req}, nil
}

// TestBuckets: every time is in the one bucket that it belongs to.
func TestBuckets(t *testing.T) {
	h := newHistogram()
	if got := newBuckets(h); got == nil || len(got) != 0 {
		t.Errorf("buckets of nothing: %v", got)
	}
	for _, d := range []time.Duration{0, 3 * time.Microsecond, 5 * time.Microsecond, 6 * time.Microsecond, 20 * time.Microsecond, 900 * time.Microsecond} {
		record(h, d)
	}
	want := []Bucket{{0, 0.001, 1}, {0.001, 0.002, 0}, {0.002, 0.005, 2}, {0.005, 0.01, 1}, {0.01, 0.02, 1}, {0.02, 0.05, 0},
		{0.05, 0.1, 0}, {0.1, 0.2, 0}, {0.2, 0.5, 0}, {0.5, 1, 1}}
	if got := newBuckets(h); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	h = newHistogram()
	var n int64
	for d := time.Microsecond; d < 2*maxLatency; d = d*11/10 + time.Microsecond {
		record(h, d)
		n++
	}
	last := 0.0
	for i, b := range newBuckets(h) {
		if i > 0 && b.Over != last || b.To <= b.Over {
			t.Errorf("bucket %d: %+v", i, b)
		}
		last, n = b.To, n-b.Count
	}
	if n != 0 || last != 5e6 {
		t.Errorf("%d times are in no bucket; the last ends at %g ms", n, last)
	}
}
