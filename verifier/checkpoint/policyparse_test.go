package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// policyCase is a policy file and what is to be thought of it.
type policyCase struct {
	name   string
	text   string
	line   int    // of the error; 0 for the file as a whole
	reason string // part of the error; "" if the policy is valid
}

// policyKeys are the verifier keys that the cases use, by placeholder.
func policyKeys(t testing.TB) *strings.Replacer {
	mldsaLog := mldsaCosigner(t, "example.com/mldsa-log").Key()
	return strings.NewReplacer(
		"$LOG1", logSigner(t, "example.com/log1").Vkey(),
		"$LOG2", logSigner(t, "example.com/log2").Vkey(),
		"$NEWKEY1", renamed(t, "example.com/log1", "example.com/log1 new key").Vkey(),
		"$SAMEKEY1", renamed(t, "example.com/renamed", "example.com/log1").Vkey(),
		"$MLDSALOG", mldsaLog.Vkey(),
		"$W1", edCosigner(t, "w.example/1").Key().Vkey(),
		"$W2", mldsaCosigner(t, "w.example/2").Key().Vkey(),
		"$W3", edCosigner(t, "w.example/3").Key().Vkey(),
		"$W4", edCosigner(t, "w.example/4").Key().Vkey(),
		"$RENAMED1", renamedCosigner(t, "w.example/renamed", "w.example/1").Key().Vkey(),
		"$MLDSA1", mldsaCosigner(t, "w.example/1").Key().Vkey(),
		"$WEAKLOG", uncheckedVkey("example.com/log1", AlgEd25519, make([]byte, 32)),
		"$WEAKW", uncheckedVkey("w.example/1", AlgEd25519Cosignature, weakPoints["y is 2^255 - 16: above p"]),
		"$LOGKEY1", renamedCosigner(t, "w.example/log1", "example.com/log1").Key().Vkey(),
	)
}

