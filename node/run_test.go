package node

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// running is a node whose Run was started.
type running struct {
	*Node
	stop context.CancelFunc
	done chan error
}

func (w *world) start(config Config) *running {
	w.t.Helper()
	return w.run(w.open(config))
}

func (w *world) run(n *Node) *running {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Node: n, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- r.Run(ctx) }()
	w.t.Cleanup(stop)
	return r
}

// A node holds its stream, opens it again when it ends, and stops when told.
func TestRunTakesAssignments(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	first, second := w.submit("first"), w.submit("second")
	name, _ := w.assigned(first)
	config := w.config(name)
	config.Capacity = 3
	r := w.start(config)
	if info := <-w.plane.connected; info.GetCapacity() != 3 || info.GetSoftwareVersion() != "v1.0.0" {
		t.Errorf("told %v", info)
	}
	a := w.assignment(first)
	w.plane.streams <- []*pb.Assignment{a, {ExecutionId: "garbage"}}
	<-w.plane.received
	w.plane.streams <- nil // ends the stream
	<-w.plane.connected
	w.plane.streams <- []*pb.Assignment{a, w.assignment(second)}
	<-w.plane.received
	<-w.plane.received
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	s := r.Stats()
	if s.Attested != 2 || s.Resent != 1 || s.Connections != 2 || s.Refused[RefusedMalformed] != 1 || s.Assignments != 4 {
		t.Errorf("stats %+v\n%s", s, w.log)
	}
}

// Stopping lets work in progress end and attest, and takes nothing new.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id, next := w.submit("hello"), w.submit("next")
	name, _ := w.assigned(id)
	w.runner.running, w.runner.release = make(chan struct{}), make(chan struct{})
	given := w.plane.givenBack()
	config := w.config(name)
	config.Capacity = 1
	n := w.open(config)
	n.slots = newTurns(1, 1) // so that the first goes first
	r := w.run(n)
	<-w.plane.connected
	// Twice the same while it runs is once; the next one waits for the slot.
	w.plane.streams <- []*pb.Assignment{w.assignment(id), w.assignment(id), w.assignment(next)}
	<-w.runner.running
	r.stop()
	<-r.stopping.Done()
	close(w.runner.release)
	if err := <-r.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if s := r.Stats(); s.Attested != 1 || len(w.plane.received) != 1 {
		t.Errorf("stats %+v, %d handed in", s, len(w.plane.received))
	}
	if x := <-given; x.GetExecutionId() != next.String() || x.GetCode() != "draining" || len(given) != 0 {
		t.Errorf("given back: %v, and %d more", x, len(given))
	}
}

// Work that does not end in its time is cancelled and has no outcome.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	w.runner.running, w.runner.release = make(chan struct{}), make(chan struct{})
	given := w.plane.givenBack()
	config := w.config(name)
	config.Timing.Drain = time.Millisecond
	r := w.start(config)
	<-w.plane.connected
	w.plane.streams <- []*pb.Assignment{w.assignment(id)}
	<-w.runner.running
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if s := r.Stats(); s.Attested != 0 || s.Abandoned != 1 {
		t.Errorf("stats %+v", s)
	}
	if x := <-given; x.GetExecutionId() != id.String() || x.GetCode() != "draining" {
		t.Errorf("given back: %v", x)
	}
}

// givenBack gets what the control plane is told that nodes gave up.
func (p *plane) givenBack() <-chan *pb.AbandonAssignmentRequest {
	told := make(chan *pb.AbandonAssignmentRequest, 16)
	p.abandon = func(_ context.Context, req *pb.AbandonAssignmentRequest) error {
		told <- req
		return nil
	}
	return told
}

// A stream that is silent, keep-alive messages included, is given up.
func TestSilentStreamIsGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	config.Timing.Idle = 20 * time.Millisecond
	r := w.start(config)
	<-w.plane.connected
	<-w.plane.connected
	r.stop()
	<-r.done
	if !strings.Contains(w.log.String(), "silent") {
		t.Errorf("the log does not say why: %s", w.log)
	}
}

