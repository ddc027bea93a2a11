package export

import (
	"bytes"
	"context"

	"github.com/tallystick/tallystick/verifier/tiles"
)

// mending is how far the reading back of a copy has come. It outlives an attempt
// that fails.
type mending struct {
	next   int64 // the full bundles before this one are right
	mended int64 // objects that have been written again
}

// mend reads back what the copy has of a tree of the given size, which the log's
// tree leads on from, and writes again what is missing or wrong. The unfinished
// tiles are left out: whoever opened the copy has verified them.
//
// An object that cannot be read is written again like one that is missing: else
// one bad sector would keep the copy from being mended for ever. A target that
// does not answer at all fails at the write.
func (r *run) mend(ctx context.Context, size int64, m *mending) error {
	r.mends = true
	if err := r.mendBundles(ctx, size/width, m); err != nil {
		return err
	}
	if err := r.mendLast(ctx, size, m); err != nil {
		return err
	}
	for level := 1; level < levels; level++ {
		for index := range size >> (8 * (level + 1)) {
			tile, err := r.source.Tile(ctx, level, index)
			if err != nil {
				return err
			}
			if err := r.mendObject(ctx, tiles.TilePath(level, index, width), tile, m); err != nil {
				return err
			}
		}
	}
	r.report.Mended = m.mended
	return r.target.flush(ctx) // also what an attempt before wrote
}

// mendBundles mends the full bundles before one, with their tiles of level 0.
func (r *run) mendBundles(ctx context.Context, end int64, m *mending) error {
	for m.next < end {
		good, err := r.check(ctx, m.next, min(end-m.next, checkAhead))
		if err != nil {
			return err
		}
		for i := 0; i < len(good); i++ {
			bad := i
			for i < len(good) && !good[i] {
				i++
			}
			if bad == i {
				continue
			}
			if err := r.bundles(ctx, m.next+int64(bad), m.next+int64(i)); err != nil {
				return err
			}
			m.mended += 2 * int64(i-bad)
		}
		m.next += int64(len(good))
		r.progress(m.next * width)
	}
	return nil
}

// mendLast mends the unfinished bundle.
func (r *run) mendLast(ctx context.Context, size int64, m *mending) error {
	number, n := size/width, int(size%width)
	if n == 0 {
		return nil
	}
	for b, err := range r.source.Bundles(ctx, number*width) {
		if err != nil {
			return err
		}
		end := 0
		for _, entry := range b.Entries(b.First)[:n] {
			end += 2 + len(entry)
		}
		return r.mendObject(ctx, tiles.BundlePath(number, n), b.Data[:end], m)
	}
	return ctx.Err()
}

// mendObject makes sure that the copy has an object.
func (r *run) mendObject(ctx context.Context, name string, want []byte, m *mending) error {
	have, there, err := r.read(ctx, name)
	if err != nil || there && bytes.Equal(have, want) {
		return err
	}
	if err := r.write(ctx, name, want); err != nil {
		return err
	}
	m.mended++
	return nil
}

// readBack mends a copy that the exporter may go on with meanwhile: what both
// write is the same. It goes on where the attempt before has stopped.
func (e *Exporter) readBack(ctx context.Context, copied held, m *mending) error {
	source, err := tiles.OpenSourceAt(ctx, e.options.Fetch, copied.checkpoint)
	if err != nil {
		return err
	}
	aside := &Exporter{options: e.options, target: e.target}
	aside.options.Workers, aside.options.Progress = readBackWorkers, nil
	r := &run{Exporter: aside, source: source}
	return r.mend(ctx, copied.checkpoint.Size, m)
}

// readBackWorkers are few: nobody waits for them, and the log has other things to
// do.
const readBackWorkers = 2
