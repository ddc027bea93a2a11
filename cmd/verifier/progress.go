package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// How often progress is shown: on a terminal as fast as somebody can read, in a
// file so that a day's run makes less than ten thousand lines.
const (
	drawEvery = 100 * time.Millisecond
	tellEvery = 10 * time.Second
)

// progress shows how far a long command is: on a terminal in one line that changes,
// elsewhere, as in the journal of a service, in a line of its own now and then. It
// is for one goroutine.
type progress struct {
	w     io.Writer // nil shows nothing
	live  bool      // w is a terminal
	now   func() time.Time
	shown time.Time // or, at first, when it began: a short run needs no line
	drawn bool      // the terminal has a line of ours
}

func newProgress(w io.Writer, quiet bool) *progress {
	if quiet {
		w = nil
	}
	return &progress{w: w, live: onTerminal(w), now: time.Now, shown: time.Now()}
}

// onTerminal reports whether what is written to w is seen at once.
func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (p *progress) show(done, size int64) { p.showOf("read", done, size, "entries") }

// showOf shows how many of how many things are done.
func (p *progress) showOf(verb string, done, all int64, things string) {
	every := tellEvery
	if p.live {
		every = drawEvery
	}
	now := p.now()
	if p.w == nil || now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	line := fmt.Sprintf("%s %d of %d %s (%d%%)", verb, done, all, things, done*100/max(all, 1))
	if p.live {
		p.drawn = true
		fmt.Fprintf(p.w, "\r%s\x1b[K", line)
	} else {
		fmt.Fprintf(p.w, "verifier: %s\n", line)
	}
}

// clear takes the line off the terminal; lines elsewhere stay.
func (p *progress) clear() {
	if p.drawn {
		p.drawn = false
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
