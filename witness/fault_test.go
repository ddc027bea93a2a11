package witness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// restart ends the witness and starts it again on the same disk.
func (f *fixture) restart(d disk) {
	f.t.Helper()
	f.Close()
	f.open(d)
}

// head returns what an origin's head is now.
func (f *fixture) head(origin string) *head { return f.store.slot(origin).current() }

func (f *fixture) size(origin string) int64 { return f.head(origin).tree().N }

// add submits a step of a log for the Ed25519 key alone, which is quick.
func (f *fixture) add(l *testLog, old, size int64) error {
	lines, err := f.AddCheckpoint(f.t.Context(), Submission{Body: l.request(old, size), Keys: []int{placeEd25519}})
	if (err == nil) != (len(lines) > 0) {
		f.t.Fatalf("cosignatures %q with error %v", lines, err)
	}
	return err
}

func (f *fixture) mustAddDirectly(l *testLog, old, size int64) {
	f.t.Helper()
	if err := f.add(l, old, size); err != nil {
		f.t.Fatalf("from %d to %d: %v", old, size, err)
	}
}

// failNth makes the n-th operation from now on go wrong, and says which it was.
func failNth(n int, how fault) (next func(op, name string) fault, failed *string) {
	failed = new(string)
	return func(op, _ string) fault {
		n--
		if n == -1 {
			*failed = op
			return how
		}
		return works
	}, failed
}

// TestEveryOperationFails fails each operation of storing a head, in each way:
// an ordinary one, one whose journal is due to be written anew, and the first one
// after a failure. Then it goes on in place, after a restart, and after a power
// cut with each of its ends. The old head or the new one must be there, nothing
// that was answered may be lost, and what is answered afterwards must survive.
func TestEveryOperationFails(t *testing.T) { everyOperationFails(t, false) }

func everyOperationFails(t *testing.T, thorough bool) {
	l := newTestLog(testOrigin, "entry", 14)
	other := newTestLog(otherOrigin, "entry", 3)
	const goOn, startAgain = "go on", "restart"
	thens, faults := []string{goOn, "power cut 2"}, []fault{notDone, halfDone}
	if thorough {
		thens, faults = []string{goOn, startAgain}, []fault{notDone, doneAnyway, halfDone}
		for _, cut := range afterCuts {
			thens = append(thens, fmt.Sprint("power cut ", int(cut)))
		}
	}
	seen := map[string]bool{}
	for _, when := range []string{"ordinary", "due", "after a failure"} {
		for _, how := range faults {
			for _, then := range thens {
				for n := 0; ; n++ {
					d := newMemDisk()
					f := newFixture(t, d)
					f.mustAddDirectly(other, 0, 3)
					f.mustAddDirectly(l, 0, 5)
					switch when {
					case "due":
						f.store.slack, f.store.live = 0, 0 // the committer reads them only for a commit
					case "after a failure":
						next, _ := failNth(1, notDone) // the sync
						d.set(next)
						if err := f.add(l, 5, 7); !errors.Is(err, ErrUnavailable) {
							t.Fatal(err)
						}
					}
					next, failed := failNth(n, how)
					d.set(next)
					err := f.add(l, 5, 9)
					d.set(nil)
					if *failed == "" {
						if err != nil {
							t.Fatalf("%s: nothing has failed, and yet: %v", when, err)
						}
						break // fewer operations than n
					}
					name := fmt.Sprintf("%s, %s %s, %s", when, *failed, how, then)
					seen[when+" "+*failed] = true
					answered := int64(5)
					if err == nil {
						answered = 9 // a journal that could not be shortened
					} else if !errors.Is(err, ErrUnavailable) {
						t.Fatalf("%s: %v", name, err)
					}
					switch then {
					case goOn:
						if err != nil && f.size(testOrigin) != 5 {
							t.Fatalf("%s: head of size %d", name, f.size(testOrigin))
						}
					case startAgain:
						f.restart(d)
					default:
						d.powerCut(afterCuts[then[len(then)-1]-'0'])
						f.restart(d)
					}
					size := f.size(testOrigin)
					if size < answered || size != 5 && size != 7 && size != 9 {
						t.Fatalf("%s: head of size %d after %d was answered", name, size, answered)
					}
					f.mustAddDirectly(l, size, 10)
					f.mustAddDirectly(l, 10, 12)
					if err := f.Healthy(); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					d.powerCut(cutLost)
					f.restart(d)
					if a, b := f.size(testOrigin), f.size(otherOrigin); a != 12 || b != 3 {
						t.Fatalf("%s: heads of sizes %d and %d after a power cut", name, a, b)
					}
				}
			}
		}
	}
	for _, op := range []string{"ordinary write", "ordinary sync", "due create", "due write", "due sync", "due rename", "due syncdir",
		"after a failure create", "after a failure rename", "after a failure syncdir"} {
		if !seen[op] {
			t.Errorf("never failed: %s", op)
		}
	}
}

