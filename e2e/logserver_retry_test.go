//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// addUnder posts an entry under an idempotency key.
func (s *server) addUnder(key, entry string) (status int, answer string, err error) {
	req, err := http.NewRequest(http.MethodPost, s.url+"/add", strings.NewReader(entry))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Idempotency-Key", key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	return res.StatusCode, strings.TrimSpace(string(body)), err
}

// TestRetriesWhileKilled kills a log without warning, again and again, while
// clients repeat what got no answer, and what got one, under the same keys: every
// key has one index, whichever process answers, and its entry is there once.
func TestRetriesWhileKilled(t *testing.T) {
	const kills, workers, between = 5, 8, 60
	dir := filepath.Join(t.TempDir(), "log")
	vkey := newLog(t, dir)
	_, policy := witnessed(t, vkey)
	start := func() *server {
		s := serve(t, "logserver", "serve", "--dir", dir, "--policy", policy)
		s.ready(t)
		return s
	}
	var running atomic.Pointer[server]
	running.Store(start())
	entry := func(key string) string { return "under " + key + strings.Repeat(" x", len(key)*7) }
	// index repeats a request until it is answered, by whoever runs by then.
	index := func(key string) string {
		deadline := time.Now().Add(patience)
		for {
			status, answer, err := running.Load().addUnder(key, entry(key))
			switch {
			case err == nil && status == http.StatusOK:
				return answer
			case err == nil && status != http.StatusServiceUnavailable:
				t.Errorf("adding under %q: %d %s", key, status, answer)
				return ""
			case time.Now().After(deadline):
				t.Errorf("adding under %q: %d %s %v", key, status, answer, err)
				return ""
			}
			<-time.After(5 * time.Millisecond) // nobody listens
		}
	}
	var mu sync.Mutex
	indexes, acks := map[string]string{}, map[string]string{} // key → index → entry
	answered := make(chan struct{}, 1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				// Two clients share a key, and each repeats the one before.
				key := fmt.Sprintf("%d/%d", w/2, i)
				for _, k := range []string{key, fmt.Sprintf("%d/%d", w/2, max(0, i-1))} {
					got := index(k)
					if got == "" {
						return
					}
					mu.Lock()
					if before := indexes[k]; before != "" && before != got {
						t.Errorf("key %q has index %s, and had %s", k, got, before)
					}
					if other, taken := acks[got]; taken && other != entry(k) {
						t.Errorf("index %s was given to %.20q and to %.20q", got, other, entry(k))
					}
					indexes[k], acks[got] = got, entry(k)
					mu.Unlock()
				}
				select {
				case answered <- struct{}{}:
				default:
				}
			}
		})
	}
	for range kills {
		for range between {
			<-answered
		}
		running.Load().kill()
		running.Store(start())
	}
	for range between {
		<-answered
	}
	close(stop)
	wg.Wait()
	for key, want := range indexes {
		if got := index(key); got != want {
			t.Errorf("key %q has index %s at the end, and had %s", key, got, want)
		}
	}
	s := running.Load()
	s.holds(t, acks)
	seen := map[string]int{}
	for i, e := range s.entries(t) {
		if first, twice := seen[string(e)]; twice {
			t.Errorf("%.20q has the indexes %d and %d", e, first, i)
		}
		seen[string(e)] = i
	}
	if len(seen) != len(indexes) {
		t.Errorf("the log has %d entries under %d keys", len(seen), len(indexes))
	}
}
