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
	"sync"
	"time"
)

// poolPrefix begins the names of pools' directories, in that for temporary files.
const poolPrefix = "tallystick-pool-"

// Defaults of [PoolConfig].
const (
	// DefaultWorkerMemory leaves room for the largest guest memory while it grows
	// (two copies), the engine's native stack and the compiler.
	DefaultWorkerMemory = 2 << 30
	// DefaultCompileTimeout is far above what the static bounds of admission let
	// compiling take.
	DefaultCompileTimeout = 2 * time.Minute
	// DefaultCacheBytes holds some fifty Go commands, or thousands of small ones.
	DefaultCacheBytes = 1 << 30
)

// PoolConfig configures a [Pool]. The zero value is useful.
type PoolConfig struct {
	// Workers is the number of worker processes, and so of runs at a time; 0 means
	// GOMAXPROCS.
	Workers int
	// WorkerMemory limits the data of each worker, in bytes; 0 means
	// DefaultWorkerMemory.
	WorkerMemory int64
	// Interpreter has the workers interpret modules and not compile them, some
	// hundred times slower: a second opinion, also where there is no compiler.
	Interpreter bool
	// CachedModules is how many compiled modules each worker keeps warm; 0 means
	// DefaultCachedModules.
	CachedModules int
	// CacheDir, if not empty, keeps compiled programs across restarts; without it
	// they live as long as the pool. It holds native code that workers execute:
	// only processes of this binary and user, on this machine, may write to it, and
	// workers never do. It is made with mode 0700 if it does not exist. Workers load
	// soonest if it is on the file system of [os.TempDir], where their own
	// directories are. With Interpreter nothing is compiled, and it is not used.
	CacheDir string
	// CacheBytes bounds the directory's size, roughly; 0 means DefaultCacheBytes.
	CacheBytes int64
	// CompileTimeout guards validating and compiling; 0 means DefaultCompileTimeout.
	CompileTimeout time.Duration
	// Logger gets the lives of workers; nil means none.
	Logger *slog.Logger
}

// A Pool runs jobs in worker processes, each started from this binary (see
// [IsWorker]) and kept warm between jobs of one tenant. A worker that breaks the
// protocol, dies, or does not stop when it is to is killed and replaced; one that
// served a tenant is replaced before another is served. A module is
// admitted and rewritten here, once, and compiled in a process of its own that
// runs no guest; see programs.go.
//
// A Pool is safe for concurrent use. Its spawner goroutine owns the thread that
// is the parent of all workers; a child is owned by the run that took it from
// idle; mu guards what follows it.
type Pool struct {
	config   PoolConfig
	worker   workerConfig
	dir      poolDir // with a directory for each worker
	command  func(name, dir string) (*exec.Cmd, error)
	programs *programs

	ctx     context.Context // ends when Close begins
	cancel  context.CancelCauseFunc
	tokens  chan struct{} // one for each run; holds as many as there are workers
	starts  chan start
	spawned sync.WaitGroup // the spawner
	closing sync.Once

	mu          sync.Mutex
	idle        []*child // least recently used first
	enforcement Enforcement
	started     int       // workers, ever: names their directories
	faults      int       // workers that failed since one last answered
	notBefore   time.Time // of the next start, after too many faults
}

// NewPool starts the workers and returns when all have answered.
func NewPool(config PoolConfig) (*Pool, error) { return newPool(config, workerCommand) }

