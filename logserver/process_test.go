package logserver

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// childEnv makes the test binary a log that appends until its disk fails; the
// value is the fault and the directory.
const childEnv = "LOGSERVER_TEST_FAULT"

func TestMain(m *testing.M) {
	if v, child := os.LookupEnv(childEnv); child {
		fault, dir, _ := strings.Cut(v, ":")
		appendUntilFault(fault, dir)
		return
	}
	os.Exit(m.Run())
}

// appendUntilFault prints every index that it was given, one a line. The fault
// is a kind of operation on the write-ahead log and whether it is done all the
// same. It ends with status 3 by Options.Fatal, in one line, and with 0 if an
// append or a later one failed without the process ending.
func appendUntilFault(fault, dir string) {
	opts := testOptions(nil)
	opts.Dir = dir
	kind, how, _ := strings.Cut(fault, " ")
	done := 0
	if how == "persisted" {
		done = 100
	}
	var broken atomic.Bool
	opts.fs = &opFS{FS: vfs.Default, before: func(op fsOp) fsFault {
		if broken.Load() && op.kind == kind && strings.HasSuffix(op.path, ".log") {
			return fsFault{err: syscall.EIO, done: done}
		}
		return fsFault{}
	}}
	opts.tune = smallTables // so that the write-ahead log is rotated
	opts.HoldWitness = true // no round meets the fault in place of an append
	opts.Fatal = func(err error) {
		fmt.Fprintln(os.Stderr, "ended:", err)
		os.Exit(3)
	}
	l, err := Open(opts)
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	for i := range 2000 {
		if i == 40 {
			broken.Store(true)
		}
		r, _, err := l.Append(context.Background(), faultEntry(i))
		if err != nil {
			fmt.Println("append:", err)
			select {} // the process is about to end
		}
		fmt.Println(r.Index)
	}
}

func faultEntry(i int) Entry {
	return Entry{Data: fmt.Append(nil, i), Dedup: fmt.Append(nil, i), Opening: make([]byte, 500)}
}

// TestFailedCommitEndsProcess: when the outcome of a commit is unknown nobody
// gets an answer and the process ends, with one line and no stack trace. After
// the restart everything that was answered is there, the write in doubt is there
// completely or not at all, and repeating it with its deduplication key finds
// out.
func TestFailedCommitEndsProcess(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault     string
		rotation  bool // the fault is met when the write-ahead log is rotated
		persisted int  // the write in doubt is there: 1 yes, -1 no, 0 either
	}{
		{"write lost", false, -1},
		{"write persisted", false, 1},
		{"sync lost", false, 0},
		{"sync persisted", false, 0},
		{"create lost", true, 0},
		{"reuse lost", true, 0},
		{"reuse persisted", true, 0},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			opts := testOptions(nil)
			opts.Dir = t.TempDir()
			if err := Create(opts); err != nil {
				t.Fatal(err)
			}
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childEnv+"="+c.fault+":"+opts.Dir)
			var stderr bytes.Buffer
			child.Stderr = &stderr
			out, err := child.Output()
			if child.ProcessState.ExitCode() != 3 {
				t.Fatalf("the process went on, or ended with %v:\n%.200s%s", err, out, &stderr)
			}
			if strings.Count(stderr.String(), "\n") != 1 || !strings.HasPrefix(stderr.String(), "ended: log must be reopened") {
				t.Errorf("it ended with the message\n%s", &stderr)
			}
			answered := 0
			for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); answered++ {
				// Its caller may still be told that the outcome is unknown.
				if strings.HasPrefix(s.Text(), "append: "+ErrReload.Error()) {
					break
				}
				if s.Text() != fmt.Sprint(answered) {
					t.Fatalf("answer %q", s.Text())
				}
			}
			if answered < 40 || answered > 40 && !c.rotation {
				t.Fatalf("%d appends were answered, the 41st met the fault", answered)
			}

			tl := &testLog{t: t, opts: opts, model: newModel()}
			tl.open()
			defer tl.close()
			for i := range answered {
				tl.sequence(faultEntry(i))
			}
			persisted := tl.Size() > int64(answered)
			if c.persisted != 0 && persisted != (c.persisted > 0) {
				t.Errorf("the write in doubt is there: %v", persisted)
			}
			r, _, err := tl.Append(context.Background(), faultEntry(answered))
			if err != nil || r.Index != int64(answered) || r.Duplicate != persisted {
				t.Fatalf("repeating the write in doubt, persisted %v: %+v, %v", persisted, r, err)
			}
			tl.sequence(faultEntry(answered))
			tl.check()
		})
	}
}
