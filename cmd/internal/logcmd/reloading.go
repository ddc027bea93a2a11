package logcmd

import (
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// reloading reads the policy of a log that runs again whenever a hangup signal
// comes. One that is not valid, or that a running log cannot change to, leaves the
// one before in place.
type reloading struct {
	file   string
	hangup <-chan os.Signal
	set    func(*checkpoint.Policy) error
	logger *slog.Logger

	stopping, ended chan struct{}
	taken           atomic.Pointer[checkpoint.Policy] // the last one, nil if there is none
}

// reloadGrace is for how long stop waits for a policy that is being taken.
const reloadGrace = time.Second

func (r *reloading) start() {
	r.stopping, r.ended = make(chan struct{}), make(chan struct{})
	go r.run()
}

// stop ends it and returns the policy that was taken last, nil if none was. Taking
// one waits while the log signs, for as long as its disk hangs: stop does not. A
// policy that is taken later than that is lost.
func (r *reloading) stop() *checkpoint.Policy {
	close(r.stopping)
	select {
	case <-r.ended:
	case <-time.After(reloadGrace):
	}
	return r.taken.Load()
}

func (r *reloading) run() {
	defer close(r.ended)
	for {
		select {
		case <-r.stopping:
			return // the next opening takes what comes now
		default:
		}
		select {
		case <-r.hangup:
		case <-r.stopping:
			return
		}
		policy, err := wiring.ReadPolicy(r.file)
		if err == nil {
			err = r.set(policy)
		}
		if err != nil {
			r.logger.Error("policy not taken: the one before stays", "file", r.file, "err", err)
			continue
		}
		r.taken.Store(policy)
		r.logger.Info("policy taken", "file", r.file)
	}
}
