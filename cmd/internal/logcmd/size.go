package logcmd

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bounds of the flags that give memory, in bytes: below the lower ones the
// largest request or reply that the log has to take would never be, and the
// upper one is above any machine.
const (
	minBodyMemory  = 8 << 20  // the largest batch
	minReplyMemory = 16 << 20 // the largest entry bundle
	minFilter      = 1 << 20
	maxMemory      = min(1<<40, math.MaxInt)
)

// sizeUnits are tried in this order.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

// size is a flag for a number of bytes, such as 64MiB.
type size struct {
	bytes    int64
	min, max int64
	// none allows the word, which makes bytes -1.
	none bool
}

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	if s.none && text == "none" {
		s.bytes = -1
		return nil
	}
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || digits[0] == '+' {
			break
		}
		if n > math.MaxInt64/uint64(unit.bytes) || int64(n)*unit.bytes < s.min || int64(n)*unit.bytes > s.max {
			return fmt.Errorf("possible are %s to %s%s", formatSize(s.min), formatSize(s.max), s.orNone())
		}
		s.bytes = int64(n) * unit.bytes
		return nil
	}
	return fmt.Errorf("want a whole number of bytes, or one with KiB, MiB, GiB or TiB%s", s.orNone())
}

func (s *size) orNone() string {
	if s.none {
		return `, or "none"`
	}
	return ""
}

// String implements pflag.Value: what is not set has no default to show.
func (s *size) String() string {
	switch {
	case s.bytes < 0:
		return "none"
	case s.bytes == 0:
		return ""
	}
	return formatSize(s.bytes)
}

// Type implements pflag.Value.
func (s *size) Type() string { return "size" }

// formatSize writes a number of bytes with the largest unit that leaves it whole.
func formatSize(n int64) string {
	for _, unit := range sizeUnits {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}
