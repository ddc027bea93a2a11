package importer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/tallystick/tallystick/logserver"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// openedSource opens the source of an import.
func openedSource(t *testing.T, o Options) *tiles.Source {
	t.Helper()
	source, err := tiles.OpenSource(t.Context(), o.Fetch, o.Policy, 1)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// TestDirectoryOfNoLog imports into what cannot be opened.
func TestDirectoryOfNoLog(t *testing.T) {
	source := newSource(t)
	grow(t, source, 10, entry)
	o := into(t, source)
	o.Log.Dir = t.TempDir()
	if report, err := Run(t.Context(), o); err == nil {
		t.Errorf("an absent log was filled: %+v", report)
	}
	o = into(t, source)
	held, err := logserver.Open(o.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close(t.Context())
	if _, err := Run(t.Context(), o); !errors.Is(err, logserver.ErrLocked) {
		t.Errorf("into a log that another process fills: %v", err)
	}
}

// TestEndedButUnusable asks again about an import that has ended, with options
// that the log cannot be opened with.
func TestEndedButUnusable(t *testing.T) {
	source := newSource(t)
	grow(t, source, 10, entry)
	o := into(t, source)
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o.Log.Key = key(9)
	if report, err := Run(t.Context(), o); err == nil {
		t.Errorf("with another key: %+v", report)
	}
}

// TestFailingAppend makes the log fail under the import: nothing is reported as
// imported, and all goroutines end.
func TestFailingAppend(t *testing.T) {
	source := newSource(t)
	grow(t, source, 600, entry)
	o := into(t, source)
	log, err := logserver.Open(o.Log)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = fill(t.Context(), log, openedSource(t, o), func(done, size int64) {
		t.Errorf("progress %d of %d", done, size)
	})
	if !errors.Is(err, logserver.ErrClosed) {
		t.Errorf("into a closed log: %v", err)
	}
	if report, err := Run(t.Context(), o); err != nil || report.Size != 600 || report.Resumed != 0 {
		t.Errorf("afterwards: %+v, %v", report, err)
	}
}

// TestUnreadablePast hides the tile that shows whether the source leads on.
func TestUnreadablePast(t *testing.T) {
	source := newSource(t)
	grow(t, source, 700, entry)
	o := into(t, source)
	log, err := logserver.Open(o.Log)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if _, _, err := log.Append(t.Context(), logserver.Entry{Data: entry(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	whole, hidden := o.Fetch, errors.New("hidden")
	o.Fetch = func(ctx context.Context, path string, limit int64) ([]byte, error) {
		if path == tiles.TilePath(0, 1, 256) {
			return nil, hidden
		}
		return whole(ctx, path, limit)
	}
	if _, err := Run(t.Context(), o); !errors.Is(err, hidden) || errors.Is(err, ErrSource) {
		t.Errorf("an unreadable tile is not a fork: %v", err)
	}
	o.Fetch = whole
	if report, err := Run(t.Context(), o); err != nil || report.Resumed != 300 || report.Size != 700 {
		t.Errorf("afterwards: %+v, %v", report, err)
	}
}

// TestGatherEnds has nobody take the batches, so that each way of handing one
// over meets the end of the context.
func TestGatherEnds(t *testing.T) {
	for name, test := range map[string]struct {
		entries int
		data    func(int) []byte
	}{
		"last batch":          {10, entry},
		"batch of many bytes": {batchBytes/logserver.MaxEntrySize + 2, func(int) []byte { return make([]byte, logserver.MaxEntrySize) }},
	} {
		t.Run(name, func(t *testing.T) {
			source := newSource(t)
			grow(t, source, test.entries, test.data)
			opened := openedSource(t, into(t, source))
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- gather(ctx, opened, 0, make(chan []logserver.Entry)) }()
				synctest.Wait() // until it waits for somebody to take the batch
				cancel()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		})
	}
}
