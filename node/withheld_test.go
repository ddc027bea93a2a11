package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/testcluster"
	"github.com/tallystick/tallystick/membership"
)

// A log that was rolled back, or has forked into a shorter one, does not serve the
// tree that the node has accepted: that proves nothing, but the node is not well
// until the tree is there again, and the proof of a fork follows when there is one.
func TestWithheldTree(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	w.submit("more")
	w.submit("and more")
	name, _ := w.assigned(id)
	config := w.config(name)
	n := w.open(config)
	problem := func(p Problem, want bool) {
		t.Helper()
		if _, got := n.Status().Problems[p]; got != want {
			t.Errorf("%s: %v, want %v: %v", p, got, want, n.Status().Problems)
		}
	}
	verify(t, n, w.assignment(id), nil)
	size := w.Audit.Size()

	fork := newWorld(t, testcluster.Options{})
	fork.submit("forked")
	forked := fork.submit("hello")
	if fork.Audit.Size() >= size {
		t.Fatalf("the fork has %d entries, the log %d", fork.Audit.Size(), size)
	}
	w.logs.trees[membership.LogAudit] = fork.Audit
	a := fork.assignment(forked)
	for range 2 {
		problem(ProblemWithheld, false)
		for range 2 {
			verify(t, n, a, ErrUnavailable)
			problem(ProblemWithheld, true)
		}
		n.Close()
		n = w.open(config)
	}
	file := filepath.Join(config.Dir, unprovenName(membership.LogAudit, size))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var kept unproven
	if err := json.Unmarshal(data, &kept); err != nil || kept.Proven || kept.Known != string(w.Audit.Signed(size)) || kept.Submitted != string(a.GetAuditCheckpoint()) {
		t.Errorf("kept is %+v, %v", kept, err)
	}
	if !strings.Contains(w.log.String(), "does not serve its witnessed tree") {
		t.Errorf("the log does not tell:\n%s", w.log)
	}

	// The tree is there again.
	verify(t, n, a, ErrUnavailable)
	problem(ProblemWithheld, true)
	w.logs.trees[membership.LogAudit] = w.Audit
	w.submit("later")
	verify(t, n, w.assignment(id), nil)
	problem(ProblemWithheld, false)
	problem(ProblemFork, false)

	// The fork grows, and is proven.
	w.logs.trees[membership.LogAudit] = fork.Audit
	verify(t, n, a, ErrUnavailable)
	problem(ProblemWithheld, true)
	for fork.Audit.Size() <= w.Audit.Size() {
		fork.submit(strconv.FormatInt(fork.Audit.Size(), 10))
	}
	verify(t, n, fork.assignment(forked), RefusedFork)
	problem(ProblemFork, true)
	problem(ProblemWithheld, false)

	// What cannot be kept stops the node, as any write that fails.
	w.logs.set(func(membership.LogName, string) ([]byte, error) { return nil, ErrNotFound })
	os.Remove(filepath.Join(config.Dir, unprovenName(membership.LogAudit, w.Audit.Size()-1)))
	os.Remove(filepath.Join(config.Dir, unprovenName(membership.LogAudit, w.Audit.Size())))
	n.store.sync = failSync
	verify(t, n, a, ErrStore)
}
