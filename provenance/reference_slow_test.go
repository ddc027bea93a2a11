//go:build slow

package provenance_test

import "testing"

func TestFoldAgainstReferenceLong(t *testing.T) { againstReference(t, 600) }
