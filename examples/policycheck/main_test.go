package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/examples/internal/exampletest"
	"github.com/tallystick/tallystick/examples/internal/strictjson"
	"github.com/tallystick/tallystick/sandbox"
)

func TestNative(t *testing.T) {
	var out bytes.Buffer
	if err := run(bytes.NewReader(exampletest.Read(t, "session.jsonl")), &out); err != nil {
		t.Fatal(err)
	}
	if want := exampletest.Read(t, "session.golden.json"); !bytes.Equal(out.Bytes(), want) {
		t.Errorf("output is\n%s\nwant\n%s", &out, want)
	}
}

// TestDecisions checks single calls against a rule.
func TestDecisions(t *testing.T) {
	const read = `{"id":"r","tool":"fs.read","arguments":{"path":{"path_under":"/data"}}}`
	const anyTool = `{"id":"r","tool":"*","other_arguments":true}`
	const number = `{"id":"r","tool":"t","arguments":{"n":{"at_most":-1.5}}}`
	const value = `{"id":"r","tool":"t","arguments":{"v":{"equals":{"a":[1,null]}}}}`
	const optional = `{"id":"r","tool":"t","arguments":{"v":{"prefix":"x","optional":true}}}`
	for _, test := range []struct{ rule, tool, arguments, want string }{
		{read, "fs.read", `{"path":"/data"}`, ""},
		{read, "fs.read", `{"path":"/data/a/b"}`, ""},
		{read, "fs.read", `{"path":"/database"}`, "clean path"},
		{read, "fs.read", `{"path":"/data/../x"}`, "clean path"},
		{read, "fs.read", `{"path":"/data/a/../b"}`, "clean path"},
		{read, "fs.read", `{"path":"/data//b"}`, "clean path"},
		{read, "fs.read", `{"path":["/data"]}`, "clean path"},
		{read, "fs.read", `{}`, `"path" is missing`},
		{read, "fs.read", `{"path":"/data","mode":1}`, `"mode" is not allowed`},
		{read, "fs.readlink", `{"path":"/data"}`, "no rule for tool"},
		{anyTool, "anything", `{"x":1}`, ""},
		{number, "t", `{"n":-1.5}`, ""},
		{number, "t", `{"n":-1.4}`, "at most"},
		{number, "t", `{"n":"-2"}`, "at most"},
		{value, "t", `{"v":{"a":[1.0,null]}}`, ""},
		{value, "t", `{"v":{"a":[1]}}`, "none of the values"},
		{optional, "t", `{}`, ""},
		{optional, "t", `{"v":"y"}`, "does not begin"},
		{optional, "t", `{"v":7}`, "does not begin"},
	} {
		var out bytes.Buffer
		in := `{"allow":[` + test.rule + "]}\n" + `{"id":"1","tool":"` + test.tool + `","arguments":` + test.arguments + "}\n"
		if err := run(strings.NewReader(in), &out); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		allowed := strings.Contains(out.String(), `"verdict":"allowed"}`+"\n")
		v, err := strictjson.Parse(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		reason, _ := v.(map[string]any)["calls"].([]any)[0].(map[string]any)["reason"].(string)
		if allowed != (test.want == "") || !strings.Contains(reason, test.want) {
			t.Errorf("%s %s: allowed %v, reason %q; want %q", test.tool, test.arguments, allowed, reason, test.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	const ok = `{"allow":[]}` + "\n"
	rule := func(r string) string { return `{"allow":[` + r + "]}\n" }
	argument := func(c string) string { return rule(`{"id":"r","tool":"t","arguments":{"a":` + c + `}}`) }
	for in, want := range map[string]string{
		"":                                      "no allow-list",
		`{"allow":[]}`:                          "not ended by a newline",
		"[]\n":                                  "allow-list is not an object",
		"{}\n":                                  `no "allow"`,
		"{\"allow\":{}}\n":                      "not an array",
		`{"allow":[],"deny":[]}` + "\n":         `unknown member "deny"`,
		`{"allow":[],"allow":[]}` + "\n":        "repeated",
		rule(`1`):                               "rule is not an object",
		rule(`{"id":"r"}`):                      `no "tool"`,
		rule(`{"id":"","tool":"t"}`):            `"id" is not a string`,
		rule(`{"id":"r","tool":7}`):             `"tool" is not a string`,
		rule(`{"id":"r","tool":"a*b"}`):         "not at its end",
		rule(`{"id":"r","tool":"t","extra":1}`): `unknown member "extra"`,
		rule(`{"id":"r","tool":"t","max_calls":0}`):           "max_calls",
		rule(`{"id":"r","tool":"t","max_calls":1.5}`):         "max_calls",
		rule(`{"id":"r","tool":"t","other_arguments":"yes"}`): "other_arguments",
		rule(`{"id":"r","tool":"t","arguments":[]}`):          `"arguments" is not an object`,
		rule(`{"id":"r","tool":"t"},{"id":"r","tool":"u"}`):   `rule 2: "r" is repeated`,
		argument(`{}`):                            "0 constraints",
		argument(`{"equals":1,"prefix":"a"}`):     "2 constraints",
		argument(`{"regexp":"a"}`):                `unknown member "regexp"`,
		argument(`{"one_of":[]}`):                 "one_of",
		argument(`{"prefix":""}`):                 "prefix",
		argument(`{"path_under":"data"}`):         "path_under",
		argument(`{"path_under":"/data/"}`):       "path_under",
		argument(`{"at_most":"1"}`):               "at_most",
		argument(`{"equals":1,"optional":"yes"}`): "optional",
		ok + "\n":                           "line 2: invalid JSON",
		ok + "[]\n":                         "line 2: call is not an object",
		ok + `{"id":"1","tool":"t"}` + "\n": `no "arguments"`,
		ok + `{"id":1,"tool":"t","arguments":{}}` + "\n":                    `"id" is not a string`,
		ok + `{"id":"1","tool":"","arguments":{}}` + "\n":                   `"tool" is not a string`,
		ok + `{"id":"1","tool":"t","arguments":[]}` + "\n":                  `"arguments" is not an object`,
		ok + strings.Repeat(`{"id":"1","tool":"t","arguments":{}}`+"\n", 2): `line 3: call "1" is already on line 2`,
		ok + `{"id":"1"`: "line 2: not ended by a newline",
		ok + strings.Repeat(" ", maxLine+1) + "\n": "line 2: bufio.Scanner: token too long",
	} {
		var out bytes.Buffer
		err := run(strings.NewReader(in), &out)
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%.80q: wrote %q, error %v; want %q", in, &out, err, want)
		}
	}
}

func TestSandbox(t *testing.T) {
	guest := exampletest.Build(t)
	guest.Golden(t, "session.jsonl", "session.golden.json")

	r := guest.Run(t, []byte("{}\n"))
	if r.Outcome.Kind != sandbox.KindExit || r.Outcome.ExitCode != 1 || len(r.Output) > 0 {
		t.Errorf("outcome is %v, output %q", r.Outcome, r.Output)
	}
	if want := "policycheck: line 1: allow-list has no \"allow\"\n"; string(r.Diagnostics) != want {
		t.Errorf("diagnostics are %q, want %q", r.Diagnostics, want)
	}
}
