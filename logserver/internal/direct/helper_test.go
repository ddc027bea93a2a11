package direct

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/logserver/internal/direct/directtest"
)

var (
	post     = directtest.Post
	timeouts = Timeouts{Read: 10 * time.Second, Write: time.Minute, Idle: 2 * time.Minute}
	errNo    = errors.New("the log says no")
)

const (
	refusedCode = "refused"
	codeHeader  = "X-Code"
	refusalText = "HTTP/1.1 503 Service Unavailable\r\nX-Code: busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"
)

// fakeLog is a log in memory, each entry of which is a group of its own.
type fakeLog struct {
	hold chan struct{} // a group waits for a token from it, unless it is nil

	mu      sync.Mutex
	refused error // by Ask
	failed  error // by groups
	room    int   // for requests
	entries []string
	codes   map[string]int // that Leave was told
}

func newFakeLog() *fakeLog { return &fakeLog{room: 1000, codes: map[string]int{}} }

func (l *fakeLog) Enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.room == 0 {
		return false
	}
	l.room--
	return true
}

func (l *fakeLog) Ask(entry []byte, receipt bool, by Asker) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused != nil {
		return l.refused
	}
	place, failed := len(l.entries), l.failed
	l.entries = append(l.entries, string(entry))
	go func() {
		if l.hold != nil {
			<-l.hold
		}
		by.Answered(fakeGroup{failed}, place)
	}()
	return nil
}

func (l *fakeLog) Refuse(err error) (*http.Response, string) {
	reason := err.Error() + "\n"
	return &http.Response{
		StatusCode: http.StatusServiceUnavailable, Header: http.Header{codeHeader: {refusedCode}},
		ContentLength: int64(len(reason)), Body: io.NopCloser(strings.NewReader(reason)),
	}, refusedCode
}

func (l *fakeLog) Leave(code string, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room++
	l.codes[code]++
}

// free sets for how many requests there is room.
func (l *fakeLog) free(room int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room = room
}

// held is how many requests have entered and not left, of a log that began with
// room for so many.
func (l *fakeLog) held(room int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return room - l.room
}

// refuse makes Ask refuse, and fail groups.
func (l *fakeLog) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = err
}

func (l *fakeLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = err
}

func (l *fakeLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

func (l *fakeLog) entry(index int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[index]
}

func (l *fakeLog) left(code string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.codes[code]
}

type fakeGroup struct{ err error }

func (g fakeGroup) Index(place int) (int64, error) { return int64(place), g.err }

func (g fakeGroup) Receipt(place int) ([]byte, error) {
	return fmt.Appendf(nil, "receipt of %d\n", place), nil
}

// exchange sends raw bytes and reads one answer.
func exchange(t *testing.T, conn net.Conn, raw string) (*http.Response, string) {
	t.Helper()
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	return answerOn(t, conn)
}

func answerOn(t *testing.T, conn net.Conn) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick, end := time.NewTicker(time.Millisecond), time.After(time.Minute)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never happened: %s", what)
		}
	}
}
