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
func TestRottenFilesAll(t *testing.T) {
	t.Run("stopped", func(t *testing.T) { rotFiles(t, 7, false) })
	t.Run("killed", func(t *testing.T) { rotFiles(t, 7, true) })
}

// TestRottenTailLong damages a write-ahead log in hundreds of places.
func TestRottenTailLong(t *testing.T) { rotTail(t, 400) }

// TestRottenDedupLong flips hundreds of bits of a table.
func TestRottenDedupLong(t *testing.T) { rotDedup(t, 800) }

// TestRandomOperationsLong walks for longer.
func TestRandomOperationsLong(t *testing.T) { randomWalks(t, 40) }
