package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tallystick/tallystick/sandbox/wasmtest"
)

// TestWorkerConfinement looks at a worker from outside and compares with what
// it says of itself. The pool's process has an environment, and descriptors
// that are not marked close-on-exec.
func TestWorkerConfinement(t *testing.T) {
	t.Setenv("TALLYSTICK_SECRET", "secret")
	leak, err := syscall.Open("/etc/passwd", syscall.O_RDONLY, 0) // inherited by any child
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(leak)
	p := testPool(t, PoolConfig{})
	proc := fmt.Sprintf("/proc/%d/", p.pids()[0])

	want := Enforcement{
		Process: true, ProcessGroup: true, EmptyDirectory: true, ParentDeath: true, NoNewPrivs: true,
		NoCoreDumps: true, NoFileWrites: true, OpenFiles: true,
		Filesystem: true, SystemCalls: true, CPUTime: true, AddressSpace: true, Watched: true, MemoryBytes: DefaultWorkerMemory,
	}
	if got := p.Enforcement(); got != want {
		t.Errorf("enforcement is %+v", got)
	}
	read := func(name string) string {
		b, err := os.ReadFile(proc + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if env := read("environ"); env != "" {
		t.Errorf("environment is %q", env)
	}
	if args := read("cmdline"); args != runnerName+confinedSuffix+filesSuffix+"\x00" {
		t.Errorf("command line is %q", args)
	}
	cwd, err := os.Readlink(proc + "cwd")
	if err != nil || filepath.Base(filepath.Dir(cwd)) != filepath.Base(p.dir.path) {
		t.Errorf("working directory is %q, %v", cwd, err)
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	pipes := 0
	for _, fd := range fds {
		target, _ := os.Readlink(proc + "fd/" + fd.Name())
		switch {
		case strings.HasPrefix(target, "pipe:"):
			pipes++
		case !runtimeFile(target):
			t.Errorf("descriptor %s is %q", fd.Name(), target)
		}
	}
	if pipes != 3 {
		t.Errorf("%d pipes", pipes)
	}
	status := read("status")
	if !strings.Contains(status, "NoNewPrivs:\t1") {
		t.Error("new privileges are possible")
	}
	limits := strings.Join(strings.Fields(read("limits")), " ")
	for _, limit := range []string{"Max core file size 0 0", "Max file size 0 0", fmt.Sprintf("Max open files %d %d", workerFiles, workerFiles)} {
		if !strings.Contains(limits, limit) {
			t.Errorf("limits lack %q", limit)
		}
	}
}

// TestOnlyPipes checks that the worker's own check finds what should not be
// there: this test process has an environment.
func TestOnlyPipes(t *testing.T) {
	if err := onlyPipes(); err == nil {
		t.Error("a test process passes for a worker")
	}
	if err := inEmptyDirectory(); err == nil {
		t.Error("this directory passes for empty")
	}
}

// TestMemoryLimit gives a worker less memory than its job needs: the worker
// dies, and that is an engine fault, not an outcome.
func TestMemoryLimit(t *testing.T) {
	idle := testPool(t, PoolConfig{})
	used, err := statusBytes(idle.pids()[0], "VmData") // what a worker has before it does anything
	if err != nil {
		t.Fatal(err)
	}
	b := wasmtest.Command()
	b.Start("", wasmtest.I32Const(MaxMemoryPages-1), wasmtest.Op(0x40, 0, 0x1a))
	p := testPool(t, PoolConfig{WorkerMemory: used + 128<<20})
	job := newJob(b.Bytes())
	job.Limits.MemoryPages = MaxMemoryPages
	if r, err := p.Run(t.Context(), job); !errors.Is(err, ErrEngineFault) {
		t.Errorf("result %v, error %v; want an engine fault (enforced: %+v)", r, err, p.Enforcement())
	}
	job.Limits.MemoryPages = 256
	r, err := p.Run(t.Context(), job)
	if err != nil || r.Outcome.PeakPages != 1 {
		t.Errorf("with a smaller limit growing should fail in the guest: %v, %v", r, err)
	}
}

// TestParentDeathKillsWorkers kills a process that holds a pool whose worker is
// busy, and waits for the worker to end.
func TestParentDeathKillsWorkers(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := &exec.Cmd{Path: exe, Args: []string{badWorkerName + "pool holder"}}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil || pid == 0 {
		t.Fatalf("worker's process is %d, %v", pid, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	// Its parent is gone, so it is not ours to wait for: ask until it is gone.
	deadline := time.Now().Add(10 * time.Second)
	for running(pid) {
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the worker outlived its parent")
		}
	}
}

func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := bytes.Cut(b, []byte(") "))
	return len(state) > 0 && state[0] != 'Z' && state[0] != 'X'
}

func init() {
	// A process with a pool, whose worker computes for ever.
	badWorkers["pool holder"] = func() {
		p, err := NewPool(PoolConfig{Workers: 1})
		if err != nil {
			os.Exit(1)
		}
		c := p.idle[0]
		go p.Run(p.ctx, newJob(spinner()))
		for !c.heard.Load() {
			runtime.Gosched()
		}
		fmt.Println(c.cmd.Process.Pid)
		forever()
	}
}

// parent is the process of the pool. It is asked for before that is forbidden.
var parent = os.Getppid()

// fcntl changes something about standard error, a pipe to the pool.
func fcntl(command, argument int) error {
	_, err := unix.FcntlInt(2, command, argument)
	return err
}

func mapMemory(flags int) error {
	_, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, flags|syscall.MAP_ANON)
	return err
}

// escapes are what a worker that was taken over might try. Each returns nil if
// it succeeded.
var escapes = map[string]func() error{
	"read a file":      func() error { _, err := os.ReadFile("/etc/passwd"); return err },
	"list a directory": func() error { _, err := os.ReadDir("/"); return err },
	"read another's memory": func() error {
		_, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", parent))
		return err
	},
	"make a file":   func() error { return os.WriteFile("file", nil, 0o600) },
	"change a file": func() error { _, err := os.OpenFile("/proc/self/exe", os.O_RDWR, 0); return err },
	"make a socket": func() error {
		_, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		return err
	},
	"make a local socket": func() error {
		_, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		return err
	},
	"start a program": func() error { return exec.Command("/proc/self/exe").Run() },
	"become a program": func() error {
		return syscall.Exec("/proc/self/exe", []string{"x"}, nil)
	},
	"signal its parent":   func() error { return syscall.Kill(parent, 0) },
	"signal another":      func() error { return syscall.Tgkill(parent, parent, 0) },
	"trace its parent":    func() error { return syscall.PtraceAttach(parent) },
	"raise its limits":    func() error { return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 99, Max: 99}) },
	"leave its group":     func() error { _, err := syscall.Setsid(); return err },
	"change the root":     func() error { return syscall.Chroot(".") },
	"change its identity": func() error { return syscall.Setuid(0) },
	"make a namespace":    func() error { return syscall.Unshare(syscall.CLONE_NEWNS) },

	// Together these three have the kernel kill the pool's process. Here each is
	// harmless; the filter does not look at whom it would hit.
	"say whom a pipe signals": func() error { return fcntl(unix.F_SETOWN, os.Getpid()) },
	"choose a pipe's signal":  func() error { return fcntl(unix.F_SETSIG, 0) },
	"have a pipe signal":      func() error { return fcntl(unix.F_SETFL, syscall.O_WRONLY|syscall.O_ASYNC) },

	"find out its parent": func() error {
		_, _, errno := syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
		return errnoOrNil(errno)
	},
	"enlarge a pipe":              func() error { return fcntl(unix.F_SETPIPE_SZ, 1<<16) },
	"map shared memory":           func() error { return mapMemory(syscall.MAP_SHARED) },
	"map a stack without a limit": func() error { return mapMemory(syscall.MAP_PRIVATE | syscall.MAP_GROWSDOWN) },
}

