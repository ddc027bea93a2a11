package logcmd

import (
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/loadgen"
)

// TestHistogram: a bar for each bucket, the longest for most, none for none, and
// one that can be seen for a single slow answer among a million.
func TestHistogram(t *testing.T) {
	var out strings.Builder
	printHistogram(&out, []loadgen.Bucket{{Over: 0.2, To: 0.5, Count: 1_000_000}, {Over: 0.5, To: 1}, {Over: 1, To: 2, Count: 1}})
	want := "" +
		"      ≤ 0.5 ms      1000000 " + strings.Repeat("#", barWidth) + "\n" +
		"        ≤ 1 ms            0 \n" +
		"        ≤ 2 ms            1 ###\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	if printHistogram(&out, nil); out.Len() > 0 {
		t.Errorf("of nothing: %q", out.String())
	}
}
