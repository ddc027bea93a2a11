package export

import (
	"bytes"
	"context"
	"errors"

	"github.com/tallystick/tallystick/verifier/tiles"
)

// mend reads back what the copy has of a tree of the given size, which the log's
// tree leads on from, and writes again what is missing or wrong. The unfinished
// tiles are left out: whoever opened the copy has verified them.
func (r *run) mend(ctx context.Context, size int64) error {
	written := r.report.Objects
	if err := r.mendBundles(ctx, size/width); err != nil {
		return err
	}
	if err := r.mendLast(ctx, size); err != nil {
		return err
	}
	for level := 1; level < levels; level++ {
		for index := range size >> (8 * (level + 1)) {
			tile, err := r.source.Tile(ctx, level, index)
			if err != nil {
				return err
			}
			if err := r.mendObject(ctx, tiles.TilePath(level, index, width), tile); err != nil {
				return err
			}
		}
	}
	if r.report.Mended = r.report.Objects - written; r.report.Mended == 0 {
		return nil
	}
	return r.target.flush(ctx)
}

// mendBundles mends the full bundles before one, with their tiles of level 0.
func (r *run) mendBundles(ctx context.Context, end int64) error {
	for first := int64(0); first < end; first += checkAhead {
		good, err := r.check(ctx, first, min(end-first, checkAhead))
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
			if err := r.bundles(ctx, first+int64(bad), first+int64(i)); err != nil {
				return err
			}
		}
		r.progress(min(first+checkAhead, end) * width)
	}
	return nil
}

// mendLast mends the unfinished bundle.
func (r *run) mendLast(ctx context.Context, size int64) error {
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
		return r.mendObject(ctx, tiles.BundlePath(number, n), b.Data[:end])
	}
	return ctx.Err()
}

// mendObject makes sure that the copy has an object.
func (r *run) mendObject(ctx context.Context, name string, want []byte) error {
	have, err := r.target.read(ctx, name, maxResource)
	if err == nil && bytes.Equal(have, want) {
		return nil
	}
	if err != nil && !errors.Is(err, tiles.ErrNotFound) {
		return err
	}
	return r.write(ctx, name, want)
}

// readBack mends a copy that the exporter may go on with meanwhile: what both
// write is the same. It reports how many objects were missing or wrong.
func (e *Exporter) readBack(ctx context.Context, copied held) (mended int64, err error) {
	source, err := tiles.OpenSourceAt(ctx, e.options.Fetch, copied.checkpoint)
	if err != nil {
		return 0, err
	}
	aside := &Exporter{options: e.options, target: e.target}
	aside.options.Workers, aside.options.Progress = readBackWorkers, nil
	r := &run{Exporter: aside, source: source}
	err = r.mend(ctx, copied.checkpoint.Size)
	return r.report.Mended, err
}

// readBackWorkers are few: nobody waits for them, and the log has other things to
// do.
const readBackWorkers = 2
