package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds of starting and stopping a child process.
const (
	startTimeout = 60 * time.Second
	stopTimeout  = 15 * time.Second
	startPoll    = 20 * time.Millisecond
)

// child is a server that `tally dev` keeps running: when it dies it is started
// again at the same address, so that one can pull the plug and watch the
// cluster recover. Its output goes to a log file.
type child struct {
	name, binary string
	mu           sync.Mutex
	args         []string // guarded by mu
	log          string   // path
	pidFile      string   // path
	// exited is closed when the supervisor is done: after stop, or because the
	// server keeps dying, with err set before.
	exited   chan struct{}
	err      error
	stopping chan struct{}
	// listened says that the server has been up, or that nobody waits for that. One
	// that never was is not started again and again: something is wrong with how it
	// is started. Guarded by mu.
	listened bool
	notify   func(format string, args ...any)
}

// sibling finds the other binaries beside this one.
func sibling(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", withHint(fmt.Errorf("%s is not beside tally in %q", name, filepath.Dir(self)),
			"build all programs into one folder: go build -o bin/ ./cmd/...")
	}
	return path, nil
}

// run runs a binary to its end and returns its standard output.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	path, err := sibling(name)
	if err != nil {
		return nil, err
	}
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return []byte(stdout.String()), nil
}

// Restarting: a server that dies more often than this within a minute is
// broken, and the cluster ends. Each death within the minute makes the next
// start wait a little longer. One that has never listened is given up sooner, but
// not before a last one of the folder that is about to end has let go of the files.
// A server that was up and is killed by somebody else is not to blame: it is
// started again however often that happens.
const (
	maxRestarts   = 20
	maxStarts     = 4
	startsWindow  = 2 * stopTimeout
	restartWindow = time.Minute
	restartDelay  = 100 * time.Millisecond
)

// start starts a server and the goroutine that supervises it.
func (c *child) start() error {
	c.exited, c.stopping = make(chan struct{}), make(chan struct{})
	for _, file := range []string{c.log, c.pidFile} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
	}
	cmd, err := c.spawn()
	if err != nil {
		return err
	}
	go c.supervise(cmd)
	return nil
}

// listenAt pins the address for later starts.
func (c *child) listenAt(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listened = true
	if i := slices.Index(c.args, "--listen"); i >= 0 {
		c.args[i+1] = addr
	}
}

// spawn starts one process.
func (c *child) spawn() (*exec.Cmd, error) {
	c.mu.Lock()
	args := slices.Clone(c.args)
	c.mu.Unlock()
	path, err := sibling(c.binary)
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = childAttr()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.name, err)
	}
	return cmd, writeFile(c.pidFile, fmt.Appendf(nil, "%d\n", cmd.Process.Pid))
}

// supervise owns the process: it waits for its end and starts the next one.
func (c *child) supervise(cmd *exec.Cmd) {
	defer close(c.exited)
	defer os.Remove(c.pidFile)
	var own deaths
	for {
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		var died error
		select {
		case died = <-done:
		case <-c.stopping:
			terminate(cmd, done)
			return
		}
		var broken bool
		if own, broken = c.ended(own, cmd.ProcessState, time.Now()); broken {
			c.err = died
			return
		}
		c.notify("%s ended (%v); starting it again", c.name, died)
		select {
		case <-time.After(restartDelay * time.Duration(max(1, len(own)))):
		case <-c.stopping:
			return
		}
		if cmd, c.err = c.spawn(); c.err != nil {
			return
		}
	}
}

// deaths are those that a server is to blame for, within the last restartWindow.
type deaths []time.Time

// ended takes the end of a process, and says whether starting the server again is
// in vain. It returns what is to be given to it the next time.
func (c *child) ended(own deaths, state *os.ProcessState, now time.Time) (_ deaths, broken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.listened || !killed(state) {
		own = append(own, now)
	}
	for len(own) > 0 && now.Sub(own[0]) > restartWindow {
		own = own[1:]
	}
	n := len(own)
	if c.listened {
		return own, n > maxRestarts
	}
	return own, n > maxStarts && own[n-1].Sub(own[0]) > startsWindow
}

// killed reports whether SIGKILL ended a process. No server sends it to itself: it
// was somebody who tries what the cluster does then, or the kernel for want of
// memory.
func killed(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// terminate asks a process to end, and kills it when it does not.
func terminate(cmd *exec.Cmd, done <-chan error) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-done:
	case <-time.After(stopTimeout):
		_ = cmd.Process.Kill()
		<-done
	}
}

// stop ends the server and waits for it.
func (c *child) stop() {
	close(c.stopping)
	<-c.exited
}

// address waits until the server has written where it listens.
func (c *child) address(ctx context.Context, file string) (string, error) {
	timeout := time.After(startTimeout)
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for {
		if data, err := os.ReadFile(file); err == nil && len(data) > 0 {
			return strings.TrimSpace(string(data)), nil
		}
		select {
		case <-tick.C:
		case <-c.exited:
			return "", c.died()
		case <-timeout:
			return "", withHint(fmt.Errorf("%s did not start within %v", c.name, startTimeout), "its log is "+c.log)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// died says that and how the process ended, with the end of its log.
func (c *child) died() error {
	tail := lastLines(c.log, 5)
	err := fmt.Errorf("%s ended: %w", c.name, errors.Join(c.err, errors.New(tail)))
	return withHint(err, "its log is "+c.log)
}

// lastLines returns the end of a file, for an error message.
func lastLines(path string, n int) string {
	const most = 4096
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	data, _ := io.ReadAll(io.LimitReader(f, most))
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
