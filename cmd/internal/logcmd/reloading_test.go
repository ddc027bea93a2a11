//go:build unix

package logcmd

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestReloadingStops: a policy that is being taken while the disk hangs keeps no log
// from being closed, and one that was taken before is not lost.
func TestReloadingStops(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(file, []byte("quorum none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		hangs, calls := make(chan struct{}), 0
		var first *checkpoint.Policy
		hangup := make(chan os.Signal, 1)
		r := &reloading{file: file, hangup: hangup, logger: slog.New(slog.DiscardHandler), set: func(p *checkpoint.Policy) error {
			if calls++; calls == 1 {
				first = p
				return nil
			}
			<-hangs
			return nil
		}}
		r.start()
		for range 2 {
			hangup <- syscall.SIGHUP
			synctest.Wait()
		}
		hangup <- syscall.SIGHUP // for whoever runs next
		from := time.Now()
		if got := r.stop(); got == nil || got != first {
			t.Errorf("the policy taken is %v, want %v", got, first)
		}
		if took := time.Since(from); took != reloadGrace {
			t.Errorf("stopping takes %v, want %v", took, reloadGrace)
		}
		close(hangs)
		<-r.ended
		if len(hangup) != 1 {
			t.Error("it has taken a hangup after it was stopped")
		}

		// One that is idle is stopped at once.
		idle := &reloading{file: file, hangup: make(chan os.Signal), logger: r.logger}
		idle.start()
		if from = time.Now(); idle.stop() != nil || time.Since(from) != 0 {
			t.Error("an idle one waits, or has a policy")
		}
	})
}

// TestHangupAtStart: a hangup that comes before the log is open neither ends the
// process nor is lost.
func TestHangupAtStart(t *testing.T) {
	dir := t.TempDir()
	config := serveConfig{dir: directory{path: filepath.Join(dir, "log")}, listen: "127.0.0.1:0", policy: filepath.Join(dir, "policy")}
	vkey, err := config.dir.create("log.example/test")
	if err != nil {
		t.Fatal(err)
	}
	policy := []byte("log " + vkey + "\nquorum none\n")
	next := filepath.Join(dir, "next")
	if err := os.WriteFile(next, policy, 0o600); err != nil {
		t.Fatal(err)
	}
	// Whoever reads the first policy waits for it to be written.
	if err := syscall.Mkfifo(config.policy, 0o600); err != nil {
		t.Fatal(err)
	}
	// The test is not ended by a signal that serve does not wait for.
	delivered := make(chan os.Signal, 1)
	signal.Notify(delivered, syscall.SIGHUP)
	defer signal.Stop(delivered)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // never reached when the test passes
	defer cancel()
	said := &awaited{text: "policy taken", met: cancel}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, config, said) }()
	pipe, err := os.OpenFile(config.policy, os.O_WRONLY, 0) // blocks until it is being read
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	<-delivered
	if err := os.Rename(next, config.policy); err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.Write(policy); err != nil {
		t.Fatal(err)
	}
	pipe.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := said.String(); !strings.Contains(got, said.text) {
		t.Errorf("the hangup was missed:\n%s", got)
	}
}

// awaited calls met once what was written contains a text.
type awaited struct {
	text string
	met  func()

	mu sync.Mutex
	b  strings.Builder
}

var _ io.Writer = (*awaited)(nil)

func (a *awaited) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.b.Write(p)
	if strings.Contains(a.b.String(), a.text) {
		a.met()
	}
	return len(p), nil
}

func (a *awaited) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.b.String()
}
