package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// startTimeout bounds the start of a worker until its greeting.
	startTimeout = 30 * time.Second
	// exitTimeout is how long an idle worker may take to end when its pipe closes.
	exitTimeout = 2 * time.Second
	// maxComplaint bounds what is kept of a worker's own standard error, the Go
	// runtime's last words.
	maxComplaint = 2 << 10
)

// A child is the pool's end of one worker process. One goroutine at a time
// talks to it; kill may be called from any.
type child struct {
	cmd       *exec.Cmd
	in        io.WriteCloser // to the worker
	out       io.ReadCloser  // from the worker
	complaint *complaint
	greeting  Enforcement
	log       *slog.Logger
	last      programKey  // what it ran last, and so has warm
	heard     atomic.Bool // it has sent something since the last request

	mu     sync.Mutex
	reaped bool  // waited for: its process group is no longer its own
	killed error // why it was killed, the first reason
}

// A complaint keeps the beginning of a worker's standard error. It is
// untrusted text, for the log only.
type complaint struct {
	mu sync.Mutex
	b  []byte
}

func (c *complaint) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.b = appendUpTo(c.b, b, maxComplaint)
	return len(b), nil
}

func (c *complaint) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	line, _, _ := bytes.Cut(c.b, []byte("\n"))
	return string(line)
}

// startChild starts a worker process. It must be called on a thread that
// outlives the worker.
func startChild(cmd *exec.Cmd, log *slog.Logger) (*child, error) {
	c := &child{cmd: cmd, complaint: &complaint{}, log: log}
	prepareChild(cmd)
	cmd.Env = []string{}
	cmd.Stderr = c.complaint
	cmd.WaitDelay = exitTimeout
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, engineFault("starting a worker: %w", err)
	}
	if c.out, err = cmd.StdoutPipe(); err != nil {
		return nil, engineFault("starting a worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, engineFault("starting a worker: %w", err)
	}
	return c, nil
}

// greet configures a started worker.
func (c *child) greet(config workerConfig) error {
	timer := time.AfterFunc(startTimeout, func() { c.kill(errors.New("no greeting in time")) })
	defer timer.Stop()
	if err := writeFrame(c.in, frameConfig, config.pack()); err != nil {
		return c.fault(err)
	}
	payload, err := c.expect(frameGreeting)
	if err != nil {
		return err
	}
	if c.greeting, err = unpackEnforcement(payload); err != nil {
		return c.fault(err)
	}
	return nil
}

// kill ends the process now. What is being read from it then fails.
func (c *child) kill(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed == nil {
		c.killed = reason
	}
	if !c.reaped {
		killGroup(c.cmd.Process)
	}
}

// killReason returns why the child was killed, or nil.
func (c *child) killReason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.killed
}

// stop ends and reaps the process: by closing its pipe, after which an idle
// worker ends by itself, or else by killing it.
func (c *child) stop() {
	c.in.Close()
	if c.killReason() == nil {
		timer := time.AfterFunc(exitTimeout, func() { c.kill(errors.New("did not end when idle")) })
		io.Copy(io.Discard, io.LimitReader(c.out, 1<<20)) // until it ends
		timer.Stop()
	}
	c.kill(ErrClosed) // whatever is left in its group
	c.reap()
}

// reap waits for a process that was killed, once.
func (c *child) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return
	}
	err := c.cmd.Wait()
	c.reaped = true
	c.log.Debug("sandbox worker ended", "pid", c.cmd.Process.Pid, "reason", c.killed, "status", fmt.Sprint(err), "complaint", c.complaint.String())
}

// fault turns an error of the conversation into what the caller is told, and
// ends the worker.
func (c *child) fault(err error) error {
	c.kill(err)
	c.reap() // so that its last words are all here
	reason := c.killReason()
	if errors.Is(reason, ErrStopped) {
		return reason
	}
	if text := c.complaint.String(); text != "" {
		return engineFault("worker failed: %w (it said %q)", reason, text)
	}
	return engineFault("worker failed: %w", reason)
}

// expect reads a frame that must be of the given kind.
func (c *child) expect(want frameKind) ([]byte, error) {
	kind, payload, err := c.read()
	if err != nil {
		return nil, err
	}
	if kind != want {
		return nil, c.fault(fmt.Errorf("%w: frame %d, expected %d", errProtocol, kind, want))
	}
	return payload, nil
}

func (c *child) read() (frameKind, []byte, error) {
	kind, payload, err := readFrame(c.out)
	if err != nil {
		return 0, nil, c.fault(err)
	}
	return kind, payload, nil
}

// A request is one exchange with a worker.
type request struct {
	kind           frameKind // frameJob or frameAdmit
	payload        []byte
	module         []byte        // sent if the worker asks
	compileTimeout time.Duration // from the start
	runTimeout     time.Duration // from the running frame
	answer         frameKind
}

// do sends a request and returns its answer's payload. Errors are the worker's
// failure, or ErrStopped, or an engine fault. Afterwards killReason says whether
// the worker can be used again.
func (c *child) do(ctx context.Context, q request) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { c.kill(fmt.Errorf("%w: %w", ErrStopped, context.Cause(ctx))) })
	guard := c.guard("compiling", q.compileTimeout)
	inTime := true
	answer, err := c.exchange(q, func() {
		inTime = guard.Stop()
		guard = c.guard("wall-clock", q.runTimeout)
	})
	if !guard.Stop() || !stop() || !inTime {
		// A kill is on its way: it must not hit the next request.
		c.kill(ErrStopped)
	}
	return answer, err
}

// guard kills the worker after a while.
func (c *child) guard(what string, d time.Duration) *time.Timer {
	return time.AfterFunc(d, func() { c.kill(fmt.Errorf("%w: %s guard of %v passed", ErrStopped, what, d)) })
}

// exchange sends q and reads frames until its answer. It calls running when the
// guest is about to start.
func (c *child) exchange(q request, running func()) ([]byte, error) {
	c.heard.Store(false)
	if err := writeFrame(c.in, q.kind, q.payload); err != nil {
		return nil, c.fault(err)
	}
	sent, ran := false, false
	for {
		kind, payload, err := c.read()
		if err != nil {
			return nil, err
		}
		c.heard.Store(true)
		switch {
		case kind == frameNeed && !sent && !ran:
			sent = true
			if err := writeFrame(c.in, frameModule, q.module); err != nil {
				return nil, c.fault(err)
			}
		case kind == frameRunning && !ran && q.kind == frameJob:
			ran = true
			running()
		case kind == q.answer && ran == (q.kind == frameJob):
			return payload, nil
		case kind == frameFailure:
			failure, err := unpackFailure(payload)
			if err != nil {
				return nil, c.fault(err)
			}
			return nil, failure
		default:
			return nil, c.fault(fmt.Errorf("%w: unexpected frame %d", errProtocol, kind))
		}
	}
}

// workerCommand is this binary as a worker.
func workerCommand(dir string) (*exec.Cmd, error) {
	path := selfPath
	if path == "" {
		var err error
		if path, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	return &exec.Cmd{Path: path, Args: []string{workerName}, Dir: dir}, nil
}
