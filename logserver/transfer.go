package logserver

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// copyEntries appends what the source has beyond the own tree.
func (c *catchUp) copyEntries(ctx context.Context, other *Store) error {
	t := &transfer{c: c, other: other, batch: c.own.store.db.NewBatch(), committed: c.edge.size}
	defer func() { t.batch.Close() }()
	if c.edge.size < c.head.Size {
		for bundle, err := range c.source.Bundles(ctx, c.edge.size) {
			if err != nil {
				return fmt.Errorf("%w: %w", ErrSource, err)
			}
			skip := max(c.edge.size-bundle.First, 0)
			frames := bundle.Data
			for range skip {
				_, frames = cutFrame(frames)
			}
			if err := t.add(frames, bundle.Leaves[skip:]); err != nil {
				return err
			}
		}
		if root := c.edge.root(); c.edge.size != c.head.Size || root != c.head.Root {
			return fmt.Errorf("%w: its entries make the root %v at tree size %d", ErrSource, root, c.edge.size)
		}
	}
	if c.tree.view != nil {
		if err := t.addTail(ctx); err != nil {
			return err
		}
	}
	return t.commit()
}

// transfer appends verified entries to the own store.
type transfer struct {
	c         *catchUp
	other     *Store // whose openings are copied too, or nil
	batch     *pebble.Batch
	committed int64
}

// add appends framed entries with their leaf hashes.
func (t *transfer) add(frames []byte, leaves []Hash) error {
	for i := range leaves {
		data, rest := cutFrame(frames)
		if err := t.c.edge.append(frames[:2+len(data)], &leaves[i], batchWriter{t.batch}); err != nil {
			return err
		}
		frames = rest
	}
	if t.c.edge.size-t.committed < catchUpBatch {
		return nil
	}
	return t.commit()
}

// addTail appends what a store has beyond its last signed head: entries that
// were acknowledged and are in its tree, but that it has not signed yet.
func (t *transfer) addTail(ctx context.Context) error {
	e, tree := t.c.edge, t.c.tree
	for e.size < tree.size {
		if err := ctx.Err(); err != nil {
			return err
		}
		number, skip := e.size/TileWidth, int(e.size%TileWidth)
		width := int(min(tree.size-number*TileWidth, TileWidth))
		frames, err := tree.bundleBytes(number, width)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		tile, err := tree.tile(0, number, width)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		for range skip {
			_, frames = cutFrame(frames)
		}
		leaves, rest := make([]Hash, 0, width-skip), frames
		for i := skip; i < width; i++ {
			var data []byte
			data, rest = cutFrame(rest)
			if leaf := LeafHash(data); leaf == Hash(tile[i*HashSize:]) {
				leaves = append(leaves, leaf)
				continue
			}
			return fmt.Errorf("%w: entry %d does not have its leaf hash", ErrSource, number*TileWidth+int64(i))
		}
		if err := t.add(frames, leaves); err != nil {
			return err
		}
	}
	if e.size == tree.size && e.root() != tree.root {
		return fmt.Errorf("%w: its entries make the root %v at tree size %d", ErrSource, e.root(), e.size)
	}
	return nil
}

// commit makes what was added durable: entries, their openings, and the head.
func (t *transfer) commit() error {
	e := t.c.edge
	if e.size == t.committed {
		return nil
	}
	if err := e.flush(batchWriter{t.batch}); err != nil {
		return err
	}
	if err := t.batch.Set(metaHead, encodeHead(e.size, e.root()), nil); err != nil {
		return err
	}
	if t.other != nil {
		err := t.other.store.scan(indexKey(kindOpening, t.committed), indexKey(kindOpening, e.size), func(key, value []byte) error {
			return t.batch.Set(key, value, nil)
		})
		if err != nil {
			return err
		}
	}
	if err := t.c.own.store.commit(t.batch); err != nil {
		return err
	}
	t.committed = e.size
	t.batch.Close()
	t.batch = t.c.own.store.db.NewBatch()
	if t.c.progress != nil {
		t.c.progress(e.size, max(t.c.head.Size, e.size))
	}
	return nil
}

// copyRest takes over what another store knows besides entries, or reports what a
// source that is none leaves lost.
func (c *catchUp) copyRest(ctx context.Context, other *Store) error {
	if other == nil {
		// Nobody shows whether the log had any.
		if c.report.From < c.head.Size {
			c.report.LostOpenings, c.report.LostKeys = true, true
		}
		return nil
	}
	for _, kind := range []byte{kindDedup, kindNote, kindRegister} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.copyKind(other, kind); err != nil {
			return err
		}
	}
	return nil
}

// copyKind sets every key of a kind to what the other store has.
func (c *catchUp) copyKind(other *Store, kind byte) error {
	b := c.own.store.db.NewBatch()
	defer func() { b.Close() }()
	if kind == kindRegister { // those that are unset there go away
		if err := b.DeleteRange([]byte{kind}, []byte{kind + 1}, nil); err != nil {
			return err
		}
	}
	err := other.store.scan([]byte{kind}, []byte{kind + 1}, func(key, value []byte) error {
		if kind == kindDedup && (len(value) != 8 || int64(binary.BigEndian.Uint64(value)) > c.edge.size) {
			return nil // of an entry that the other log never signed
		}
		if err := b.Set(key, value, nil); err != nil {
			return err
		}
		if b.Len() < 1<<20 || kind == kindRegister {
			return nil
		}
		if err := c.own.store.commit(b); err != nil {
			return err
		}
		b.Close()
		b = c.own.store.db.NewBatch()
		return nil
	})
	if err != nil {
		return err
	}
	return c.own.store.commit(b)
}
