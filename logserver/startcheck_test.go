package logserver

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// witnessNet reaches fake witnesses without a network, so that a test in a bubble
// decides when each answers. It is changed only while no log is open.
type witnessNet map[string]*distant

// distant is a witness that answers after a while, or never.
type distant struct {
	*fakeWitness
	delay time.Duration // negative: cut off
}

func (n witnessNet) RoundTrip(r *http.Request) (*http.Response, error) {
	w := n[r.URL.Host]
	after := time.After(w.delay)
	if w.delay < 0 {
		after = nil
	}
	select {
	case <-after:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	answer := httptest.NewRecorder()
	w.ServeHTTP(answer, r)
	return answer.Result(), nil
}

// distantWitnesses runs test, in a bubble, on the options of a log under a policy
// that asks for k of two witnesses.
func distantWitnesses(t *testing.T, k int, test func(t *testing.T, opts Options, a, b *distant)) {
	t.Helper()
	opts := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	opts = witnessed(t, opts, k, a, b)
	net := witnessNet{}
	for _, w := range []*fakeWitness{a, b} {
		net[strings.TrimPrefix(w.server.URL, "http://")] = &distant{fakeWitness: w}
	}
	opts.Transport = net
	at := func(w *fakeWitness) *distant { return net[strings.TrimPrefix(w.server.URL, "http://")] }
	synctest.Test(t, func(t *testing.T) { test(t, opts, at(a), at(b)) })
}

// witnessedLog returns a log of ten entries that its witnesses have seen.
func witnessedLog(t *testing.T, opts Options) *testLog {
	t.Helper()
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(10)
	tl.mustPublish(10)
	return tl
}

// otherRoot makes the witness remember another root hash than the log's, which
// makes it right again.
func (f *fakeWitness) otherRoot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.seen.Root[0] ^= 1
}

// TestStartUpCheckHearsAll: one witness that knows another head keeps the log
// from signing, whoever answers first.
func TestStartUpCheckHearsAll(t *testing.T) {
	const late = headGrace - time.Millisecond
	ahead := func(w *distant) {
		w.behave(func(w http.ResponseWriter, c checkpoint.Checkpoint) bool {
			misbehaviour["ahead"](nil, w, c)
			return true
		})
	}
	forked := func(w *distant) { w.otherRoot() }
	for name, c := range map[string]struct {
		k     int
		knows func(*distant)
		a, b  time.Duration // a knows another head
		runs  int
	}{
		"forked, and answers first":       {2, forked, 0, late, 1},
		"forked, and answers last":        {2, forked, late, 0, 1},
		"forked, and answers too":         {2, forked, 0, 0, 20},
		"ahead, and answers last":         {2, ahead, late, 0, 1},
		"ahead, and the other is cut off": {2, ahead, late, -1, 1},
		"ahead, one would suffice":        {1, ahead, late, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			distantWitnesses(t, c.k, func(t *testing.T, opts Options, a, b *distant) {
				tl := witnessedLog(t, opts)
				for range c.runs {
					tl.close()
					c.knows(a)
					a.delay, b.delay = c.a, c.b
					tl.open()
					if err := tl.Ready(within(t)); !errors.Is(err, ErrForked) {
						t.Fatalf("ready: %v, want ErrForked", err)
					}
					if _, _, err := tl.Append(context.Background(), Entry{}); !errors.Is(err, ErrForked) {
						t.Fatalf("append: %v, want ErrForked", err)
					}
					tl.close()
					c.knows(a)
					a.behave(nil)
					a.delay, b.delay = 0, 0
					tl.open()
				}
				tl.close()
			})
		})
	}
}

