//go:build slow

package logserver

import "testing"

// TestFaultsLong lets every third operation fail in every way.
func TestFaultsLong(t *testing.T) { faultRuns(t, 3) }
