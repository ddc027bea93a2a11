package orchestrator

import (
	"testing"
	"time"
)

func TestComing(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	const deadline = time.Minute
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, c := range map[string]struct {
		pace  pace
		grace bool
		want  bool
	}{
		"never attested":            {pace{}, true, false},
		"on its way":                {pace{ago(time.Second), 9}, false, true},
		"on its way, at the limit":  {pace{ago(deadline), 9}, false, true},
		"silent for a deadline":     {pace{ago(deadline + 1), 9}, true, false},
		"has just passed":           {pace{ago(time.Second), 11}, true, true},
		"has passed for a deadline": {pace{ago(time.Second), 11}, false, false},
	} {
		if got := c.pace.coming(10, now, deadline, c.grace); got != c.want {
			t.Errorf("%s: coming is %t", name, got)
		}
	}
}

func TestPaceNeverFalls(t *testing.T) {
	v := &view{paces: map[string]pace{}}
	v.paced("n", 7, time.Unix(1, 0))
	v.paced("n", 5, time.Unix(2, 0))
	if p := v.paces["n"]; p.index != 7 || !p.at.Equal(time.Unix(2, 0)) {
		t.Errorf("pace %+v", p)
	}
}
