package verifier_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier"
)

// A history that the caller has folded saves work and changes no verdict: it is
// used up to the bundle's checkpoint if it has the same changes, else not at all.
func TestBundleUnderAFoldedHistory(t *testing.T) {
	c, id := story(t)
	bundle := c.Bundle(id)
	whole := format(t, bundle)
	changes := bundle.MembershipChanges
	bundle.MembershipChanges, bundle.ExternalMembership = nil, true
	external := format(t, bundle)
	want, err := verifier.VerifyBundle(whole, trustOf(c), verifier.Options{})
	if err != nil {
		t.Fatal(err)
	}

	short := membership.NewHistory()
	if _, err := short.Append(changes[0]); err != nil {
		t.Fatal(err)
	}
	c.AddNode("node-77") // after the bundle
	other := testcluster.New(t, testcluster.Options{Name: "other"})
	for name, test := range map[string]struct {
		file []byte
		opts verifier.Options
		want error
	}{
		"the same and more":             {whole, verifier.Options{History: c.History}, nil},
		"fewer changes":                 {whole, verifier.Options{History: short}, nil},
		"another cluster's":             {whole, verifier.Options{History: other.History}, nil},
		"in place of changes":           {external, verifier.Options{History: c.History}, nil},
		"too few in place of changes":   {external, verifier.Options{History: short}, verifier.CodeExternalMembership},
		"another's in place of changes": {external, verifier.Options{History: other.History}, verifier.CodeExternalMembership},
	} {
		got, err := verifier.VerifyBundle(test.file, trustOf(c), test.opts)
		if !errors.Is(err, test.want) || test.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if test.want == nil && !reflect.DeepEqual(got.Execution, want.Execution) {
			t.Errorf("%s: another execution is proven: %+v", name, got.Execution)
		}
	}
	// The changes of a bundle are held to the genesis and the checkpoint all the same.
	bundle = c.Bundle(id)
	bundle.MembershipChanges = bundle.MembershipChanges[:len(bundle.MembershipChanges)-1]
	if _, err := verifier.VerifyBundle(format(t, bundle), trustOf(c), verifier.Options{History: c.History}); err == nil {
		t.Error("a bundle without its last change is accepted")
	}
}