// A control plane that is not there is tried again until the node is stopped.
func TestControlPlaneAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	config := w.config("node-1")
	w.server.Close()
	r := w.start(config)
	for strings.Count(w.log.String(), "stream ended") < 3 {
		select {
		case err := <-r.done:
			t.Fatalf("Run returned %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestHTTPLogs(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("a token was sent to a public endpoint")
		}
		switch r.URL.Path {
		case "/audit/tile/0/000":
			rw.Write([]byte("0123456789"))
		case "/membership/checkpoint":
			http.Error(rw, "down", http.StatusServiceUnavailable)
		default:
			http.NotFound(rw, r)
		}
	}))
	defer srv.Close()
	h := HTTPLogs{Server: srv.URL}
	if data, err := h.Get(t.Context(), membership.LogAudit, "tile/0/000", 10); err != nil || string(data) != "0123456789" {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := h.Get(t.Context(), membership.LogAudit, "tile/0/000", 9); err == nil {
		t.Error("took more than the limit")
	}
	if _, err := h.Get(t.Context(), membership.LogAudit, "tile/0/001", 9); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if _, err := h.Get(t.Context(), membership.LogMembership, "checkpoint", 9); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want a failure", err)
	}
	srv.Close()
	if _, err := h.Get(t.Context(), membership.LogAudit, "tile/0/000", 10); err == nil {
		t.Error("a closed server answered")
	}
	if _, err := (HTTPLogs{Server: ":"}).Get(t.Context(), membership.LogAudit, "x", 1); err == nil {
		t.Error("took a malformed URL")
	}
}

// The paths of c2sp.org/tlog-tiles.
func TestTilePath(t *testing.T) {
	t.Parallel()
	for want, tile := range map[string]tlog.Tile{
		"tile/0/000":             {H: 8, L: 0, N: 0, W: 256},
		"tile/1/x001/067.p/8":    {H: 8, L: 1, N: 1067, W: 8},
		"tile/entries/x001/234":  {H: 8, L: -1, N: 1234, W: 256},
		"tile/entries/000.p/255": {H: 8, L: -1, N: 0, W: 255},
	} {
		if got := tilePath(tile); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTileCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newTileCache()
	for i := range int64(2 * maxCachedTiles) {
		c.put(tlog.Tile{H: 8, N: i, W: 256}, nil)
	}
	if len(c.tiles) != maxCachedTiles {
		t.Errorf("%d tiles kept, want %d", len(c.tiles), maxCachedTiles)
	}
}

// Whatever a crash or a stranger leaves in the directory, the node starts with
// what it can prove or says what is wrong.
func TestDamagedDirectory(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (*world, Config, *pb.Assignment) {
		w := newWorld(t, testcluster.Options{})
		id := w.submit("hello")
		w.AddNode("node-8")
		w.AddNode("node-9")
		name, _ := w.assigned(id)
		config := w.config(name)
		n := w.open(config)
		a := w.assignment(id)
		verify(t, n, a, nil)
		n.Close()
		return w, config, a
	}
	t.Run("torn change", func(t *testing.T) {
		w, config, a := setup(t)
		path := filepath.Join(config.Dir, entriesName)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, cut := range []int64{1, 100} {
			// A crash between changes and note: the note is the older one's.
			if err := os.WriteFile(filepath.Join(config.Dir, headName(membership.LogMembership)), w.Membership.Signed(2), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, info.Size()-cut); err != nil {
				t.Fatal(err)
			}
			n := w.open(config)
			if got := n.view.history.Size(); got != 2 {
				t.Errorf("epoch %d, want 2", got)
			}
			verify(t, n, a, nil)
			n.Close()
		}
		n := w.open(config)
		if got := n.view.history.Size(); got != 3 {
			t.Errorf("epoch %d, want 3", got)
		}
	})
	for name, damage := range map[string]struct {
		file string
		data string
	}{
		"changes lost":            {entriesName, ""},
		"changes of another":      {entriesName, "\x00\x02{}"},
		"note that is none":       {headName(membership.LogAudit), "x"},
		"note without checkpoint": {headName(membership.LogAudit), "x\n\n— a AAAAAAA=\n"},
		"epochs":                  {epochsName, "demo/audit\nx y\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w, config, _ := setup(t)
			if err := os.WriteFile(filepath.Join(config.Dir, damage.file), []byte(damage.data), 0o600); err != nil {
				t.Fatal(err)
			}
			if n, err := Open(config); !errors.Is(err, ErrStore) {
				if err == nil {
					n.Close()
				}
				t.Errorf("got %v, want ErrStore", err)
			}
			_ = w
		})
	}
	t.Run("epochs of a log that this one succeeds", func(t *testing.T) {
		w, config, a := setup(t)
		if err := os.WriteFile(filepath.Join(config.Dir, epochsName), []byte("old/audit\n3 0\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		verify(t, w.open(config), a, nil)
	})
	t.Run("oversized file", func(t *testing.T) {
		_, config, _ := setup(t)
		if err := os.Truncate(filepath.Join(config.Dir, headName(membership.LogAudit)), 1<<20); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(config); !errors.Is(err, ErrStore) {
			t.Errorf("got %v, want ErrStore", err)
		}
	})
}
