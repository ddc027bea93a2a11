package witness

import (
	"bytes"
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

func (f *fixture) size(origin string) int64 {
	f.t.Helper()
	h, err := f.logs[origin].current()
	if err != nil {
		f.t.Fatal(err)
	}
	return h.tree().N
}

// failNth makes the n-th operation on the head of the test log go wrong.
func failNth(n int, how fault) func(op, name string) fault {
	return func(string, string) fault {
		n--
		if n == -1 {
			return how
		}
		return works
	}
}

// TestEveryWriteFails fails each step of storing a head, both ways, and then
// goes on in place, after a restart, and after a power cut with either end.
func TestEveryWriteFails(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	steps := []string{"write", "rename", "sync"}
	for step, name := range steps {
		for _, how := range []fault{notDone, doneAnyway} {
			for _, then := range []string{"go on", "restart", "power cut, all lost", "power cut, all kept"} {
				t.Run(fmt.Sprintf("%s %d, %s", name, how, then), func(t *testing.T) {
					d := newMemDisk()
					f := newFixture(t, d)
					f.mustAdd(l, 0, 5)
					var failed string
					fail := failNth(step, how)
					d.next = func(op, file string) fault {
						how := fail(op, file)
						if how != works {
							failed = op
						}
						return how
					}
					if sigs, err := f.AddCheckpoint(l.request(5, 9)); !errors.Is(err, ErrUnavailable) || sigs != nil {
						t.Fatalf("answer %v, %v", sigs, err)
					}
					if failed != name {
						t.Fatalf("%q has failed instead of %q", failed, name)
					}
					d.next = nil
					switch then {
					case "restart":
						f.restart(d)
					case "power cut, all lost":
						d.powerCut(false)
						f.restart(d)
					case "power cut, all kept":
						d.powerCut(true)
						f.restart(d)
					}
					// The old head or the new one, nothing else; and what is answered from
					// here on survives.
					size := f.size(testOrigin)
					if size != 5 && size != 9 {
						t.Fatalf("head of size %d", size)
					}
					f.mustAdd(l, size, 9)
					f.mustAdd(l, 9, 12)
					d.powerCut(false)
					f.restart(d)
					if size := f.size(testOrigin); size != 12 {
						t.Fatalf("head of size %d after a power cut", size)
					}
				})
			}
		}
	}
}

// TestSuspectHead: after a write of unknown outcome nothing is answered from
// memory until the disk works again.
func TestSuspectHead(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	other := newTestLog(otherOrigin, "entry", 3)
	for _, broken := range []string{"read", "write", "rename", "sync"} {
		t.Run(broken, func(t *testing.T) {
			d := newMemDisk()
			f := newFixture(t, d)
			f.mustAdd(l, 0, 5)
			head := filepath.Join(f.dir, "heads", originHash(testOrigin))
			d.next = func(op, name string) fault {
				if op == "sync" && filepath.Base(name) == "heads" {
					d.next = func(op, name string) fault {
						if op == broken && (name == head || name == head+".tmp" || op == "sync") {
							return notDone
						}
						return works
					}
					return notDone
				}
				return works
			}
			for range 3 {
				if status, header, _ := f.post("", l.request(5, 9)); status != 503 || header.Get("Retry-After") == "" {
					t.Fatalf("add-checkpoint: status %d", status)
				}
				if status, _, _ := f.get("/" + originHash(testOrigin) + "/checkpoint"); status != 503 {
					t.Fatalf("checkpoint: status %d", status)
				}
				if status, _, _ := f.get("/healthz"); status != 503 {
					t.Fatalf("healthz: status %d", status)
				}
			}
			if broken != "sync" { // which fails for all heads
				f.mustAdd(other, 0, 3)
			}
			d.mu.Lock()
			d.next = nil
			d.mu.Unlock()
			if status, _, _ := f.get("/healthz"); status != 200 {
				t.Fatalf("healthz: status %d though the disk works again", status)
			}
			size := f.size(testOrigin)
			d.powerCut(false)
			f.restart(d)
			if again := f.size(testOrigin); again != size {
				t.Fatalf("size %d was reported and a power cut has made it %d", size, again)
			}
			f.mustAdd(l, size, 12)
		})
	}
}

// TestRecoverRefusesRollback: a disk that has gone back in time is not believed.
func TestRecoverRefusesRollback(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	fork := l.fork(3, 12)
	f5 := newFixture(t, newMemDisk())
	f5.mustAdd(fork, 0, 9)
	forked := must(f5.Latest(originHash(testOrigin)))
	for name, content := range map[string][]byte{"absent": nil, "forked": forked} {
		t.Run(name, func(t *testing.T) {
			d := newMemDisk()
			f := newFixture(t, d)
			f.mustAdd(l, 0, 9)
			d.next = failNth(1, notDone) // the rename, so that the outcome is unknown
			if _, err := f.AddCheckpoint(l.request(9, 12)); !errors.Is(err, ErrUnavailable) {
				t.Fatal(err)
			}
			d.next = nil
			path := filepath.Join(f.dir, "heads", originHash(testOrigin))
			if content == nil {
				delete(d.visible, path)
			} else {
				d.visible[path] = content
			}
			if _, err := f.AddCheckpoint(l.request(9, 12)); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("answered after a rollback: %v", err)
			}
		})
	}
}

