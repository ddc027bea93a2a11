package logserver

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// staleRounds is after how many round times without a witnessed checkpoint,
// while one is due, a log is unhealthy.
const staleRounds = 2

// Health returns nil if the log accepts entries and publishes what it has
// sequenced, and otherwise every reason why not.
func (l *Log) Health() error {
	var reasons []error
	if err := l.failed(); err != nil {
		reasons = append(reasons, err)
	}
	if err := l.space.health(); err != nil {
		reasons = append(reasons, err)
	}
	if err := l.store.faults.health(); err != nil {
		reasons = append(reasons, err)
	}
	if err := l.publisher.appendable(); err != nil {
		reasons = append(reasons, err)
	}
	limit := staleRounds * l.opts.WitnessTimeout
	if behind := l.publisher.behind(); behind > limit {
		pub := l.Published()
		reasons = append(reasons, fmt.Errorf("no witnessed checkpoint for %v: size %d is sequenced, %d published",
			behind.Round(time.Second), l.Size(), pub.Size))
	}
	return errors.Join(reasons...)
}

// behind is for how long a witnessed checkpoint has been due.
func (p *publisher) behind() time.Duration {
	since := p.behindSince.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

func (l *Log) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if err := l.Health(); err != nil {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	serve(w, contentText, "no-store", []byte("ok\n"))
}
