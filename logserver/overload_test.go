package logserver

import (
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestOverload: far above capacity a log refuses with 503 and Retry-After, and
// keeps every promise that it made: each index that was answered holds the data
// that was sent, and nothing that was refused is in the log.
func TestOverload(t *testing.T) {
	gate := make(chan struct{})
	opts := testOptions(vfs.NewMem())
	opts.QueueEntries = 8
	opts.durable = func() error { <-gate; return nil }
	tl := newTestLog(t, opts)
	h := Handler(tl.Log)
	const callers, each = 64, 40
	var mu sync.Mutex
	promised := map[int64]string{}
	refused := 0
	firstRefusal := sync.OnceFunc(func() { close(gate) }) // the log stalls until it is overloaded
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				data := fmt.Sprintf("caller %d, entry %d", c, i)
				res, body := do(t, h, "POST", "/add", data)
				index, err := strconv.ParseInt(string(body), 10, 64)
				mu.Lock()
				switch {
				case res.StatusCode == 200 && err == nil:
					if other, taken := promised[index]; taken {
						t.Errorf("index %d was promised to %q and %q", index, other, data)
					}
					promised[index] = data
				case res.StatusCode == 503 && res.Header.Get("Retry-After") == "1" && res.Header.Get(codeHeader) == "pushback":
					refused++
					firstRefusal()
				default:
					t.Errorf("%s %v %s", res.Status, res.Header, body)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if refused == 0 || len(promised) == 0 || refused+len(promised) != callers*each {
		t.Errorf("%d promised and %d refused of %d", len(promised), refused, callers*each)
	}
	for i := range tl.Size() { // no index between them that nobody was promised
		tl.sequence(Entry{Data: []byte(promised[i])})
	}
	tl.check()
	tl.reopen()
	tl.check()
}