// TestNeverTwoHistories drives a log that forks against disks that fail and
// power that is cut, at random, and checks every answer against all earlier
// ones.
func TestNeverTwoHistories(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 16)
	views := []*testLog{l, l.fork(4, 16)}
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			d := newMemDisk()
			f := newFixture(t, d)
			var last checkpoint.Checkpoint // the largest that was answered
			for range 40 {
				d.next = func(string, string) fault {
					if r.IntN(6) == 0 {
						return fault(1 + r.IntN(2))
					}
					return works
				}
				view := views[r.IntN(len(views))]
				size := r.Int64N(17)
				old := f.sizeOr(last.Size)
				if old <= size {
					if sigs, err := f.AddCheckpoint(view.request(old, size)); err == nil {
						c := view.checkpoint(size)
						if len(sigs) != 2 || c.Size < last.Size ||
							checkpoint.VerifyConsistency(last.Tree(), c.Tree(), view.proof(last.Size, c.Size)) != nil && last.Size > 0 {
							t.Fatalf("%v was cosigned after %v", c, last)
						}
						last = c
					}
				}
				f.clock.seconds += r.Int64N(2)
				if r.IntN(8) == 0 {
					d.powerCut(r.IntN(2) == 0)
					f.restart(d)
					if now := f.size(testOrigin); now < last.Size {
						t.Fatalf("size %d was cosigned and %d is left", last.Size, now)
					}
				}
			}
			d.next = nil
			if size := f.size(testOrigin); size < last.Size {
				t.Fatalf("size %d was cosigned and %d is left", last.Size, size)
			}
		})
	}
}

// sizeOr returns the size of the head, or a guess while the disk fails.
func (f *fixture) sizeOr(guess int64) int64 {
	h, err := f.logs[testOrigin].current()
	if err != nil {
		return guess
	}
	return h.tree().N
}

// TestDamagedHead: a witness does not start from a head that it can't read.
func TestDamagedHead(t *testing.T) {
	l := newTestLog(testOrigin, "entry", 12)
	d := newMemDisk()
	f := newFixture(t, d)
	f.mustAdd(l, 0, 9)
	path := filepath.Join(f.dir, "heads", originHash(testOrigin))
	good := d.visible[path]
	f.Close()
	for name, content := range map[string][]byte{
		"empty":            {},
		"cut short":        good[:len(good)/2],
		"cut by a byte":    good[:len(good)-1],
		"no cosignature":   l.signed(9),
		"one cosignature":  bytes.TrimSuffix(good, lastLine(good)),
		"other origin":     headOf(newTestLog(otherOrigin, "entry", 3), 3, 1, 1),
		"other times":      headOf(l, 9, 1, 2),
		"a flipped bit":    flip(good, len(l.checkpoint(9).Origin)+1),
		"a flipped bit 2":  flip(good, len(good)-100),
		"extra signature":  append(append([]byte(nil), good...), lastLine(good)...),
		"not a checkpoint": []byte("text\n\n— x AAAAAAA=\n"),
		"too long":         make([]byte, checkpoint.MaxNoteSize+1),
	} {
		t.Run(name, func(t *testing.T) {
			d.visible[path] = content
			if w, err := f.tryOpen(d); err == nil {
				w.Close()
				t.Error("started")
			}
		})
	}
	d.visible[path] = good
	d.next = func(op, _ string) fault {
		if op == "read" {
			return notDone
		}
		return works
	}
	if _, err := f.tryOpen(d); !errors.Is(err, errDisk) {
		t.Errorf("unreadable: %v", err)
	}
	d.next = func(op, _ string) fault {
		if op == "sync" {
			return notDone
		}
		return works
	}
	if _, err := f.tryOpen(d); !errors.Is(err, errDisk) {
		t.Errorf("directory that does not sync: %v", err)
	}
	d.next = nil
	f.open(d)
	f.mustAdd(l, 9, 12)
}

// headOf makes a head file with cosignatures of the given times.
func headOf(l *testLog, size, edTime, mldsaTime int64) []byte {
	out, body := l.signed(size), l.checkpoint(size).Body()
	out = append(out, must(testKeys().Ed25519.Cosign(body, edTime)).Line()...)
	return append(out, must(testKeys().MLDSA44.Cosign(body, mldsaTime)).Line()...)
}

func lastLine(b []byte) []byte {
	return b[bytes.LastIndexByte(b[:len(b)-1], '\n')+1:]
}

// flip changes a byte into another of the same alphabet.
func flip(b []byte, i int) []byte {
	out := bytes.Clone(b)
	if out[i] == '1' {
		out[i] = '2'
	} else {
		out[i] = '1'
	}
	return out
}
