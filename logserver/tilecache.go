package logserver

import (
	"container/list"
	"runtime"
	"strconv"
	"sync"
)

// tileID names a full tile or bundle in the cache.
type tileID struct {
	entries bool
	level   int
	number  int64
}

// storedTile is a full tile or entry bundle in the forms in which it is served.
// It is immutable.
type storedTile struct {
	body   []byte
	length []string // value of Content-Length
	// zipped is the body in gzip form, or nil if that would not be smaller.
	zipped       []byte
	zippedLength []string
}

// cachedOverhead is what a tile in the cache costs beside its bytes.
const cachedOverhead = 256

func (t *storedTile) cost() int { return len(t.body) + len(t.zipped) + cachedOverhead }

// newStoredTile prepares a tile to be served, with its gzip form if that is
// wanted. Hashes do not compress.
func newStoredTile(id tileID, body []byte, zip bool) *storedTile {
	t := &storedTile{body: body, length: []string{strconv.Itoa(len(body))}}
	if !id.entries || !zip {
		return t
	}
	if zipped := compress(body); len(zipped) < len(body) {
		t.zipped, t.zippedLength = zipped, []string{strconv.Itoa(len(zipped))}
	}
	return t
}

// tileCache keeps the full tiles and bundles that were asked for last, within a
// bound of bytes. They never change, so that nothing is ever invalidated. It
// holds what is durable, which may be more than may be served: who asks checks.
// It is safe for concurrent use.
type tileCache struct {
	max int
	// loads bounds how many are read and compressed at once: each may hold the
	// largest bundle. Whoever waits here finds in the cache what the ones
	// before brought.
	loads chan struct{}

	mu struct {
		sync.Mutex
		used  int
		items map[tileID]*list.Element // of *cacheItem
		order *list.List               // the last used is in front
	}
}

type cacheItem struct {
	id   tileID
	tile *storedTile
}

// newTileCache returns a cache of so many bytes; it keeps nothing if that is
// negative.
func newTileCache(size int) *tileCache {
	c := &tileCache{max: size, loads: make(chan struct{}, 2*runtime.GOMAXPROCS(0))}
	c.mu.items, c.mu.order = map[tileID]*list.Element{}, list.New()
	return c
}

// get returns a tile if it is there.
func (c *tileCache) get(id tileID) *storedTile {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.mu.items[id]
	if !ok {
		return nil
	}
	c.mu.order.MoveToFront(e)
	return e.Value.(*cacheItem).tile
}

// load returns a tile that get did not find. Read brings its bytes.
func (c *tileCache) load(id tileID, read func() ([]byte, error)) (*storedTile, error) {
	defer c.occupy()()
	if t := c.get(id); t != nil {
		return t, nil
	}
	body, err := read()
	if err != nil {
		return nil, err
	}
	t := newStoredTile(id, body, true)
	c.put(id, t)
	return t, nil
}

// occupy waits for its turn to read or compress; the caller ends that by calling
// what it returns.
func (c *tileCache) occupy() (free func()) {
	c.loads <- struct{}{}
	return func() { <-c.loads }
}

// put keeps a tile in place of those that were not used for longest. One that
// would take an eighth of the cache for itself is not kept.
func (c *tileCache) put(id tileID, t *storedTile) {
	if t.cost() > c.max/8 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.mu.items[id]; ok {
		return
	}
	c.mu.items[id] = c.mu.order.PushFront(&cacheItem{id, t})
	for c.mu.used += t.cost(); c.mu.used > c.max; {
		last := c.mu.order.Back()
		item := c.mu.order.Remove(last).(*cacheItem)
		delete(c.mu.items, item.id)
		c.mu.used -= item.tile.cost()
	}
}

// size returns the bytes in use.
func (c *tileCache) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.used
}
