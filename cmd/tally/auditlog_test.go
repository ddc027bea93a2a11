package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/tallystick/tallystick/client"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// An audit waits for the second checkpoint that is larger than the first, and no
// longer than it was told to: neither for one that never comes nor for an answer
// that never ends. The first whole answer counts, also when it is a late one.
func TestSecondGrowth(t *testing.T) {
	const patience = 10 * time.Second
	lasting, busy := refusal(connect.CodePermissionDenied, ""), refusal(connect.CodeUnavailable, "3")
	never := func(ctx context.Context) (int64, error) {
		<-ctx.Done()
		return 0, connect.NewError(connect.CodeDeadlineExceeded, ctx.Err())
	}
	size := func(n int64) func(context.Context) (int64, error) {
		return func(context.Context) (int64, error) { return n, nil }
	}
	refuse := func(err error) func(context.Context) (int64, error) {
		return func(context.Context) (int64, error) { return 0, err }
	}
	for name, test := range map[string]struct {
		answers []func(context.Context) (int64, error) // the last one again and again
		want    int64                                  // size of the one returned, or of the last that was shown
		err     error                                  // unless it gave up
		refusal string
		gaveUp  bool
		took    time.Duration
	}{
		"one after the other": {answers: []func(context.Context) (int64, error){size(5), size(5), size(6), size(9)}, want: 9, took: 300 * time.Millisecond},
		"only one more":       {answers: []func(context.Context) (int64, error){size(5), size(6)}, want: 6, gaveUp: true, took: patience},
		"no answer":           {answers: []func(context.Context) (int64, error){never}, gaveUp: true, took: patience},
		"no second answer":    {answers: []func(context.Context) (int64, error){size(5), never}, want: 5, gaveUp: true, took: patience},
		"the second one late": {answers: []func(context.Context) (int64, error){size(5), size(6), func(context.Context) (int64, error) {
			time.Sleep(patience)
			return 7, nil
		}}, want: 7, took: patience + 200*time.Millisecond},
		"busy":          {answers: []func(context.Context) (int64, error){refuse(busy), size(5), size(6), size(7)}, want: 7, took: 3200 * time.Millisecond},
		"busy for good": {answers: []func(context.Context) (int64, error){size(5), refuse(busy)}, want: 5, refusal: "not now", gaveUp: true, took: patience},
		"refused":       {answers: []func(context.Context) (int64, error){size(5), refuse(lasting)}, err: lasting, took: 100 * time.Millisecond},
		"false":         {answers: []func(context.Context) (int64, error){refuse(checkpoint.ErrCosignature)}, err: checkpoint.ErrCosignature},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin, asked := time.Now(), 0
				got, err := secondGrowth(t.Context(), patience, func(ctx context.Context) (*checkpoint.Verified, error) {
					answer := test.answers[min(asked, len(test.answers)-1)]
					asked++
					n, err := answer(ctx)
					return &checkpoint.Verified{Checkpoint: checkpoint.Checkpoint{Size: n}}, err
				})
				var gaveUp *notLater
				if errors.As(err, &gaveUp) {
					got = gaveUp.last
					if gaveUp.refusal != test.refusal {
						t.Errorf("refusal %q, want %q", gaveUp.refusal, test.refusal)
					}
				} else if !errors.Is(err, test.err) || test.err == nil && err != nil {
					t.Errorf("%v, want %v", err, test.err)
				}
				if (gaveUp != nil) != test.gaveUp || (got == nil) != (test.want == 0) || got != nil && got.Checkpoint.Size != test.want {
					t.Errorf("%+v, gave up %t, want size %d", got, gaveUp != nil, test.want)
				}
				if took := time.Since(begin); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
			})
		})
	}
}

// A control plane cannot make the list longer than the log.
func TestAuditBoundsTheList(t *testing.T) {
	f := &auditedControl{}
	o := serveAudited(t, f)
	p, err := loadProfile(o.path("auditor.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{Server: p.Server, Cluster: p.Cluster, Principal: p.Principal, TokenKey: testcluster.Key("auditor/token")})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := listExecutions(t.Context(), c, 3, newProgress()); err != nil || len(list) != 3 {
		t.Errorf("%d of 3, %v", len(list), err)
	}
	if _, err := listExecutions(t.Context(), c, 2, newProgress()); err == nil || !strings.Contains(err.Error(), "more than 2 executions") {
		t.Errorf("3 where 2 can be: %v", err)
	}
}