// TestStartUpCheckWaits: witnesses that are not needed delay the start by little,
// and by nothing if they only fail.
func TestStartUpCheckWaits(t *testing.T) {
	start := func(t *testing.T, tl *testLog) time.Duration {
		t.Helper()
		from := time.Now()
		tl.open()
		if err := tl.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		return time.Since(from)
	}
	distantWitnesses(t, 2, func(t *testing.T, opts Options, a, b *distant) {
		tl := witnessedLog(t, opts)
		tl.close()
		b.behave(dead)
		if took := start(t, tl); took != 0 {
			t.Errorf("one witness fails: the start takes %v", took)
		}
		tl.close()
		b.behave(nil)
		b.delay = -1
		if took := start(t, tl); took != headGrace {
			t.Errorf("one witness is cut off: the start takes %v, want %v", took, headGrace)
		}
		tl.close()
		b.delay = 0
		if took := start(t, tl); took != 0 {
			t.Errorf("all answer: the start takes %v", took)
		}
		tl.close()
	})
	distantWitnesses(t, 1, func(t *testing.T, opts Options, a, b *distant) {
		tl := witnessedLog(t, opts)
		tl.close()
		b.delay = -1 // and could have witnessed another history by itself
		tl.open()
		time.Sleep(time.Hour)
		if err := tl.publisher.appendable(); err != ErrNotReady {
			t.Errorf("a witness that could satisfy the policy is not waited for: %v", err)
		}
		tl.close()
	})
}

// TestForkOfARunningLog: a witness that turns out to know another head when the
// log runs does not stop it, but health says what is the matter and what to do.
func TestForkOfARunningLog(t *testing.T) {
	distantWitnesses(t, 2, func(t *testing.T, opts Options, a, b *distant) {
		opts.WitnessTimeout = 3 * headGrace
		logged := &lockedBuffer{}
		opts.Logger = logged.logger()
		tl := witnessedLog(t, opts)
		tl.close()
		b.otherRoot()
		b.delay = 2 * headGrace // longer than it is waited for
		tl.open()
		if err := tl.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		tl.addN(1)
		time.Sleep(staleRounds*opts.WitnessTimeout + time.Second)
		health := func() string {
			if err := tl.Health(); err != nil {
				return err.Error()
			}
			return ""
		}
		for _, want := range []string{"11 signed, 10 published", b.server.URL, "finds the submitted head inconsistent", "logserver restore --catch-up-from"} {
			if got := health(); !strings.Contains(got, want) {
				t.Errorf("health says %q, without %q", got, want)
			}
		}
		if n := strings.Count(logged.String(), "a witness knows another head"); n != 1 {
			t.Errorf("told the operator %d times:\n%s", n, logged)
		}
		b.otherRoot()
		tl.mustPublish(11)
		synctest.Wait()
		if got := health(); got != "" || tl.publisher.witnesses[0].fork.Load() != nil || tl.publisher.witnesses[1].fork.Load() != nil {
			t.Errorf("afterwards health says %q", got)
		}
		tl.close()
	})
}

// TestConflictOverRoot: a 409 for the same size and another root, as in the text
// before July 2026, is a fork, with the size in its body and without. A 409 that
// is only broken is silence.
func TestConflictOverRoot(t *testing.T) {
	conflict := func(body string) func(w http.ResponseWriter, c checkpoint.Checkpoint) bool {
		return func(w http.ResponseWriter, _ checkpoint.Checkpoint) bool {
			w.WriteHeader(http.StatusConflict)
			w.Write([]byte(body))
			return true
		}
	}
	for name, c := range map[string]struct {
		body   string // of the 409 to the size that the witness has
		always bool   // answers that to whatever is submitted
		forked bool
	}{
		"empty":                {"", false, true},
		"a line break":         {"\n", false, true},
		"the size":             {"10\n", false, true},
		"empty, whatever":      {"", true, false},
		"the size, whatever":   {"10\n", true, true},
		"no size":              {"conflict\n", false, false},
		"a size, but not ours": {"3\n", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			distantWitnesses(t, 1, func(t *testing.T, opts Options, a, _ *distant) {
				tl := witnessedLog(t, opts)
				tl.close()
				a.otherRoot()
				if c.always {
					a.behave(conflict(c.body))
				} else {
					a.rootConflict(c.body)
				}
				tl.open()
				time.Sleep(time.Minute)
				want := ErrNotReady
				if c.forked {
					want = ErrForked
				}
				if err := tl.publisher.appendable(); !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
				a.behave(nil)
				tl.close()
			})
		})
	}
}

