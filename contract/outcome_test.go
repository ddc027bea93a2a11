package contract

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/strictjson"
)

type outcomeFile struct {
	About   string           `json:"about"`
	Valid   []validOutcome   `json:"valid"`
	Invalid []invalidOutcome `json:"invalid"`
	// Under are valid outcomes, possible under a contract or not.
	Under []contractOutcome `json:"under_contract"`
}

type contractOutcome struct {
	Name     string      `json:"name"`
	Contract string      `json:"contract"` // payload
	Outcome  string      `json:"outcome"`
	Code     RefusalCode `json:"code,omitempty"`
}

type validOutcome struct {
	Name         string `json:"name"`
	Outcome      string `json:"outcome"` // canonical JSON, as text
	ResultDigest string `json:"result_digest"`
}

type invalidOutcome struct {
	Name    string      `json:"name"`
	Outcome string      `json:"outcome"`
	Code    RefusalCode `json:"code"`
}

func number(n uint64) *uint64 { return &n }

// okOutcome is an ordinary unmetered run.
func okOutcome() Outcome {
	return Outcome{
		Kind: OutcomeOK, OutputDigest: digest.Of([]byte("out")), OutputLength: 3,
		DiagnosticsDigest: digest.Of(nil), PeakPages: 53,
	}
}

func parseOutcome(text string) (Outcome, error) {
	var o Outcome
	if err := strictjson.Unmarshal([]byte(text), &o, 4096); err != nil {
		return o, refuseCause(RefusedSyntax, err)
	}
	return o, o.Validate()
}

