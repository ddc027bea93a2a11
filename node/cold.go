package node

import (
	"context"
	"sync"

	"github.com/tallystick/tallystick/internal/digest"
)

// maxWarm bounds the modules that are remembered as warm. One that is forgotten
// is treated as cold once more, which costs a little waiting.
const maxWarm = 1024

// coldModules keeps modules that have not run in this process, and so have to be
// compiled, from holding up the others: of one module one run goes first, and all
// but one of the places for runs are open to first runs.
type coldModules struct {
	runs   *turns // held while a module runs
	places *turns // held by first runs, before they ask for runs

	mu    sync.Mutex
	warm  map[digest.Digest]bool      // guarded by mu
	first map[digest.Digest][]*behind // guarded by mu: the modules whose first run is under way, and who waits for its end
}

// behind waits for the end of a module's first run.
type behind struct {
	tenant string
	ready  chan struct{} // closed under mu, when turn was asked for
	turn   *turn         // guarded by mu until ready is closed
}

func newColdModules(runs *turns, capacity int) *coldModules {
	most := max(capacity-1, 1)
	return &coldModules{runs: runs, places: newTurns(most, most), warm: make(map[digest.Digest]bool), first: make(map[digest.Digest][]*behind)}
}

// acquire returns when the tenant holds a turn to run the module, false when ctx
// ended first. Otherwise done gives it back and must be called when the run has
// ended, however it did. Who waits for a first run asks in the order of coming.
func (c *coldModules) acquire(ctx context.Context, tenant string, module digest.Digest) (done func(), ok bool) {
	release := func() { c.runs.release(tenant) }
	c.mu.Lock()
	line, underway := c.first[module]
	switch {
	case c.warm[module]:
		t := c.runs.ask(tenant, false)
		c.mu.Unlock()
		return release, c.runs.wait(ctx, t)
	case underway:
		b := &behind{tenant: tenant, ready: make(chan struct{})}
		c.first[module] = append(line, b)
		c.mu.Unlock()
		<-b.ready // first runs end, by their guard or with the node
		return release, c.runs.wait(ctx, b.turn)
	}
	c.first[module] = nil
	c.mu.Unlock()
	if !c.places.acquire(ctx, tenant) {
		c.end(module, false)
		return nil, false
	}
	if !c.runs.acquire(ctx, tenant) {
		c.places.release(tenant)
		c.end(module, false)
		return nil, false
	}
	return func() {
		c.end(module, true)
		c.places.release(tenant)
		release()
	}, true
}

// end ends a first run. Whatever came of it, the next ones need not wait for each
// other: a module that fails to compile fails soon.
func (c *coldModules) end(module digest.Digest, ran bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.first[module] {
		b.turn = c.runs.ask(b.tenant, false)
		close(b.ready)
	}
	delete(c.first, module)
	if !ran {
		return
	}
	if len(c.warm) >= maxWarm {
		clear(c.warm)
	}
	c.warm[module] = true
}
