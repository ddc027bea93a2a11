package node

import (
	"context"
	"sync"

	"github.com/tallystick/tallystick/internal/digest"
)

// maxCachedModules bounds the modules kept, each of which the node's limits
// bound: a cluster runs few modules often.
const maxCachedModules = 4

// moduleCache keeps the modules that ran last, so that they are not fetched for
// each execution. What a contract names by digest is the same whoever named it.
type moduleCache struct {
	mu      sync.Mutex
	modules map[digest.Digest][]byte // guarded by mu
	used    []digest.Digest          // guarded by mu; least recently used first
}

// get returns the module with this digest, or what fetch returns for it, which
// is kept only if it has the digest.
func (c *moduleCache) get(ctx context.Context, d digest.Digest, fetch func(context.Context, digest.Digest) ([]byte, error)) ([]byte, error) {
	if module, ok := c.lookup(d); ok {
		return module, nil
	}
	module, err := fetch(ctx, d)
	if err == nil && digest.Of(module) == d {
		c.keep(d, module)
	}
	return module, err
}

func (c *moduleCache) lookup(d digest.Digest) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	module, ok := c.modules[d]
	if ok {
		c.touch(d)
	}
	return module, ok
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