func errnoOrNil(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// needs are what a worker must be able to do of calls that are otherwise
// forbidden. Each returns nil if it could.
var needs = map[string]func() error{
	"map memory": func() error { return mapMemory(syscall.MAP_PRIVATE) },
	"keep a descriptor's flags": func() error {
		flags, err := unix.FcntlInt(2, unix.F_GETFL, 0)
		return errors.Join(err, fcntl(unix.F_SETFL, flags))
	},
}

// escaping confines itself as a worker does, tries all escapes, and reports in
// its greeting which succeeded.
func escaping() {
	readFrame(os.Stdin)
	e := confine(workerConfig{memoryBytes: DefaultWorkerMemory}, roleOf(os.Args[0]))
	var done []string
	for what, try := range escapes {
		if try() == nil {
			done = append(done, what)
		}
	}
	for what, try := range needs {
		if err := try(); err != nil {
			done = append(done, fmt.Sprintf("not %s: %v", what, err))
		}
	}
	e.Note += strings.Join(done, ", ")
	writeFrame(os.Stdout, frameGreeting, e.pack())
	readFrame(os.Stdin)
}

func init() {
	badWorkers["escapes"] = func() {
		if err := confineAndExec(badWorkerName+"escaping", false); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	badWorkers["escaping"] = escaping
	badWorkers["escaping"+filesSuffix] = escaping
	// A worker that cannot read the root directory, and whose first stage does not
	// say why.
	badWorkers["silent first stage"] = func() {
		err := confineFiles(false)
		if err == nil {
			err = syscall.Exec(selfPath, []string{runnerName + confinedSuffix}, nil)
		}
		fmt.Fprintln(os.Stderr, err)
	}
}

// TestFilesAreConfinedByWord checks that a worker does not take the permissions
// of the root directory for a confinement.
func TestFilesAreConfinedByWord(t *testing.T) {
	if e := testPool(t, PoolConfig{}).Enforcement(); !e.Filesystem {
		t.Skipf("not enforced on this machine: %+v", e)
	}
	p, err := newPool(PoolConfig{Workers: 1}, badCommand("silent first stage"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if e := p.Enforcement(); e.Filesystem || !strings.Contains(e.Note, "no Landlock") {
		t.Errorf("enforcement is %+v", e)
	}
}

// TestEscapes has a worker try to get out of its confinement, as far as this
// machine enforces it.
func TestEscapes(t *testing.T) {
	p, err := newPool(PoolConfig{Workers: 1}, badCommand("escapes"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	e := p.Enforcement()
	if !e.Filesystem || !e.SystemCalls {
		t.Skipf("not enforced on this machine: %+v", e)
	}
	if e.Note != "" {
		t.Errorf("a worker could: %s", e.Note)
	}
}

// TestCompilerConfinement confines a compiler, which may make files in its
// directory and nowhere else.
func TestCompilerConfinement(t *testing.T) {
	p := testPool(t, PoolConfig{})
	c, err := p.start(t.Context(), compilerName)
	if err != nil {
		t.Fatal(err)
	}
	defer p.end(c)
	e := c.greeting
	if e.NoFileWrites || e.Note != "" || !e.SystemCalls || !e.Filesystem || !e.NoNewPrivs {
		t.Errorf("enforcement is %+v", e)
	}
}
