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
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
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

// appendUntilFault prints every index that it was given, one a line. It ends
// with status 0 only if an append or a later one failed without the process
// ending, which the parent takes for a failure.
func appendUntilFault(fault, dir string) {
	opts := testOptions(nil)
	opts.Dir = dir
	var broken atomic.Bool
	opts.fs = errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !broken.Load() || !strings.HasSuffix(op.Path, ".log") {
			return nil
		}
		switch op.Kind {
		case errorfs.OpFileWrite:
			if fault == "write" {
				return errorfs.ErrInjected
			}
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			if fault == "sync" {
				return errorfs.ErrInjected // what was written before stays
			}
		}
		return nil
	}))
	l, err := Open(opts)
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	for i := range 100 {
		broken.Store(i == 40)
		r, _, err := l.Append(context.Background(), Entry{Data: fmt.Append(nil, i), Dedup: fmt.Append(nil, i)})
		if err != nil {
			fmt.Println("append:", err)
			return
		}
		fmt.Println(r.Index)
	}
}

// TestFailedCommitEndsProcess: when the outcome of a commit is unknown nobody
// gets an answer and the process ends. After the restart everything that was
// answered is there, the write in doubt is there completely or not at all, and
// repeating it with its deduplication key finds out.
func TestFailedCommitEndsProcess(t *testing.T) {
	for _, fault := range []string{"write", "sync"} {
		t.Run(fault, func(t *testing.T) {
			opts := testOptions(nil)
			opts.Dir = t.TempDir()
			if err := Create(opts); err != nil {
				t.Fatal(err)
			}
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childEnv+"="+fault+":"+opts.Dir)
			out, err := child.Output()
			if err == nil {
				t.Fatalf("the process went on:\n%s", out)
			}
			answered := 0
			for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); answered++ {
				if s.Text() != fmt.Sprint(answered) {
					t.Fatalf("answer %q", s.Text())
				}
			}
			if answered != 40 {
				t.Fatalf("%d appends were answered, the 41st met the fault", answered)
			}

			tl := &testLog{t: t, opts: opts, model: newModel()}
			tl.open()
			defer tl.close()
			for i := range answered {
				tl.sequence(Entry{Data: fmt.Append(nil, i), Dedup: fmt.Append(nil, i)})
			}
			inDoubt := Entry{Data: fmt.Append(nil, answered), Dedup: fmt.Append(nil, answered)}
			persisted := tl.Size() > int64(answered)
			r, _, err := tl.Append(context.Background(), inDoubt)
			if err != nil || r.Index != int64(answered) || r.Duplicate != persisted {
				t.Fatalf("repeating the write in doubt, persisted %v: %+v, %v", persisted, r, err)
			}
			tl.sequence(inDoubt)
			tl.check()
		})
	}
}
