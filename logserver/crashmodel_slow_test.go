//go:build slow

package logserver

import (
	"math/rand/v2"
	"testing"
)

// TestCrashModelLong cuts the power after every operation of several sequences,
// with every share of unsynced data kept.
func TestCrashModelLong(t *testing.T) {
	seed := testSeed(t)
	for run := range uint64(3) {
		crashes(t, seed+run, 40, func(*rand.Rand) []int { return percents })
	}
}

// TestRottenFilesAll damages every file in every way.
func TestRottenFilesAll(t *testing.T) { rotFiles(t, 7) }
