package tiles

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// DefaultWorkers is how many entry bundles are downloaded at a time when
// nothing is said: enough to hide a round trip, few enough for any server.
const DefaultWorkers = 8

// Audit says what to audit and how.
type Audit struct {
	// Fetch reads from the log.
	Fetch Fetch
	// Policy says which checkpoints are acceptable; it names one origin.
	Policy *checkpoint.Policy
	// Workers bounds the parallel downloads; 0 means DefaultWorkers. Each may
	// hold one entry bundle, of at most 16 MiB.
	Workers int
	// Progress, if not nil, is called from Run's goroutine after each bundle with
	// the number of entries verified and the size of the tree.
	Progress func(done, size int64)
}

// Report says what a run verified.
type Report struct {
	Origin       string                   `json:"origin"`
	Size         int64                    `json:"size"`
	RootHash     string                   `json:"root_hash"` // base64, as in the checkpoint
	Cosignatures []checkpoint.Cosignature `json:"-"`
	// Remembered is the size of the tree that an earlier run had verified and
	// that this one extends; 0 for a first run.
	Remembered int64 `json:"remembered"`
	// Entries and Tiles are how many were downloaded and compared.
	Entries int64 `json:"entries"`
	Tiles   int64 `json:"tiles"`
}

// Run audits the log once. Remembered is the state that the last run returned,
// nil for the first. On success the returned state is that of the log's
// checkpoint; on an error it is the one to go on from, which remembers the same
// checkpoint as before.
//
// An error means: do not rely on the log's checkpoint, unless it is ErrFetch or
// the context's, which mean that nothing was found out.
func (a *Audit) Run(ctx context.Context, remembered *State) (*Report, *State, error) {
	state := remembered
	if state == nil {
		state = &State{}
	}
	signed, err := a.fetch(ctx, "checkpoint", checkpoint.MaxNoteSize)
	if err != nil {
		return nil, state, err
	}
	verified, err := a.Policy.Verify(signed)
	if err != nil {
		return nil, state, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	target := verified.Checkpoint
	known, err := state.check(target.Origin)
	if err != nil {
		return nil, state, err
	}
	switch {
	case target.Size < known.Size:
		return nil, state, fmt.Errorf("%w: it shows size %d and had shown %d; if a cache lies between, try again later",
			ErrRollback, target.Size, known.Size)
	case known.Size > 0 && target.Size == known.Size && target.Root != known.Root:
		return nil, state, &ForkError{Known: state.Checkpoint, Shown: signed}
	}

	report := &Report{Origin: target.Origin, Size: target.Size, RootHash: target.Root.String(),
		Cosignatures: verified.Cosignatures, Remembered: known.Size}
	from := state.start(target.Size)
	w := &walk{audit: a, edge: from, size: target.Size, report: report}
	err = w.reach(ctx, target.Root)
	switch {
	case err == nil:
		return report, &State{Checkpoint: signed, edge: w.edge}, nil
	case errors.Is(err, ErrFetch) || ctx.Err() != nil:
		return nil, state.pause(w.edge), err
	case from.size() == 0 || !errors.Is(err, ErrTile) && !errors.Is(err, ErrRoot):
		return nil, state.forget(), err
	}

	// What was read before and what is new do not make the tree. Whether the log
	// has changed its past, only its whole content can tell.
	w = &walk{audit: a, edge: new(edge), size: target.Size, watch: known.Size, report: report}
	if err := w.reach(ctx, target.Root); err != nil {
		return nil, state.forget(), err
	}
	if known.Size > 0 && w.watched != known.Root {
		fork := &ForkError{Known: state.Checkpoint, Shown: signed}
		if at, err := OpenSourceAt(ctx, a.Fetch, target); err == nil {
			if proof, err := at.Consistency(ctx, known.Size); err == nil {
				fork.RootAt, fork.Proof = &w.watched, proof
			}
		}
		return nil, state.forget(), fork
	}
	// Only what an interrupted run had read was wrong.
	return report, &State{Checkpoint: signed, edge: w.edge}, nil
}

// workers returns the bound of parallel downloads.
func (a *Audit) workers() int {
	if a.Workers <= 0 {
		return DefaultWorkers
	}
	return a.Workers
}

// fetch reads one resource.
func (a *Audit) fetch(ctx context.Context, path string, limit int64) ([]byte, error) {
	b, err := a.Fetch(ctx, path, limit)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrFetch, path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %q has more than %d bytes", ErrMalformed, path, limit)
	}
	return b, nil
}

