package logserver

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/logserver/internal/direct/directtest"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// strangeClient speaks HTTP/2 as no library would.
type strangeClient struct {
	*testing.T
	net.Conn
	*http2.Framer
	head bytes.Buffer
	enc  *hpack.Encoder
	last uint32 // stream
}

// newStrangeClient begins a connection on which this many bytes of answers may
// be sent on a stream.
func newStrangeClient(t *testing.T, conn net.Conn, window uint32) *strangeClient {
	c := &strangeClient{T: t, Conn: conn, Framer: http2.NewFramer(conn, conn)}
	c.enc = hpack.NewEncoder(&c.head)
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}))
	return c
}

func (c *strangeClient) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// get sends a request without waiting for anything.
func (c *strangeClient) get(path string) { c.Helper(); c.request("GET", path, true) }

// request begins a stream, and ends what is sent on it unless a body follows.
func (c *strangeClient) request(method, path string, end bool) {
	c.Helper()
	c.head.Reset()
	for _, f := range [][2]string{{":method", method}, {":scheme", "http"}, {":path", path}, {":authority", "x"}} {
		c.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	c.last += 2
	c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.last - 1, BlockFragment: c.head.Bytes(), EndHeaders: true, EndStream: end}))
}

// next returns how the server begins or ends a stream: a status, or "reset".
func (c *strangeClient) next() string {
	c.Helper()
	for {
		frame, err := c.ReadFrame()
		c.must(err)
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		}
	}
}

// TestAnswersThatAreNotTaken: what clients of HTTP/2 ask for and do not take is
// bounded for all of them together, small answers too. Those beyond are told so,
// then cut off, and all of it is given back. Whoever comes meanwhile is served, by
// HTTP/2 as well.
func TestAnswersThatAreNotTaken(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	tl.multiplexed = newMultiplexed(64)
	dial := dialer(t, Handler(tl.Log))
	var clients []*strangeClient
	outcomes := map[string]int{}
	for i := range 16 {
		c := newStrangeClient(t, dial(), 0)
		clients = append(clients, c)
		for range 32 {
			c.get("/checkpoint")
			outcomes[c.next()]++
		}
		if i == 0 && (outcomes["200"] != 8 || outcomes["503"] != 6 || outcomes["reset"] != 18) {
			t.Errorf("outcomes of the first: %v", outcomes)
		}
	}
	if n := tl.multiplexed.held(); n > 64+16 || outcomes["200"]+outcomes["503"] != n || outcomes["reset"] != 16*32-n {
		t.Errorf("outcomes: %v, %d are held", outcomes, n)
	}
	if res, body := exchange(t, dial(), post("/add", "", "honest")); res.StatusCode != 200 || body != "0" {
		t.Errorf("meanwhile: %s %s", res.Status, body)
	}
	for range 20 {
		c := newStrangeClient(t, dial(), 1<<16)
		for range 3 {
			c.get("/checkpoint")
			if got := c.next(); got != "200" {
				t.Fatalf("meanwhile, by HTTP/2: %s", got)
			}
			for { // a second request may come only after the first has ended
				frame, err := c.ReadFrame()
				c.must(err)
				if frame.Header().Flags.Has(http2.FlagDataEndStream) {
					break
				}
			}
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		c.Close()
	}
	eventually(t, "all requests are over", func() bool { return tl.multiplexed.held() == 0 })
	if tl.multiplexed.further != 0 {
		t.Errorf("%d further requests are counted", tl.multiplexed.further)
	}
	c := newStrangeClient(t, dial(), 0)
	for range 8 {
		if c.get("/checkpoint"); c.next() != "200" {
			t.Error("there is room again, and none is given")
		}
	}
}

// TestMountWithoutDeadline: what a client of HTTP/2 does not take is given back in a
// server, too, that sets no deadline, also why there is no stream of appends.
func TestMountWithoutDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := newTestLog(t, testOptions(vfs.NewMem()))
		server := &http.Server{Handler: Handler(tl.Log), Protocols: new(http.Protocols)}
		server.Protocols.SetUnencryptedHTTP2(true)
		ln := directtest.NewPipes()
		served := make(chan error, 1)
		go func() { served <- server.Serve(ln) }()
		conn := ln.Dial()
		c := newStrangeClient(t, conn, 0)
		go io.Copy(io.Discard, conn)
		c.get("/checkpoint")
		c.get("/add-stream")
		c.request("POST", "/add-stream?x", false)
		synctest.Wait()
		if n := tl.multiplexed.held(); n != 3 {
			t.Fatalf("%d requests are held", n)
		}
		time.Sleep(writeTimeout) // of the bubble
		synctest.Wait()
		if n := tl.multiplexed.held(); n != 0 {
			t.Errorf("%d requests are held for a client that takes nothing", n)
		}
		conn.Close()
		server.Close()
		<-served
		tl.close()
	})
}

