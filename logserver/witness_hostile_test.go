package logserver

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/mldsa"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// misbehaviour is every way in which a witness may answer that is of no use, by
// name. Each answers one request.
var misbehaviour = map[string]func(f *fakeWitness, w http.ResponseWriter, c checkpoint.Checkpoint){
	"garbage": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) { io.WriteString(w, "garbage") },
	"empty":   func(*fakeWitness, http.ResponseWriter, checkpoint.Checkpoint) {},
	"another size": func(f *fakeWitness, w http.ResponseWriter, c checkpoint.Checkpoint) {
		c.Size++
		w.Write(f.cosign(c, time.Now().Unix()))
	},
	"another root": func(f *fakeWitness, w http.ResponseWriter, c checkpoint.Checkpoint) {
		c.Root[0] ^= 1
		w.Write(f.cosign(c, time.Now().Unix()))
	},
	"another origin": func(f *fakeWitness, w http.ResponseWriter, c checkpoint.Checkpoint) {
		c.Origin = "log.example/other"
		w.Write(f.cosign(c, time.Now().Unix()))
	},
	"another witness": func(f *fakeWitness, w http.ResponseWriter, c checkpoint.Checkpoint) {
		stranger, err := checkpoint.NewEd25519Cosigner(f.cosigner.Key().Name(), testKey(99))
		if err != nil {
			f.t.Error(err)
			return
		}
		sig, err := stranger.Cosign(c.Body(), time.Now().Unix())
		if err != nil {
			f.t.Error(err)
		}
		w.Write(sig.Line())
	},
	"a time that was changed": func(f *fakeWitness, w http.ResponseWriter, c checkpoint.Checkpoint) {
		sig, err := f.cosigner.Cosign(c.Body(), time.Now().Unix())
		if err != nil {
			f.t.Error(err)
			return
		}
		sig.Bytes[7] ^= 1
		w.Write(sig.Line())
	},
	"the far future": func(f *fakeWitness, w http.ResponseWriter, c checkpoint.Checkpoint) {
		w.Write(f.cosign(c, time.Now().Add(maxAhead+time.Hour).Unix()))
	},
	"the end of time": func(f *fakeWitness, w http.ResponseWriter, c checkpoint.Checkpoint) { w.Write(f.cosign(c, 1<<63-1)) },
	"ahead": func(_ *fakeWitness, w http.ResponseWriter, c checkpoint.Checkpoint) {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintln(w, c.Size+1)
	},
	"ahead by all there is": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintln(w, "9223372036854775807")
	},
	"always conflict": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintln(w, 0)
	},
	"conflict back and forth": func(f *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintln(w, f.requestsSeen()%2)
	},
	"conflict garbage": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintln(w, "-1")
	},
	"conflict beyond 2^63": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintln(w, "9223372036854775808")
	},
	"inconsistent": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) { w.WriteHeader(422) },
	"redirect": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(http.StatusTemporaryRedirect)
	},
	"redirect to GET": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusSeeOther)
	},
	"huge": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.Write(make([]byte, 2*maxWitnessBody))
	},
	"huge conflict": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.WriteHeader(http.StatusConflict)
		io.WriteString(w, strings.Repeat("0", 2*maxWitnessBody))
	},
	"huge header": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.Header().Set("X", strings.Repeat("x", 2*maxWitnessHeader))
	},
	"cut short": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.Header().Set("Content-Length", "500")
		io.WriteString(w, "— ")
	},
	"connection lost": func(*fakeWitness, http.ResponseWriter, checkpoint.Checkpoint) { panic(http.ErrAbortHandler) },
	"retry later": func(_ *fakeWitness, w http.ResponseWriter, _ checkpoint.Checkpoint) {
		w.Header().Set("Retry-After", "86400")
		w.WriteHeader(http.StatusTooManyRequests)
	},
}