// TestWrongClocks: no clock, of the log or of a witness, keeps a log from starting
// or publishing. If it is the log's that differs from all of theirs then the log
// is healthy, too.
func TestWrongClocks(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for name, c := range map[string]struct {
		a, b    time.Duration // by how much their clocks are ahead of the log's
		healthy bool
	}{
		"as they should be":           {0, 0, true},
		"all are a little ahead":      {50 * time.Second, 40 * time.Second, true},
		"the log is an hour behind":   {time.Hour, time.Hour + 30*time.Second, true},
		"the log is an hour ahead":    {-time.Hour, -time.Hour - 30*time.Second, true},
		"the log is years behind":     {20 * year, 20 * year, true},
		"the log is years ahead":      {-20 * year, -20 * year, true},
		"one witness is ahead":        {time.Hour, 0, false},
		"one witness is behind":       {0, -time.Hour, false},
		"one witness is at 1980":      {0, -20 * year, false}, // the bubble's clock begins in 2000
		"one ahead and one behind":    {time.Hour, -time.Hour, false},
		"almost a day ahead":          {maxAhead - time.Minute, 0, false},
		"the log is between the two":  {10 * time.Minute, -10 * time.Minute, false},
		"the log is ahead by a while": {-20 * time.Minute, -20 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			distantWitnesses(t, 2, func(t *testing.T, opts Options, a, b *distant) {
				opts.RefreshInterval, opts.WitnessTimeout = time.Minute, 5*time.Second
				logged := &lockedBuffer{}
				opts.Logger = logged.logger()
				a.setClock(c.a)
				b.setClock(c.b)
				tl := witnessedLog(t, opts)
				tl.reopen()
				if err := tl.Ready(within(t)); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					time.Sleep(20 * time.Minute) // of refreshes
					if err := tl.Health(); (err == nil) != c.healthy {
						t.Errorf("health: %v", err)
					}
					tl.addN(5)
					tl.mustPublish(int64(len(tl.data)))
				}
				if warned := strings.Contains(logged.String(), "clocks of a witness and of this machine differ"); warned != (max(c.a.Abs(), c.b.Abs()) > checkpoint.FutureTolerance) {
					t.Errorf("the operator was told of clocks: %v", warned)
				}
				if n := strings.Count(logged.String(), "clocks of a witness"); n > 2*3 {
					t.Errorf("the operator was told %d times", n)
				}
				tl.close()
			})
		})
	}
}

// TestSlowClockHeardFirst: a witness whose clock is years slow makes the log drop
// nothing that others cosign, also while it is the only one that was heard.
func TestSlowClockHeardFirst(t *testing.T) {
	distantWitnesses(t, 2, func(t *testing.T, opts Options, a, b *distant) {
		opts.WitnessTimeout = time.Hour // of a round that lacks what was dropped
		a.behave(dead)
		b.setClock(-20 * 365 * 24 * time.Hour)
		tl := newTestLog(t, opts)
		if err := tl.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		a.behave(nil) // first heard in a round
		from := time.Now()
		tl.addN(10)
		tl.mustPublish(10)
		if took := time.Since(from); took > 2*maxBackoff {
			t.Errorf("published after %v", took)
		}
		tl.close()
	})
}

// TestNamelessConflict: a witness that never names the size that it has cosigns
// again once what it refused for is over.
func TestNamelessConflict(t *testing.T) {
	distantWitnesses(t, 1, func(t *testing.T, opts Options, a, _ *distant) {
		tl := witnessedLog(t, opts)
		eventually(t, "the witness has the head", func() bool { return a.size() == 10 })
		tl.close()
		a.mu.nameless = true
		a.behave(func(w http.ResponseWriter, _ checkpoint.Checkpoint) bool {
			w.WriteHeader(http.StatusConflict)
			return true
		})
		tl.open()
		time.Sleep(time.Minute)
		if err := tl.publisher.appendable(); err != ErrNotReady {
			t.Errorf("while it refuses: %v, want %v", err, ErrNotReady)
		}
		a.behave(nil)
		if err := tl.Ready(within(t)); err != nil { // the witness alone could have witnessed another history
			t.Fatal(err)
		}
		tl.close()
	})
}

