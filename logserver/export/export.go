package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/tiles"
)

// The ways in which a copy is refused. Every error of Run matches one of them,
// or one of package tiles about the log, or is that of the target or context.
var (
	// ErrTarget: the target holds something that is not a copy of this log.
	ErrTarget = errors.New("target is not a copy of this log")
	// ErrBehind: the log is older than the copy.
	ErrBehind = errors.New("log is behind its copy")
)

const (
	// width is how many entries or hashes a full bundle or tile has.
	width = 256
	// levels is how many levels of tiles a tree can have.
	levels = 8
	// maxResource bounds what is read back, in bytes: the largest bundle.
	maxResource = width * (2 + 1<<16 - 1)
	// checkAhead is how many bundles are read back at a time to find out where
	// an interrupted run stopped.
	checkAhead = 256
)

// Options say what to export.
type Options struct {
	// Fetch reads from the log.
	Fetch tiles.Fetch
	// Policy accepts the log's checkpoints and those of the copy. A policy of the
	// log's keys without witnesses copies what the log publishes, as it is. It is
	// asked for in each run, since the keys of a log change.
	Policy func() (*checkpoint.Policy, error)
	// Target is a directory (a path or a file URL), or the URL of a bucket whose
	// gocloud.dev driver is linked.
	Target string
	// Workers bounds the parallel reads and writes; 0 means tiles.DefaultWorkers.
	// Each may hold an entry bundle of up to 16 MiB.
	Workers int
	// ReadBack makes the first run read back, and hold against the log, all of a
	// copy that is there, and write again what is missing or wrong. Without it
	// only the copy's checkpoint and the edge of its tree are looked at.
	ReadBack bool
	// Progress, if not nil, is called after each bundle with the entries that
	// the copy has and that it will have.
	Progress func(done, size int64)
}

// Exporter writes one copy.
type Exporter struct {
	options Options
	target  target
	// copied is what the last run left: its tree is complete and durable. The
	// zero value means that it has to be found out from the target.
	copied held
}

// held is a checkpoint of the copy.
type held struct {
	checkpoint checkpoint.Checkpoint
	note       []byte // nil if there is none
}

// Open opens or creates the target. It does not look at what is there.
func Open(ctx context.Context, o Options) (*Exporter, error) {
	if o.Workers <= 0 {
		o.Workers = tiles.DefaultWorkers
	}
	t, err := openTarget(ctx, o.Target)
	if err != nil {
		return nil, err
	}
	return &Exporter{options: o, target: t}, nil
}

// Close releases the target.
func (e *Exporter) Close() error { return e.target.close() }

// Report says what a run did.
type Report struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"` // of the copy now
	// From is the size that the copy had; Kept counts the entries beyond it that
	// an interrupted run had written already.
	From    int64 `json:"from"`
	Kept    int64 `json:"kept"`
	Objects int64 `json:"objects"` // written
	// Mended counts those of them that the copy's checkpoint implied already, and
	// that were missing or wrong.
	Mended int64 `json:"mended"`
}

// Run brings the copy up to the log's published checkpoint. On an error the copy
// is what it was, plus objects that its checkpoint does not imply yet; one of
// reading back comes after the copy has been brought up.
func (e *Exporter) Run(ctx context.Context) (*Report, error) {
	policy, err := e.options.Policy()
	if err != nil {
		return nil, err
	}
	source, err := tiles.OpenSource(ctx, e.options.Fetch, policy, e.options.Workers)
	if err != nil {
		return nil, err
	}
	if err := e.recall(ctx); err != nil {
		return nil, err
	}
	clean := e.copied.note != nil
	have, err := e.examine(ctx, source, policy)
	if err != nil {
		return nil, err
	}
	e.copied = held{} // until this run has ended well
	r := &run{Exporter: e, source: source, clean: clean, report: Report{
		Origin: source.Checkpoint().Origin, Size: source.Checkpoint().Size, From: have.checkpoint.Size}}
	if !bytes.Equal(have.note, source.Note()) {
		if err := r.extend(ctx); err != nil {
			return nil, err
		}
	}
	// What is old comes last: a hole in it is no reason to withhold what is new.
	if e.options.ReadBack && !clean {
		if err := r.mend(ctx, have.checkpoint.Size, new(mending)); err != nil {
			return nil, fmt.Errorf("reading back the copy: %w", err)
		}
	}
	e.copied = held{source.Checkpoint(), source.Note()}
	return &r.report, nil
}

