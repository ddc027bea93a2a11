package testcluster

import (
	"bytes"
	"testing"

	"github.com/tallystick/tallystick/provenance"
)

func TestSameCallsMakeSameBundle(t *testing.T) {
	var first []byte
	for range 2 {
		c := New(t, Options{})
		id := c.Submit(c.Register(nil), []byte("input"))
		c.Run(id, OK("output"))
		file, err := provenance.FormatBundle(c.Bundle(id))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = file
		}
		if !bytes.Equal(file, first) {
			t.Error("two clusters made by the same calls differ")
		}
	}
}
