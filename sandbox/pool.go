package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Defaults of [PoolConfig].
const (
	// DefaultWorkerMemory leaves room for the largest guest memory while it grows
	// (two copies), the engine's native stack and the compiler.
	DefaultWorkerMemory = 2 << 30
	// DefaultCompileTimeout is far above what the static bounds of admission let
	// compiling take.
	DefaultCompileTimeout = 2 * time.Minute
)

// PoolConfig configures a [Pool]. The zero value is useful.
type PoolConfig struct {
	// Workers is the number of worker processes, and so of runs at a time; 0 means
	// GOMAXPROCS.
	Workers int
	// WorkerMemory limits the data of each worker, in bytes; 0 means
	// DefaultWorkerMemory.
	WorkerMemory int64
	// CachedModules is how many compiled modules each worker keeps warm; 0 means
	// DefaultCachedModules.
	CachedModules int
	// CacheDir, if not empty, keeps compiled code across workers and restarts. It
	// holds native code that workers execute, and workers write to it: keep it
	// private to this pool. It is made with mode 0700 if it does not exist.
	CacheDir string
	// CompileTimeout guards validating and compiling; 0 means DefaultCompileTimeout.
	CompileTimeout time.Duration
	// Logger gets the lives of workers; nil means none.
	Logger *slog.Logger
}

// A Pool runs jobs in worker processes, each started from this binary (see
// [IsWorker]) and kept warm between jobs. A worker that breaks the protocol,
// dies, or has to be stopped is killed and replaced.
//
// A Pool is safe for concurrent use. Its spawner goroutine owns the thread that
// is the parent of all workers; a child is owned by the run that took it from
// idle; mu guards idle and enforcement.
type Pool struct {
	config  PoolConfig
	worker  workerConfig
	dir     string // empty, the working directory of the workers
	command func(dir string) (*exec.Cmd, error)

	ctx     context.Context // ends when Close begins
	cancel  context.CancelCauseFunc
	tokens  chan struct{} // one for each run; holds as many as there are workers
	starts  chan start
	spawned sync.WaitGroup // the spawner
	closing sync.Once

	mu          sync.Mutex
	idle        []*child // least recently used first
	enforcement Enforcement
}

// A start asks the spawner for a worker.
type start struct {
	cmd    *exec.Cmd
	answer chan<- started
}

type started struct {
	child *child
	err   error
}

// NewPool starts the workers and returns when all have answered.
func NewPool(config PoolConfig) (*Pool, error) { return newPool(config, workerCommand) }