// recall forgets what the last run left if the copy has another checkpoint now,
// or none: somebody has put another copy in its place, or removed it.
func (e *Exporter) recall(ctx context.Context) error {
	if e.copied.note == nil {
		return nil
	}
	note, err := e.target.read(ctx, checkpointName, checkpoint.MaxNoteSize)
	switch {
	case errors.Is(err, tiles.ErrNotFound), err == nil && !bytes.Equal(note, e.copied.note):
		e.copied = held{}
	case err != nil:
		return fmt.Errorf("reading the copy: %w", err)
	}
	return nil
}

// examine returns the checkpoint of the copy, after it has made sure that the
// log's tree leads on from it.
func (e *Exporter) examine(ctx context.Context, source *tiles.Source, policy *checkpoint.Policy) (held, error) {
	have := e.copied
	if have.note == nil {
		var err error
		if have, err = e.inspect(ctx, policy); err != nil || have.note == nil {
			return have, err
		}
	}
	if known, now := have.checkpoint.Size, source.Checkpoint().Size; known > now {
		return have, fmt.Errorf("%w: the copy has size %d, the log shows %d", ErrBehind, known, now)
	}
	root, err := source.RootAt(ctx, have.checkpoint.Size)
	if err != nil {
		return have, err
	}
	if root != have.checkpoint.Root {
		return have, &tiles.ForkError{Known: have.note, Shown: source.Note()}
	}
	return have, nil
}

