package node

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	pb "github.com/tallystick/tallystick/proto/tallystick/v1"
)

// Why an assignment was given up is told in a closed set of codes, and what
// concerns nobody is not told.
func TestAbandonCode(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[a-z_]{1,63}$`)
	for code := range refusals {
		want := string(code)
		if code == RefusedMissing {
			want = ""
		}
		got := abandonCode(fmt.Errorf("wrapped: %w", refuse(code, "for a test")))
		if got != want || got != "" && !form.MatchString(got) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{ErrStopped, "stopped"}, {errFault, "fault"}, {ErrUnavailable, "unavailable"},
		{errFaultSoon, "fault"}, {errUndelivered, ""}, {ErrStore, ""},
		{fmt.Errorf("%w: %w", errOutdated, refuse(RefusedEpoch, "for a test")), ""},
	} {
		if got := abandonCode(fmt.Errorf("wrapped: %w", tc.err)); got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.err, got, tc.want)
		}
	}
}

// Each way to give up for good is told once, and a run that its guard stopped is
// not tried again.
func TestAbandonedIsTold(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		begin   func(w *world, c *Config, id digest.Digest)
		code    string // "" for nothing told
		retries uint64
	}{
		{"stopped by the guard", func(w *world, _ *Config, _ digest.Digest) { w.runner.err = fmt.Errorf("a pool: %w", ErrStopped) }, "stopped", 0},
		{"worker fault", func(w *world, _ *Config, _ digest.Digest) { w.runner.err = errors.New("died") }, "fault", soonTries - 1},
		{"module not admitted", func(w *world, _ *Config, _ digest.Digest) { w.runner.err = ErrNotAdmitted }, "admission", 0},
		{"beyond capacity", func(w *world, c *Config, _ digest.Digest) { w.runner.unsupported = errors.New("no") }, "unsupported", 0},
		{"stale for too long", func(w *world, c *Config, _ digest.Digest) {
			c.Now = func() time.Time { return w.now().Add(time.Hour) }
			c.Timing.Retry = time.Hour // the number of tries ends it
		}, "membership_stale", maxTries - 1},
		{"payload missing", func(w *world, _ *Config, id digest.Digest) {
			w.plane.replace(w.Execution(id).Submission.Input, nil)
		}, "", 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, testcluster.Options{})
			id := w.submit("hello")
			name, _ := w.assigned(id)
			config := w.config(name)
			config.Timing.BackoffMin, config.Timing.BackoffMax = time.Microsecond, time.Microsecond
			tc.begin(w, &config, id)
			n := w.open(config)
			n.do(t.Context(), w.assignment(id))
			if s := n.Stats(); s.Retries != tc.retries || s.Attested != 0 {
				t.Errorf("stats %+v", s)
			}
			switch got := len(n.notices); {
			case tc.code == "" && got != 0, tc.code != "" && got != 1:
				t.Errorf("%d notices", got)
			case got == 1:
				if x := <-n.notices; x != (notice{id.String(), tc.code}) {
					t.Errorf("told %+v, want %q", x, tc.code)
				}
			}
		})
	}
}

// Telling holds up nothing, whatever the control plane makes of it, and what has no
// execution is not told.
func TestTellingBlocksNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id, lie := w.submit("hello"), w.submit("lie")
	name, _ := w.assigned(id)
	refused := w.assignment(lie)
	refused.Attempt++
	hanging, released := make(chan struct{}, 2*maxNotices), make(chan struct{})
	w.plane.abandon = func(context.Context, *pb.AbandonAssignmentRequest) error {
		hanging <- struct{}{}
		<-released // whatever the caller's patience is
		return nil
	}
	r := w.start(w.config(name))
	<-w.plane.connected
	w.plane.streams <- []*pb.Assignment{{ExecutionId: "garbage"}, refused}
	<-hanging // and stays so
	w.plane.streams <- []*pb.Assignment{w.assignment(id)}
	<-w.plane.received
	for range tellersAtATime - 1 {
		r.abandon(id.String(), ErrStopped)
		<-hanging
	}
	for range maxNotices + 1 { // of which one is lost
		r.abandon(id.String(), ErrStopped)
	}
	if got := len(r.notices); got != maxNotices {
		t.Errorf("%d notices wait, want %d", got, maxNotices)
	}
	close(released)
	r.stop()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}

// The control plane learns the execution and the code.
func TestControlPlaneIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	first, second := w.submit("first"), w.submit("second")
	name, _ := w.assigned(first)
	told := make(chan *pb.AbandonAssignmentRequest, 4)
	w.plane.abandon = func(_ context.Context, req *pb.AbandonAssignmentRequest) error {
		told <- req
		return connect.NewError(connect.CodeUnavailable, errors.New("busy")) // it is not told again
	}
	w.runner.err = ErrStopped
	config := w.config(name)
	r := w.start(config)
	<-w.plane.connected
	w.plane.streams <- []*pb.Assignment{w.assignment(first)}
	if x := <-told; x.GetExecutionId() != first.String() || x.GetCode() != "stopped" {
		t.Errorf("told %v", x)
	}
	w.plane.streams <- []*pb.Assignment{w.assignment(second)}
	if x := <-told; x.GetExecutionId() != second.String() {
		t.Errorf("told %v", x)
	}
	r.stop()
	<-r.done
}