// TestMisbehavingWitnesses: a running log depends on no single witness. What one
// of them answers neither delays a checkpoint that another's cosignature
// suffices for, nor gets into it.
func TestMisbehavingWitnesses(t *testing.T) {
	t.Parallel()
	for name, answer := range misbehaviour {
		t.Run(name, func(t *testing.T) {
			opts := testOptions(vfs.NewMem())
			a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
			opts = witnessed(t, opts, 1, a, b)
			opts.WitnessTimeout = time.Hour // nothing here may wait for it
			tl := newTestLog(t, opts)
			if err := tl.Ready(within(t)); err != nil {
				t.Fatal(err)
			}
			tl.addN(1)
			eventually(t, "both witnesses have cosigned", func() bool {
				return bytes.Count(tl.Published().Note, []byte("\n— ")) == 3 && tl.Published().Size == 1
			})
			b.behave(func(w http.ResponseWriter, c checkpoint.Checkpoint) bool { answer(b, w, c); return true })
			tl.addN(2)
			tl.mustPublish(3)
			tl.addN(2)
			tl.mustPublish(5)
			if n := bytes.Count(tl.Published().Note, []byte("\n— ")); n != 2 {
				t.Errorf("%d signatures, want the log's and one witness's:\n%s", n, tl.Published().Note)
			}
			if err := tl.Health(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEndlessAnswer: a witness that never stops answering is given up at its
// deadline, and cosigns again afterwards.
func TestEndlessAnswer(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	opts = witnessed(t, opts, 1, a, b)
	opts.WitnessTimeout = 50 * time.Millisecond
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{}, 100)
	b.behave(func(w http.ResponseWriter, _ checkpoint.Checkpoint) bool {
		for http.NewResponseController(w).Flush() == nil {
			if _, err := io.WriteString(w, "\n"); err != nil {
				break
			}
			<-time.After(time.Millisecond)
		}
		gone <- struct{}{}
		return true
	})
	tl.addN(1)
	tl.mustPublish(1)
	<-gone // the log has closed the connection
	b.behave(nil)
	eventually(t, "the witness cosigns again", func() bool { return b.size() == 1 })
}

// TestRepeatedCosignature: a witness that repeats itself in one answer counts
// once, and does not crowd others out.
func TestRepeatedCosignature(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	tl := newTestLog(t, witnessed(t, opts, 2, a, b))
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	b.behave(func(w http.ResponseWriter, c checkpoint.Checkpoint) bool {
		w.Write(bytes.Repeat(b.cosign(c, time.Now().Unix()), 2*checkpoint.MaxSignatures))
		return true
	})
	tl.addN(2)
	tl.mustPublish(2)
	if n := bytes.Count(tl.Published().Note, []byte("\n— ")); n != 3 {
		t.Errorf("%d signatures, want the log's and two witnesses':\n%s", n, tl.Published().Note)
	}
}

// TestTimeless: a cosignature without a time, valid as it is, is not a witness's.
func TestTimeless(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a := newFakeWitness(t, opts, 11)
	tl := newTestLog(t, witnessed(t, opts, 1, a))
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	n := tl.Signed()
	c := tl.publisher.witnesses[0]
	body := checkpoint.Checkpoint{Origin: tl.opts.Origin, Size: n.Size, Root: n.Root}.Body()
	line := func(at int64) []byte {
		msg := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, body)
		sig, err := testKey(11).Sign(nil, msg, crypto.Hash(0))
		if err != nil {
			t.Fatal(err)
		}
		stamp := []byte{0, 0, 0, 0, 0, 0, 0, byte(at)}
		return checkpoint.Signature{Name: a.cosigner.Key().Name(), KeyID: a.cosigner.Key().KeyHash(), Bytes: append(stamp, sig...)}.Line()
	}
	if _, by := c.valid(n, line(1)); len(by) != 1 {
		t.Error("the test's own cosignature does not verify")
	}
	if _, by := c.valid(n, line(0)); len(by) != 0 {
		t.Error("a cosignature without a time counts")
	}
}

// TestMixedCosignatures: witnesses with keys of both types, two of one witness
// behind one submission prefix among them, make up one quorum.
func TestMixedCosignatures(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	private, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), bytes.Repeat([]byte{13}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if b.cosigner, err = checkpoint.NewMLDSACosigner("witness.example/w12", private); err != nil {
		t.Fatal(err)
	}
	tl := newTestLog(t, witnessed(t, opts, 2, a, b))
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(3)
	tl.mustPublish(3)
	if v, err := tl.opts.Policy.Verify(tl.Published().Note); err != nil || len(v.Cosignatures) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestSlowClock: a witness whose clock is slow still witnesses that the log has
// one history, and is no reason to publish later. It does not make a checkpoint
// fresh: health says so, and the log keeps asking until enough others have.
func TestSlowClock(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	a.mu.clock = func() time.Time { return time.Now().Add(-time.Hour) }
	b.behave(dead)
	opts = witnessed(t, opts, 1, a, b)
	opts.WitnessTimeout, opts.RefreshInterval = 20*time.Millisecond, time.Second
	b.behave(nil)
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	b.behave(dead)
	tl.addN(2)
	tl.mustPublish(2)
	eventually(t, "health tells the age of the cosignatures", func() bool {
		err := tl.Health()
		return err != nil && strings.Contains(err.Error(), "cosignatures of the published checkpoint are 1h0m")
	})
	if s := tl.Status(); s.CosignedAge == nil || *s.CosignedAge < 3500 || s.Witnessed != 2 {
		t.Errorf("status %+v", s)
	}
	b.behave(nil)
	eventually(t, "the log is healthy again by itself", func() bool { return tl.Health() == nil })
	if _, err := opts.Policy.VerifyFresh(tl.Published().Note, time.Now(), time.Minute); err != nil {
		t.Error(err)
	}
}

// TestRefreshMissed: when the witnesses stay away from a refresh the log goes on
// asking, tells so, and is well as soon as they are back.
func TestRefreshMissed(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a := newFakeWitness(t, opts, 11)
	opts = witnessed(t, opts, 1, a)
	opts.WitnessTimeout, opts.RefreshInterval = 10*time.Millisecond, 20*time.Millisecond
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(2)
	tl.mustPublish(2)
	a.behave(dead)
	eventually(t, "health tells that no refresh succeeds", func() bool {
		err := tl.Health()
		return err != nil && strings.Contains(err.Error(), "no witnessed checkpoint for")
	})
	a.mu.Lock()
	a.mu.clock = func() time.Time { return time.Now().Add(30 * time.Second) } // fresh for a while
	a.mu.Unlock()
	a.behave(nil)
	eventually(t, "the log is healthy again by itself", func() bool { return tl.Health() == nil })
}

// TestFailOpenKeepsApart: what a log publishes without its quorum is never taken
// for witnessed, also after a restart, and is noticed once it is witnessed.
func TestFailOpenKeepsApart(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	opts = witnessed(t, opts, 2, a, b)
	opts.FailOpen, opts.WitnessTimeout = true, 20*time.Millisecond
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(5)
	if err := tl.WaitWitnessed(within(t), 5); err != nil {
		t.Fatal(err)
	}
	apart := func() {
		t.Helper()
		b.behave(dead)
		if err := tl.Wait(within(t), 10); err != nil {
			t.Fatal(err)
		}
		if w := tl.Witnessed(); w.Size != 5 || tl.Published().Size != 10 {
			t.Fatalf("witnessed %d, published %d", w.Size, tl.Published().Size)
		} else if _, err := opts.Policy.Verify(w.Note); err != nil {
			t.Error(err)
		}
		if s := tl.Status(); s.Witnessed != 5 || s.Published != 10 || s.Publication != "fail-open" {
			t.Errorf("status %+v", s)
		}
		if res, body := askWitnessed(t, tl.Log); res.StatusCode != http.StatusAccepted || string(body) != "9" || res.Header.Get(codeHeader) != "unpublished" {
			t.Errorf("a witnessed proof of what is not witnessed: %s %s", res.Status, body)
		}
	}
	b.behave(dead)
	tl.addN(4)
	tl.add(Entry{Data: []byte("late"), Dedup: []byte("late")})
	apart()
	eventually(t, "health tells what is not witnessed", func() bool {
		err := tl.Health()
		return err != nil && strings.Contains(err.Error(), "10 published, of which 5 witnessed: the log fails open")
	})
	tl.close()
	tl.open() // one of two answers: the silent one alone satisfies nothing
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	apart()
	b.behave(nil)
	if err := tl.WaitWitnessed(within(t), 10); err != nil {
		t.Fatal(err)
	}
	if tl.Witnessed().Size != 10 {
		t.Errorf("witnessed size %d", tl.Witnessed().Size)
	}
	res, body := askWitnessed(t, tl.Log)
	proof, err := checkpoint.ParseProof(body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", res.Status, err)
	}
	if _, err := opts.Policy.Verify(proof.Checkpoint); err != nil {
		t.Errorf("witnessed proof: %v", err)
	}
	eventually(t, "healthy", func() bool { return tl.Health() == nil })
}

// askWitnessed adds the entry "late" again, which is answered at once with a
// witnessed proof, or without one: its sender does not wait.
func askWitnessed(t *testing.T, log *Log) (*http.Response, []byte) {
	t.Helper()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequest("POST", "/add?proof=witnessed", strings.NewReader("late")).WithContext(gone)
	r.Header.Set(idempotencyHeader, "late")
	w := httptest.NewRecorder()
	Handler(log).ServeHTTP(w, r)
	return w.Result(), w.Body.Bytes()
}

// TestBackOff: a witness that refuses is asked ever less often, and at once when
// it is back the newest note is submitted, not the ones before.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Time
		var sizes []int64
		answers := make(chan witnessAnswer)
		c := &witnessClient{url: "http://witness.example", next: make(chan SignedNote, 1), answers: answers}
		var mu sync.Mutex // asked, sizes and down, also while nobody waits for an answer
		down := true
		c.http = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, time.Now())
			body, _ := io.ReadAll(r.Body)
			request, err := checkpoint.ParseAddRequest(body)
			if err != nil {
				return nil, err
			}
			n, err := checkpoint.ParseNote(request.Checkpoint)
			if err != nil {
				return nil, err
			}
			size, err := checkpoint.Parse(n.Text)
			sizes = append(sizes, size.Size)
			if err != nil || down {
				return nil, errors.New("down")
			}
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(""))}, nil
		})}
		tl := newTestLog(t, testOptions(vfs.NewMem()))
		tl.addN(3)
		tl.mustPublish(3)
		c.log = tl.Log
		ctx := t.Context()
		go c.run(ctx)
		c.submit(tl.Signed())
		for range 12 {
			<-answers
		}
		mu.Lock()
		var gaps []time.Duration
		for i := range asked[1:] {
			gaps = append(gaps, asked[i+1].Sub(asked[i]))
		}
		mu.Unlock()
		for i, want := 0, minBackoff; i < len(gaps); i, want = i+1, min(2*want, maxBackoff) {
			if gaps[i] != want {
				t.Errorf("pause %d is %v, want %v", i, gaps[i], want)
			}
		}
		tl.addN(2)
		tl.mustPublish(5)
		c.submit(tl.Signed())
		tl.addN(2)
		tl.mustPublish(7)
		c.submit(tl.Signed())
		// An attempt that was due meanwhile may wait to report; the next one is of
		// the newest tree.
		mu.Lock()
		down = false
		attempts := len(sizes)
		mu.Unlock()
		synctest.Wait()
		for {
			<-answers
			synctest.Wait()
			mu.Lock()
			fresh := sizes[attempts:]
			mu.Unlock()
			if len(fresh) > 0 {
				if fresh[0] != 7 {
					t.Errorf("size %d was submitted, the newest is 7", fresh[0])
				}
				break
			}
		}
		tl.close()
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
