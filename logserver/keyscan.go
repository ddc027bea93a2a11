package logserver

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// keyScan fills a filter with the deduplication keys that a store has when it is
// opened. It takes a second for some two million keys, beside the sequencer, which
// asks it meanwhile: it knows of every key up to the one that it has come to.
type keyScan struct {
	mu sync.Mutex
	// filter has every stored key up to last, and all of them once ended is set.
	// The scan adds to it under mu until then, and does not touch it afterwards.
	filter *keyFilter
	last   []byte
	ended  bool
}

// scanBatch is how many keys are added to the filter at a time: each is a miss of
// the processor's caches, and in a row they overlap.
const scanBatch = 1024

// allKeys are the bounds of the deduplication keys in the store.
var allKeys = pebble.IterOptions{LowerBound: []byte{kindDedup}, UpperBound: []byte{kindDedup + 1}}

// run scans the keys of the iterator, which was made before the sequencer applied
// anything: each key is in the scan or in the sequencer's own filter. When stop is
// closed it gives up, without an error.
func (s *keyScan) run(it *pebble.Iterator, stop <-chan struct{}) error {
	hashes := make([]uint64, 0, scanBatch)
	for ok := it.First(); ok; ok = it.Next() {
		key := it.Key()[1:]
		if hashes = append(hashes, s.filter.hash(key)); len(hashes) < scanBatch {
			continue
		}
		s.add(hashes, key, false)
		hashes = hashes[:0]
		select {
		case <-stop:
			return it.Close()
		default:
		}
	}
	if err := it.Close(); err != nil {
		return err
	}
	s.add(hashes, nil, true)
	return nil
}

// add adds the keys with these hashes to the filter. The greatest of them is last,
// or they are the last of all.
func (s *keyScan) add(hashes []uint64, last []byte, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, hash := range hashes {
		s.filter.add(hash)
	}
	s.last, s.ended = append(s.last[:0], last...), ended
}

// hasEnded reports whether the filter has every key, and is the caller's.
func (s *keyScan) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// lookUp finds out which deduplication keys of the batch are in the store, while
// the scan is under way. It goes through them in their order, with one iterator:
// looked up one at a time, each would read another table's filter, and there are
// more of those than the cache has room for.
func (c *conditions) lookUp(b *batch) error {
	order := c.order[:0]
	c.stored = append(c.stored[:0], make([]int64, len(b.entries))...)
	c.scan.mu.Lock()
	for i := range b.entries {
		key := b.dedupOf(&b.entries[i])
		if len(key) == 0 {
			continue
		}
		hash := c.filter.hash(key)
		if bytes.Compare(key, c.scan.last) > 0 || c.scan.filter.has(hash) || c.filter.has(hash) {
			order = append(order, int32(i))
		}
	}
	c.scan.mu.Unlock()
	c.order = order
	slices.SortFunc(order, func(i, j int32) int {
		return bytes.Compare(b.dedupOf(&b.entries[i]), b.dedupOf(&b.entries[j]))
	})
	return c.store.readEach(len(order), func(n int) []byte {
		c.key = append(append(c.key[:0], kindDedup), b.dedupOf(&b.entries[order[n]])...)
		return c.key
	}, func(n int, value []byte) error {
		if len(value) != 8 {
			return corrupt("integer of %d bytes under deduplication key %q", len(value), c.key[1:])
		}
		c.stored[order[n]] = int64(binary.BigEndian.Uint64(value))
		return nil
	})
}
