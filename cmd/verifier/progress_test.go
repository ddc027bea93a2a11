package main

import (
	"strings"
	"testing"
	"time"
)

// Where there is no terminal, a long run says every ten seconds how far it is, a
// short one nothing; and none when it is told to be quiet.
func TestProgressOffTheTerminal(t *testing.T) {
	const want = "verifier: read 10 of 25 entries (40%)\n" + "verifier: read 20 of 25 entries (80%)\n" +
		"verifier: replayed 1 of 4 executions (25%)\n"
	for quiet, want := range map[bool]string{false: want, true: ""} {
		var out strings.Builder
		p := newProgress(&out, quiet)
		now := p.shown
		p.now = func() time.Time { return now }
		tick := func() { now = now.Add(time.Second) }
		for done := int64(1); done <= 25; done++ {
			tick()
			p.show(done, 25)
		}
		p.clear()
		for done := int64(0); done <= 4; done++ {
			p.showOf("replayed", done, 4, "executions")
			now = now.Add(6 * time.Second)
		}
		if got := out.String(); got != want && quiet {
			t.Errorf("quiet: %q", got)
		} else if !quiet && !strings.HasPrefix(got, want) {
			t.Errorf("shown is\n%swant\n%s", got, want)
		}
	}
}

// On a terminal one line changes, and is gone in the end.
func TestProgressOnATerminal(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out, false)
	p.live = true
	now := p.shown
	p.now = func() time.Time { return now }
	p.clear() // nothing is there yet
	for done := int64(1); done <= 3; done++ {
		now = now.Add(drawEvery)
		p.show(done, 3)
		p.show(done, 3) // too soon
	}
	p.clear()
	p.clear()
	if want := "\rread 1 of 3 entries (33%)\x1b[K\rread 2 of 3 entries (66%)\x1b[K\rread 3 of 3 entries (100%)\x1b[K\r\x1b[K"; out.String() != want {
		t.Errorf("shown is %q, want %q", out.String(), want)
	}
}
