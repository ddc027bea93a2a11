//go:build e2e && slow

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestStalledLogserver stops a log with SIGSTOP under load, for longer than any of
// its time limits, again and again, as a machine does that swaps or is moved: all
// that was answered is there, it is one history, and the log goes on by itself.
func TestStalledLogserver(t *testing.T) {
	const (
		stalls, workers, between = 3, 8, 100
		stall                    = 25 * time.Second // twice that of a round, and more
	)
	dir := filepath.Join(t.TempDir(), "log")
	vkey := newLog(t, dir)
	witness, policy := witnessed(t, vkey)
	s := serve(t, "logserver", "serve", "--dir", dir, "--policy", policy)
	s.ready(t)
	var mu sync.Mutex
	acks := map[string]string{}
	var count, lost atomic.Int64
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
				entry := fmt.Sprintf("%d/%d", w, i)
				status, index, err := s.add(entry)
				if err != nil {
					lost.Add(1) // the connection was idle for too long: the outcome is open
					continue
				}
				// 408: the stall came between the headers and the body.
				if status == http.StatusServiceUnavailable || status == http.StatusRequestTimeout {
					continue
				}
				if status != http.StatusOK {
					t.Errorf("adding: %d %s", status, index)
					return
				}
				mu.Lock()
				if other, taken := acks[index]; taken {
					t.Errorf("index %s was given to %q and to %q", index, other, entry)
				}
				acks[index] = entry
				mu.Unlock()
				count.Add(1)
			}
		})
	}
	more := func() {
		before := count.Load()
		wait(t, "entries are answered", func() error {
			if n := count.Load() - before; n < between {
				return fmt.Errorf("%d of %d", n, between)
			}
			return nil
		})
	}
	for range stalls {
		more()
		if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		<-time.After(stall)
		if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		s.ready(t)
	}
	more()
	close(stop)
	wg.Wait()
	s.holds(t, acks)
	if n := lost.Load(); n > stalls*workers {
		t.Errorf("%d requests got no answer in %d stalls", n, stalls)
	}
	if found, err := filepath.Glob(filepath.Join(witness, "*evidence*", "*")); err != nil || len(found) > 0 {
		t.Errorf("the witness has evidence against the log: %q, %v", found, err)
	}
	select {
	case <-s.done:
		t.Errorf("the process ended: %s", s.err)
	default:
	}
}
