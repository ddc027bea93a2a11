package witness

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestForkEvidence: two root hashes for one size leave a file that proves the
// fork to anybody who knows the log's key, once.
func TestForkEvidence(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 9)
	f := newFixture(t, osDisk{})
	f.mustAdd(l, 0, 9)
	f.clock.seconds++
	f.mustAdd(l, 9, 9)
	fork := l.fork(3, 9)
	for _, old := range []int64{9, 0, 9} { // 422, 409, 422
		f.post("", fork.request(old, 9))
	}
	files := f.evidenceFiles()
	if len(files) != 1 {
		t.Fatalf("%d evidence files", len(files))
	}
	for name, e := range files {
		if !strings.HasPrefix(name, originHash(testOrigin)+"-fork-") {
			t.Errorf("name %q", name)
		}
		if finding, err := e.Judge(testPolicy().LogKeys(testOrigin)); finding != checkpoint.Fork || err != nil {
			t.Errorf("judged %v, %v", finding, err)
		}
	}
	// After a restart it is still known, so it is not written again.
	f.restart(osDisk{})
	f.post("", fork.request(9, 9))
	if files := f.evidenceFiles(); len(files) != 1 {
		t.Errorf("%d evidence files after a restart", len(files))
	}
}

// TestEvidenceBounds: neither a log that forks all the time nor a stranger with
// useless proofs can fill the disk, and the stranger can't keep a fork out.
func TestEvidenceBounds(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 40)
	f := newFixture(t, osDisk{})
	f.mustAdd(l, 0, 5)
	for size := int64(6); size < 40; size++ {
		useless := checkpoint.AddRequest{OldSize: 5, Checkpoint: l.signed(size)}
		if status, _, _ := f.post("", useless.Format()); status != 422 {
			t.Fatalf("status %d", status)
		}
	}
	if files := f.evidenceFiles(); len(files) != maxUnproven {
		t.Fatalf("%d evidence files, want %d", len(files), maxUnproven)
	}
	for i := range 40 {
		fork := newTestLog(testOrigin, fmt.Sprint("fork", i), 5)
		f.post("", fork.request(5, 5))
	}
	forks := 0
	for _, e := range f.evidenceFiles() {
		if finding, err := e.Judge(testPolicy().LogKeys(testOrigin)); err != nil {
			t.Error(err)
		} else if finding == checkpoint.Fork {
			forks++
		}
	}
	if forks != maxForks {
		t.Errorf("%d forks, want %d", forks, maxForks)
	}
	// The bound holds over a restart.
	f.restart(osDisk{})
	f.post("", newTestLog(testOrigin, "one more fork", 5).request(5, 5))
	if files := f.evidenceFiles(); len(files) != maxForks+maxUnproven {
		t.Errorf("%d evidence files", len(files))
	}
}

// TestEvidenceIsBestEffort: a disk that is full changes no answer.
func TestEvidenceIsBestEffort(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 9)
	d := newMemDisk()
	f := newFixture(t, d)
	f.mustAdd(l, 0, 9)
	d.next = func(string, string) fault { return notDone }
	if status, _, _ := f.post("", l.fork(3, 9).request(9, 9)); status != 422 {
		t.Errorf("status %d", status)
	}
}
