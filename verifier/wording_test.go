package verifier_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
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

// A bundle shows what is in it: whoever leaves attestations out makes an agreement
// seem to be none, so no end is stated beyond the attestations in the bundle, and
// what only the whole log shows is among what is not proven.
func TestReportClaimsNoMoreThanTheBundleHas(t *testing.T) {
	for name, make := range map[string]func(testing.TB) (*testcluster.Cluster, digest.Digest){"complete": story, "diverged": diverged, "cancelled": cancelled, "expired": expired} {
		c, id := make(t)
		report, err := verifier.VerifyBundle(format(t, c.Bundle(id)), trustOf(c), verifier.Options{})
		if err != nil && !errors.Is(err, verifier.CodeNoResult) {
			t.Fatal(err)
		}
		if proven := strings.Join(report.Proven, "\n"); (name != "complete") != strings.Contains(proven, "among the attestations in the bundle") {
			t.Errorf("%s: proven is\n%s", name, proven)
		}
		notProven := strings.Join(report.NotProven, "\n")
		for _, want := range []string{"no further record about the execution stood before its end", "the request record is the first of this execution", "the epochs which attestations and the cancellation state"} {
			if !strings.Contains(notProven, want) {
				t.Errorf("%s: no %q in\n%s", name, want, notProven)
			}
		}
		// Nodes are shown neither retirements nor cancellations nor what others attest.
		for _, line := range report.NotProven {
			for _, unseen := range []string{"retired", "cancelled", "attestation"} {
				if strings.Contains(line, unseen) && strings.Contains(line, "attesting nodes") {
					t.Errorf("%s: the nodes are said to have seen what they cannot: %s", name, line)
				}
			}
		}
	}
}

// An attestation that completes an execution and is left out: what the report says
// of the bundle that is left must be true of the log.
func TestOmittedAttestationsMakeNoFalseProof(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	id := c.Submit(c.Register(nil), []byte("input"))
	c.Run(id, testcluster.OK("output"))
	content, ok := c.Fold.BundleContent(id)
	if !ok {
		t.Fatal("no bundle")
	}
	index, effect := c.Append(c.CancellationRecord(id))
	if !effect.Void {
		t.Fatal("cancelled after it was complete")
	}
	ex := c.Execution(id)
	content.Records = slices.DeleteFunc(content.Records, func(i int64) bool { return i > ex.RequestIndex })
	content.Records = append(content.Records, index)
	report, err := verifier.VerifyBundle(format(t, c.BundleOf(id, content)), trustOf(c), verifier.Options{})
	if !errors.Is(err, verifier.CodeNoResult) {
		t.Fatal(err)
	}
	if proven := strings.Join(report.Proven, "\n"); !strings.Contains(proven, "among the attestations in the bundle no 2 nodes agree before it") {
		t.Errorf("proven is\n%s", proven)
	}
}
