package wiring

import "testing"

func TestCount(t *testing.T) {
	for _, test := range []struct {
		n    int
		noun string
		want string
	}{
		{0, "entry", "0 entries"}, {1, "entry", "1 entry"}, {2, "entry", "2 entries"},
		{1, "deduplication key", "1 deduplication key"}, {0, "deduplication key", "0 deduplication keys"},
		{1, "tile", "1 tile"}, {256, "tile", "256 tiles"},
	} {
		if got := Count(test.n, test.noun); got != test.want {
			t.Errorf("%d of %q: %q, want %q", test.n, test.noun, got, test.want)
		}
	}
}
