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
	"github.com/tallystick/tallystick/verifier/checkpoint"
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
	file := filepath.Join(config.Dir, unprovenName(membership.LogAudit, w.Audit.Checkpoint(size)))
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
	os.Remove(filepath.Join(config.Dir, unprovenName(membership.LogAudit, w.Audit.Checkpoint(w.Audit.Size()-1))))
	os.Remove(filepath.Join(config.Dir, unprovenName(membership.LogAudit, w.Audit.Checkpoint(w.Audit.Size()))))
	n.store.sync = failSync
	verify(t, n, a, ErrStore)
}

// What is kept of withheld trees is bounded, and told apart by the root too.
func TestUnprovenIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	s := w.node("node-1").store
	known := w.Audit.Checkpoint(w.Audit.Size())
	pair := &checkpoint.Evidence{Known: []byte("known"), Submitted: []byte("submitted")}
	paths := make(map[string]bool)
	var first, last string
	for i := range maxUnproven + 2 {
		c := known
		c.Root[0] ^= byte(i)
		path, err := s.keepUnproven(membership.LogAudit, c, pair)
		if err != nil || (path == "") != (i >= maxUnproven) {
			t.Fatalf("number %d: %q, %v", i, path, err)
		}
		if i == 0 {
			first = path
		}
		if path != "" {
			paths[path], last = true, path
		}
	}
	if files, err := os.ReadDir(filepath.Dir(first)); err != nil || len(files) != maxUnproven || len(paths) != maxUnproven {
		t.Errorf("%d files, %d paths, %v", len(files), len(paths), err)
	}
	if path, err := s.keepUnproven(membership.LogAudit, known, pair); err != nil || path != first {
		t.Errorf("what is kept: %q, %v", path, err)
	}
	os.Remove(last) // moved away
	known.Size++
	if path, err := s.keepUnproven(membership.LogAudit, known, pair); err != nil || path == "" {
		t.Errorf("with space: %q, %v", path, err)
	}
}

// A tree that is withheld is a problem though nothing more is kept.
func TestWithheldBeyondTheBound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testcluster.Options{})
	id := w.submit("hello")
	name, _ := w.assigned(id)
	config := w.config(name)
	n := w.open(config)
	w.submit("more")
	older := w.assignment(id)
	w.submit("and more")
	verify(t, n, w.assignment(id), nil)
	n.Close()
	n = w.open(config) // without the tiles that it had
	dir := filepath.Join(n.store.dir, "unproven")
	for i := range maxUnproven {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.logs.set(func(membership.LogName, string) ([]byte, error) { return nil, ErrNotFound })
	verify(t, n, older, ErrUnavailable)
	if detail := n.Status().Problems[ProblemWithheld]; !strings.Contains(detail, "is full") || !strings.Contains(detail, dir) {
		t.Errorf("told %q", detail)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != maxUnproven {
		t.Errorf("%d files, %v", len(files), err)
	}
}