// TestClocksAreSet: when the clocks of witnesses are set, forward or back, what
// they cosign next takes the place of what they did before.
func TestClocksAreSet(t *testing.T) {
	for _, step := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
		distantWitnesses(t, 2, func(t *testing.T, opts Options, a, b *distant) {
			opts.RefreshInterval, opts.WitnessTimeout = time.Minute, 5*time.Second
			a.setClock(-step)
			b.setClock(-step)
			tl := witnessedLog(t, opts)
			a.setClock(0)
			b.setClock(0)
			time.Sleep(3 * time.Minute)
			for range 10 {
				if err := tl.Health(); err != nil {
					t.Errorf("set by %v: %v", step, err)
				}
				if _, err := opts.Policy.VerifyFresh(tl.Published().Note, time.Now(), 2*time.Minute); err != nil {
					t.Errorf("set by %v: %v", step, err)
				}
				time.Sleep(time.Minute)
			}
			tl.close()
		})
	}
}

// TestLogClockIsSet: what was heard from witnesses goes on with uptime, whatever
// becomes of this clock, until it is compared with the new one.
func TestLogClockIsSet(t *testing.T) {
	start := time.Unix(1e9, 0)
	const hour = time.Hour
	for name, c := range map[string]struct {
		heard map[string]time.Duration // how far ahead, one hour after the start
		here  time.Duration            // what this clock shows after the second hour, from the start
		want  time.Duration
	}{
		"nobody was heard":            {nil, 7 * hour, 7 * hour},
		"in time":                     {map[string]time.Duration{"a": 0}, 2*hour + time.Second, 2*hour + time.Second},
		"set forward":                 {map[string]time.Duration{"a": 0, "b": 10 * time.Second}, 9 * hour, 2*hour + 10*time.Second},
		"set back":                    {map[string]time.Duration{"a": 0, "b": 10 * time.Second}, -9 * hour, 2 * hour},
		"one witness agrees":          {map[string]time.Duration{"a": 0, "b": 10 * hour}, 2 * hour, 2 * hour},
		"between":                     {map[string]time.Duration{"a": -hour, "b": hour}, 2 * hour, 2 * hour},
		"a time that is none":         {map[string]time.Duration{"a": 290 * 365 * 24 * hour}, 2 * hour, 2 * hour},
		"of almost all that there is": {map[string]time.Duration{"a": 0, "b": 200 * 365 * 24 * hour}, 3 * hour, 3 * hour},
	} {
		var clocks clocks
		for witness, ahead := range c.heard {
			clocks.observe(witness, start.Add(hour+ahead).Unix(), start.Add(hour), hour)
		}
		if got := clocks.now(start.Add(c.here), 2*hour).Sub(start); got != c.want {
			t.Errorf("%s: %v after the start, want %v", name, got, c.want)
		}
	}
	var clocks clocks
	clocks.observe("a", start.Unix(), start, 0)
	clocks.observe("b", start.Unix(), start, 0)
	clocks.observe("a", start.Unix(), start.Add(hour), time.Second) // set forward
	if got := clocks.now(start.Add(hour), 2*time.Second); !got.Equal(start.Add(time.Second)) {
		t.Errorf("with the one witness that was heard since: %v", got)
	}
}

// lockedBuffer is what a logger wrote.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *lockedBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func (f *fakeWitness) setClock(ahead time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.clock = func() time.Time { return time.Now().Add(ahead) }
}

// rootConflict makes the witness answer 409 where the root hashes of one size
// differ.
func (f *fakeWitness) rootConflict(body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.rootConflict = &body
}
