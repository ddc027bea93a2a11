package logserver

import (
	"hash/maphash"
	"math/bits"
)

// keyFilter answers whether a deduplication key may have been consumed: no is
// certain, yes is wrong for about one fresh key in 300. It is a split block Bloom
// filter in layers: each layer is sized for a number of keys, and the next begins
// when that is full. When the bound on memory is reached the last layer takes all
// further keys, so that more and more answers are a wrong yes, but never a wrong
// no. Keys are hashed under a secret of the process: whoever chooses keys cannot
// choose collisions. One goroutine uses it at a time.
type keyFilter struct {
	seed   maphash.Seed
	layers []filterLayer
	bytes  int // of all layers
	max    int // bound of bytes
}

// filterLayer is one Bloom filter. A key sets one bit in each word of one block,
// which is a cache line.
type filterLayer struct {
	blocks [][8]uint64
	room   int // keys that it still takes before the next layer begins
}

const (
	// filterBlockKeys is how many keys a block is made for: 12 bits each.
	filterBlockKeys  = 42
	filterBlockBytes = 64
	// filterFirst is the number of blocks of the first layer, 128 KiB for 86,000
	// keys; each later one has filterGrowth times as many.
	filterFirst  = 2048
	filterGrowth = 4
)

func newKeyFilter(seed maphash.Seed, size int) *keyFilter { return &keyFilter{seed: seed, max: size} }

// hash is what add and has take for a key.
func (f *keyFilter) hash(key []byte) uint64 { return maphash.Bytes(f.seed, key) }

// add remembers a key.
func (f *keyFilter) add(hash uint64) {
	n := len(f.layers)
	if n == 0 || f.layers[n-1].room <= 0 {
		f.grow()
		n = len(f.layers)
	}
	l := &f.layers[n-1]
	l.room--
	b := l.block(hash)
	for i, mask := range filterMasks(hash) {
		b[i] |= mask
	}
}

// has reports whether a key may have been added.
func (f *keyFilter) has(hash uint64) bool {
	masks := filterMasks(hash)
	for i := range f.layers {
		if f.layers[i].has(hash, &masks) {
			return true
		}
	}
	return false
}

func (l *filterLayer) has(hash uint64, masks *[8]uint64) bool {
	b := l.block(hash)
	for i, mask := range masks {
		if b[i]&mask == 0 {
			return false
		}
	}
	return true
}

// block returns the block of a key: chosen by the upper half of its hash, where
// the lower half chooses the bits.
func (l *filterLayer) block(hash uint64) *[8]uint64 {
	n, _ := bits.Mul64(hash, uint64(len(l.blocks)))
	return &l.blocks[n]
}

// filterMasks returns the bits of a key, one for each word of its block.
func filterMasks(hash uint64) (masks [8]uint64) {
	for i, salt := range filterSalts {
		masks[i] = 1 << (uint32(hash) * salt >> 26)
	}
	return masks
}

// filterSalts are odd numbers that make eight hashes of one, the digits of the
// square roots of small primes.
var filterSalts = [8]uint32{
	0x6a09e667, 0xbb67ae85, 0x3c6ef373, 0xa54ff53b, 0x510e527f, 0x9b05688d, 0x1f83d9ab, 0x5be0cd19,
}

// grow begins the next layer, unless the bound is reached.
func (f *keyFilter) grow() {
	blocks := filterFirst
	if n := len(f.layers); n > 0 {
		blocks = filterGrowth * len(f.layers[n-1].blocks)
	}
	if room := (f.max - f.bytes) / filterBlockBytes; blocks > room {
		blocks = room
	}
	if blocks < filterFirst && len(f.layers) > 0 {
		return // the last layer takes what comes
	}
	blocks = max(blocks, 1)
	f.bytes += blocks * filterBlockBytes
	f.layers = append(f.layers, filterLayer{blocks: make([][8]uint64, blocks), room: blocks * filterBlockKeys})
}

// absorb adds all keys of another filter with the same seed, which must not be
// used any more.
func (f *keyFilter) absorb(other *keyFilter) {
	f.layers = append(other.layers, f.layers...)
	f.bytes += other.bytes
	f.max += other.max
}