// inspect reads the checkpoint of the copy and verifies it and the edge of its
// tree. A copy whose edge is damaged counts as having none: the run then reads
// back everything.
func (e *Exporter) inspect(ctx context.Context, policy *checkpoint.Policy) (held, error) {
	copied, err := tiles.OpenSource(ctx, e.target.read, policy, e.options.Workers)
	switch {
	case err == nil:
		return held{copied.Checkpoint(), copied.Note()}, nil
	case errors.Is(err, tiles.ErrCheckpoint):
		return held{}, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	_, noteErr := e.target.read(ctx, checkpointName, checkpoint.MaxNoteSize)
	switch {
	case errors.Is(noteErr, tiles.ErrNotFound),
		noteErr == nil && (errors.Is(err, tiles.ErrNotFound) || errors.Is(err, tiles.ErrRoot) || errors.Is(err, tiles.ErrMalformed)):
		return held{}, nil
	}
	return held{}, fmt.Errorf("reading the copy: %w", err)
}

// run is one Run.
type run struct {
	*Exporter
	source *tiles.Source
	// clean says that the run before ended well, so nothing lies beyond the copy.
	clean bool
	// mends says that what the target cannot read counts as missing.
	mends  bool
	report Report
}

// extend writes what the copy lacks, and the checkpoint last.
func (r *run) extend(ctx context.Context) error {
	size := r.source.Checkpoint().Size
	// 1. What an interrupted run left beyond the checkpoint stays.
	first := r.report.From / width
	if !r.clean {
		var err error
		if first, err = r.kept(ctx, first); err != nil {
			return fmt.Errorf("reading back the copy: %w", err)
		}
	}
	r.report.Kept = max(first*width-r.report.From, 0)

	// 2. Bundles with the tiles of level 0 beside them, then the few tiles above.
	// Stopping here leaves objects that the next run keeps.
	if r.report.From < size {
		if err := r.bundles(ctx, first, size/width+1); err != nil {
			return err
		}
		if err := r.upperTiles(ctx); err != nil {
			return err
		}
	}
	if err := r.target.flush(ctx); err != nil {
		return fmt.Errorf("making the copy durable: %w", err)
	}

	// 3. The checkpoint, now that everything it implies is durable. Stopping
	// before this leaves the old one in place, and what it implies.
	if err := r.write(ctx, checkpointName, r.source.Note()); err != nil {
		return err
	}
	if err := r.target.flush(ctx); err != nil {
		return fmt.Errorf("making the checkpoint durable: %w", err)
	}
	return nil
}

// kept returns up to which full bundle the copy is complete from one on, as far
// as it can be told by reading back without gaps.
func (r *run) kept(ctx context.Context, first int64) (int64, error) {
	full := r.source.Checkpoint().Size / width
	for first < full {
		good, err := r.check(ctx, first, min(full-first, checkAhead))
		if err != nil {
			return 0, err
		}
		for _, ok := range good {
			if !ok {
				return first, nil
			}
			first++
		}
		r.progress(first * width)
	}
	return first, nil
}

// check reports which of n full bundles from one on the copy has.
func (r *run) check(ctx context.Context, first, n int64) ([]bool, error) {
	good := make([]bool, n)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(r.options.Workers)
	for i := range n {
		group.Go(func() (err error) {
			good[i], err = r.has(groupCtx, first+i)
			return err
		})
	}
	return good, group.Wait()
}

// has reports whether the copy has a full bundle and its tile of level 0, both
// as the log's checkpoint implies them. What is there and wrong is not there.
func (r *run) has(ctx context.Context, number int64) (bool, error) {
	bundle, there, err := r.read(ctx, tiles.BundlePath(number, width))
	if err != nil || !there {
		return false, err
	}
	tile, there, err := r.read(ctx, tiles.TilePath(0, number, width))
	if err != nil || !there {
		return false, err
	}
	want, err := r.source.Subtree(ctx, 1, number)
	if err != nil {
		return false, err
	}
	return tiles.CheckBundle(bundle, tile, want), nil
}

// read returns an object of the copy, if it is there.
func (r *run) read(ctx context.Context, name string) (data []byte, there bool, err error) {
	data, err = r.target.read(ctx, name, maxResource)
	switch {
	case err == nil:
		return data, true, nil
	case errors.Is(err, tiles.ErrNotFound), r.mends && ctx.Err() == nil:
		return nil, false, nil
	}
	return nil, false, err
}

// bundles copies the entry bundles from one on and before another, with the
// tiles of level 0.
func (r *run) bundles(ctx context.Context, first, end int64) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(r.options.Workers)
	var failed error
	for b, err := range r.source.Bundles(groupCtx, first*width) {
		if err != nil {
			failed = err
			break
		}
		number, n := b.First/width, len(b.Leaves)
		group.Go(func() error {
			if err := r.target.write(groupCtx, tiles.BundlePath(number, n), b.Data); err != nil {
				return fmt.Errorf("writing entry bundle %d: %w", number, err)
			}
			if err := r.target.write(groupCtx, tiles.TilePath(0, number, n), tiles.TileBytes(b.Leaves)); err != nil {
				return fmt.Errorf("writing tile 0/%d: %w", number, err)
			}
			return nil
		})
		r.report.Objects += 2
		r.progress(b.First + int64(n))
		if number+1 == end {
			break
		}
	}
	// A write that failed has ended the reading, not the other way round.
	if err := group.Wait(); err != nil {
		return err
	}
	return failed
}

// upperTiles copies the tiles above level 0 that the copy's tree did not have,
// at their full width or as the checkpoint implies them.
func (r *run) upperTiles(ctx context.Context) error {
	for level := 1; level < levels; level++ {
		hashes := r.source.Checkpoint().Size >> (8 * level)
		if hashes == r.report.From>>(8*level) {
			return nil // nor has any level above grown
		}
		for index := r.report.From >> (8 * (level + 1)); index*width < hashes; index++ {
			tile, err := r.source.Tile(ctx, level, index)
			if err != nil {
				return err
			}
			name := tiles.TilePath(level, index, int(min(hashes-index*width, width)))
			if err := r.write(ctx, name, tile); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) write(ctx context.Context, name string, data []byte) error {
	if err := r.target.write(ctx, name, data); err != nil {
		return fmt.Errorf("writing %q: %w", name, err)
	}
	r.report.Objects++
	return nil
}

func (r *run) progress(done int64) {
	if r.options.Progress != nil {
		r.options.Progress(done, r.source.Checkpoint().Size)
	}
}

// name returns the target without what a bucket's URL may say in its query.
func (e *Exporter) name() string {
	name, _, _ := strings.Cut(e.options.Target, "?")
	return name
}
