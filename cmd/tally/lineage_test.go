package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/provenance"
	"github.com/tallystick/tallystick/verifier"
)

// lineageWorld is a diamond: the last execution reads two others, both of which
// read the first.
func lineageWorld(t *testing.T) (c *testcluster.Cluster, w *lineageWalk, ids [4]digest.Digest) {
	c = testcluster.New(t, testcluster.Options{})
	hash := c.Register(nil)
	run := func(n int, parents ...digest.Digest) {
		ids[n] = c.Submit(hash, []byte{byte(n)}, parents...)
		c.Run(ids[n], testcluster.OK(fmt.Sprint("output ", n)))
	}
	run(0)
	run(1, ids[0])
	run(2, ids[0])
	run(3, ids[1], ids[2])
	w = &lineageWalk{
		trust:  verifier.Trust{AuditPolicy: c.AuditPolicy, MembershipPolicy: c.MembershipPolicy, Genesis: c.Genesis},
		bounds: lineageBounds{defaultLineageDepth, defaultLineageCount},
		fetch: func(_ context.Context, id string) ([]byte, error) {
			d, err := digest.Parse(id)
			if err != nil {
				return nil, err
			}
			return provenance.FormatBundle(c.Bundle(d))
		},
		changes: func(context.Context) ([][]byte, error) { return c.Membership.Entries, nil },
	}
	return c, w, ids
}

func TestLineage(t *testing.T) {
	c, w, ids := lineageWorld(t)
	l, err := w.walk(t.Context(), ids[3].String())
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Executions) != 4 || l.Truncated || l.Executions[3].ID != ids[0].String() || l.Executions[3].Depth != 2 || !l.Executions[3].Followed {
		t.Errorf("lineage %+v", l)
	}
	var out bytes.Buffer
	printLineage(&out, l)
	for _, want := range []string{
		short(ids[3].String()) + "  inventory 1.2.0: ok, output ",
		"├─ " + short(ids[1].String()),
		"│  └─ " + short(ids[0].String()),
		"└─ " + short(ids[2].String()),
		"   └─ " + short(ids[0].String()) + "  (shown above)",
		"4 executions verified",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}

	// A bundle without the membership log is verified with that of the server.
	fetch := w.fetch
	w.fetch = func(_ context.Context, id string) ([]byte, error) {
		d, _ := digest.Parse(id)
		b := c.Bundle(d)
		b.MembershipChanges, b.ExternalMembership = nil, true
		return provenance.FormatBundle(b)
	}
	if l, err := w.walk(t.Context(), ids[3].String()); err != nil || len(l.Executions) != 4 {
		t.Errorf("external membership: %v", err)
	}
	w.fetch = fetch

	// What ended without a result has a lineage too.
	hash := c.Execution(ids[0]).ContractHash
	cancelled := c.Submit(hash, nil, ids[3])
	c.RequestCheckpoint(cancelled)
	c.Append(c.CancellationRecord(cancelled))
	l, err = w.walk(t.Context(), cancelled.String())
	if err != nil || len(l.Executions) != 5 || l.Executions[0].State != provenance.StateCancelled {
		t.Errorf("cancelled: %v", err)
	}
}

func TestLineageBounds(t *testing.T) {
	_, w, ids := lineageWorld(t)
	for _, test := range []struct {
		bounds lineageBounds
		want   int
		cut    bool
	}{{lineageBounds{0, 10}, 1, true}, {lineageBounds{1, 10}, 3, true}, {lineageBounds{2, 4}, 4, false}, {lineageBounds{9, 3}, 3, true}, {lineageBounds{9, 1}, 1, true}} {
		w.bounds = test.bounds
		l, err := w.walk(t.Context(), ids[3].String())
		if err != nil || len(l.Executions) != test.want || l.Truncated != test.cut {
			t.Errorf("%+v: %d executions, truncated %v, %v", test.bounds, len(l.Executions), l.Truncated, err)
			continue
		}
		var out bytes.Buffer
		if printLineage(&out, l); test.cut != strings.Contains(out.String(), "not followed") {
			t.Errorf("%+v:\n%s", test.bounds, &out)
		}
	}
}

// A server that answers with other bundles, or with none, is found out.
func TestLineageRefusals(t *testing.T) {
	_, w, ids := lineageWorld(t)
	honest := w.fetch
	w.fetch = func(ctx context.Context, id string) ([]byte, error) {
		if id == ids[1].String() {
			id = ids[2].String()
		}
		return honest(ctx, id)
	}
	if _, err := w.walk(t.Context(), ids[3].String()); !errors.Is(err, verifier.CodeOtherExecution) {
		t.Errorf("another bundle: %v", err)
	}
	gone := errors.New("gone")
	w.fetch = func(ctx context.Context, id string) ([]byte, error) {
		if id == ids[0].String() {
			return nil, gone
		}
		return honest(ctx, id)
	}
	if _, err := w.walk(t.Context(), ids[3].String()); !errors.Is(err, gone) {
		t.Errorf("a bundle that is withheld: %v", err)
	}

	report := func(n int) verifier.Execution {
		file, err := honest(t.Context(), ids[n].String())
		if err != nil {
			t.Fatal(err)
		}
		r, err := verifier.VerifyBundle(file, w.trust, verifier.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return *r.Execution
	}
	for name, edit := range map[string]func(child *verifier.Execution, parent *verifier.Execution){
		"output": func(c, _ *verifier.Execution) { c.Parents[0].OutputDigest = digest.Of(nil).String() },
		"tenant": func(_, p *verifier.Execution) { p.Tenant = "other" },
		"late":   func(c, p *verifier.Execution) { p.CompletedAt = c.RequestIndex },
		"trap":   func(_, p *verifier.Execution) { p.Outcome.Kind = "trap" },
		"state":  func(_, p *verifier.Execution) { p.State = provenance.StateDiverged },
	} {
		child, parent := report(1), report(0)
		if err := checkDescent(&child, child.Parents[0], &parent); err != nil {
			t.Fatal(err)
		}
		edit(&child, &parent)
		if err := checkDescent(&child, child.Parents[0], &parent); !errors.Is(err, errLineage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
