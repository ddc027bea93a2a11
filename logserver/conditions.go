package logserver

import (
	"github.com/cockroachdb/pebble/v2"
)

// conditions decides which entries of a batch may be sequenced. It sees the
// store, which includes the groups that are applied but not durable yet, and
// ahead of it what earlier entries of the same batch consumed and set. The
// sequencer owns it; it is reset for each batch.
type conditions struct {
	store     *store
	dedup     map[string]int64  // keys consumed by this batch → index
	registers map[string]uint64 // registers set by this batch
	undo      []func()          // reverts what the unit under decision changed
}

func newConditions(s *store) *conditions {
	return &conditions{store: s, dedup: make(map[string]int64), registers: make(map[string]uint64)}
}

func (c *conditions) reset() {
	clear(c.dedup)
	clear(c.registers)
	c.undo = c.undo[:0]
}

// decide fills in the results of one unit, n entries of the batch from first on,
// whose first fresh entry would get the index next, and reports how many entries
// of it are to be sequenced. If one is refused none is, and the unit leaves no
// trace. An error is a failure of the store.
func (c *conditions) decide(b *batch, first, n int, results []Result, next int64) (fresh int, err error) {
	c.undo = c.undo[:0]
	for i := range n {
		p := &b.entries[first+i]
		// The deduplication key comes first: a duplicate learns its index
		// even when its guards no longer hold.
		dedup, cond := b.dedupOf(p), b.condition(p)
		if len(dedup) > 0 {
			index, found, err := c.lookupDedup(dedup)
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
		c.consume(dedup, cond.sets, index, n > 1)
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

func (c *conditions) lookupDedup(key []byte) (index int64, found bool, err error) {
	if index, found = c.dedup[string(key)]; found {
		return index, true, nil
	}
	return c.store.lookupDedup(key)
}

// lookupDedup returns the index of the entry that holds a deduplication key.
func (r reader) lookupDedup(key []byte) (index int64, found bool, err error) {
	n, err := r.getUint(dedupKey(key))
	return int64(n) - 1, n != 0, err
}

// consume makes later entries see what the one at index brings about.
func (c *conditions) consume(dedup []byte, sets []Register, index int64, revertible bool) {
	if len(dedup) > 0 {
		key := string(dedup)
		c.dedup[key] = index
		if revertible {
			c.undo = append(c.undo, func() { delete(c.dedup, key) })
		}
	}
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
	for key, index := range c.dedup {
		if err := setUint(b, dedupKey([]byte(key)), uint64(index)+1); err != nil {
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
