package logserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The promises that no other file tests by name: see docs/design/019.

// TestStartUpCheckByPolicy is promise 3: what a log does at its start follows
// from who keeps silent and who knows more.
func TestStartUpCheckByPolicy(t *testing.T) {
	t.Parallel()
	opts := testOptions(vfs.NewCrashableMem())
	a, b, c := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12), newFakeWitness(t, opts, 13)
	opts = witnessed(t, opts, 2, a, b, c)
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(10)
	tl.mustPublish(10)
	eventually(t, "all have seen it", func() bool { return a.size() == 10 && b.size() == 10 && c.size() == 10 })
	old := opts.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})

	t.Run("a dead minority", func(t *testing.T) {
		tl.close()
		c.behave(dead)
		tl.open()
		if err := tl.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
		tl.addN(1)
		tl.mustPublish(11)
	})
	t.Run("a silent blocking set", func(t *testing.T) {
		tl.close()
		b.behave(dead)
		before := b.requestsSeen()
		tl.open()
		eventually(t, "b was asked again", func() bool { return b.requestsSeen() >= before+2 })
		if _, _, err := tl.Append(context.Background(), Entry{}); !errors.Is(err, ErrNotReady) {
			t.Errorf("append: %v, want ErrNotReady", err)
		}
		if err := tl.Health(); !errors.Is(err, ErrNotReady) {
			t.Errorf("health: %v, want ErrNotReady", err)
		}
		if data, err := tl.EntryAt(10); err != nil || !bytes.Equal(data, tl.data[10]) {
			t.Errorf("reading: %v", err)
		}
		if tl.Signed().Size != 11 {
			t.Error("signed without the witnesses")
		}
		b.behave(nil)
		if err := tl.Ready(within(t)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a witness ahead", func(t *testing.T) {
		behind := tl.opts
		behind.fs = old
		l, err := Open(behind)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close(context.Background())
		err = l.Ready(within(t))
		if !errors.Is(err, ErrForked) {
			t.Fatalf("ready: %v, want ErrForked", err)
		}
		for _, command := range []string{"logserver restore --catch-up-from", "logserver succeed"} {
			if !strings.Contains(err.Error(), command) || !strings.Contains(l.Health().Error(), command) {
				t.Errorf("the refusal does not name %q: %v", command, err)
			}
		}
		if l.Signed().Size != 10 {
			t.Error("signed a second history")
		}
	})
}

// TestRetryStorm is promise 7: however often and at once an entry is appended
// under one deduplication key, across restarts and power cuts, it has one index.
func TestRetryStorm(t *testing.T) {
	rng := rand.New(rand.NewPCG(testSeed(t), 5))
	fs := vfs.NewCrashableMem()
	opts := testOptions(fs)
	tl := newTestLog(t, opts)
	const keys, callers = 5, 16
	var mu sync.Mutex
	indexes := map[string]int64{}
	for round := range 6 {
		l := tl.Log
		var wg sync.WaitGroup
		var answers atomic.Int64
		halfway := make(chan struct{})
		for caller := range callers {
			wg.Go(func() {
				for i := range 3 * keys {
					key := fmt.Sprint("key ", (i+caller)%keys)
					r, _, err := l.Append(context.Background(), Entry{Data: fmt.Append(nil, key, round, caller, i), Dedup: []byte(key)})
					if err != nil {
						t.Errorf("append: %v", err)
						return
					}
					mu.Lock()
					if first, known := indexes[key]; known && first != r.Index {
						t.Errorf("%s has the indexes %d and %d", key, first, r.Index)
					}
					indexes[key] = r.Index
					mu.Unlock()
					if answers.Add(1) == callers*keys {
						close(halfway)
					}
				}
			})
		}
		// A power cut in the middle of the storm: what was answered until then
		// is there, and the storm goes on against what is left.
		<-halfway
		mu.Lock()
		before := len(indexes)
		mu.Unlock()
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percents[round%3], RNG: rng})
		wg.Wait()
		tl.close()
		if before == keys {
			fs, tl.opts.fs = clone, clone
		}
		tl.open()
		if tl.Size() != keys {
			t.Fatalf("%d entries under %d keys", tl.Size(), keys)
		}
	}
}

