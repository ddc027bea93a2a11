//go:build slow

package logserver

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestOverloadOnSockets is TestOverload with a log on disk and a thousand
// connections that send as fast as they can, streams among them.
func TestOverloadOnSockets(t *testing.T) {
	opts := testOptions(vfs.Default)
	opts.Dir = filepath.Join(t.TempDir(), "log")
	opts.QueueEntries = 64
	tl := newTestLog(t, opts)
	dial := dialer(t, Handler(tl.Log))
	first := dial()
	url := "http://" + first.RemoteAddr().String()
	first.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}

	var mu sync.Mutex
	promised := map[int64]string{}
	refused := 0
	promise := func(index int64, data string) {
		mu.Lock()
		defer mu.Unlock()
		if other, taken := promised[index]; taken {
			t.Errorf("index %d was promised to %q and %q", index, other, data)
		}
		promised[index] = data
	}
	send := func(path, body string) (int, string) {
		res, err := client.Post(url+path, "", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err != nil {
			t.Error(err)
		}
		if res.StatusCode == 503 && res.Header.Get("Retry-After") != "" {
			mu.Lock()
			refused++
			mu.Unlock()
		} else if res.StatusCode != 200 {
			t.Errorf("%s: %s", res.Status, answer)
		}
		return res.StatusCode, string(answer)
	}
	var wg sync.WaitGroup
	for c := range 1000 {
		wg.Go(func() {
			for i := range 20 {
				data := fmt.Sprintf("%d/%d", c, i)
				if c%100 == 0 { // a stream waits where others are refused
					_, answer := send("/add-stream", message(data+"a", data+"b"))
					var index, count int64
					if _, err := fmt.Sscanf(answer, "%d %d\nend\n", &index, &count); err != nil || count != 2 {
						t.Errorf("stream: %q", answer)
						continue
					}
					promise(index, data+"a")
					promise(index+1, data+"b")
					continue
				}
				if status, answer := send("/add", data); status == 200 {
					index, err := strconv.ParseInt(answer, 10, 64)
					if err != nil {
						t.Error(err)
					}
					promise(index, data)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("promised %d, refused %d", len(promised), refused)
	if refused == 0 || int64(len(promised)) != tl.Size() {
		t.Errorf("%d promised, %d refused, %d in the log", len(promised), refused, tl.Size())
	}
	for i := range tl.Size() {
		tl.sequence(Entry{Data: []byte(promised[i])})
	}
	tl.reopen()
	tl.check()
	if held := tl.bodies.held(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
}
