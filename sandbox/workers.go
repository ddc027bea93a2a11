package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Workers that keep failing are started ever more slowly, so that a machine on
// which none can live is not kept busy by starting them.
const (
	faultsTolerated = 3
	firstBackoff    = 50 * time.Millisecond
	maxBackoff      = 2 * time.Second
)

// retireAfter is the time that a worker spends on requests until it is replaced
// between two of them, well before the processor time that it is allowed
// (workerCPU) can be used up.
const retireAfter = 30 * time.Minute

// A start asks the spawner for a worker.
type start struct {
	cmd    *exec.Cmd
	answer chan<- started
}

type started struct {
	child *child
	err   error
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
			c, err := p.start(p.ctx, runnerName)
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

// start starts a worker in an empty directory of its own, which end removes.
func (p *Pool) start(ctx context.Context, name string) (*child, error) {
	if err := p.backOff(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.started++
	dir := filepath.Join(p.dir.path, strconv.Itoa(p.started))
	p.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, engineFault("making a worker's directory: %w", err)
	}
	c, err := p.startIn(name, dir)
	if err != nil {
		os.RemoveAll(dir)
		p.failed()
		return nil, err
	}
	if name == runnerName {
		p.mu.Lock()
		p.enforcement = c.greeting
		p.mu.Unlock()
	}
	p.config.Logger.Debug("sandbox worker started", "pid", c.cmd.Process.Pid, "name", name)
	return c, nil
}

func (p *Pool) startIn(name, dir string) (*child, error) {
	cmd, err := p.command(name, dir)
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
	s.child.greeting.Watched = watchable(s.child.cmd.Process.Pid)
	go s.child.watch(p.worker.memoryBytes) // ends with the child
	return s.child, nil
}

// backOff waits until a worker may be started.
func (p *Pool) backOff(ctx context.Context) error {
	p.mu.Lock()
	wait := time.Until(p.notBefore)
	p.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w while workers keep failing: %w", ErrStopped, context.Cause(ctx))
	}
}

// failed notes that a worker did not do what it is for.
func (p *Pool) failed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults++
	if n := p.faults - faultsTolerated; n > 0 {
		p.notBefore = time.Now().Add(min(firstBackoff<<min(n-1, 10), maxBackoff))
		p.config.Logger.Warn("sandbox workers keep failing; starting the next one later", "failures", p.faults, "not_before", p.notBefore)
	}
}

// take returns a worker for a job of a tenant, and whether it was idle. A guest
// may have taken over a worker that it ran in, so a worker that has run a job of
// one tenant never gets one of another: it is ended to make room.
func (p *Pool) take(ctx context.Context, tenant string, key programKey) (c *child, used bool, err error) {
	c, fits := p.takeIdle(tenant, key)
	if c != nil && !fits {
		p.end(c)
		c = nil
	}
	if c == nil {
		if c, err = p.start(ctx, runnerName); err != nil {
			return nil, false, err
		}
	}
	c.tenant = &tenant
	return c, fits, nil
}

// takeIdle removes from the idle workers the one that a tenant's job takes, or,
// if none fits, the one that is to make room for it; nil if none is idle.
func (p *Pool) takeIdle(tenant string, key programKey) (c *child, fits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	best, score := -1, -1
	for i, c := range p.idle {
		if s := c.suits(tenant, key); s > score { // of equals the one least recently used
			best, score = i, s
		}
	}
	if best < 0 {
		return nil, false
	}
	c = p.idle[best]
	p.idle = slices.Delete(p.idle, best, best+1)
	return c, score > 0
}

// suits says how well a worker suits a tenant's job: not at all (0) if it is
// another tenant's, then one that nobody has used, one of the tenant, and one of
// the tenant that has the program warm.
func (c *child) suits(tenant string, key programKey) int {
	switch {
	case c.tenant == nil:
		return 1
	case *c.tenant != tenant:
		return 0
	case c.last != key:
		return 2
	default:
		return 3
	}
}

// put returns a worker after a request that ended with err, or ends it if it was
// given up or has served long enough.
func (p *Pool) put(c *child, key programKey, err error) {
	if errors.Is(err, ErrEngineFault) {
		p.failed()
	} else {
		p.mu.Lock()
		p.faults, p.notBefore = 0, time.Time{}
		p.mu.Unlock()
	}
	if c.killReason() != nil || c.busy > retireAfter {
		p.end(c)
		return
	}
	c.last = key
	p.mu.Lock()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
}

// end ends a worker and removes its directory.
func (p *Pool) end(c *child) {
	c.stop()
	if err := os.RemoveAll(c.dir); err != nil {
		p.config.Logger.Warn("removing a worker's directory", "error", err)
	}
}
