package sandbox

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The limits a worker sets on itself.
const (
	// workerFiles is enough for the pipes, the runtime's poller and a cache file.
	workerFiles = 24
	// workerCPU is the processor time, in seconds, that a worker has in all its
	// life. The pool replaces it long before.
	workerCPU = 2 * 60 * 60
	// workerThreads is how many threads of a worker run Go code at a time: one
	// for the guest, one for the collector and for noticing a cancel.
	workerThreads = 2
	// workerNice is how much nicer a worker is than its pool's process, so that the
	// processes around it answer while guests compute.
	workerNice = 5
	// nicest is the lowest priority that there is.
	nicest = 19
)

// selfPath is this binary, also after it was replaced on disk.
const selfPath = "/proc/self/exe"

// prepareChild makes a worker's process start in a group of its own and end
// with the thread that starts it, until it has set up the same for itself.
func prepareChild(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup kills a worker's process group. The group exists until the worker
// has been waited for, so the number cannot be another's.
func killGroup(p *os.Process) {
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
}

// confineAndExec restricts this thread in ways that only threads have, and
// starts the binary anew from it as name, so that every thread of the worker
// inherits them; descriptors other than the standard streams are closed on the
// way. It returns only on failure.
func confineAndExec(name string, compiler bool) error {
	runtime.LockOSThread()
	for _, step := range []struct {
		what string
		err  error
	}{
		{"parent death signal", unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)},
		{"no new privileges", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)},
		{"closing descriptors", inheritNothing()},
	} {
		if step.err != nil {
			return fmt.Errorf("%s: %w", step.what, step.err)
		}
	}
	beNicer()
	// Where the system has no Landlock the worker lives on, and says so.
	if confineFiles(compiler) == nil {
		name += filesSuffix
	}
	return syscall.Exec(selfPath, []string{name}, nil)
}

// inheritNothing has every descriptor but the standard streams closed when this
// thread executes. Linux before 5.11 has no call for that, and a filter around
// this process may not know it; then they are marked one by one. Nothing else in
// this process opens any that would be inherited. The second stage looks again.
func inheritNothing() error {
	const first = 3
	if unix.CloseRange(first, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		if fd >= first {
			unix.CloseOnExec(fd) // of the directory itself this fails, as it is closed by now
		}
	}
	return nil
}

// beNicer lowers this thread's priority. That is for the sake of others and
// confines nothing: where it is forbidden the worker lives on with the one it has.
func beNicer() {
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err == nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceOf(own))
	}
}

// niceOf is the niceness of a worker whose first stage has a priority, as the
// system call gives it: from 40, for -20, to 1, for 19. To set an absolute one
// might ask for more than the process has, which few may.
func niceOf(priority int) int { return min(20-priority+workerNice, nicest) }

// confine restricts this process, a worker that came through confineAndExec,
// and reports what holds. A restriction that the system does not accept is
// reported and not fatal: what to demand is the operator's choice.
func confine(c workerConfig, r role) Enforcement {
	runtime.GOMAXPROCS(workerThreads)
	var e Enforcement
	var notes []string
	holds := func(what string, err error) bool {
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s: %v", what, err))
		}
		return err == nil
	}
	e.Process = holds("process", onlyPipes())
	e.ProcessGroup = unix.Getpgrp() == os.Getpid()
	e.EmptyDirectory = holds("directory", inEmptyDirectory())
	e.ParentDeath = true // confineAndExec fails without it
	privs, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	e.NoNewPrivs = holds("no new privileges", err) && privs == 1
	e.Filesystem = holds("file system", filesConfined(r))

	e.NoCoreDumps = holds("core dumps", setLimit(unix.RLIMIT_CORE, 0))
	fileSize := uint64(0)
	if r.compiler {
		fileSize = workerCacheFile
	}
	e.NoFileWrites = holds("file size", setLimit(unix.RLIMIT_FSIZE, fileSize)) && !r.compiler
	e.OpenFiles = holds("open files", setLimit(unix.RLIMIT_NOFILE, workerFiles))
	e.CPUTime = holds("processor time", setLimit(unix.RLIMIT_CPU, workerCPU))
	if c.memoryBytes > 0 && holds("memory", limitMemory(c.memoryBytes)) {
		e.MemoryBytes = c.memoryBytes
	}
	if c.memoryBytes > 0 {
		e.AddressSpace = holds("address space", limitAddressSpace(c.memoryBytes))
	}
	// Last, since it forbids the calls above. Files may be opened where opening
	// them is confined.
	e.SystemCalls = holds("system calls", filterCalls(e.Filesystem, r.compiler))
	e.Note = strings.Join(notes, "; ")
	return e
}

func setLimit(resource int, value uint64) error {
	return unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value})
}

// limitMemory bounds the process's private writable memory, and asks the
// garbage collector to stay below. A process that is over the limit already
// (the race detector's shadow memory) cannot be limited.
//
// It is against accidents: what was filled and then made read-only does not count.
func limitMemory(limit int64) error {
	used, err := statusBytes(os.Getpid(), "VmData")
	if err != nil {
		return err
	}
	if used > limit {
		return fmt.Errorf("%d bytes are in use before the start, the limit is %d", used, limit)
	}
	debug.SetMemoryLimit(limit - limit/8)
	return setLimit(unix.RLIMIT_DATA, uint64(limit))
}

// addressSlack is address space that a worker takes beyond its memory: what the
// runtime reserves before it needs it, and native code.
const addressSlack = 512 << 20

// limitAddressSpace bounds all mappings together, whatever their kind and
// protection, so that code which has taken the worker over cannot get around it.
// What the runtime reserved at its start, a gigabyte or so, comes on top.
func limitAddressSpace(limit int64) error {
	now, err := statusBytes(os.Getpid(), "VmSize")
	if err != nil {
		return err
	}
	return setLimit(unix.RLIMIT_AS, uint64(now+limit+addressSlack))
}

// onlyPipes checks that the standard streams are pipes (or, for diagnostics,
// the null device), that there is no environment, and that no other descriptor
// was inherited.
func onlyPipes() error {
	if n := len(os.Environ()); n > 0 {
		return fmt.Errorf("%d environment variables", n)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		target, err := os.Readlink("/proc/self/fd/" + entry.Name())
		if err != nil {
			continue // the directory's own descriptor, closed by now
		}
		pipe := strings.HasPrefix(target, "pipe:") && len(entry.Name()) == 1 && entry.Name() <= "2"
		if !pipe && !runtimeFile(target) {
			return fmt.Errorf("descriptor %s is %q", entry.Name(), target)
		}
	}
	return nil
}

// runtimeFile reports whether a descriptor's target is one that the Go runtime
// opens for itself: its poller, and the processor quota of its control group.
func runtimeFile(target string) bool {
	return strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/sys/fs/cgroup/") ||
		strings.HasPrefix(target, "/proc/")
}

func inEmptyDirectory() error {
	entries, err := os.ReadDir(".")
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%d entries in the working directory", len(entries))
	}
	return nil
}
