package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// without has this thread, and what it executes, answer system calls with an
// error.
func without(errno syscall.Errno, calls ...string) error {
	runtime.LockOSThread()
	return seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls:      []seccomp.SyscallGroup{{Action: seccomp.ActionErrno | seccomp.Action(errno), Names: calls}},
		},
	})
}

// withoutNice has this thread give up what lets it raise its priority again.
func withoutNice() error {
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_NICE
	data[0].Permitted &^= 1 << unix.CAP_SYS_NICE
	return unix.Capset(&header, &data[0])
}

// hindrances are what workers may find at their start; each still starts.
var hindrances = map[string]struct {
	do   func() error
	nice int // of the worker then; less than 0 means any
}{
	"no close_range":          {func() error { return without(syscall.ENOSYS, "close_range") }, -1},
	"a close_range of old":    {func() error { return without(syscall.EINVAL, "close_range") }, -1},
	"a filter on close_range": {func() error { return without(syscall.EPERM, "close_range") }, -1},
	"a filter on setpriority": {func() error { return without(syscall.EACCES, "setpriority") }, -1},
	"a nice parent": {func() error {
		runtime.LockOSThread()
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 10); err != nil {
			return err
		}
		return withoutNice()
	}, 15},
	"the nicest parent": {func() error {
		runtime.LockOSThread()
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nicest); err != nil {
			return err
		}
		return withoutNice()
	}, nicest},
}

func init() {
	for name, hindrance := range hindrances {
		badWorkers[name] = func() {
			err := hindrance.do()
			if err == nil {
				err = confineAndExec(runnerName+confinedSuffix, false)
			}
			fmt.Fprintln(os.Stderr, name+":", err)
		}
	}
}

// TestHinderedStart starts workers where a system call is missing or forbidden,
// or the pool's process is nice itself. They are confined as others are: the
// descriptor that any child inherits is not there.
func TestHinderedStart(t *testing.T) {
	leak, err := syscall.Open("/etc/passwd", syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leak)
	want := testPool(t, PoolConfig{}).Enforcement()
	for name, hindrance := range hindrances {
		t.Run(name, func(t *testing.T) {
			// What the system call answers is 20 less the niceness.
			if own, err := unix.Getpriority(unix.PRIO_PROCESS, 0); name == "a nice parent" && (err != nil || 20-own > 10) {
				t.Skipf("these tests are nicer than that parent: priority %d, %v", own, err)
			}
			p, err := newPool(PoolConfig{Workers: 1}, badCommand(name))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if got := p.Enforcement(); got != want || !got.Process {
				t.Errorf("enforcement is %+v\nwant %+v", got, want)
			}
			if got := niceness(t, p.pids()[0]); hindrance.nice >= 0 && got != hindrance.nice {
				t.Errorf("niceness is %d, want %d", got, hindrance.nice)
			}
			if r, err := p.Run(t.Context(), exitsWith("a", 3)); err != nil || r.Outcome.ExitCode != 3 {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// niceness is the 19th field of what the system says about a process, the 17th
// after its name.
func niceness(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	n, err := strconv.Atoi(strings.Fields(rest)[16])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNiceOf(t *testing.T) {
	for priority, want := range map[int]int{40: -15, 20: 5, 15: 10, 10: 15, 6: 19, 5: 19, 1: 19} {
		if got := niceOf(priority); got != want {
			t.Errorf("with priority %d, niceness %d, a worker has niceness %d, want %d", priority, 20-priority, got, want)
		}
	}
}
