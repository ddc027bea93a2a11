//go:build slow && unix

package sandbox

import "testing"

func TestTruncatedAnywhereLong(t *testing.T) { truncatedAnywhere(t, 1) }

func TestEveryByteChangedLong(t *testing.T) {
	everyByteChanged(t, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff)
}

func TestGuestOutcomesLong(t *testing.T) { guestOutcomes(t, true) }

func TestHistoryIsForgottenLong(t *testing.T) { historyIsForgotten(t, 3000) }
