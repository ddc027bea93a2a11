package main

import (
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/verifier/wholelog"
)

// What an earlier run could not replay stays, in the report and in the file, when
// this run does not even find it; and what is found behind it is counted once.
func TestPendingDoesNotVanish(t *testing.T) {
	lost, found := digest.Of([]byte("lost")), digest.Of([]byte("found"))
	s := &replayState{Format: replayFormat, Size: 9, NotReplayed: []verdict{
		{Execution: lost, DecidedAt: 3, Verdict: verdictNotRun, Detail: "no blob"},
		{Execution: found, DecidedAt: 5, Verdict: verdictNotRun, Detail: "no blob"},
	}}
	s.retry()
	s.add(verdict{Execution: found, DecidedAt: 5, Verdict: verdictSame})
	r := &replayAllReport{}
	r.remembers(s)
	if len(r.NotReplayed) != 1 || r.NotReplayed[0].Execution != lost || r.Same != 1 {
		t.Errorf("reported %+v", r)
	}
	if err := r.verdict(); err == nil {
		t.Error("one is not replayed, and the verdict is good")
	}
	name := filepath.Join(t.TempDir(), "state")
	if err := s.save(name); err != nil {
		t.Fatal(err)
	}
	if len(s.notReplayed()) != 1 {
		t.Errorf("remembered %+v", s.notReplayed())
	}
}

// The worst that was found decides the exit code.
func TestReplayAllVerdict(t *testing.T) {
	bad, void := []verdict{{}}, []wholelog.Void{{}}
	for want, r := range map[int]replayAllReport{
		exitDiffers:   {Differs: bad, Voids: void, NotReplayed: bad},
		exitRules:     {Voids: void, NotReplayed: bad},
		exitNoOutcome: {NotReplayed: bad},
	} {
		if got, _ := classify(r.verdict()); got != want {
			t.Errorf("%+v: exit code %d, want %d", r, got, want)
		}
	}
	if err := (&replayAllReport{Same: 1}).verdict(); err != nil {
		t.Error(err)
	}
	for n, want := range map[int]string{1: "1 void record", 2: "2 void records", wholelog.MaxVoids: "1000 void records or more"} {
		if got := (&replayAllReport{Voids: make([]wholelog.Void, n)}).voids(); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
