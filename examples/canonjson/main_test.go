package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/examples/internal/exampletest"
	"github.com/tallystick/tallystick/sandbox"
)

func TestNative(t *testing.T) {
	var out bytes.Buffer
	if err := run(bytes.NewReader(exampletest.Read(t, "release.json")), &out); err != nil {
		t.Fatal(err)
	}
	want := exampletest.Read(t, "release.golden.json")
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("output is\n%s\nwant\n%s", &out, want)
	}
	var again bytes.Buffer
	if err := run(bytes.NewReader(want), &again); err != nil || !bytes.Equal(again.Bytes(), want) {
		t.Errorf("the canonical form becomes %s, %v", &again, err)
	}
}

func TestRefusal(t *testing.T) {
	var out bytes.Buffer
	err := run(strings.NewReader(`{"a":1,"a":2}`), &out)
	if err == nil || out.Len() > 0 {
		t.Errorf("wrote %q, error %v", &out, err)
	}
}

func TestSandbox(t *testing.T) {
	guest := exampletest.Build(t)
	guest.Golden(t, "release.json", "release.golden.json")

	r := guest.Run(t, []byte(`{"a":1,"a":2}`))
	if r.Outcome.Kind != sandbox.KindExit || r.Outcome.ExitCode != 1 || len(r.Output) > 0 {
		t.Errorf("outcome is %v, output %q", r.Outcome, r.Output)
	}
	if want := "canonjson: invalid JSON: name \"a\" is repeated at offset 10\n"; string(r.Diagnostics) != want {
		t.Errorf("diagnostics are %q, want %q", r.Diagnostics, want)
	}
}
