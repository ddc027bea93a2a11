package node

import (
	"context"
	"fmt"
	"sync"

	"github.com/tallystick/tallystick/internal/digest"
)

// maxCachedModules bounds the modules kept, each of which the node's limits
// bound: a cluster runs few modules often.
const maxCachedModules = 4

// moduleCache keeps the modules that ran last, so that they are not fetched for
// each execution. What a contract names by digest is the same whoever named it.
type moduleCache struct {
	mu       sync.Mutex
	fetching map[digest.Digest]chan struct{} // guarded by mu; closed when the fetch has ended
	modules  map[digest.Digest][]byte        // guarded by mu
	used     []digest.Digest                 // guarded by mu; least recently used first
}

// get returns the module with this digest, or what fetch returns for it, which
// is kept only if it has the digest. It is fetched by one caller at a time: the
// others find it when that has ended.
func (c *moduleCache) get(ctx context.Context, d digest.Digest, fetch func(context.Context, digest.Digest) ([]byte, error)) ([]byte, error) {
	module, ok, err := c.lookup(ctx, d)
	if ok || err != nil {
		return module, err
	}
	defer c.fetched(d)
	module, err = fetch(ctx, d)
	if err == nil && digest.Of(module) == d {
		c.keep(d, module)
	}
	return module, err
}

// lookup returns a module that is kept, waiting for a fetch of it. If it is not
// kept the caller is the one to fetch it, and calls fetched when that has ended.
func (c *moduleCache) lookup(ctx context.Context, d digest.Digest) ([]byte, bool, error) {
	for {
		c.mu.Lock()
		module, ok := c.modules[d]
		fetch, underway := c.fetching[d]
		switch {
		case ok:
			c.touch(d)
		case !underway:
			if c.fetching == nil {
				c.fetching = make(map[digest.Digest]chan struct{})
			}
			c.fetching[d] = make(chan struct{})
		}
		c.mu.Unlock()
		if ok || !underway {
			return module, ok, nil
		}
		select {
		case <-fetch:
		case <-ctx.Done():
			return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
}

func (c *moduleCache) fetched(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.fetching[d])
	delete(c.fetching, d)
}

func (c *moduleCache) keep(d digest.Digest, module []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.modules == nil {
		c.modules = make(map[digest.Digest][]byte)
	}
	c.modules[d] = module
	c.touch(d)
	if len(c.used) > maxCachedModules {
		delete(c.modules, c.used[0])
		c.used = c.used[1:]
	}
}

// touch makes d the most recently used. The caller holds mu.
func (c *moduleCache) touch(d digest.Digest) {
	for i, u := range c.used {
		if u == d {
			c.used = append(c.used[:i], c.used[i+1:]...)
			break
		}
	}
	c.used = append(c.used, d)
}
