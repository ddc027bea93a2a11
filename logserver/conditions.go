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
	undo      []func()          // reverts what the unit under decision changed
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
	c.undo = c.undo[:0]
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

// decide fills in the results of one unit, n entries of the batch from first on,
// whose first fresh entry would get the index next, and reports how many entries
// of it are to be sequenced. If one is refused none is, and the unit leaves no
// trace. An error is a failure of the store.
func (c *conditions) decide(first, n int, results []Result, next int64) (fresh int, err error) {
	c.undo = c.undo[:0]
	for i := range n {
		p := &c.batch.entries[first+i]
		// The deduplication key comes first: a duplicate learns its index
		// even when its guards no longer hold.
		key, cond := c.batch.dedupOf(p), c.batch.condition(p)
		var hash uint64
		if len(key) > 0 {
			hash = c.filter.hash(key)
			index, found, err := c.lookupDedup(first+i, key, hash)
			if err != nil {
				return 0, err
			}
			if found {
				results[i] = Result{Index: index, Duplicate: true}
				continue
			}
		}
		refused, err := c.checkGuards(cond.guards)
		if err != nil {
			return 0, err
		}
		if refused != nil {
			c.refuse(results, i, next, refused)
			return 0, nil
		}
		index := next + int64(fresh)
		fresh++
		results[i] = Result{Index: index}
		if len(key) > 0 {
			c.consume(consumedKey{hash: hash, place: int32(first + i + 1), index: index}, n > 1)
		}
		c.set(cond.sets, n > 1)
	}
	return fresh, nil
}

// refuse turns the whole unit down because of its i-th entry. Duplicates of
// entries ahead of the unit keep their index.
func (c *conditions) refuse(results []Result, i int, next int64, reason error) {
	for j := len(c.undo) - 1; j >= 0; j-- {
		c.undo[j]()
	}
	for j := range results {
		if j >= i || !results[j].Duplicate || results[j].Index >= next {
			results[j] = Result{Index: -1, Err: ErrAborted}
		}
	}
	results[i].Err = reason
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

// lookupDedup returns the index of the entry that holds a deduplication key.
func (r reader) lookupDedup(key []byte) (index int64, found bool, err error) {
	n, err := r.getUint(dedupKey(key))
	return int64(n) - 1, n != 0, err
}

// consume makes later entries see that an entry consumed its key. The table has
// room: it has two places for each entry. What is reverted was added last, so
// that nothing was put behind it because its place was taken.
func (c *conditions) consume(k consumedKey, revertible bool) {
	place := c.place(c.batch.dedupOf(&c.batch.entries[k.place-1]), k.hash)
	*place = k
	c.keys++
	c.filter.add(k.hash)
	if revertible {
		c.undo = append(c.undo, func() { *place = consumedKey{}; c.keys-- })
	}
}

// set makes later entries see the registers that an entry sets.
func (c *conditions) set(sets []Register, revertible bool) {
	for _, r := range sets {
		if revertible {
			old, was := c.registers[r.Key]
			c.undo = append(c.undo, func() {
				if was {
					c.registers[r.Key] = old
				} else {
					delete(c.registers, r.Key)
				}
			})
		}
		c.registers[r.Key] = r.Value
	}
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
