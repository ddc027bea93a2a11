package logserver

import (
	"math/bits"
	"sync/atomic"
)

// The nodes of a tile are its hashes and the interior nodes above them, without
// its root: that is a hash of the next level. They are kept in the order in which
// appending completes them, so that those of a growing tile only ever grow.

// tileNodes is the number of nodes of a full tile.
const tileNodes = 2*TileWidth - 2

// nodePlace returns where the node with the given height and index within its
// tile is kept: behind everything that the last hash beneath it completed, and
// h nodes above that hash.
func nodePlace(height, index int) int {
	last := (index+1)<<height - 1
	return 2*last - bits.OnesCount(uint(last)) + height
}

// appendNodes adds the next hash of a tile, number index, and the nodes that it
// completes.
func appendNodes(nodes []Hash, index int, h Hash) []Hash {
	nodes = append(nodes, h)
	for height := 0; index>>height&1 == 1 && height < tileHeight-1; height++ {
		left := nodes[nodePlace(height, index>>height-1)]
		h = hashChildren(&left, &h)
		nodes = append(nodes, h)
	}
	return nodes
}

// expand returns the nodes of a tile from its concatenated hashes.
func expand(hashes []byte) []Hash {
	nodes := make([]Hash, 0, tileNodes)
	for i := range len(hashes) / HashSize {
		nodes = appendNodes(nodes, i, Hash(hashes[i*HashSize:]))
	}
	return nodes
}

// nodeCache keeps the nodes of full tiles, which never change. It is a table of
// small sets; a tile has its place in one of them, and takes that of one that was
// not asked for lately. Nothing in it needs to be right about which: it is safe
// for concurrent use without locks.
type nodeCache struct {
	sets []nodeSet
}

// nodeWays is the number of tiles in a set: enough that the tiles of the upper
// levels, which every proof asks for, are not driven out by those below.
const nodeWays = 8

type nodeSet struct {
	tiles [nodeWays]atomic.Pointer[cachedNodes]
	hand  atomic.Uint32 // where the search for a place begins
}

type cachedNodes struct {
	level  int
	number int64
	used   atomic.Bool // asked for since the hand passed
	nodes  []Hash      // tileNodes of them
}

// nodeTileBytes is what a tile takes in the cache, in bytes.
const nodeTileBytes = tileNodes*HashSize + 64

// nodeCacheBytes is the size of a log's cache: the tiles over the last half a
// million entries, or over any others that are asked for.
const nodeCacheBytes = 32 << 20

// newNodeCache returns a cache of so many bytes, at least one set.
func newNodeCache(size int) *nodeCache {
	return &nodeCache{sets: make([]nodeSet, max(1, size/nodeTileBytes/nodeWays))}
}

func (c *nodeCache) set(level int, number int64) *nodeSet {
	// Neighbouring tiles are in neighbouring sets; a level begins elsewhere.
	x := uint64(number) + uint64(level)*0x9e3779b97f4a7c15
	return &c.sets[x%uint64(len(c.sets))]
}

// get returns the nodes of a full tile, or nil.
func (c *nodeCache) get(level int, number int64) []Hash {
	if c == nil {
		return nil
	}
	set := c.set(level, number)
	for i := range set.tiles {
		t := set.tiles[i].Load()
		if t != nil && t.number == number && t.level == level {
			if !t.used.Load() {
				t.used.Store(true)
			}
			return t.nodes
		}
	}
	return nil
}

// put keeps the nodes of a full tile.
func (c *nodeCache) put(level int, number int64, nodes []Hash) {
	if c == nil {
		return
	}
	set := c.set(level, number)
	// Two turns find a place: the first clears the marks.
	for range 2 * nodeWays {
		place := &set.tiles[set.hand.Add(1)%nodeWays]
		if t := place.Load(); t == nil || !t.used.Swap(false) {
			place.Store(&cachedNodes{level: level, number: number, nodes: nodes})
			return
		}
	}
}
