package verifier_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// A policy that asks for no witness must not read as if there were some.
func TestWithoutWitnessesTheReportSaysSo(t *testing.T) {
	c, id := story(t)
	file := format(t, c.Bundle(id))
	trust := trustOf(c)
	for _, p := range []**checkpoint.Policy{&trust.AuditPolicy, &trust.MembershipPolicy} {
		text, err := checkpoint.FormatPolicy((*p).Logs(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if *p, err = checkpoint.ParsePolicy(text); err != nil {
			t.Fatal(err)
		}
	}
	report, err := verifier.VerifyBundle(file, trust, verifier.Options{})
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(append(slices.Clone(report.Proven), report.NotProven...), "\n") + report.Steps[1].Detail
	if strings.Contains(said, "witnessed") || !strings.Contains(said, "asks for no witness") || !strings.Contains(said, "operator's word") {
		t.Errorf("the report says\n%s", said)
	}
}

// A genesis that is none is the caller's mistake, not another cluster's.
func TestBrokenGenesisIsUntrustworthy(t *testing.T) {
	c, id := story(t)
	file := format(t, c.Bundle(id))
	for _, genesis := range []string{"", "{}", "nonsense"} {
		trust := trustOf(c)
		trust.Genesis = []byte(genesis)
		_, err := verifier.VerifyBundle(file, trust, verifier.Options{})
		var refused *verifier.Error
		if !errors.As(err, &refused) || refused.Code != verifier.CodeTrust {
			t.Errorf("genesis %q: %v", genesis, err)
		}
	}
}
