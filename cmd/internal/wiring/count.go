package wiring

import (
	"fmt"
	"strings"
)

// Count is a number of things in words, "1 entry" or "2 entries", for nouns with a
// regular plural.
func Count[N int | int64 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, ok := strings.CutSuffix(noun, "y"); ok && !strings.HasSuffix(stem, "e") {
		return fmt.Sprintf("%d %sies", n, stem) // but keys
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
