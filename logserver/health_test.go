package logserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tallystick/tallystick/logserver/internal/direct/directtest"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// TestStuckSigner: a key that never answers stops publication and nothing else.
// Health notices from outside, whatever the publisher does, and recovers.
func TestStuckSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := testOptions(vfs.NewMem())
		opts.MinInterval = 100 * time.Millisecond
		tl := newTestLog(t, opts)
		gate := make(chan struct{})
		tl.close()
		tl.opts.Key = gatedKey{opts.Key, gate}
		tl.open() // nothing has to be signed
		if err := tl.Health(); err != nil {
			t.Error(err)
		}
		tl.addN(3)
		if err := tl.Health(); err != nil {
			t.Errorf("at once: %v", err)
		}
		time.Sleep(staleRounds*DefaultWitnessTimeout + time.Second) // in the bubble
		err := tl.Health()
		if err == nil || !strings.Contains(err.Error(), "size 3 is sequenced, 0 signed, 0 published") {
			t.Errorf("stuck: %v", err)
		}
		if s := tl.Status(); s.Healthy || !s.Ready || len(s.Reasons) != 1 || s.Behind < 20 || s.Integrated != 3 || s.Signed != 0 {
			t.Errorf("%+v", s)
		}
		close(gate)
		tl.mustPublish(3)
		synctest.Wait()
		if err := tl.Health(); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		tl.close()
	})
}

// TestHungDisk: a disk that does not end what it was given turns the log red, and
// keeps nobody from ending the process. What it ends after all is there.
func TestHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stall atomic.Bool
		release := make(chan struct{})
		fs := &opFS{FS: vfs.NewCrashableMem(), before: func(op fsOp) fsFault {
			if stall.Load() && op.kind == "sync" && strings.HasSuffix(op.path, ".log") {
				<-release
			}
			return fsFault{}
		}}
		tl := newTestLog(t, testOptions(fs))
		tl.addN(3)
		tl.mustPublish(3)
		time.Sleep(time.Hour)
		if err := tl.Health(); err != nil {
			t.Errorf("idle: %v", err)
		}
		stall.Store(true)
		entry, answers := tl.nextEntry(), make(chan error, 1)
		go func(l *Log) {
			_, _, err := l.Append(context.Background(), entry)
			answers <- err
		}(tl.Log)
		time.Sleep(staleCommit - time.Second)
		if err := tl.Health(); err != nil {
			t.Errorf("early: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := tl.Health(); err == nil || !strings.Contains(err.Error(), "the store has not ended a commit for 11s") {
			t.Errorf("hung: %v", err)
		}
		if s := tl.Status(); s.Healthy || s.Integrated != 3 {
			t.Errorf("hung: %+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		start := time.Now()
		if err := tl.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 15*time.Second+closeGrace {
			t.Errorf("close: %v after %v", err, time.Since(start))
		}
		if len(answers) > 0 {
			t.Error("an entry was answered that is not durable")
		}
		close(release)
		if err := <-answers; err != nil {
			t.Error(err)
		}
		synctest.Wait() // until what Close began has ended
		tl.sequence(entry)
		tl.open()
		tl.check()
		tl.close()
	})
}

// TestServeHungDisk: a server that is told to stop does, though an append that it
// has been sent never ends, and then its log can be closed.
func TestServeHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stall atomic.Bool
		release := make(chan struct{})
		fs := &opFS{FS: vfs.NewCrashableMem(), before: func(op fsOp) fsFault {
			if stall.Load() && op.kind == "sync" && strings.HasSuffix(op.path, ".log") {
				<-release
			}
			return fsFault{}
		}}
		tl := newTestLog(t, testOptions(fs))
		ln, served := directtest.NewPipes(), make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		go func() { served <- Serve(ctx, ln, Handler(tl.Log), discard) }()
		stall.Store(true)
		var conns []net.Conn
		for _, path := range []string{"/add", "/add-batch"} { // answered directly, and by net/http
			conn := ln.Dial()
			io.WriteString(conn, directtest.Post(path, "", "\x00\x01a"))
			conns = append(conns, conn)
		}
		synctest.Wait()
		start := time.Now()
		stop()
		if err := <-served; !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > shutdownTimeout+2*time.Second {
			t.Errorf("served: %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := tl.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		close(release)
		for _, conn := range conns {
			conn.Close()
		}
		synctest.Wait() // until all that has ended
	})
}

// TestLateness: what is looked at from outside counts from when it was first
// seen, and starts anew whenever publication gets on.
func TestLateness(t *testing.T) {
	var l lateness
	for i, c := range []struct {
		size int64
		due  bool
		now  time.Duration
		want time.Duration
	}{
		{0, false, 1, 0}, {0, true, 2, 0}, {0, true, 7, 5}, {3, true, 9, 0}, {3, true, 10, 1}, {3, false, 11, 0}, {3, true, 12, 0}, {3, true, 20, 8},
	} {
		if got := l.observe(SignedNote{Size: c.size}, c.due, c.now); got != c.want {
			t.Errorf("step %d: late for %d, want %d", i, got, c.want)
		}
	}
	if uptime() <= 0 {
		t.Error("uptime is not positive")
	}
}

func TestStatus(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	a, b := newFakeWitness(t, opts, 11), newFakeWitness(t, opts, 12)
	opts = witnessed(t, opts, 2, a, b)
	opts.FailOpen = true
	tl := newTestLog(t, opts)
	if err := tl.Ready(within(t)); err != nil {
		t.Fatal(err)
	}
	tl.addN(5)
	tl.mustPublish(5)
	s := tl.Status()
	if s.Origin != "log.example/test" || s.Vkey != tl.Vkey() || s.ReceiptVkey != tl.ReceiptVkey() || !s.Ready || !s.Healthy ||
		s.Integrated != 5 || s.Signed != 5 || s.Published != 5 || s.Publication != "fail-open" || !strings.HasPrefix(s.Quorum, "2 of ") ||
		s.MaxQueuedEntries != DefaultQueueEntries || s.MaxQueuedBytes != DefaultQueueBytes {
		t.Errorf("%+v", s)
	}
	text, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(text), `"integrated_size":5`) {
		t.Errorf("%s, %v", text, err)
	}
	tl.fail(io.ErrUnexpectedEOF)
	if s := tl.Status(); s.Ready || s.Healthy || s.NotReady == "" || len(s.Reasons) == 0 {
		t.Errorf("failed: %+v", s)
	}
	if s := newTestLog(t, testOptions(vfs.NewMem())).Status(); s.Quorum != "none" || s.Publication != "fail-closed" {
		t.Errorf("without a policy: %+v", s)
	}
	if tl.space.free() != math.MaxUint64 && s.DiskFree == nil {
		t.Errorf("free space is not told: %+v", s)
	}
}

func TestQuorumInWords(t *testing.T) {
	witness := func(name string) string {
		c, err := checkpoint.NewEd25519Cosigner(name+".example", testKey(name[0]))
		if err != nil {
			t.Fatal(err)
		}
		return "witness " + name + " " + c.Key().Vkey() + "\n"
	}
	base := witness("a") + witness("b") + witness("c")
	for text, want := range map[string]string{
		"quorum none\n":               "none",
		"quorum b\n":                  "b",
		"group g 2 a b c\nquorum g\n": "2 of a, b, c",
		"group g 1 a b\ngroup h all g c\nquorum h\n": "2 of (1 of a, b), c",
		"group g any a b c\nquorum g\n":              "1 of a, b, c",
	} {
		p, err := checkpoint.ParsePolicy([]byte(base + text))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Quorum(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
