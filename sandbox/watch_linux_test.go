package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// hoard takes memory in pieces that its limit of data no longer counts once they
// are read-only, up to most bytes, and returns how much it got. Pages that are
// filled are the machine's, others only address space.
func hoard(most int, fill bool) (got int) {
	const piece = 8 << 20
	for got < most {
		b, err := syscall.Mmap(-1, 0, piece, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
		if err != nil {
			return got
		}
		for i := 0; fill && i < len(b); i += 4096 {
			b[i] = 1
		}
		if err := syscall.Mprotect(b, syscall.PROT_READ); err != nil {
			return got
		}
		got += piece
	}
	return got
}

// hoardedMost is far more than any limit of these tests.
const hoardedMost = 64 << 30

func init() {
	stage := func(name string, then func(c workerConfig)) {
		badWorkers[name] = func() {
			if err := confineAndExec(badWorkerName+name+confinedSuffix, false); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		second := func() {
			_, payload, _ := readFrame(os.Stdin)
			c, err := unpackConfig(payload)
			if err == nil {
				then(c)
			}
		}
		badWorkers[name+confinedSuffix], badWorkers[name+confinedSuffix+filesSuffix] = second, second
	}
	// It says in its greeting what it had mapped before it was confined, and how
	// much more it could map afterwards.
	stage("maps", func(c workerConfig) {
		before, _ := statusBytes(os.Getpid(), "VmSize")
		e := confine(c, roleOf(os.Args[0]))
		e.Note += fmt.Sprint(" ", before, " ", hoard(hoardedMost, false))
		writeFrame(os.Stdout, frameGreeting, e.pack())
		readFrame(os.Stdin)
	})
	// These take a job, and then more memory, or threads, than they may.
	stage("fills", func(c workerConfig) {
		writeFrame(os.Stdout, frameGreeting, confine(c, roleOf(os.Args[0])).pack())
		readFrame(os.Stdin)
		hoard(int(c.memoryBytes)+int(c.memoryBytes)/2, true)
		forever() // what it has it keeps
	})
	stage("many threads", func(c workerConfig) {
		writeFrame(os.Stdout, frameGreeting, confine(c, roleOf(os.Args[0])).pack())
		readFrame(os.Stdin)
		var pipe [2]int
		if err := syscall.Pipe2(pipe[:], 0); err != nil {
			return
		}
		for range workerTasks + 64 { // each a thread that waits
			go syscall.Read(pipe[0], make([]byte, 1))
		}
		forever()
	})
}

// TestAddressSpaceIsBounded has a worker map what its limit of data does not
// count: it gets no more than its memory, what the runtime had reserved, and the
// slack.
func TestAddressSpaceIsBounded(t *testing.T) {
	idle := testPool(t, PoolConfig{})
	used, err := statusBytes(idle.pids()[0], "VmData")
	if err != nil {
		t.Fatal(err)
	}
	memory := used + 256<<20
	p, err := newPool(PoolConfig{Workers: 1, WorkerMemory: memory}, badCommand("maps"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	e := p.Enforcement()
	if !e.AddressSpace || e.MemoryBytes != memory {
		t.Fatalf("enforcement is %+v", e)
	}
	var before, more int64
	if _, err := fmt.Sscan(e.Note, &before, &more); err != nil {
		t.Fatalf("%q: %v", e.Note, err)
	}
	if more <= memory/2 || more > memory+addressSlack {
		t.Errorf("a worker with %d bytes of memory mapped %d beyond %d", memory, more, before)
	}
}

// TestWorkersAreWatched has workers take more than they may while they answer
// nobody: they are ended, and the run is an engine fault, long before its guard.
func TestWorkersAreWatched(t *testing.T) {
	idle := testPool(t, PoolConfig{})
	if !idle.Enforcement().Watched {
		t.Skip("not possible on this machine")
	}
	used, err := statusBytes(idle.pids()[0], "VmData")
	if err != nil {
		t.Fatal(err)
	}
	for behaviour, test := range map[string]struct {
		memory int64
		want   string
	}{
		"fills":        {used + 128<<20, "bytes of memory, the limit is"},
		"many threads": {8 << 30, "threads, the limit is"},
	} {
		t.Run(behaviour, func(t *testing.T) {
			p, err := newPool(PoolConfig{Workers: 1, WorkerMemory: test.memory}, badCommand(behaviour))
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			pid := p.pids()[0]
			_, err = p.Run(t.Context(), newJob(printer(func(uint32) []byte { return nil })))
			if !errors.Is(err, ErrEngineFault) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want an engine fault with %q", err, test.want)
			}
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the worker is still there: %v", err)
			}
		})
	}
}

// TestOveruse checks that a process that ended is none, and this one is one if
// nothing is allowed.
func TestOveruse(t *testing.T) {
	if err := overuse(os.Getpid(), 1<<40); err != nil {
		t.Error(err)
	}
	if err := overuse(os.Getpid(), 0); err == nil {
		t.Error("this process has no memory")
	}
	ended := exec.Command("/proc/self/exe", "-test.run=^$")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	if err := overuse(ended.Process.Pid, 0); err != nil {
		t.Error(err)
	}
}
