package orchestrator

import (
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
)

func TestOutlook(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	const deadline = time.Minute
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	long := ago(time.Hour)
	in := func(tenant string, index int64) map[string]int64 { return map[string]int64{tenant: index} }
	x := &tracked{tenant: "acme", index: 10}
	for name, c := range map[string]struct {
		pace   pace
		opened time.Time
		want   outlook
	}{
		"never answered":                  {pace{}, long, away},
		"never answered, has connected":   {pace{}, ago(time.Second), unsure},
		"never answered, for a deadline":  {pace{}, ago(deadline), away},
		"on its way":                      {pace{ago(time.Second), in("acme", 9)}, long, coming},
		"on its way, at the limit":        {pace{ago(deadline), in("acme", 9)}, long, coming},
		"silent for a deadline":           {pace{ago(deadline + 1), in("acme", 9)}, long, away},
		"silent, but connected again":     {pace{ago(deadline + 1), in("acme", 9)}, ago(time.Second), unsure},
		"has passed":                      {pace{ago(time.Second), in("acme", 11)}, long, unsure},
		"has passed and connected again":  {pace{ago(time.Second), in("acme", 11)}, ago(time.Second), unsure},
		"is further with another tenant":  {pace{ago(time.Second), in("rival", 11)}, long, coming},
		"silent, further with another":    {pace{ago(deadline + 1), in("rival", 11)}, long, away},
		"further with another, own first": {pace{ago(time.Second), map[string]int64{"rival": 11, "acme": 9}}, long, coming},
		"has passed, other tenant's left": {pace{ago(time.Second), map[string]int64{"rival": 9, "acme": 11}}, long, unsure},
	} {
		if got := c.pace.outlook(x, c.opened, now, deadline); got != c.want {
			t.Errorf("%s: outlook is %d, want %d", name, got, c.want)
		}
	}
}

func TestPaceNeverFalls(t *testing.T) {
	v := &view{paces: map[string]pace{}}
	v.paced("n", &tracked{tenant: "acme", index: 7}, time.Unix(1, 0))
	v.paced("n", &tracked{tenant: "acme", index: 5}, time.Unix(2, 0))
	v.paced("n", &tracked{tenant: "rival", index: 6}, time.Unix(3, 0))
	if p := v.paces["n"]; p.passed["acme"] != 7 || p.passed["rival"] != 6 || !p.at.Equal(time.Unix(3, 0)) {
		t.Errorf("pace %+v", p)
	}
}

// A node that is coming is waited for while it gets nearer, and for some deadlines
// while it only answers others.
func TestPostponing(t *testing.T) {
	count := func(x *tracked, best outlook, progress int64) (n int) {
		for n < 100 && x.postpone(best, progress) {
			n++
		}
		return n
	}
	x := &tracked{}
	for progress := range int64(50) { // a backlog
		if !x.postpone(coming, progress) {
			t.Fatalf("not waited for after %d of its tenant's requests", progress)
		}
	}
	if n := count(x, coming, 49); n != maxStretched-1 {
		t.Errorf("waited for %d further deadlines without progress", n)
	}
	if n := count(x, coming, 48); n != 0 {
		t.Errorf("waited for %d deadlines for a node that has left", n)
	}
	if n := count(x, coming, 49); n != 0 {
		t.Errorf("waited for %d deadlines for one that has come again", n)
	}
	if n := count(x, coming, 50); n != maxStretched {
		t.Errorf("waited for %d deadlines after progress", n)
	}
	if n := count(x, unsure, 50); n != 1 {
		t.Errorf("waited for %d deadlines for one that may come", n)
	}
	if x.postpone(away, 51) {
		t.Error("waited for one that is away")
	}
}

// What nodes say that they work on counts for what is open, and for nothing else.
func TestWorkingOnWhatIsDecided(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	id := c.Submit(c.Register(nil), []byte("x"))
	node := c.Execution(id).Schedule.Ranking[0]
	o := &Orchestrator{cfg: Config{Now: time.Now}, view: newView(c.Name, c.History)}
	o.view.fold = c.Fold
	x := &tracked{id: id, tenant: testcluster.Tenant, begun: 1}
	o.view.executions[id] = x
	o.Working(node, []digest.Digest{id})
	if len(x.working) != 0 {
		t.Error("noted for what is decided")
	}
	o.view.open[id] = x
	o.Working(node, []digest.Digest{id})
	if len(x.working) != 1 {
		t.Error("not noted for what is open")
	}
}

// A record that is applied only after the checkpoint that covers it was noted is
// covered at the next look: an idle log publishes no larger checkpoint.
func TestCoveredBeforeItIsApplied(t *testing.T) {
	v := newView("c", nil)
	if due := v.cover(10); len(due) != 0 {
		t.Errorf("%d marks are due in an empty view", len(due))
	}
	early, later := &tracked{}, &tracked{}
	v.marks = append(v.marks, mark{9, early}, mark{10, later})
	if due := v.cover(10); len(due) != 1 || due[0].x != early {
		t.Errorf("due are %v, want the mark that is covered", due)
	}
	if due := v.cover(4); len(due) != 0 || v.covered != 10 {
		t.Errorf("an older checkpoint: due are %v, covered %d", due, v.covered)
	}
	if due := v.cover(11); len(due) != 1 || due[0].x != later || len(v.marks) != 0 {
		t.Errorf("due are %v, left %v", due, v.marks)
	}
}
