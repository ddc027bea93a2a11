package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"time"
)

const (
	// watchInterval is how often a worker is looked at. What it can take in between
	// is what it can fill in that time.
	watchInterval = 100 * time.Millisecond
	// workerTasks is far more threads than the runtime makes for workerThreads;
	// each costs the kernel memory that no limit of a process counts.
	workerTasks = 256
)

// watch kills a worker that has more memory or threads than it may, until it is
// reaped. The worker's own limits bound what it may map; this bounds what it
// fills, however it got it, with an eighth for native code and page tables.
func (c *child) watch(limit int64) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-ticker.C:
		}
		if err := overuse(c.cmd.Process.Pid, limit+limit/8); err != nil {
			c.kill(err)
			return
		}
	}
}

// overuse is the error of a process that has more anonymous memory (in pages,
// swapped or in page tables) than the limit, or too many threads. One that is
// about to be reaped has none.
func overuse(pid int, limit int64) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil // it has ended
	}
	bytes := int64(0)
	for _, name := range []string{"RssAnon", "RssShmem", "VmSwap", "VmPTE"} {
		kb, _ := statusField(status, name) // a process that is ending has no such fields
		bytes += kb << 10
	}
	if bytes > limit {
		return engineFault("the worker has %d bytes of memory, the limit is %d", bytes, limit)
	}
	if tasks, _ := statusField(status, "Threads"); tasks > workerTasks {
		return engineFault("the worker has %d threads, the limit is %d", tasks, workerTasks)
	}
	return nil
}

// statusBytes is a field in kilobytes of what the system says about a process.
func statusBytes(pid int, name string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	kb, err := statusField(status, name)
	if err != nil {
		return 0, fmt.Errorf("status of process %d: %w", pid, err)
	}
	return kb << 10, nil
}

// statusField is the number that a field begins with.
func statusField(status []byte, name string) (n int64, err error) {
	_, rest, ok := bytes.Cut(status, []byte("\n"+name+":"))
	if !ok {
		return 0, fmt.Errorf("no field %s", name)
	}
	_, err = fmt.Fscan(bytes.NewReader(rest), &n)
	return n, err
}

// watchable reports whether a worker can be watched from here.
func watchable(pid int) bool {
	_, err := statusBytes(pid, "RssAnon")
	return err == nil
}