// TestBrokenDisk: while the disk fails, nothing is cosigned and health is red;
// what was cosigned before is still served. It ends by itself.
func TestBrokenDisk(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	for _, broken := range []string{"create", "write", "sync", "rename", "syncdir"} {
		t.Run(broken, func(t *testing.T) {
			d := newMemDisk()
			f := newFixture(t, d)
			f.mustAdd(l, 0, 5)
			first := true
			d.set(func(op, name string) fault {
				if first || op == broken {
					first = false // the first failure is that of the journal, whatever is broken
					return notDone
				}
				return works
			})
			for range 3 {
				if status, header, _ := f.post("", l.request(5, 9)); status != 503 || header.Get("Retry-After") == "" {
					t.Fatalf("add-checkpoint: status %d", status)
				}
				if status, _, _ := f.get("/healthz"); status != 503 {
					t.Fatalf("healthz: status %d", status)
				}
				if status, _, body := f.post("", l.request(0, 9)); status != 409 || body != "5\n" {
					t.Fatalf("conflict: status %d, %q", status, body)
				}
				if status, _, _ := f.get("/" + originHash(testOrigin) + "/checkpoint"); status != 200 {
					t.Fatalf("checkpoint: status %d", status)
				}
			}
			d.set(nil)
			if status, _, _ := f.get("/healthz"); status != 200 {
				t.Fatalf("healthz: status %d though the disk works again", status)
			}
			f.mustAdd(l, 5, 12)
			d.powerCut(cutLost)
			f.restart(d)
			if size := f.size(testOrigin); size != 12 {
				t.Fatalf("head of size %d after a power cut", size)
			}
		})
	}
}

// TestNeverTwoHistories drives a log that forks against disks that fail and
// power that is cut, at random, and checks every answer against all earlier
// ones.
func TestNeverTwoHistories(t *testing.T) { neverTwoHistories(t, 10) }

func neverTwoHistories(t *testing.T, seeds uint64) {
	l := newTestLog(testOrigin, "entry", 16)
	views := []*testLog{l, l.fork(4, 16)}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			d := newMemDisk()
			f := newFixture(t, d)
			var last checkpoint.Checkpoint // the largest that was answered
			for range 40 {
				d.set(func(string, string) fault {
					if r.IntN(6) == 0 {
						return fault(1 + r.IntN(3))
					}
					return works
				})
				if r.IntN(4) == 0 {
					f.store.slack, f.store.live = 0, 0
				}
				view := views[r.IntN(len(views))]
				size := r.Int64N(17)
				if old := f.size(testOrigin); old <= size {
					if err := f.add(view, old, size); err == nil {
						c := view.checkpoint(size)
						if c.Size < last.Size ||
							checkpoint.VerifyConsistency(last.Tree(), c.Tree(), view.proof(last.Size, c.Size)) != nil && last.Size > 0 {
							t.Fatalf("%v was cosigned after %v", c, last)
						}
						last = c
					}
				}
				f.clock.seconds += r.Int64N(2)
				if r.IntN(8) == 0 {
					d.powerCut(afterCuts[r.IntN(len(afterCuts))])
					f.restart(d)
					if now := f.size(testOrigin); now < last.Size {
						t.Fatalf("size %d was cosigned and %d is left", last.Size, now)
					}
				}
			}
			d.set(nil)
			if size := f.size(testOrigin); size < last.Size {
				t.Fatalf("size %d was cosigned and %d is left", last.Size, size)
			}
		})
	}
}

// TestStartNeedsTheHeads: a witness does not start without the journal, or from
// one that it can't read, or when it can't write it anew.
func TestStartNeedsTheHeads(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	d := newMemDisk()
	f := newFixture(t, d)
	f.mustAdd(l, 0, 9)
	path := filepath.Join(f.dir, headsFile)
	good := d.content(path)
	f.Close()
	for _, op := range []string{"open", "create", "write", "sync", "rename", "syncdir"} {
		d.set(func(now, name string) fault {
			if now == op {
				return notDone
			}
			return works
		})
		if w, err := f.tryOpen(d); !errors.Is(err, errDisk) {
			t.Errorf("%s fails: %v", op, err)
			w.Close()
		}
		d.set(nil)
		d.put(path, good)
	}
	d.mu.Lock()
	delete(d.visible, path)
	d.mu.Unlock()
	if w, err := f.tryOpen(d); err == nil {
		w.Close()
		t.Error("started without heads")
	}
	d.put(path, good)
	f.open(d)
	f.mustAdd(l, 9, 12)
}