// TestSilentStream: a stream of appends by HTTP/2 may be silent for as long as one by
// HTTP/1.1, whatever deadlines there are for answers.
func TestSilentStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := newTestLog(t, testOptions(vfs.NewMem()))
		ln := directtest.NewPipes()
		stop := serveOn(t, ln, Handler(tl.Log))
		conn := ln.Dial()
		c := newStrangeClient(t, conn, 1<<16)
		frames := make(chan string)
		go func() {
			defer close(frames)
			for {
				switch frame, err := c.ReadFrame(); f := frame.(type) {
				case *http2.DataFrame:
					frames <- string(f.Data())
				case *http2.RSTStreamFrame:
					frames <- "reset: " + f.ErrCode.String()
				default:
					if err != nil {
						return
					}
				}
			}
		}()
		c.request("POST", "/add-stream", false)
		for _, want := range []string{"0 1\n", "1 1\n"} {
			time.Sleep(streamIdle - time.Second) // of the bubble
			c.must(c.WriteData(c.last-1, false, []byte("\x00\x00\x00\x03\x00\x01x")))
			if got := <-frames; got != want {
				t.Fatalf("after a silence: %q, want %q", got, want)
			}
		}
		time.Sleep(streamIdle + time.Second)
		if got := <-frames; !strings.HasPrefix(got, "error slow") {
			t.Errorf("after too long a silence: %q", got)
		}
		conn.Close()
		for range frames {
		}
		stop()
		tl.close()
	})
}

// TestStalledClient: a client of HTTP/2 that takes no byte is cut off, and what was
// held for it is given back: it would be held for ever, as no stream can be reset.
func TestStalledClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := newTestLog(t, testOptions(vfs.NewMem()))
		for range TileWidth {
			tl.add(Entry{Data: []byte(strings.Repeat("long ", 200))})
		}
		tl.mustPublish(TileWidth)
		ln := directtest.NewPipes()
		stop := serveOn(t, ln, Handler(tl.Log))
		conn := ln.Dial()
		c := newStrangeClient(t, conn, 1<<30)
		c.get("/tile/entries/000.p/255")
		synctest.Wait()
		if tl.replies.held() == 0 || tl.multiplexed.held() != 1 {
			t.Fatalf("%d bytes and %d requests are held", tl.replies.held(), tl.multiplexed.held())
		}
		time.Sleep(writeTimeout + stalledTimeout) // of the bubble
		synctest.Wait()
		if tl.replies.held() != 0 || tl.multiplexed.held() != 0 {
			t.Errorf("%d bytes and %d requests are held for a client that takes nothing", tl.replies.held(), tl.multiplexed.held())
		}
		conn.Close()
		stop()
		tl.close()
	})
}

// TestAnnouncedFrame: the largest frame is what one connection has memory for.
func TestAnnouncedFrame(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	conn := dialer(t, Handler(tl.Log))()
	c := newStrangeClient(t, conn, 1<<16)
	header := binary.BigEndian.AppendUint32(nil, (maxReadFrame+1)<<8|uint32(http2.FrameData))
	if _, err := conn.Write(append(header, 0, 0, 0, 0, 1)); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("the frame is waited for: %v", err)
		}
		if end, ok := frame.(*http2.GoAwayFrame); ok {
			if end.ErrCode != http2.ErrCodeFrameSize {
				t.Errorf("ended with %v", end.ErrCode)
			}
			return
		}
	}
}

// TestMetricsFlood: whoever asks while a page is being made gets the next one, the
// same as all others, and a page shows what was before it was asked for.
func TestMetricsFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		took := maxPageRest / pageRest / 2
		m := pagesOf(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			made++
			page := byte(made)
			time.Sleep(took)
			w.Write([]byte{page})
		}))
		start := time.Now()
		pages := make(chan byte, 1000)
		page := func() byte {
			body, err := m.page()
			if err != nil {
				t.Error(err)
			}
			return body[0]
		}
		ask := func() { pages <- page() }
		go ask()
		synctest.Wait() // the first is being made
		for range 999 {
			go ask()
		}
		counts := map[byte]int{}
		for range 1000 {
			counts[<-pages]++
		}
		if counts[1] != 1 || counts[2] != 999 || made != 2 {
			t.Errorf("%d pages were made: %v", made, counts)
		}
		if d := time.Since(start); d != (2+pageRest)*took {
			t.Errorf("two pages took %v", d)
		}
		time.Sleep(pageRest * took)
		if start = time.Now(); page() != 3 || time.Since(start) != took {
			t.Errorf("a page after a rest took %v", time.Since(start))
		}
		// One that waited for long does not keep the others waiting.
		time.Sleep(pageRest * took)
		took = time.Minute
		page()
		if start = time.Now(); page() != 5 || time.Since(start) != took+maxPageRest {
			t.Errorf("a page after one that took %v came after %v", took, time.Since(start))
		}
	})
}

// TestMetricsFail: metrics that cannot be gathered are no page.
func TestMetricsFail(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	h := &handler{log: tl.Log, writes: true, metrics: pagesOf(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "nothing was gathered", http.StatusInternalServerError)
	}))}
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code < 500 || strings.Contains(answer.Body.String(), "gathered") {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
}
