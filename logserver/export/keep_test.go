package export

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// announced is a log as a keeper sees it: publications by hand.
type announced struct {
	grown   chan struct{}
	stopped atomic.Bool
}

func (a *announced) Wait(ctx context.Context, _ int64) error {
	if a.stopped.Load() {
		return logserver.ErrClosed
	}
	select {
	case <-a.grown:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestKeeper(t *testing.T) {
	log := newLog(t, 1, 10)
	m := newMemory(t, policy(t, log.Vkey()))
	e := exporterTo(t, log, m)
	e.options.Target = "s3://bucket?secret=x"
	// The log grows outside of the bubble; what it shows is exchanged.
	snapshot := func(n int) map[string][]byte {
		grow(t, log, n)
		shown := map[string][]byte{}
		for _, name := range []string{"checkpoint", "tile/0/000.p/10", "tile/entries/000.p/10", "tile/0/000.p/20", "tile/entries/000.p/20"} {
			if b, err := log.Resource(t.Context(), name, maxResource); err == nil {
				shown[name] = b
			}
		}
		return shown
	}
	first, refreshed, second := snapshot(10), snapshot(10), snapshot(20)
	refreshed[checkpointName] = append(bytes.Clone(first[checkpointName]), "— witness.example/w AAAAAAAA\n"...)
	var shown atomic.Pointer[map[string][]byte]
	shown.Store(&first)
	e.options.Fetch = func(_ context.Context, path string, _ int64) ([]byte, error) {
		b, ok := (*shown.Load())[path]
		if !ok {
			return nil, errDisk
		}
		return b, nil
	}
	a := &announced{}
	synctest.Test(t, func(t *testing.T) {
		a.grown = make(chan struct{})
		k := NewKeeper(e, a, 0, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan struct{})
		go func() { k.Run(ctx); close(ended) }()
		synctest.Wait()
		if s := k.CopyStatus(); s.Size != 10 || s.Runs != 1 || s.Updated.IsZero() || k.Health() != nil || s.Target != "s3://bucket" {
			t.Fatalf("after the first run: %+v, %v", s, k.Health())
		}
		// Nothing new: the checkpoint is looked at, and nothing is done.
		time.Sleep(10 * look)
		synctest.Wait()
		if s := k.CopyStatus(); s.Runs != 1 {
			t.Errorf("an idle log: %+v", s)
		}
		// Fresh cosignatures on the same tree are copied.
		shown.Store(&refreshed)
		time.Sleep(2 * look)
		synctest.Wait()
		if s := k.CopyStatus(); s.Runs != 2 || !bytes.Equal(m.objects[checkpointName], refreshed[checkpointName]) {
			t.Errorf("refreshed cosignatures: %+v", s)
		}
		// A target that fails is tried again, more and more rarely, and seen.
		m.mu.Lock()
		m.fail = func(int) (bool, bool) { return true, false }
		m.mu.Unlock()
		shown.Store(&second)
		a.grown <- struct{}{}
		synctest.Wait()
		if s := k.CopyStatus(); s.Size != 10 || s.Failures != 1 || !strings.Contains(s.Reason, "on fire") || k.Health() != nil {
			t.Errorf("a first failure: %+v, %v", s, k.Health())
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if err := k.Health(); err == nil || !strings.Contains(err.Error(), "on fire") || strings.Contains(err.Error(), "secret") {
			t.Errorf("after ten minutes: %v", err)
		}
		if s := k.CopyStatus(); s.Failures < 8 || s.Failures > 20 {
			t.Errorf("after ten minutes: %d failures", s.Failures)
		}
		m.mu.Lock()
		m.fail = nil
		m.mu.Unlock()
		time.Sleep(2 * staleTime)
		synctest.Wait()
		if s := k.CopyStatus(); s.Size != 20 || s.Reason != "" || k.Health() != nil {
			t.Errorf("after the target has come back: %+v, %v", s, k.Health())
		}
		// A log that has stopped publishing ends its keeper.
		a.stopped.Store(true)
		a.grown <- struct{}{}
		<-ended
	})
}

func TestKeeperStops(t *testing.T) {
	log := newLog(t, 1, 10)
	for name, fail := range map[string]bool{"waiting": false, "failing": true} {
		m := newMemory(t, policy(t, log.Vkey()))
		if fail {
			m.fail = func(int) (bool, bool) { return true, false }
		}
		ctx, cancel := context.WithCancel(t.Context())
		k := NewKeeper(exporterTo(t, log, m), log, time.Hour, slog.New(slog.DiscardHandler))
		ended := make(chan struct{})
		go func() { k.Run(ctx); close(ended) }()
		cancel()
		<-ended
		if _, err := k.once(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeeperReadsBack: a keeper mends the copy that it finds, while it keeps it up
// to date, and does not give up.
func TestKeeperReadsBack(t *testing.T) {
	log := newLog(t, 1, 600)
	m := newMemory(t, policy(t, log.Vkey()))
	if _, err := exporterTo(t, log, m).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	shown := maps.Clone(m.objects)
	delete(m.objects, "tile/0/001")
	m.writes, m.fail = 0, func(n int) (bool, bool) { return n <= 1, n > 1 }
	e := exporterTo(t, log, m)
	e.options.Fetch = func(_ context.Context, path string, _ int64) ([]byte, error) {
		b, ok := shown[path]
		if !ok {
			return nil, tiles.ErrNotFound
		}
		return b, nil
	}
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		k := NewKeeper(e, &announced{grown: make(chan struct{})}, 0, slog.New(slog.NewTextHandler(&said, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { k.Run(ctx); close(ended) }()
		time.Sleep(2 * staleTime)
		synctest.Wait()
		cancel()
		<-ended
		if !strings.Contains(said.String(), "could not be read back, trying again") || !strings.Contains(said.String(), "written again") {
			t.Errorf("it says %s", said.String())
		}
	})
	if !maps.EqualFunc(m.objects, shown, bytes.Equal) {
		t.Error("the copy is not mended")
	}
}
