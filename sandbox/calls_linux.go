package sandbox

import (
	"os"
	"slices"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// The system calls that a worker may make once it has started. Names that an
// architecture lacks are left out there.
var (
	// callsOfRuntime are those of the Go runtime: memory, threads, time, signals
	// of its own, and reading and writing what is open.
	callsOfRuntime = []string{
		"read", "write", "readv", "writev", "close", "lseek", "pread64", "pwrite64",
		"mprotect", "munmap", "mremap", "madvise", "mincore", "brk", "membarrier", "rseq", "set_robust_list",
		"futex", "sched_yield", "sched_getaffinity", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time",
		"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sigaltstack", "restart_syscall",
		"timer_create", "timer_settime", "timer_delete", "setitimer",
		"epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2", "pipe2", "poll", "ppoll",
		"getpid", "gettid", "getrandom", "exit", "exit_group", "arch_prctl", "getrusage", "getcwd",
	}
	// callsToRead open and look at files, which Landlock confines to the worker's
	// own.
	callsToRead = []string{"openat", "fstat", "newfstatat", "stat", "lstat", "statx", "getdents64", "readlinkat"}
	// callsToMake are for a compiler, which leaves a file.
	callsToMake = []string{"mkdirat", "mkdir", "renameat", "renameat2", "unlinkat", "fsync", "ftruncate", "fchmod"}
)

// The conditions of calls that are allowed in part.
var (
	// filesControl are the commands of fcntl. Without the others no descriptor can
	// have the kernel send a signal, which it would also send to who started the
	// worker.
	filesControl = []uint64{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_DUPFD_CLOEXEC}
	// sharedOrGrowing are the kinds of mappings that the limit of data does not
	// count; a private mapping has none of these bits.
	sharedOrGrowing = uint64(unix.MAP_TYPE&^unix.MAP_PRIVATE | unix.MAP_GROWSDOWN)
)

// filterCalls lets this process make only the system calls it needs. Others are
// answered as not permitted and do not kill, so that a runtime that merely tries
// something lives on.
func filterCalls(read, compiler bool) error {
	calls := slices.Clone(callsOfRuntime)
	if read {
		calls = append(calls, callsToRead...)
	}
	if read && compiler {
		calls = append(calls, callsToMake...)
	}
	info, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	calls = slices.DeleteFunc(calls, func(name string) bool { _, ok := info.SyscallNames[name]; return !ok })
	return seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno,
			Syscalls: []seccomp.SyscallGroup{
				{Action: seccomp.ActionAllow, Names: calls},
				{Action: seccomp.ActionAllow, NamesWithCondtions: conditionalCalls()},
				// Its flags are in memory, where a filter cannot look: the C library
				// then uses clone.
				{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
			},
		},
	})
}

// conditionalCalls are the calls that are allowed with some arguments.
func conditionalCalls() []seccomp.NameWithConditions {
	where := func(argument uint32, operation seccomp.Operation, value uint64) seccomp.Condition {
		return seccomp.Condition{Argument: argument, Operation: operation, Value: value}
	}
	list := []seccomp.NameWithConditions{
		// Threads, and no processes or namespaces.
		{Name: "clone", Conditions: []seccomp.Condition{where(0, seccomp.BitsSet, unix.CLONE_THREAD)}},
		// Signals to itself.
		{Name: "tgkill", Conditions: []seccomp.Condition{where(0, seccomp.Equal, uint64(os.Getpid()))}},
		// Names of mappings, which the runtime gives.
		{Name: "prctl", Conditions: []seccomp.Condition{where(0, seccomp.Equal, unix.PR_SET_VMA)}},
		// Reading its limits.
		{Name: "prlimit64", Conditions: []seccomp.Condition{where(2, seccomp.Equal, 0)}},
		// Memory of its own, which its limit counts.
		{Name: "mmap", Conditions: []seccomp.Condition{
			where(3, seccomp.BitsSet, unix.MAP_PRIVATE), where(3, seccomp.BitsNotSet, sharedOrGrowing),
		}},
		// The flags of its descriptors, but for signals.
		{Name: "fcntl", Conditions: []seccomp.Condition{
			where(1, seccomp.Equal, unix.F_SETFL), where(2, seccomp.BitsNotSet, unix.O_ASYNC),
		}},
	}
	for _, command := range filesControl {
		list = append(list, seccomp.NameWithConditions{Name: "fcntl", Conditions: []seccomp.Condition{where(1, seccomp.Equal, command)}})
	}
	return list
}