func newPool(config PoolConfig, command func(dir string) (*exec.Cmd, error)) (*Pool, error) {
	if config.Workers <= 0 {
		config.Workers = runtime.GOMAXPROCS(0)
	}
	if config.WorkerMemory <= 0 {
		config.WorkerMemory = DefaultWorkerMemory
	}
	if config.CachedModules <= 0 {
		config.CachedModules = DefaultCachedModules
	}
	if config.CompileTimeout <= 0 {
		config.CompileTimeout = DefaultCompileTimeout
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if err := privateDir(config.CacheDir); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tallystick-sandbox-")
	if err != nil {
		return nil, engineFault("making the workers' directory: %w", err)
	}
	p := &Pool{
		config:  config,
		worker:  workerConfig{config.WorkerMemory, uint32(config.CachedModules), config.CacheDir},
		dir:     dir,
		command: command,
		tokens:  make(chan struct{}, config.Workers),
		starts:  make(chan start),
	}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	p.spawned.Go(p.spawn)
	if err := p.startAll(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// privateDir makes dir, or checks that nobody else can write to it.
func privateDir(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return engineFault("making the compilation cache: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return engineFault("making the compilation cache: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return engineFault("compilation cache %q has mode %v: it holds code that workers execute; chmod it to 0700", dir, info.Mode().Perm())
	}
	return nil
}

// spawn starts worker processes. Its thread is their parent, whose end the
// system answers by killing them, so it stays until all have been reaped.
func (p *Pool) spawn() {
	runtime.LockOSThread()
	for s := range p.starts {
		c, err := startChild(s.cmd, p.config.Logger)
		s.answer <- started{c, err}
	}
}

// startAll starts all workers side by side.
func (p *Pool) startAll() error {
	errs := make([]error, p.config.Workers)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			c, err := p.start()
			if err != nil {
				errs[i] = err
				return
			}
			p.mu.Lock()
			p.idle = append(p.idle, c)
			p.mu.Unlock()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (p *Pool) start() (*child, error) {
	cmd, err := p.command(p.dir)
	if err != nil {
		return nil, engineFault("finding this binary: %w", err)
	}
	answer := make(chan started)
	p.starts <- start{cmd, answer}
	s := <-answer
	if s.err != nil {
		return nil, s.err
	}
	if err := s.child.greet(p.worker); err != nil {
		s.child.stop()
		return nil, err
	}
	p.mu.Lock()
	p.enforcement = s.child.greeting
	p.mu.Unlock()
	p.config.Logger.Debug("sandbox worker started", "pid", s.child.cmd.Process.Pid)
	return s.child, nil
}

// Enforcement returns what confines the workers, as the last one started
// reported.
func (p *Pool) Enforcement() Enforcement {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enforcement
}

// Run runs a job in a worker process, waiting for one to be free. When ctx ends
// the run is killed. Errors are a [*Refusal] or wrap [ErrInvalidJob],
// [ErrStopped], [ErrEngineFault] or [ErrClosed].
func (p *Pool) Run(ctx context.Context, job Job) (*Result, error) {
	if err := job.check(); err != nil {
		return nil, err
	}
	if len(job.Module) > MaxModuleBytes {
		return nil, refuse(RefusedSize, "", "%d bytes, at most %d are taken", len(job.Module), MaxModuleBytes)
	}
	var result *Result
	err := p.serve(ctx, job.key(), request{
		kind:           frameJob,
		payload:        packJob(&job),
		module:         job.Module,
		compileTimeout: p.config.CompileTimeout,
		runTimeout:     job.Limits.wallClock(),
		answer:         frameResult,
	}, func(answer []byte) (err error) {
		result, err = unpackResult(answer, &job)
		return err
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// Admit admits module as [Admit] does, here, and then has a worker validate and
// compile it, so that a module that was admitted also runs.
func (p *Pool) Admit(ctx context.Context, module []byte, capabilities []string, limits Limits) (*Admission, error) {
	admission, err := Admit(module, capabilities, limits)
	if err != nil {
		return nil, err
	}
	q := admitRequest{sha256.Sum256(module), capabilities, limits}
	caps, _ := capabilitySet(capabilities) // checked by Admit
	err = p.serve(ctx, programKey{q.digest, caps, limits.MemoryPages}, request{
		kind:           frameAdmit,
		payload:        q.pack(),
		module:         module,
		compileTimeout: p.config.CompileTimeout,
		answer:         frameAdmission,
	}, func(answer []byte) error { return checkAdmission(answer, admission) })
	if err != nil {
		return nil, err
	}
	return admission, nil
}

// serve has a worker answer q and shows the answer to accept, whose error is
// the worker's fault.
func (p *Pool) serve(ctx context.Context, key programKey, q request, accept func([]byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(ErrClosed) })()
	select {
	case p.tokens <- struct{}{}:
		defer func() { <-p.tokens }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w while waiting for a worker: %w", ErrStopped, context.Cause(ctx))
	}
	for {
		c, used, err := p.take(key)
		if err != nil {
			return err
		}
		answer, err := c.do(ctx, q)
		if err == nil {
			if err = accept(answer); err != nil {
				err = c.fault(err)
			}
		}
		p.put(c, key)
		// A worker that died while idle never heard of the job: ask another.
		if used && !c.heard.Load() && errors.Is(err, ErrEngineFault) && ctx.Err() == nil {
			continue
		}
		return err
	}
}

// take returns an idle worker, preferably one that has key warm, or a new one.
func (p *Pool) take(key programKey) (c *child, used bool, err error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		i := max(0, slices.IndexFunc(p.idle, func(c *child) bool { return c.last == key }))
		c = p.idle[i]
		p.idle = slices.Delete(p.idle, i, i+1)
	}
	p.mu.Unlock()
	if c != nil {
		return c, true, nil
	}
	c, err = p.start()
	return c, false, err
}

// put returns a worker after an exchange, or ends it if it was given up.
func (p *Pool) put(c *child, key programKey) {
	if c.killReason() != nil {
		c.stop()
		return
	}
	c.last = key
	p.mu.Lock()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
}

// Close stops what is running (its caller gets [ErrStopped] and [ErrClosed]),
// ends all workers and returns when they have been reaped.
func (p *Pool) Close() error {
	var err error
	p.closing.Do(func() {
		p.cancel(ErrClosed)
		for range cap(p.tokens) { // until no run has one
			p.tokens <- struct{}{}
		}
		var wg sync.WaitGroup
		for _, c := range p.idle {
			wg.Go(c.stop)
		}
		wg.Wait()
		p.idle = nil
		close(p.starts)
		p.spawned.Wait()
		if err = os.RemoveAll(p.dir); err != nil {
			err = fmt.Errorf("removing the workers' directory: %w", err)
		}
	})
	return err
}
