package orchestrator

import (
	"errors"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/digest"
	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
)

// A bundle whose ancestors have too many records is refused from the plan, before
// anything is read or proven for it.
func TestTooManyRecordsAreNotPlanned(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{})
	con := c.Register(nil)
	const leaves, epochs, parents = 64, 64, 8
	var ids []digest.Digest
	for range leaves {
		ids = append(ids, c.Submit(con, []byte("x")))
	}
	for i := range epochs { // between request and end of all leaves
		c.Change(membership.SetNodeQuorum{Quorum: uint64(1 + (i+1)%2)})
	}
	for level := ids; ; {
		for _, id := range level {
			c.Run(id, testcluster.OK("x"))
		}
		if len(level) == 1 {
			ids = level
			break
		}
		var next []digest.Digest
		for i := 0; i < len(level); i += parents {
			next = append(next, c.Submit(con, []byte("x"), level[i:i+parents]...))
		}
		level = next
	}
	o := &Orchestrator{view: newView(c.Name, c.History)}
	o.view.fold = c.Fold
	var refusal *Error
	if _, err := o.planBundle(bundleKey{id: ids[0], ancestors: true}); !errors.As(err, &refusal) || refusal.Code != CodeTooLarge || !strings.Contains(err.Error(), "4096 records") {
		t.Errorf("got %v, want %s", err, CodeTooLarge)
	}
	if plan, err := o.planBundle(bundleKey{id: ids[0]}); err != nil || len(plan.main.records) == 0 {
		t.Errorf("without ancestors: %v", err)
	}
}
