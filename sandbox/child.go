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
	// cancelGrace is how long a worker may take to end a metered run that was
	// cancelled. A slice of gas takes a few milliseconds at most; the rest is for
	// a busy machine.
	cancelGrace = time.Second
	// maxComplaint bounds what is kept of a worker's own standard error, the Go
	// runtime's last words.
	maxComplaint = 2 << 10
)

// A child is the pool's end of one worker process. One goroutine at a time
// talks to it; kill and cancel may be called from any.
type child struct {
	cmd       *exec.Cmd
	dir       string         // its working directory, its own
	in        io.WriteCloser // to the worker
	out       io.ReadCloser  // from the worker
	busy      time.Duration  // that it spent on requests
	complaint *complaint
	greeting  Enforcement
	log       *slog.Logger
	tenant    *string     // whose jobs it runs; nil if it has run none
	last      programKey  // what it ran last, and so has warm
	heard     atomic.Bool // it has sent something since the last request

	ended   chan struct{} // closed when it has been reaped
	writing sync.Mutex    // held while a frame is written
	mu      sync.Mutex
	reaped  bool  // waited for: its process group is no longer its own
	killed  error // why it was killed, the first reason
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
	c := &child{cmd: cmd, dir: cmd.Dir, complaint: &complaint{}, log: log, ended: make(chan struct{})}
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
	if err := c.write(frameConfig, config.pack()); err != nil {
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
	close(c.ended)
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

func (c *child) write(kind frameKind, payload []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return writeFrame(c.in, kind, payload)
}

// A request is one exchange with a worker.
type request struct {
	kind    frameKind // frameJob or frameCompile
	payload []byte
	// module is called if the worker asks for the program: with nil, and then, if
	// what it got did not serve and it asks for the whole, with the reason.
	module         func(unserved error) ([]byte, error)
	compileTimeout time.Duration // from the start
	runTimeout     time.Duration // from the running frame
	answer         frameKind
	// cancels reports whether the worker ends the request soon after a cancel; one
	// that would not is killed.
	cancels bool
}

// do sends a request and returns its answer's payload. Errors are the worker's
// failure, or ErrStopped, or an engine fault. Afterwards killReason says whether
// the worker can be used again.
func (c *child) do(ctx context.Context, q request) ([]byte, error) {
	start := time.Now()
	defer func() { c.busy += time.Since(start) }()
	l := &leash{c: c, cancels: q.cancels, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() {
		defer close(l.done)
		l.pull(fmt.Errorf("%w: %w", ErrStopped, context.Cause(ctx)))
	})
	guard := c.guard("compiling", q.compileTimeout)
	inTime := true
	fetch := q.module
	q.module = func(unserved error) ([]byte, error) {
		// Its time is not the worker's: a program that has to be made anew is compiled
		// meanwhile, under a guard of its own.
		inTime = guard.Stop() && inTime
		defer func() { guard = c.guard("compiling", q.compileTimeout) }()
		return fetch(unserved)
	}
	answer, err := c.exchange(q, func() {
		inTime = guard.Stop() && inTime
		// A worker that cancels runs keeps this guard itself.
		patience := q.runTimeout
		if q.cancels {
			patience += cancelGrace
		}
		guard = c.guard("wall-clock", patience)
	})
	stopped := !stop() // and the worker may have been told so
	if stopped {
		<-l.done
		inTime = inTime && l.loosen()
	}
	if !guard.Stop() || !inTime {
		// A kill is on its way: it must not hit the next request.
		c.kill(ErrStopped)
	}
	if stopped && err != nil && !errors.Is(err, ErrEngineFault) {
		return nil, fmt.Errorf("%w: %w", ErrStopped, context.Cause(ctx))
	}
	return answer, err
}

// guard kills the worker after a while.
func (c *child) guard(what string, d time.Duration) *time.Timer {
	return time.AfterFunc(d, func() { c.kill(fmt.Errorf("%w: %s guard of %v passed", ErrStopped, what, d)) })
}

// A leash ends a request whose context has ended: by asking the worker to, and
// by killing it if it would not, or does not in time.
type leash struct {
	c       *child
	cancels bool
	timer   *time.Timer   // kills; nil without cancels
	done    chan struct{} // closed when the leash was pulled
}

func (l *leash) pull(reason error) {
	if !l.cancels {
		l.c.kill(reason)
		return
	}
	l.timer = time.AfterFunc(cancelGrace, func() { l.c.kill(reason) })
	// Blocks at most until the kill; a worker that cannot be written to is
	// noticed by whoever talks to it.
	_ = l.c.write(frameCancel, nil)
}

// loosen reports whether a worker whose leash was pulled lives on.
func (l *leash) loosen() bool { return l.timer != nil && l.timer.Stop() }

// rulesOut reports whether q cannot have failed in this way. The pool has checked
// a job, and has had its module admitted, before a runner hears of it; one that
// refuses it all the same lies, and would do so about whoever's job comes next.
func (q *request) rulesOut(failure error) error {
	refusal := (*Refusal)(nil)
	if q.kind == frameJob && (errors.As(failure, &refusal) || errors.Is(failure, ErrInvalidJob)) {
		return fmt.Errorf("%w: a job that was admitted is refused: %q", errProtocol, failure.Error())
	}
	return nil
}

// exchange sends q and reads frames until its answer. It calls running when the
// guest is about to start.
func (c *child) exchange(q request, running func()) ([]byte, error) {
	c.heard.Store(false)
	if err := c.write(q.kind, q.payload); err != nil {
		return nil, c.fault(err)
	}
	sent, ran := frameKind(0), false // sent is what a module was last sent for
	for {
		kind, payload, err := c.read()
		if err != nil {
			return nil, err
		}
		c.heard.Store(true)
		switch {
		case !ran && (kind == frameNeed && sent == 0 || kind == frameNeedWhole && sent == frameNeed && q.kind == frameJob):
			sent = kind
			var unserved error
			if kind == frameNeedWhole {
				unserved = fmt.Errorf("a worker did without: %q", payload)
			}
			module, err := q.module(unserved)
			if err != nil {
				c.kill(err)
				return nil, err
			}
			if err := c.write(frameModule, module); err != nil {
				return nil, c.fault(err)
			}
		case kind == frameRunning && !ran && q.kind == frameJob:
			ran = true
			running()
		case kind == q.answer && ran == (q.kind == frameJob):
			return payload, nil
		case kind == frameFailure:
			failure, err := unpackFailure(payload)
			if err == nil {
				err = q.rulesOut(failure)
			}
			if err != nil {
				return nil, c.fault(err)
			}
			return nil, failure
		default:
			return nil, c.fault(fmt.Errorf("%w: unexpected frame %d", errProtocol, kind))
		}
	}
}

// workerCommand is this binary as a worker of that name.
func workerCommand(name, dir string) (*exec.Cmd, error) {
	path := selfPath
	if path == "" {
		var err error
		if path, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	return &exec.Cmd{Path: path, Args: []string{name}, Dir: dir}, nil
}
