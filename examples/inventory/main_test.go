package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/examples/internal/exampletest"
	"github.com/tallystick/tallystick/sandbox"
)

func TestNative(t *testing.T) {
	var out bytes.Buffer
	if err := run(bytes.NewReader(exampletest.Read(t, "go.sum")), &out); err != nil {
		t.Fatal(err)
	}
	if want := exampletest.Read(t, "go.sum.golden.json"); !bytes.Equal(out.Bytes(), want) {
		t.Errorf("output is\n%s\nwant\n%s", &out, want)
	}
}

// TestOwnGoSum takes this project's own file, with its lines in file order and
// reversed, and checks the counts and the digest against a plain computation.
func TestOwnGoSum(t *testing.T) {
	data, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(data), "\n")
	lines = lines[:len(lines)-1]
	slices.Reverse(lines)
	var out, reversed bytes.Buffer
	if err := run(bytes.NewReader(data), &out); err != nil {
		t.Fatal(err)
	}
	if err := run(strings.NewReader(strings.Join(lines, "")), &reversed); err != nil {
		t.Fatal(err)
	}
	if out.String() != reversed.String() {
		t.Error("the order of the lines matters")
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	var f inventoryFile
	if err := json.Unmarshal(out.Bytes(), &f); err != nil {
		t.Fatal(err)
	}
	hashes := 0
	for _, m := range f.Modules {
		for _, v := range m.Versions {
			for _, h := range []string{v.GoMod, v.Source} {
				if h != "" {
					hashes++
				}
			}
		}
	}
	if f.Digest != hex.EncodeToString(sum[:]) || hashes != len(lines) || f.Counts.Modules != len(f.Modules) {
		t.Errorf("digest %s, %d hashes of %d lines, counts %+v", f.Digest, hashes, len(lines), f.Counts)
	}
}

func TestRefusals(t *testing.T) {
	const hash = "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	const good = "example.com/a v1.0.0 " + hash + "\n"
	for in, want := range map[string]string{
		good[:len(good)-1]:                           "line 1: not ended",
		good + "\n":                                  "line 2: not of the form",
		good + good:                                  `line 2: "example.com/a v1.0.0" is already on line 1`,
		"example.com/a v1.0.0\n":                     "not of the form",
		"example.com/a  v1.0.0 " + hash + "\n":       "not of the form",
		"example.com/a v1.0.0 " + hash + "\r\n":      "base64",
		"Example/a v1.0.0 " + hash + "\n":            "malformed module path",
		"example.com/a v1 " + hash + "\n":            "version",
		"example.com/a v2.0.0 " + hash + "\n":        "version",
		"example.com/a v1.0.0 h2:" + hash[3:] + "\n": `does not begin with "h1:"`,
		"example.com/a v1.0.0 h1:AAAA\n":             "base64",
		"example.com/a v1.0.0 " + strings.Replace(hash, "FU=", "FV=", 1) + "\n": "base64",
		"\xff v1.0.0 " + hash + "\n": "malformed module path",
	} {
		var out bytes.Buffer
		err := run(strings.NewReader(in), &out)
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%.60q: wrote %q, error %v; want %q", in, &out, err, want)
		}
	}
	var out bytes.Buffer
	if err := run(strings.NewReader(""), &out); err != nil || !strings.Contains(out.String(), `"modules":[]`) {
		t.Errorf("an empty file gives %q, %v", &out, err)
	}
}

func TestSandbox(t *testing.T) {
	guest := exampletest.Build(t)
	guest.Golden(t, "go.sum", "go.sum.golden.json")

	r := guest.Run(t, []byte("broken\n"))
	if r.Outcome.Kind != sandbox.KindExit || r.Outcome.ExitCode != 1 || len(r.Output) > 0 {
		t.Errorf("outcome is %v, output %q", r.Outcome, r.Output)
	}
	if want := "inventory: line 1: not of the form \"path version hash\"\n"; string(r.Diagnostics) != want {
		t.Errorf("diagnostics are %q, want %q", r.Diagnostics, want)
	}
}

// FuzzParse checks that what is accepted is what the lines say.
func FuzzParse(f *testing.F) {
	const hash = " h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
	f.Add("example.com/a v1.0.0" + hash + "example.com/a v1.0.0/go.mod" + hash)
	f.Add("github.com/b/c v2.0.0+incompatible" + hash)
	f.Add("x y z\n")
	f.Fuzz(func(t *testing.T, in string) {
		lines, err := parse(in)
		if err != nil {
			return
		}
		if n := strings.Count(in, "\n"); n != len(lines) {
			t.Fatalf("%d lines, %d read", n, len(lines))
		}
		if _, err := inventory(lines); err != nil {
			t.Fatal(err)
		}
	})
}
