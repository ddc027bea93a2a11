package verifier_test

import (
	"testing"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier"
)

func BenchmarkVerifyBundle(b *testing.B) {
	c, id := story(b)
	file, trust := format(b, c.Bundle(id)), trustOf(c)
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		if _, err := verifier.VerifyBundle(file, trust, verifier.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyBundleAfterChanges verifies the bundle of a parent as nodes do, in
// a cluster whose membership has changed 500 times: folding the membership for each
// bundle, and believing the history that is folded already.
func BenchmarkVerifyBundleAfterChanges(b *testing.B) {
	c := testcluster.New(b, testcluster.Options{})
	for i := range 500 {
		limits := c.History.Current().Limits()
		limits.Gas = uint64(1_000_000_000 + i)
		c.Change(membership.SetClusterLimits{Limits: limits})
	}
	id := c.Submit(c.Register(nil), []byte("input"))
	c.Run(id, testcluster.OK("output"))
	file, trust := format(b, c.Bundle(id)), trustOf(c)
	for name, opts := range map[string]verifier.Options{"folding": {}, "folded": {History: c.History}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := verifier.VerifyBundle(file, trust, opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
