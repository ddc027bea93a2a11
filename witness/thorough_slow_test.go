//go:build slow

package witness

import "testing"

// These try every combination.

func TestEveryOperationFailsLong(t *testing.T) { everyOperationFails(t, true) }

func TestLawfulEveryOperationFailsLong(t *testing.T) { lawfulEveryOperationFails(t, true) }

func TestNeverTwoHistoriesLong(t *testing.T) { neverTwoHistories(t, 200) }
