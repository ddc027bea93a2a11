package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is what the kernel counts CPU time in, in /proc: USER_HZ is 100 on
// every architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuWatch tells who used how much CPU while something was measured.
type cpuWatch struct {
	start  time.Time
	server int // process id of the server that this process loads, or 0
	before cpuTimes
}

// cpuTimes are the CPU times used so far by all processes, by this one, by the
// watched server, and by the kernel's threads.
type cpuTimes struct{ busy, self, server, kernel time.Duration }

// watchCPU starts watching.
func watchCPU(server int) cpuWatch {
	w := cpuWatch{start: time.Now(), server: server}
	w.before = w.sample()
	return w
}

// cores are the CPUs that were used on average: by the measuring process, by
// the server that it loads, and by others. Kernel threads, which write back for
// everybody, are counted with none.
type cores struct{ Self, Server, Others float64 }

func (w cpuWatch) stop() cores {
	elapsed := time.Since(w.start).Seconds()
	now := w.sample()
	self, server := now.self-w.before.self, now.server-w.before.server
	others := now.busy - w.before.busy - self - server - (now.kernel - w.before.kernel)
	return cores{Self: self.Seconds() / elapsed, Server: server.Seconds() / elapsed, Others: max(0, others.Seconds()/elapsed)}
}

func (w cpuWatch) sample() (t cpuTimes) {
	if stat, err := os.ReadFile("/proc/stat"); err == nil {
		line, _, _ := bytes.Cut(stat, []byte("\n"))
		// cpu user nice system idle iowait irq softirq steal
		if f := strings.Fields(string(line)); len(f) > 3 {
			t.busy = ticks(f[1]) + ticks(f[2]) + ticks(f[3])
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return t
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		parent, used, ok := processTime(pid)
		switch {
		case !ok: // it has ended
		case pid == os.Getpid():
			t.self += used
		case pid == w.server:
			t.server += used
		case parent == 2 || pid == 2:
			t.kernel += used
		}
	}
	return t
}

// processTime returns a process's parent and the CPU time it has used.
func processTime(pid int) (parent int, used time.Duration, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	// The name, in parentheses, may hold anything.
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, 0, false
	}
	f := strings.Fields(string(stat[i+1:]))
	if len(f) < 13 {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(f[1])
	return parent, ticks(f[11]) + ticks(f[12]), err == nil
}

func ticks(text string) time.Duration {
	n, _ := strconv.ParseInt(text, 10, 64) // the kernel writes integers
	return time.Duration(n) * clockTick
}

// memoryPeak returns the largest resident size that a process has had, in MiB.
func memoryPeak(pid int) (float64, error) {
	return procField(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:", 1.0/1024)
}

// bytesWritten returns how many bytes a process has caused to be written to
// disk: what it dirtied in the page cache, by whole pages. The file system's
// own journal is not in it.
func bytesWritten(pid int) (float64, error) {
	return procField(fmt.Sprintf("/proc/%d/io", pid), "write_bytes:", 1)
}

func procField(path, field string, scale float64) (float64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			f := strings.Fields(rest)
			if len(f) == 0 {
				break
			}
			v, err := strconv.ParseFloat(f[0], 64)
			return v * scale, err
		}
	}
	return 0, fmt.Errorf("%s has no field %q", path, field)
}

// diskUsage returns the bytes allocated to the files below a directory.
func diskUsage(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // deleted meanwhile by its owner
			}
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			if err == unix.ENOENT {
				return nil
			}
			return err
		}
		total += st.Blocks * 512
		return nil
	})
	return total, err
}

// syncLatency returns the median time of appending 4 KiB to a file in dir and
// syncing it.
func syncLatency(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "sync-*")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	var took []time.Duration
	for range 200 {
		start := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took = append(took, time.Since(start))
	}
	return percentile(took, 50), nil
}

// percentile sorts the durations and returns one of them.
func percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)*p/100, len(d)-1)]
}

// machine prints what the figures depend on.
func (b *bench) machine() {
	var name unix.Utsname
	_ = unix.Uname(&name)
	fmt.Printf("machine   %s, Linux %s, GOMAXPROCS %d, %s\n", cpuModel(), unix.ByteSliceToString(name.Release[:]), runtime.GOMAXPROCS(0), runtime.Version())
	fmt.Printf("disk      %s on %s; sync of 4 KiB p50 %v at the start\n", b.dir, fileSystem(b.dir), b.fsync())
	fmt.Printf("versions  %s\n", versions())
	fmt.Printf("entries   unique: %s\n", b.shape)
	fmt.Printf("client    package lean: one thread, raw sockets, no pipelining, %d connections; servers and clients share the CPUs\n", httpConns)
	fmt.Printf("method    %d alternating series of each side, %v each after %v of warm-up, fresh directories, nothing deleted in between; median (min–max)\n", b.rounds(), b.window(), b.warm())
}

func (b *bench) fsync() time.Duration {
	d, err := syncLatency(b.dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: measuring the disk's sync:", err)
	}
	return d.Round(time.Microsecond)
}

// fileSystem tells the type, device and mount options of the file system that
// holds a directory.
func fileSystem(dir string) string {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "unknown file system"
	}
	if absolute, err := filepath.Abs(dir); err == nil {
		dir = absolute
	}
	longest, found := -1, "unknown file system"
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line) // device, mount point, type, options
		if len(f) < 4 || len(f[1]) < longest || !within(dir, f[1]) {
			continue
		}
		longest, found = len(f[1]), fmt.Sprintf("%s (%s, %s)", f[2], f[0], f[3])
	}
	return found
}

// within reports whether a path is a directory or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func (s shape) String() string {
	out := fmt.Sprintf("%d bytes", s.Entry)
	if s.Opening > 0 {
		out += fmt.Sprintf(", opening of %d bytes", s.Opening)
	}
	if s.Dedup {
		out += ", deduplication key of 32 bytes"
	}
	return out
}

func cpuModel() string {
	model := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s", runtime.NumCPU(), model)
}

// versions names the modules that are compared.
func versions() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	var out []string
	for _, m := range info.Deps {
		switch m.Path {
		case "github.com/transparency-dev/tessera", "github.com/transparency-dev/merkle", "github.com/cockroachdb/pebble/v2":
			out = append(out, strings.TrimPrefix(m.Path, "github.com/")+" "+m.Version)
		}
	}
	return strings.Join(out, ", ")
}