func TestVectorsOutcome(t *testing.T) {
	f := outcomeFile{About: "Golden vectors for outcomes and result digests, docs/formats/execution.md."}
	memory := digest.Of([]byte("memory"))
	for _, tc := range []struct {
		name   string
		change func(o *Outcome)
	}{
		{"ok", func(*Outcome) {}},
		{"ok with gas", func(o *Outcome) { o.Gas = number(12345) }},
		{"ok with gas 0", func(o *Outcome) { o.Gas = number(0) }},
		{"ok with memory", func(o *Outcome) { o.MemoryDigest = &memory }},
		{"exit 1", func(o *Outcome) { o.Kind, o.ExitCode = OutcomeExit, 1 }},
		{"exit 2^32-1", func(o *Outcome) { o.Kind, o.ExitCode = OutcomeExit, 1<<32-1 }},
		{"trap", func(o *Outcome) { o.Kind = OutcomeTrap }},
		{"budget exhausted", func(o *Outcome) { o.Kind, o.Gas = OutcomeBudgetExhausted, number(1e9) }},
		{"stack exhausted", func(o *Outcome) { o.Kind, o.Gas = OutcomeStackExhausted, number(7) }},
		{"output too large", func(o *Outcome) { o.Kind = OutcomeOutputTooLarge }},
		{"everything", func(o *Outcome) {
			*o = Outcome{Kind: OutcomeExit, ExitCode: 3, Gas: number(9), MemoryDigest: &memory, PeakPages: 65536,
				OutputLength: 1, OutputDigest: digest.Of([]byte("a")), DiagnosticsLength: 2, DiagnosticsDigest: digest.Of([]byte("bc"))}
		}},
	} {
		o := okOutcome()
		tc.change(&o)
		text, err := strictjson.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		f.Valid = append(f.Valid, validOutcome{tc.name, string(text), o.ResultDigest().String()})
	}
	base := fmt.Sprintf(`{"diagnostics_digest":%q,"diagnostics_length":0,"kind":"ok","output_digest":%q,"output_length":3,"peak_pages":53}`,
		digest.Of(nil), digest.Of([]byte("out")))
	for _, v := range []variant{
		{"unknown kind", `"ok"`, `"stopped"`, RefusedOutcome},
		{"exit without code", `"ok"`, `"exit"`, RefusedOutcome},
		{"code without exit", `"kind":"ok"`, `"exit_code":1,"kind":"ok"`, RefusedOutcome},
		{"exit code 0 written", `"kind":"ok"`, `"exit_code":0,"kind":"exit"`, RefusedSyntax},
		{"exit code above 32 bits", `"kind":"ok"`, `"exit_code":4294967296,"kind":"exit"`, RefusedOutcome},
		{"budget exhausted without gas", `"ok"`, `"budget_exhausted"`, RefusedOutcome},
		{"stack exhausted without gas", `"ok"`, `"stack_exhausted"`, RefusedOutcome},
		{"more pages than there are", `"peak_pages":53`, `"peak_pages":65537`, RefusedOutcome},
		{"no output digest", fmt.Sprintf(`"output_digest":%q,`, digest.Of([]byte("out"))), ``, RefusedSyntax},
		{"no output, with the digest of some", `"output_length":3`, `"output_length":0`, RefusedOutcome},
		{"output with the digest of none", fmt.Sprintf(`"output_digest":%q`, digest.Of([]byte("out"))), fmt.Sprintf(`"output_digest":%q`, digest.Of(nil)), RefusedOutcome},
		{"no diagnostics, with the digest of some", fmt.Sprintf(`"diagnostics_digest":%q`, digest.Of(nil)), fmt.Sprintf(`"diagnostics_digest":%q`, digest.Of([]byte("out"))), RefusedOutcome},
		{"diagnostics with the digest of none", `"diagnostics_length":0`, `"diagnostics_length":1`, RefusedOutcome},
		{"kind in another case", `"kind"`, `"Kind"`, RefusedSyntax},
	} {
		f.Invalid = append(f.Invalid, invalidOutcome{v.name, v.apply(t, base), v.code})
	}
	for _, tc := range []struct {
		name, contract string
		base           Outcome
		change         func(o *Outcome)
		code           RefusalCode
	}{
		{"unmetered", contractPayload, okOutcome(), func(*Outcome) {}, ""},
		{"gas though unmetered", contractPayload, okOutcome(), func(o *Outcome) { o.Gas = number(1) }, RefusedOutcome},
		{"metered", meteredPayload, smallOutcome(), func(*Outcome) {}, ""},
		{"no gas though metered", meteredPayload, smallOutcome(), func(o *Outcome) { o.Gas = nil }, RefusedOutcome},
		{"gas at the limit", meteredPayload, smallOutcome(), func(o *Outcome) { o.Gas = number(1e9) }, ""},
		{"gas above the limit", meteredPayload, smallOutcome(), func(o *Outcome) { o.Gas = number(1e9 + 1) }, RefusedOutcome},
		{"output above the limit", meteredPayload, smallOutcome(), func(o *Outcome) { o.OutputLength = 2 }, RefusedOutcome},
		{"output too large, at the limit", meteredPayload, smallOutcome(), func(o *Outcome) { o.Kind = OutcomeOutputTooLarge }, ""},
		{"output too large, below the limit", meteredPayload, smallOutcome(), func(o *Outcome) {
			o.Kind, o.OutputLength, o.OutputDigest = OutcomeOutputTooLarge, 0, digest.Of(nil)
		}, RefusedOutcome},
		{"diagnostics above the limit", meteredPayload, smallOutcome(), func(o *Outcome) { o.DiagnosticsLength = 2 }, RefusedOutcome},
		{"memory above the limit", meteredPayload, smallOutcome(), func(o *Outcome) { o.PeakPages = 2 }, RefusedOutcome},
	} {
		o := tc.base
		tc.change(&o)
		text, err := strictjson.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		f.Under = append(f.Under, contractOutcome{tc.name, tc.contract, string(text), tc.code})
	}
	golden(t, "outcome", &f)

	for _, v := range f.Under {
		o, err := parseOutcome(v.Outcome)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		if err := mustParse(t, v.Contract).CheckOutcome(o); v.Code == "" && err != nil || v.Code != "" && !errors.Is(err, v.Code) {
			t.Errorf("%s: got %v, want code %q", v.Name, err, v.Code)
		}
	}
	seen := map[string]string{}
	for _, v := range f.Valid {
		o, err := parseOutcome(v.Outcome)
		if err != nil || o.ResultDigest().String() != v.ResultDigest {
			t.Errorf("%s: %v, result digest %s, want %s", v.Name, err, o.ResultDigest(), v.ResultDigest)
		}
		if other, ok := seen[v.ResultDigest]; ok {
			t.Errorf("%q and %q have the same result digest", v.Name, other)
		}
		seen[v.ResultDigest] = v.Name
	}
	for _, v := range f.Invalid {
		if _, err := parseOutcome(v.Outcome); !errors.Is(err, v.Code) {
			t.Errorf("%s: got %v, want code %q", v.Name, err, v.Code)
		}
	}
}