// TestClockEntersNothing is promise 8: two logs with the same calls at times
// decades apart hold the same bytes.
func TestClockEntersNothing(t *testing.T) {
	content := func(t *testing.T) map[string]string {
		opts := testOptions(vfs.NewMem())
		opts.HoldWitness = true
		tl := newTestLog(t, opts)
		for i := range 5 {
			for range 60 {
				tl.add(tl.nextEntry())
			}
			tl.AllowWitness(int64(60 * (i + 1)))
			if err := tl.Wait(context.Background(), int64(60*(i+1))); err != nil {
				t.Fatal(err)
			}
		}
		all := map[string]string{}
		err := tl.store.scan([]byte{0}, []byte{0xff}, func(key, value []byte) error {
			all[string(key)] = string(value)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		tl.close()
		return all
	}
	now := content(t)
	synctest.Test(t, func(t *testing.T) { // where it is the year 2000
		then := content(t)
		if len(then) != len(now) {
			t.Errorf("%d values at %v, %d now", len(then), time.Now(), len(now))
		}
		for key, value := range now {
			if then[key] != value {
				t.Errorf("the value under %q depends on the time", key)
			}
		}
	})
}

// TestStalledSync is part of promises 1 and 2: while the disk does not say that
// a commit is durable nobody is answered, shown or sent anything of it, however
// long that takes; then everybody is.
func TestStalledSync(t *testing.T) {
	var stall atomic.Bool
	stalled, release := make(chan struct{}, 100), make(chan struct{})
	fs := &opFS{FS: vfs.NewCrashableMem(), before: func(op fsOp) fsFault {
		if stall.Load() && op.kind == "sync" && strings.HasSuffix(op.path, ".log") {
			stalled <- struct{}{}
			<-release
		}
		return fsFault{}
	}}
	tl := newTestLog(t, testOptions(fs))
	tl.addN(20)
	tl.mustPublish(20)
	stall.Store(true)
	type outcome struct {
		entry Entry
		Result
		err error
	}
	answers := make(chan outcome, 50)
	for i := range cap(answers) {
		e := Entry{Data: fmt.Append(nil, "stalled ", i)}
		go func() {
			r, _, err := tl.Append(context.Background(), e)
			answers <- outcome{e, r, err}
		}()
	}
	<-stalled
	if len(answers) > 0 || tl.Size() != 20 || tl.Signed().Size != 20 || tl.Published().Size != 20 {
		t.Errorf("%d answers, size %d, signed %d, published %d while the sync stalls", len(answers), tl.Size(), tl.Signed().Size, tl.Published().Size)
	}
	if head, err := tl.Head(); err != nil || head.Size != 20 {
		t.Errorf("receipt head of size %d, %v while the sync stalls", head.Size, err)
	}
	tl.check()
	stall.Store(false)
	close(release)
	byIndex := map[int64]Entry{}
	for range cap(answers) {
		a := <-answers
		if a.err != nil {
			t.Fatal(a.err)
		}
		byIndex[a.Index] = a.entry
	}
	for i := range int64(len(byIndex)) {
		tl.sequence(byIndex[20+i])
	}
	tl.check()
}

// TestCreateSyncsDirectories: a log whose Create has returned survives a power
// cut, with every directory on the way to it.
func TestCreateSyncsDirectories(t *testing.T) {
	fs := vfs.NewCrashableMem()
	opts := testOptions(fs)
	opts.Dir = "some/where/new/log"
	if err := Create(opts); err != nil {
		t.Fatal(err)
	}
	opts.fs = fs.CrashClone(vfs.CrashCloneCfg{})
	l, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}
