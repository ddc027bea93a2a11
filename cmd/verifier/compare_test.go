package main

import (
	"bytes"
	"context"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/compare"
)

// atFirst calls a function when the first report is written.
type atFirst struct {
	bytes.Buffer
	call func()
}

func (w *atFirst) Write(p []byte) (int, error) {
	w.call()
	return w.Buffer.Write(p)
}

// A comparison that goes on until it is interrupted ends well then, with the last
// round's verdict; one that was interrupted before it found anything does not.
func TestCompareInterrupted(t *testing.T) {
	l := &testLog{damaged: map[string]bool{}}
	if err := l.grow(20, "one"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(l)
	defer srv.Close()
	vkey, err := checkpoint.Vkey(logOrigin, testcluster.Public(logOrigin))
	if err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, out *atFirst, args ...string) error {
		cmd := rootCommand()
		cmd.SetOut(out)
		cmd.SetArgs(append([]string{"compare", srv.URL, "--vkey", vkey, "--state", filepath.Join(t.TempDir(), "state"), "--interval", "1h"}, args...))
		return cmd.ExecuteContext(ctx)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out := &atFirst{call: cancel}
	if err := run(ctx, out, "--mirror", srv.URL+"/"); err != nil || !strings.HasPrefix(out.String(), "CONSISTENT") {
		t.Errorf("interrupted after a round: %v\n%s", err, out)
	}
	if err := run(ctx, out, "--mirror", srv.URL+"/"); err == nil {
		t.Error("interrupted before a round: no error")
	}
	ctx, cancel = context.WithCancel(t.Context())
	err = run(ctx, &atFirst{call: cancel})
	if code, _ := classify(err); code != exitNetwork {
		t.Errorf("interrupted after a round with too few views: exit code %d, %v", code, err)
	}
}

// Every verdict has a headline, and every one but consistent an exit code.
func TestCompareVerdicts(t *testing.T) {
	codes := map[compare.Verdict]int{
		compare.VerdictConsistent: 0, compare.VerdictSplit: exitFork, compare.VerdictWentBack: exitFork,
		compare.VerdictInvalid: exitPolicy, compare.VerdictNotCompared: exitApart, compare.VerdictTooFew: exitNetwork,
	}
	for verdict, headline := range headlines {
		report := &compare.Report{Origin: logOrigin, Verdict: verdict}
		want, known := codes[verdict]
		if !known || headline == "" {
			t.Errorf("verdict %q", verdict)
		}
		if err := compareVerdict(report); (err == nil) != (want == 0) {
			t.Errorf("%s: %v", verdict, err)
		} else if code, hint := classify(err); err != nil && (code != want || hint == "") {
			t.Errorf("%s: exit code %d, want %d; hint %q", verdict, code, want, hint)
		}
	}
	if len(headlines) != len(codes) {
		t.Errorf("%d headlines, %d verdicts", len(headlines), len(codes))
	}
}

// On a terminal a report takes the place of the one before.
func TestLiveTable(t *testing.T) {
	var b bytes.Buffer
	report := compareReport{Report: &compare.Report{Verdict: compare.VerdictConsistent}}
	live := table{w: &b, live: true}
	live.print(report)
	if !strings.HasPrefix(b.String(), "\x1b[H\x1b[JCONSISTENT") {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	newTable(&b, true).print(report) // a file or a pipe
	if !strings.HasPrefix(b.String(), "CONSISTENT") {
		t.Errorf("%q", b.String())
	}
}