// The result digest, field by field as docs/formats/execution.md lists them.
func TestResultDigestIsAsDocumented(t *testing.T) {
	memory := digest.Of([]byte("m"))
	o := Outcome{Kind: OutcomeExit, ExitCode: 3, Gas: number(9), MemoryDigest: &memory, PeakPages: 5,
		OutputLength: 1, OutputDigest: digest.Of([]byte("a")), DiagnosticsLength: 2, DiagnosticsDigest: digest.Of([]byte("bc"))}
	want := digest.New("tallystick/v1/result").Text("exit").Uint(1).Uint(3).Uint(1).Uint(9).Uint(5).
		Uint(1).Digest(o.OutputDigest).Uint(2).Digest(o.DiagnosticsDigest).Uint(1).Digest(memory).Sum()
	if got := o.ResultDigest(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestOutcomeBounds(t *testing.T) {
	for name, change := range map[string]func(o *Outcome){
		"gas":                func(o *Outcome) { o.Gas = number(maxInteger + 1) },
		"output length":      func(o *Outcome) { o.OutputLength = maxInteger + 1 },
		"diagnostics length": func(o *Outcome) { o.DiagnosticsLength = maxInteger + 1 },
	} {
		o := okOutcome()
		change(&o)
		if err := o.Validate(); !errors.Is(err, RefusedOutcome) {
			t.Errorf("%s above 2^53 - 1: got %v", name, err)
		}
	}
}

// smallOutcome is at every limit but gas of the metered contract of the vectors.
func smallOutcome() Outcome {
	one := digest.Of([]byte("1"))
	return Outcome{Kind: OutcomeOK, Gas: number(1), PeakPages: 1, OutputLength: 1, OutputDigest: one,
		DiagnosticsLength: 1, DiagnosticsDigest: one}
}

func TestCheckOutcome(t *testing.T) {
	unmetered := mustParse(t, contractPayload)
	metered := mustParse(t, meteredPayload) // every limit is 1
	small := smallOutcome()
	for _, tc := range []struct {
		name   string
		c      *Contract
		base   Outcome
		change func(o *Outcome)
		ok     bool
	}{
		{"unmetered", unmetered, okOutcome(), func(*Outcome) {}, true},
		{"metered at the limits", metered, small, func(*Outcome) {}, true},
		{"output too large at the limit", metered, small, func(o *Outcome) { o.Kind = OutcomeOutputTooLarge }, true},
		{"invalid by itself", unmetered, okOutcome(), func(o *Outcome) { o.Kind = "" }, false},
		{"gas though unmetered", unmetered, okOutcome(), func(o *Outcome) { o.Gas = number(1) }, false},
		{"no gas though metered", metered, small, func(o *Outcome) { o.Gas = nil }, false},
		{"gas above the limit", metered, small, func(o *Outcome) { o.Gas = number(1e9 + 1) }, false},
		{"gas used up", metered, small, func(o *Outcome) { o.Kind, o.Gas = OutcomeBudgetExhausted, number(1e9) }, true},
		{"no output", metered, small, func(o *Outcome) { o.OutputLength, o.OutputDigest = 0, digest.Of(nil) }, true},
		{"no output, with the digest of some", metered, small, func(o *Outcome) { o.OutputLength = 0 }, false},
		{"output with the digest of none", metered, small, func(o *Outcome) { o.OutputDigest = digest.Of(nil) }, false},
		{"no diagnostics, with the digest of some", metered, small, func(o *Outcome) { o.DiagnosticsLength = 0 }, false},
		{"diagnostics with the digest of none", metered, small, func(o *Outcome) { o.DiagnosticsDigest = digest.Of(nil) }, false},
		{"output above the limit", metered, small, func(o *Outcome) { o.OutputLength = 2 }, false},
		{"output too large below the limit", metered, small, func(o *Outcome) { o.Kind, o.OutputLength, o.OutputDigest = OutcomeOutputTooLarge, 0, digest.Of(nil) }, false},
		{"diagnostics above the limit", metered, small, func(o *Outcome) { o.DiagnosticsLength = 2 }, false},
		{"pages above the limit", metered, small, func(o *Outcome) { o.PeakPages = 2 }, false},
	} {
		o := tc.base
		tc.change(&o)
		err := tc.c.CheckOutcome(o)
		if tc.ok && err != nil || !tc.ok && !errors.Is(err, RefusedOutcome) {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}