func renamedCosigner(t testing.TB, name, keyName string) *Cosigner {
	t.Helper()
	c, err := NewEd25519Cosigner(name, edKey(keyName))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func policyCases(t testing.TB) []policyCase {
	const two = "witness w1 $W1\nwitness w2 $W2\n"
	cases := []policyCase{
		{"only a quorum", "quorum none\n", 0, ""},
		{"log and quorum", "log $LOG1\nquorum none\n", 0, ""},
		{"log with a URL", "log $LOG1 https://log.example/\nquorum none\n", 0, ""},
		{"logs of two origins", "log $LOG1\nlog $LOG2\nquorum none\n", 0, ""},
		{"two keys of one origin", "log $LOG1\nlog $NEWKEY1\nquorum none\n", 0, ""},
		{"log with an ML-DSA-44 key", "log $MLDSALOG\nquorum none\n", 0, ""},
		{"one witness", "witness w1 $W1\nquorum w1\n", 0, ""},
		{"witness with a URL", "witness w1 $W1 https://w.example/1\nquorum w1\n", 0, ""},
		{"witness that the quorum does not need", two + "quorum w1\n", 0, ""},
		{"group that the quorum does not need", two + "group g any w1 w2\nquorum none\n", 0, ""},
		{"group after the quorum", two + "quorum w1\ngroup g any w2\n", 0, ""},
		{"witness replaced by a group of its keys", two + "witness w1-next $W3\ngroup w any w1 w1-next\ngroup q all w w2\nquorum q\n", 0, ""},
		{"witness after the quorum", "witness w1 $W1\nquorum w1\nwitness w2 $W2\nlog $LOG1\n", 0, ""},
		{"any", two + "group g any w1 w2\nquorum g\n", 0, ""},
		{"all", two + "group g all w1 w2\nquorum g\n", 0, ""},
		{"threshold", two + "group g 2 w1 w2\nquorum g\n", 0, ""},
		{"group of one", two + "group g 1 w1\nquorum g\n", 0, ""},
		{"groups of groups", two + "witness w3 $W3\ngroup a any w1 w2\ngroup b all a w3\nquorum b\n", 0, ""},
		{"quorum is a witness that is in a group too", two + "group g any w1 w2\nquorum w1\n", 0, ""},
		{"comments, empty lines, tabs, spaces", "# comment\n \t # another\n\n\t log\t\t$LOG1   https://x \t\n \nquorum none\n", 0, ""},
		{"number sign within a word", "log $LOG1 https://log.example/#a\nwitness #no $W1\nquorum #no\n", 0, ""},
		{"names that are keywords", "witness all $W1\nwitness any $W2\ngroup 1 any all any\nquorum 1\n", 0, ""},
		{"names are octets", "witness K $W1\nwitness \u212a $W2\ngroup \xff all K \u212a\nquorum \xff\n", 0, ""},
		{"Unicode spaces do not separate", "witness w\u00a01 $W1\nquorum w\u00a01\n", 0, ""},
		{"log and witness with one key", "log $LOG1\nwitness w1 $LOGKEY1\nquorum w1\n", 0, ""},

		{"log key of small order", "log $WEAKLOG\nquorum none\n", 1, "small order"},
		{"witness key that is not canonical", "witness w $WEAKW\nquorum w\n", 1, "canonical encoding"},
		{"empty file", "", 0, "no quorum line"},
		{"no quorum", "log $LOG1\n" + two, 0, "no quorum line"},
		{"two quorum lines", "quorum none\nquorum none\n", 2, "second quorum line"},
		{"quorum without a name", "quorum\n", 1, "a quorum line is"},
		{"quorum with two names", two + "quorum w1 w2\n", 3, "a quorum line is"},
		{"quorum undefined", two + "quorum w3\n", 3, "not defined on an earlier line"},
		{"quorum before its witness", "quorum w1\nwitness w1 $W1\n", 1, "not defined on an earlier line"},
		{"last line not terminated", "quorum none", 1, "not terminated"},
		{"comment not terminated", "quorum none\n# end", 2, "not terminated"},
		{"unknown keyword", "mirror $LOG1\nquorum none\n", 1, "none of log, witness, group, quorum"},
		{"keyword in capitals", "Log $LOG1\nquorum none\n", 1, "none of log, witness, group, quorum"},
		{"comment after a line", "quorum none # really\n", 1, "a quorum line is"},
		{"carriage return", "quorum none\r\n", 1, "octet 0x0d in column 12"},
		{"NUL", "quorum none\n#\x00\n", 2, "octet 0x00 in column 2"},
		{"DEL", "quorum none\n#\x7f\n", 2, "octet 0x7f"},
		{"vertical tab", "quorum\vnone\n", 1, "octet 0x0b"},
		{"byte order mark", "\ufeffquorum none\n", 1, "none of log"},
		{"log without a key", "log\nquorum none\n", 1, "a log line is"},
		{"log with too many words", "log $LOG1 https://x y\nquorum none\n", 1, "a log line is"},
		{"log with a witness key", "log $W1\nquorum none\n", 1, "signature type 0x04"},
		{"log key damaged", "log $LOG1x\nquorum none\n", 1, "not a verifier key"},
		{"duplicate log", "log $LOG1\nlog $LOG1\nquorum none\n", 2, "duplicate log"},
		{"duplicate log under another name", "log $LOG1\nlog $SAMEKEY1\nquorum none\n", 2, "duplicate log"},
		{"witness without a key", "witness w1\nquorum none\n", 1, "a witness line is"},
		{"witness with too many words", "witness w1 $W1 https://x y\nquorum none\n", 1, "a witness line is"},
		{"witness with a log key", "witness w1 $LOG1\nquorum none\n", 1, "signature type 0x01"},
		{"witness named none", "witness none $W1\nquorum none\n", 1, "predefined"},
		{"witness name defined twice", "witness w1 $W1\nwitness w1 $W2\nquorum none\n", 2, "defined already"},
		{"duplicate witness", "witness w1 $W1\nwitness w2 $W1\nquorum none\n", 2, "duplicate witness"},
		{"duplicate witness under another key name", "witness w1 $W1\nwitness w2 $RENAMED1\nquorum none\n", 2, "duplicate witness"},
		{"group without members", "group g any\nquorum none\n", 1, "a group line is"},
		{"group without anything", "group\nquorum none\n", 1, "a group line is"},
		{"groups in a circle", two + "group a any w1 b\ngroup b any w2 a\nquorum a\n", 3, "not defined on an earlier line"},
		{"group and witness with one name, the group first", two + "group g any w1\nwitness g $W3\nquorum g\n", 4, "defined already"},
		{"quorum is the name of a log", "log $LOG1\nquorum example.com/log1\n", 2, "not defined on an earlier line"},
		{"member is the name of a log", two + "log $LOG1\ngroup g any w1 example.com/log1\nquorum g\n", 4, "not defined on an earlier line"},
		{"anything after the end", "quorum none\nend\n", 2, "none of log, witness, group, quorum"},
		{"group named none", two + "group none any w1\nquorum none\n", 3, "predefined"},
		{"group with the name of a witness", two + "group w2 any w1\nquorum none\n", 3, "defined already"},
		{"group defined twice", two + "group g any w1\ngroup g any w2\nquorum g\n", 4, "defined already"},
		{"member undefined", two + "group g any w1 w3\nquorum g\n", 3, "not defined on an earlier line"},
		{"member defined later", "witness w1 $W1\ngroup g any w1 w2\nwitness w2 $W2\nquorum g\n", 2, "not defined on an earlier line"},
		{"group is its own member", two + "group g any w1 g\nquorum g\n", 3, "not defined on an earlier line"},
		{"member none", two + "group g any w1 none\nquorum g\n", 3, "not defined on an earlier line"},
		{"member twice", two + "group g 2 w1 w1\nquorum g\n", 3, "group member already"},
		{"member of two groups", two + "group a any w1\ngroup b any w1 w2\nquorum b\n", 4, "group member already"},
		{"threshold zero", two + "group g 0 w1 w2\nquorum g\n", 3, "threshold"},
		{"threshold above the number of members", two + "group g 3 w1 w2\nquorum g\n", 3, "threshold"},
		{"threshold negative", two + "group g -1 w1 w2\nquorum g\n", 3, "threshold"},
		{"threshold with a sign", two + "group g +1 w1 w2\nquorum g\n", 3, "threshold"},
		{"threshold with a leading zero", two + "group g 01 w1 w2\nquorum g\n", 3, "threshold"},
		{"threshold hexadecimal", two + "group g 0x1 w1 w2\nquorum g\n", 3, "threshold"},
		{"threshold in words", two + "group g most w1 w2\nquorum g\n", 3, "threshold"},
		{"threshold above 2^64", two + "group g 18446744073709551617 w1 w2\nquorum g\n", 3, "threshold"},
	}
	keys := policyKeys(t)
	for i := range cases {
		cases[i].text = keys.Replace(cases[i].text)
	}
	return cases
}

func TestParsePolicy(t *testing.T) {
	for _, test := range policyCases(t) {
		t.Run(test.name, func(t *testing.T) {
			p, err := ParsePolicy([]byte(test.text))
			var invalid *PolicyError
			switch {
			case test.reason == "" && err != nil:
				t.Fatal(err)
			case test.reason == "":
				if p.QuorumNone() != strings.Contains(test.text, "quorum none") {
					t.Errorf("QuorumNone is %v", p.QuorumNone())
				}
			case !errors.Is(err, ErrPolicy) || !errors.As(err, &invalid):
				t.Fatalf("error %v", err)
			case invalid.Line != test.line || !strings.Contains(err.Error(), test.reason):
				t.Errorf("error %q, want line %d and %q", err, test.line, test.reason)
			}
		})
	}
}

// TestPolicyLimits: what the specification recommends is supported, and there
// is an end to everything.
func TestPolicyLimits(t *testing.T) {
	build := func(logs, witnesses, groups int) string {
		var b strings.Builder
		for i := range logs {
			fmt.Fprintf(&b, "log %s\n", logSigner(t, fmt.Sprint("log", i)).Vkey())
		}
		last := "none"
		for i := range witnesses {
			key := edCosigner(t, fmt.Sprint("w", i)).Key()
			if i%2 == 1 {
				key = mldsaCosigner(t, fmt.Sprint("w", i)).Key()
			}
			fmt.Fprintf(&b, "witness w%d %s\n", i, key.Vkey())
		}
		for i := range groups {
			fmt.Fprintf(&b, "group g%d any w%d", i, i)
			if i > 0 {
				fmt.Fprintf(&b, " g%d", i-1)
			}
			b.WriteString("\n")
			last = fmt.Sprintf("g%d", i)
		}
		return b.String() + "quorum " + last + "\n"
	}
	p, err := ParsePolicy([]byte(build(32, 32, 32)))
	if err != nil || len(p.Logs()) != 32 || len(p.Witnesses()) != 32 {
		t.Fatalf("32 of each: %v", err)
	}
	if !p.CouldSatisfy(map[string]bool{"w0": true}) || p.CouldSatisfy(map[string]bool{"w32": true, "g3": true}) {
		t.Error("32 nested groups are not satisfied by their innermost member alone")
	}
	for name, text := range map[string]string{
		"logs":      build(MaxPolicyLogs+1, 0, 0),
		"witnesses": build(0, MaxPolicyWitnesses+1, 0),
		"groups":    build(0, MaxPolicyGroups, MaxPolicyGroups) + "group x any g63\n",
		"bytes":     "quorum none\n#" + strings.Repeat("x", MaxPolicySize) + "\n",
	} {
		if _, err := ParsePolicy([]byte(text)); !errors.Is(err, ErrPolicy) {
			t.Errorf("too many %s: %v", name, err)
		}
	}
}

func TestPolicyOrigin(t *testing.T) {
	keys := policyKeys(t)
	for text, want := range map[string]string{
		"log $LOG1\nquorum none\n":                "example.com/log1",
		"log $LOG1\nlog $NEWKEY1\nquorum none\n":  "example.com/log1",
		"log $LOG1\nlog $LOG2\nquorum none\n":     "",
		"log $LOG1\nlog $MLDSALOG\nquorum none\n": "",
		"quorum none\n":                           "",
	} {
		p, err := ParsePolicy([]byte(keys.Replace(text)))
		if err != nil {
			t.Fatal(err)
		}
		origin, err := p.Origin()
		if origin != want || errors.Is(err, ErrManyOrigins) != (want == "") {
			t.Errorf("%q: origin %q, %v", text, origin, err)
		}
	}
}

// TestQuorumExhaustively compares CouldSatisfy with the definition for every
// subset of witnesses.
func TestQuorumExhaustively(t *testing.T) {
	witnesses := "witness w1 $W1\nwitness w2 $W2\nwitness w3 $W3\nwitness w4 $W4\n"
	tests := map[string]func(w1, w2, w3, w4 bool) bool{
		"quorum none\n":                         func(_, _, _, _ bool) bool { return true },
		"quorum w2\n":                           func(_, w2, _, _ bool) bool { return w2 },
		"group g any w1 w2\nquorum g\n":         func(w1, w2, _, _ bool) bool { return w1 || w2 },
		"group g all w1 w2 w4\nquorum g\n":      func(w1, w2, _, w4 bool) bool { return w1 && w2 && w4 },
		"group g 2 w1 w2 w3\nquorum g\n":        func(w1, w2, w3, _ bool) bool { return w1 && w2 || w1 && w3 || w2 && w3 },
		"group g 1 w1\ngroup h 1 g\nquorum h\n": func(w1, _, _, _ bool) bool { return w1 },
		"group a any w1 w2\ngroup b any w3 w4\ngroup c all a b\nquorum c\n": func(w1, w2, w3, w4 bool) bool {
			return (w1 || w2) && (w3 || w4)
		},
		"group a all w1 w2\ngroup b 2 a w3 w4\nquorum b\n": func(w1, w2, w3, w4 bool) bool {
			a := w1 && w2
			return a && w3 || a && w4 || w3 && w4
		},
	}
	for text, want := range tests {
		p, err := ParsePolicy([]byte(policyKeys(t).Replace(witnesses + text)))
		if err != nil {
			t.Fatal(err)
		}
		for set := range 16 {
			has := func(i int) bool { return set>>i&1 == 1 }
			names := map[string]bool{"w1": has(0), "w2": has(1), "w3": has(2), "w4": has(3)}
			if got := p.CouldSatisfy(names); got != want(has(0), has(1), has(2), has(3)) {
				t.Errorf("%q with %v: %v", text, names, got)
			}
		}
	}
}

func TestFormatPolicy(t *testing.T) {
	logs := []LogKey{{Vkey: logSigner(t, "a").Vkey(), URL: "https://a"}, {Vkey: logSigner(t, "b").Vkey()}}
	witnesses := []Witness{{Name: "w1", Vkey: edCosigner(t, "w1").Key().Vkey(), URL: "https://w1"}, {Name: "w2", Vkey: mldsaCosigner(t, "w2").Key().Vkey()}}
	for k := range 3 {
		text, err := FormatPolicy(logs, witnesses, k)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePolicy(text)
		if err != nil || !p.lists(logs, witnesses) || p.QuorumNone() != (k == 0) {
			t.Errorf("%s: %v", text, err)
		}
		if k > 0 && p.CouldSatisfy(map[string]bool{"w1": true}) != (k == 1) {
			t.Errorf("threshold %d is written as %s", k, text)
		}
		if keys := p.WitnessKeys(); len(keys) != 2 || keys[0].Name() != "w1" || len(p.LogKeys("a")) != 1 || p.LogKeys("c") != nil {
			t.Errorf("keys %v", keys)
		}
	}
	for name, change := range map[string]func(l *LogKey, w *Witness, k *int){
		"threshold too high": func(_ *LogKey, _ *Witness, k *int) { *k = 3 },
		"threshold negative": func(_ *LogKey, _ *Witness, k *int) { *k = -1 },
		"empty name":         func(_ *LogKey, w *Witness, _ *int) { w.Name = "" },
		"name in two words":  func(_ *LogKey, w *Witness, _ *int) { w.Name = "a b" },
		"URL in two words":   func(l *LogKey, _ *Witness, _ *int) { l.URL = "a b" },
		"URL with a line":    func(l *LogKey, _ *Witness, _ *int) { l.URL = "a\n# x" },
		"URL ends in space":  func(l *LogKey, _ *Witness, _ *int) { l.URL = "a " },
		"URL is a witness":   func(l *LogKey, _ *Witness, _ *int) { l.URL = "a\nwitness x " + edCosigner(t, "x").Key().Vkey() },
		"no key":             func(l *LogKey, _ *Witness, _ *int) { l.Vkey = "" },
	} {
		l, w, k := slices.Clone(logs), slices.Clone(witnesses), 1
		change(&l[0], &w[0], &k)
		if text, err := FormatPolicy(l, w, k); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, c := range policyCases(f) {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePolicy(text)
		if err != nil {
			if !errors.Is(err, ErrPolicy) {
				t.Fatalf("error outside the set: %v", err)
			}
			return
		}
		all := map[string]bool{}
		for _, w := range p.Witnesses() {
			all[w.Name] = true
		}
		if !p.CouldSatisfy(all) {
			t.Fatal("all witnesses together do not satisfy the quorum")
		}
		if p.CouldSatisfy(nil) != p.QuorumNone() {
			t.Fatal("no witness at all satisfies the quorum")
		}
	})
}
