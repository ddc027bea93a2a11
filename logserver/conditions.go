package logserver

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"

	"github.com/cockroachdb/pebble/v2"
)

// conditions decides which entries of a batch may be sequenced. It sees the
// store, which includes the groups that are applied but not durable yet, and
// ahead of it what earlier entries of the same batch consumed and set. The
// sequencer owns it; it is reset for each batch.
type conditions struct {
	store *store
	batch *batch
	// consumed are the deduplication keys of this batch: an open-addressed
	// table, a power of two in size, of entries by the hash of their key.
	consumed  []consumedKey
	keys      int               // used places of it
	registers map[string]uint64 // registers set by this batch
	key       []byte            // scratch: the store's key of a deduplication key

	// filter knows every key that was consumed since the log was opened, and
	// once scan is nil every key of the store: then a fresh key costs no look
	// into the store.
	filter *keyFilter
	// scan knows the keys that were in the store at the start. It ends by itself
	// and is nil when filter has taken what it found.
	scan *keyScan
	// While scan is not nil, stored is for each entry of the batch what the store
	// has under its deduplication key, and order is scratch.
	stored []int64
	order  []int32
}

// consumedKey is a deduplication key that an entry of the batch has consumed.
type consumedKey struct {
	hash  uint64
	place int32 // of the entry in the batch, plus one; 0 if the place is free
	index int64 // of the entry in the log
}

// newConditions returns conditions with a filter of at most so many bytes, and
// the scan that is to fill most of it.
func newConditions(s *store, filterBytes int) *conditions {
	// A quarter for what comes while the store is scanned, or just after.
	filter := newKeyFilter(maphash.MakeSeed(), filterBytes/4)
	return &conditions{
		store: s, registers: make(map[string]uint64), filter: filter,
		scan: &keyScan{filter: newKeyFilter(filter.seed, filterBytes-filterBytes/4)},
	}
}

// begin forgets the last batch and turns to the next. An error is a failure of
// the store.
func (c *conditions) begin(b *batch) error {
	c.batch = b
	clear(c.registers)
	c.keys = 0
	if b.plain {
		return nil
	}
	for len(c.consumed) < 2*len(b.entries) {
		c.consumed = make([]consumedKey, max(1024, 2*len(c.consumed)))
	}
	clear(c.consumed)
	if c.scan != nil && c.scan.hasEnded() {
		c.filter.absorb(c.scan.filter)
		c.scan, c.stored, c.order = nil, nil, nil
	}
	if c.scan == nil {
		return nil
	}
	return c.lookUp(b)
}

// decide returns the result of the i-th entry of the batch, which gets the index
// next if it is fresh. An error is a failure of the store.
func (c *conditions) decide(i int, next int64) (Result, error) {
	p := &c.batch.entries[i]
	// The deduplication key comes first: a duplicate learns its index even when
	// its guards no longer hold.
	key, cond := c.batch.dedupOf(p), c.batch.condition(p)
	var hash uint64
	if len(key) > 0 {
		hash = c.filter.hash(key)
		index, found, err := c.lookupDedup(i, key, hash)
		if err != nil {
			return Result{}, err
		}
		if found {
			return Result{Index: index, Duplicate: true}, nil
		}
	}
	refused, err := c.checkGuards(cond.guards)
	if err != nil {
		return Result{}, err
	}
	if refused != nil {
		return Result{Index: -1, Err: refused}, nil
	}
	if len(key) > 0 {
		c.consume(consumedKey{hash: hash, place: int32(i + 1), index: next})
	}
	for _, r := range cond.sets {
		c.registers[r.Key] = r.Value
	}
	return Result{Index: next}, nil
}

func (c *conditions) checkGuards(guards []Guard) (refused, err error) {
	for _, g := range guards {
		got, set := c.registers[g.Key]
		if !set {
			if got, err = c.store.getUint(registerKey(g.Key)); err != nil {
				return nil, err
			}
		}
		if got != g.Want {
			return &GuardError{Key: g.Key, Want: g.Want, Got: got}, nil
		}
	}
	return nil, nil
}

// lookupDedup returns the index of the entry that consumed the key of the i-th
// entry of the batch, in this batch or before.
func (c *conditions) lookupDedup(i int, key []byte, hash uint64) (index int64, found bool, err error) {
	if k := c.place(key, hash); k.place != 0 {
		return k.index, true, nil
	}
	if c.scan != nil {
		return c.stored[i] - 1, c.stored[i] != 0, nil
	}
	if !c.filter.has(hash) {
		return 0, false, nil
	}
	c.key = append(append(c.key[:0], kindDedup), key...)
	n, err := c.store.getUint(c.key)
	return int64(n) - 1, n != 0, err
}

// place returns where a key is in the table, or the free place for it.
func (c *conditions) place(key []byte, hash uint64) *consumedKey {
	mask := uint64(len(c.consumed) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		k := &c.consumed[i]
		if k.place == 0 || k.hash == hash && bytes.Equal(c.batch.dedupOf(&c.batch.entries[k.place-1]), key) {
			return k
		}
	}
}

// consume makes later entries see that an entry consumed its key. The table has
// room: it has two places for each entry.
func (c *conditions) consume(k consumedKey) {
	*c.place(c.batch.dedupOf(&c.batch.entries[k.place-1]), k.hash) = k
	c.keys++
	c.filter.add(k.hash)
}

// write adds everything that the batch consumed and set to its commit.
// Deduplication keys store the index plus one, so that zero means absent.
func (c *conditions) write(b *pebble.Batch) error {
	for i := 0; c.keys > 0 && i < len(c.consumed); i++ {
		k := &c.consumed[i]
		if k.place == 0 {
			continue
		}
		key := c.batch.dedupOf(&c.batch.entries[k.place-1])
		op := b.SetDeferred(1+len(key), 8)
		op.Key[0] = kindDedup
		copy(op.Key[1:], key)
		binary.BigEndian.PutUint64(op.Value, uint64(k.index)+1)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	for key, value := range c.registers {
		if err := setUint(b, registerKey(key), value); err != nil {
			return err
		}
	}
	return nil
}