func newPool(config PoolConfig, command func(name, dir string) (*exec.Cmd, error)) (*Pool, error) {
	config = config.withDefaults()
	if err := privateDir(config.CacheDir); err != nil {
		return nil, err
	}
	dir, err := makePoolDir(os.TempDir())
	if err != nil {
		return nil, engineFault("making the workers' directory: %w", err)
	}
	p := &Pool{
		config:  config,
		worker:  workerConfig{config.WorkerMemory, uint32(config.CachedModules), config.Interpreter},
		dir:     dir,
		command: command,
		tokens:  make(chan struct{}, config.Workers),
		starts:  make(chan start),
	}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	p.spawned.Go(p.spawn)
	if p.programs, err = newPrograms(p); err == nil {
		err = p.startAll()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (c PoolConfig) withDefaults() PoolConfig {
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.WorkerMemory <= 0 {
		c.WorkerMemory = DefaultWorkerMemory
	}
	if c.CachedModules <= 0 {
		c.CachedModules = DefaultCachedModules
	}
	if c.CacheBytes <= 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if c.CompileTimeout <= 0 {
		c.CompileTimeout = DefaultCompileTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
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

// Enforcement returns what confines the workers, as the last one started
// reported.
func (p *Pool) Enforcement() Enforcement {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enforcement
}

// Run runs a job in a worker process, waiting for one to be free. When ctx ends
// the run is stopped. Errors are a [*Refusal] or wrap [ErrInvalidJob],
// [ErrStopped], [ErrEngineFault] or [ErrClosed].
func (p *Pool) Run(ctx context.Context, job Job) (*Result, error) {
	if err := job.check(); err != nil {
		return nil, err
	}
	var result *Result
	err := p.withSlot(ctx, func(ctx context.Context) error {
		program, err := p.programs.get(ctx, job.key(), job.Module)
		if err != nil {
			return err
		}
		return p.serve(ctx, program, &job, request{
			kind:           frameJob,
			payload:        packJob(&job),
			compileTimeout: p.config.CompileTimeout,
			runTimeout:     job.Limits.wallClock(),
			answer:         frameResult,
			cancels:        job.Limits.metered(),
		}, func(answer []byte) (err error) {
			if result, err = unpackResult(answer, &job, modeOf(p.config.Interpreter)); err == nil {
				result.RewrittenModule = program.admission.RewrittenModule
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// Admit admits module as [Admit] does, and then has a worker validate and
// compile it, so that a module that was admitted also runs, and soon.
func (p *Pool) Admit(ctx context.Context, module []byte, capabilities []string, limits Limits) (*Admission, error) {
	caps, err := capabilitySet(capabilities)
	if err != nil {
		return nil, err
	}
	if err := limits.check(); err != nil {
		return nil, err
	}
	var admission Admission
	err = p.withSlot(ctx, func(ctx context.Context) error {
		program, err := p.programs.get(ctx, limits.key(sha256.Sum256(module), caps), module)
		if err == nil {
			admission = *program.admission
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &admission, nil
}

// withSlot calls f when fewer runs than there are workers are under way. Its
// context also ends when the pool is closed.
func (p *Pool) withSlot(ctx context.Context, f func(context.Context) error) error {
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
	return f(ctx)
}

// serve has a worker of the job's tenant answer q about the program made of its
// module and shows the answer to accept, whose error is the worker's fault.
func (p *Pool) serve(ctx context.Context, program *preparedProgram, job *Job, q request, accept func([]byte) error) error {
	for {
		c, used, err := p.take(ctx, job.Tenant, program.key)
		if err != nil {
			return err
		}
		q.module = func(unserved error) (message []byte, err error) {
			program, message, err = p.programs.supply(ctx, program, job.Module, destination{c, unserved != nil, unserved})
			return message, err
		}
		answer, err := c.do(ctx, q)
		if err == nil {
			if err = accept(answer); err != nil {
				err = c.fault(err)
			}
		}
		p.programs.displace(program, c.dir)
		p.put(c, program.key, err)
		// A worker that died while idle never heard of the job: ask another.
		if used && !c.heard.Load() && errors.Is(err, ErrEngineFault) && ctx.Err() == nil {
			continue
		}
		return err
	}
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
			wg.Go(func() { p.end(c) })
		}
		wg.Wait()
		p.idle = nil
		close(p.starts)
		p.spawned.Wait()
		if err = p.dir.remove(); err != nil {
			err = fmt.Errorf("removing the workers' directory: %w", err)
		}
	})
	return err
}
