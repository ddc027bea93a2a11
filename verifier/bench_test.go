package verifier_test

import (
	"testing"

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
