package logcmd

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress tells a person how a long command goes: a line that changes on a
// terminal, a line now and then elsewhere.
type progress struct {
	w     io.Writer
	what  string
	unit  string
	every time.Duration
	tty   bool

	mu    sync.Mutex
	begun time.Time
	first int64 // where it began, for the rate
	next  time.Time
}

// newProgress writes to w, usually standard error, what is being done with how
// many of a unit.
func newProgress(w io.Writer, what, unit string) *progress {
	p := &progress{w: w, what: what, unit: unit, every: 10 * time.Second, begun: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.tty, p.every = true, 100*time.Millisecond
	}
	p.next = p.begun.Add(p.every)
	return p
}

// set says how far it is.
func (p *progress) set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.first == 0 {
		p.first = done
	}
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(p.every)
	line := fmt.Sprintf("%s: %d of %d %s", p.what, done, total, p.unit)
	if seconds := now.Sub(p.begun).Seconds(); seconds > 1 && done > p.first {
		rate := float64(done-p.first) / seconds
		line += fmt.Sprintf(", %.0f/s, %s left", rate, (time.Duration(float64(total-done) / rate * float64(time.Second))).Round(time.Second))
	}
	if p.tty {
		fmt.Fprintf(p.w, "\r\x1b[K%s", line)
		return
	}
	fmt.Fprintln(p.w, line)
}

// end clears the line of a terminal.
func (p *progress) end() {
	if p.tty {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