// fetchTile reads a tile or entry bundle of which w elements are wanted, and
// parses it. A log may drop a partial one once the full one is there.
func fetchTile(ctx context.Context, a *Audit, level string, index int64, w int) ([]tlog.Hash, error) {
	limit, parse := int64(maxTile), parseTile
	if level == "entries" {
		limit, parse = maxBundle, parseBundle
	}
	path, have := tilePath(level, index, w), w
	b, err := a.fetch(ctx, path, limit)
	if errors.Is(err, ErrNotFound) && w < width {
		path, have = tilePath(level, index, width), width
		b, err = a.fetch(ctx, path, limit)
	}
	if err != nil {
		return nil, err
	}
	hashes, err := parse(b, have, w)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return hashes, nil
}

// walk extends an edge to a size with downloaded entries. It belongs to the
// goroutine that calls run.
type walk struct {
	audit  *Audit
	edge   *edge // where the walk stands
	size   int64 // where it ends
	report *Report
	// watch is a size on the way; watched becomes the root hash there.
	watch   int64
	watched tlog.Hash
}

// part is what one download brought: a run of leaf hashes and the level 0 tile
// that the log publishes for them.
type part struct {
	leaves, tile []tlog.Hash
	err          error
}

// reach runs the walk and compares where it ends.
func (w *walk) reach(ctx context.Context, root tlog.Hash) error {
	if err := w.run(ctx); err != nil {
		return err
	}
	if have := w.edge.root(); have != root {
		return fmt.Errorf("%w: at size %d they make %v, the checkpoint has %v", ErrRoot, w.size, have, root)
	}
	return nil
}

// run downloads in parallel and takes the parts in order. It returns when the
// walk is at its end or has failed, and all downloads have ended.
func (w *walk) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	from := w.edge.size() / width
	// A part's channel is in the queue while it is downloaded, so the queue's
	// capacity bounds the downloads.
	queue := make(chan chan part, w.audit.workers())
	go func() {
		defer close(queue)
		for n := from; n*width < w.size; n++ {
			done := make(chan part, 1)
			select {
			case queue <- done:
			case <-ctx.Done():
				return
			}
			go func() { done <- w.download(ctx, n) }()
		}
	}()
	defer func() {
		cancel()
		for done := range queue {
			<-done
		}
	}()
	for n := from; n*width < w.size; n++ {
		done, ok := <-queue
		if !ok {
			return ctx.Err()
		}
		p := <-done
		if p.err != nil {
			return p.err
		}
		if err := w.take(ctx, n, p); err != nil {
			return err
		}
		if w.audit.Progress != nil {
			w.audit.Progress(w.edge.size(), w.size)
		}
	}
	return w.comparePartial(ctx)
}

// download fetches entry bundle n and the level 0 tile beside it.
func (w *walk) download(ctx context.Context, n int64) part {
	count := int(min(w.size-n*width, width))
	leaves, err := fetchTile(ctx, w.audit, "entries", n, count)
	if err != nil {
		return part{err: err}
	}
	tile, err := fetchTile(ctx, w.audit, "0", n, count)
	return part{leaves: leaves, tile: tile, err: err}
}

// take extends the edge by a part. The edge may stand within it already.
func (w *walk) take(ctx context.Context, n int64, p part) error {
	if !slices.Equal(p.leaves, p.tile) {
		return fmt.Errorf("%w: %q", ErrTile, tilePath("0", n, len(p.leaves)))
	}
	w.report.Tiles++
	next := w.edge.clone()
	for _, leaf := range p.leaves[next.size()-n*width:] {
		if err := next.add(leaf, func(level int, hashes []tlog.Hash) error {
			return w.compare(ctx, level, next.size(), hashes)
		}); err != nil {
			return err
		}
		w.report.Entries++
		if next.size() == w.watch {
			w.watched = next.root()
		}
	}
	w.edge = next
	return nil
}

// compare holds a full tile above level 0 against the published one. The size
// still counts the tile's hashes, so it is that of the tree it ends.
func (w *walk) compare(ctx context.Context, level int, size int64, hashes []tlog.Hash) error {
	if level == 0 {
		return nil // was compared with the entries
	}
	return w.compareTile(ctx, level, tilesIn(size, level)-1, hashes)
}

// tilesIn returns how many full tiles a tree of a size has at a level.
func tilesIn(size int64, level int) int64 { return size >> (8 * (level + 1)) }

// comparePartial holds the unfinished tiles above level 0 against the published
// ones.
func (w *walk) comparePartial(ctx context.Context) error {
	for level := 1; level <= maxLevel; level++ {
		hashes := w.edge.levels[level]
		if len(hashes) == 0 {
			continue
		}
		if err := w.compareTile(ctx, level, tilesIn(w.size, level), hashes); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) compareTile(ctx context.Context, level int, index int64, hashes []tlog.Hash) error {
	published, err := fetchTile(ctx, w.audit, strconv.Itoa(level), index, len(hashes))
	if err != nil {
		return err
	}
	if !slices.Equal(published, hashes) {
		return fmt.Errorf("%w: %q", ErrTile, tilePath(strconv.Itoa(level), index, len(hashes)))
	}
	w.report.Tiles++
	return nil
}
