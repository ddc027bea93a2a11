//go:build slow

package logserver

import "testing"

// TestFaultsLong lets every seventh operation fail in every way.
func TestFaultsLong(t *testing.T) { faultRuns(t, 7) }
