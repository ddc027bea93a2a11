package tiles

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Source is a log read up to one checkpoint. Whatever its methods return has
// been verified against that checkpoint's root hash before they return it, so a
// reader can use it at once and stop anywhere. An [Audit] differs: it also
// compares every tile that the log publishes, and it remembers.
//
// The methods are safe for concurrent use.
type Source struct {
	audit    Audit // how to read; its policy is not looked at again
	verified *checkpoint.Verified
	note     []byte
	edge     *edge // of the checkpoint's tree, verified

	mu sync.Mutex
	// known holds verified full tiles of level 1 and above, and order their
	// names from the oldest on. A walk needs one tile of each level.
	known map[tileName][]tlog.Hash
	order []tileName
	// bottom is the verified full tile of level 0 that was read last, the one with
	// index bottomIndex; nil if none was. A proof takes several hashes of one.
	bottom      []tlog.Hash
	bottomIndex int64
}

// tileName names a full tile.
type tileName struct {
	level int
	index int64
}

// maxKnown bounds the tiles that a Source keeps, of 8 KiB each.
const maxKnown = 64

// Bundle is a verified entry bundle.
type Bundle struct {
	// First is the index of its first entry, a multiple of 256.
	First int64
	// Data is the bundle in the framing of tlog-tiles, exactly as many entries
	// as the checkpoint's tree has in it.
	Data []byte
	// Leaves are the leaf hashes of its entries.
	Leaves []tlog.Hash
}

// OpenSource reads a log's checkpoint, verifies it under the policy, and
// verifies the right edge of its tree against it. Workers bounds the parallel
// downloads of a [Source.Bundles]; 0 means DefaultWorkers.
func OpenSource(ctx context.Context, fetch Fetch, policy *checkpoint.Policy, workers int) (*Source, error) {
	s := &Source{audit: Audit{Fetch: fetch, Workers: workers}, known: make(map[tileName][]tlog.Hash)}
	var err error
	if s.note, err = s.audit.fetch(ctx, "checkpoint", checkpoint.MaxNoteSize); err != nil {
		return nil, err
	}
	if s.verified, err = policy.Verify(s.note); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	if err := s.readEdge(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// OpenSourceAt is [OpenSource] for a tree whose checkpoint the caller has from
// elsewhere and has verified: from a witness, or from another copy of the log.
// The log must serve the tree, whatever checkpoint it shows; if it serves another
// one the error is ErrRoot. The source has no Note and no Cosignatures.
func OpenSourceAt(ctx context.Context, fetch Fetch, c checkpoint.Checkpoint) (*Source, error) {
	s := &Source{audit: Audit{Fetch: fetch}, known: make(map[tileName][]tlog.Hash)}
	s.verified = &checkpoint.Verified{Checkpoint: c}
	if err := s.readEdge(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Checkpoint returns the checkpoint that everything is verified against.
func (s *Source) Checkpoint() checkpoint.Checkpoint { return s.verified.Checkpoint }

// Cosignatures returns those that the policy counted.
func (s *Source) Cosignatures() []checkpoint.Cosignature {
	return slices.Clone(s.verified.Cosignatures)
}

// Note returns the signed note of the checkpoint, as the log showed it. It must
// not be changed.
func (s *Source) Note() []byte { return s.note }

// readEdge reads the unfinished tile of every level; together they make the root.
func (s *Source) readEdge(ctx context.Context) error {
	c := s.Checkpoint()
	s.edge = new(edge)
	for level := range s.edge.levels {
		hashes := c.Size >> (8 * level)
		if hashes%width == 0 {
			continue
		}
		tile, err := fetchTile(ctx, &s.audit, strconv.Itoa(level), hashes/width, int(hashes%width))
		if err != nil {
			return err
		}
		s.edge.levels[level] = tile
	}
	if have := s.edge.root(); have != c.Root {
		return fmt.Errorf("%w: the unfinished tiles at size %d make %v, the checkpoint has %v", ErrRoot, c.Size, have, c.Root)
	}
	return nil
}

// Subtree returns the verified root hash of the index-th subtree of 256^level
// entries, 1 ≤ level, which must be within the checkpoint's tree. At level 1 it
// is what the leaf hashes of the full entry bundle of that number make.
func (s *Source) Subtree(ctx context.Context, level int, index int64) (tlog.Hash, error) {
	if level < 1 || level > maxLevel || index < 0 || index >= s.Checkpoint().Size>>(8*level) {
		return tlog.Hash{}, fmt.Errorf("%w: no subtree %d/%d at size %d", ErrRollback, level, index, s.Checkpoint().Size)
	}
	return s.hash(ctx, level, index)
}

// Tile returns the verified bytes of a tile of the checkpoint's tree, as wide as
// it is there: 256 hashes, or those of the unfinished tile of its level.
func (s *Source) Tile(ctx context.Context, level int, index int64) ([]byte, error) {
	hashes := int64(0)
	if level >= 0 && level <= maxLevel {
		hashes = s.Checkpoint().Size >> (8 * level)
	}
	var tile []tlog.Hash
	var err error
	switch {
	case index < 0 || index*width >= hashes:
		return nil, fmt.Errorf("%w: no tile %d/%d at size %d", ErrRollback, level, index, s.Checkpoint().Size)
	case index < hashes/width:
		tile, err = s.tile(ctx, tileName{level, index})
	default:
		tile = s.edge.levels[level]
	}
	return TileBytes(tile), err
}

// hash returns the verified root hash of the subtree of 256^level entries that
// is the index-th of its kind.
func (s *Source) hash(ctx context.Context, level int, index int64) (tlog.Hash, error) {
	hashes, err := s.hashes(ctx, level, index, 1)
	if err != nil {
		return tlog.Hash{}, err
	}
	return hashes[0], nil
}

// hashes returns n verified root hashes of subtrees, from the index on, all of
// one tile. They must not be changed.
func (s *Source) hashes(ctx context.Context, level int, index int64, n int) ([]tlog.Hash, error) {
	total := s.Checkpoint().Size >> (8 * level)
	if full := total - total%width; index >= full {
		return s.edge.levels[level][index-full:][:n], nil
	}
	tile, err := s.tile(ctx, tileName{level, index / width})
	if err != nil {
		return nil, err
	}
	return tile[index%width:][:n], nil
}

// tile returns a full tile, verified against the hash above it. It calls itself
// once a level, and the highest level has only an edge.
func (s *Source) tile(ctx context.Context, name tileName) ([]tlog.Hash, error) {
	if tile, ok := s.kept(name); ok {
		return tile, nil
	}
	want, err := s.hash(ctx, name.level+1, name.index)
	if err != nil {
		return nil, err
	}
	tile, err := fetchTile(ctx, &s.audit, strconv.Itoa(name.level), name.index, width)
	if err != nil {
		return nil, err
	}
	if perfect(tile) != want {
		return nil, fmt.Errorf("%w: %q does not lead to the checkpoint", ErrTile, tilePath(strconv.Itoa(name.level), name.index, width))
	}
	s.keep(name, tile)
	return tile, nil
}

// kept returns a tile that was read before.
func (s *Source) kept(name tileName) (tile []tlog.Hash, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name.level == 0 {
		return s.bottom, s.bottom != nil && s.bottomIndex == name.index
	}
	tile, ok = s.known[name]
	return tile, ok
}

// keep remembers a verified tile.
func (s *Source) keep(name tileName, tile []tlog.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name.level == 0 {
		s.bottom, s.bottomIndex = tile, name.index
		return
	}
	if _, ok := s.known[name]; ok {
		return
	}
	if len(s.order) == maxKnown {
		delete(s.known, s.order[0])
		s.order = s.order[1:]
	}
	s.known[name], s.order = tile, append(s.order, name)
}

// RootAt returns the root hash that the tree had when it had size entries,
// 0 ≤ size ≤ that of the checkpoint. Whoever holds a part of the log compares
// it with its own before it goes on from there.
func (s *Source) RootAt(ctx context.Context, size int64) (tlog.Hash, error) {
	if c := s.Checkpoint(); size < 0 || size > c.Size {
		return tlog.Hash{}, fmt.Errorf("%w: size %d, the checkpoint has %d", ErrRollback, size, c.Size)
	}
	at := new(edge)
	for level := range at.levels {
		hashes := size >> (8 * level)
		if hashes%width == 0 {
			continue
		}
		var err error
		at.levels[level], err = s.hashes(ctx, level, hashes-hashes%width, int(hashes%width))
		if err != nil {
			return tlog.Hash{}, err
		}
	}
	return at.root(), nil
}

// Bundles iterates over the entry bundles in order, from the one that holds the
// entry at index start, up to the checkpoint's size. It ends after the first
// error. Downloads run ahead, and all of them have ended when the iteration has.
func (s *Source) Bundles(ctx context.Context, start int64) iter.Seq2[*Bundle, error] {
	return func(yield func(*Bundle, error) bool) {
		size := s.Checkpoint().Size
		if start < 0 || start > size {
			yield(nil, fmt.Errorf("%w: index %d, the checkpoint has size %d", ErrRollback, start, size))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		// A download's channel is in the queue while it runs, so the queue's
		// capacity bounds the downloads.
		queue := make(chan chan download, s.audit.workers())
		go s.downloads(ctx, start/width, queue)
		defer func() {
			cancel()
			for done := range queue {
				<-done
			}
		}()
		for done := range queue {
			d := <-done
			if !yield(d.bundle, d.err) || d.err != nil {
				return
			}
			start = d.bundle.First + int64(len(d.bundle.Leaves))
		}
		if start < size { // the queue ended early
			yield(nil, ctx.Err())
		}
	}
}

// download is what reading a bundle brought: the bundle or an error.
type download struct {
	bundle *Bundle
	err    error
}

// downloads starts reading bundles from the first on, in order, and closes the
// queue after the last one or when ctx ends. It finds out by itself what each
// has to be, so that a tile is read once and not by every download.
func (s *Source) downloads(ctx context.Context, first int64, queue chan<- chan download) {
	defer close(queue)
	size := s.Checkpoint().Size
	for number := first; number*width < size; number++ {
		done := make(chan download, 1)
		select {
		case queue <- done:
		case <-ctx.Done():
			return
		}
		if number >= size/width {
			go func() { done <- s.last(ctx, number) }()
			continue
		}
		want, err := s.hash(ctx, 1, number)
		if err != nil {
			done <- download{err: err}
			return
		}
		go func() { done <- s.full(ctx, number, want) }()
	}
}

// full reads a full bundle whose subtree has the root hash want.
func (s *Source) full(ctx context.Context, number int64, want tlog.Hash) download {
	b, err := s.bundle(ctx, number, width)
	if err == nil && perfect(b.Leaves) != want {
		err = fmt.Errorf("%w: %q does not lead to the checkpoint", ErrRoot, tilePath("entries", number, width))
	}
	return download{b, err}
}

// last reads the unfinished bundle.
func (s *Source) last(ctx context.Context, number int64) download {
	want := s.edge.levels[0]
	b, err := s.bundle(ctx, number, len(want))
	if err == nil && !slices.Equal(b.Leaves, want) {
		err = fmt.Errorf("%w: %q does not lead to the checkpoint", ErrRoot, tilePath("entries", number, len(want)))
	}
	return download{b, err}
}

// bundle reads the first w entries of an entry bundle.
func (s *Source) bundle(ctx context.Context, number int64, w int) (*Bundle, error) {
	path, have := tilePath("entries", number, w), w
	b, err := s.audit.fetch(ctx, path, maxBundle)
	if errors.Is(err, ErrNotFound) && w < width {
		path, have = tilePath("entries", number, width), width
		b, err = s.audit.fetch(ctx, path, maxBundle)
	}
	if err != nil {
		return nil, err
	}
	leaves, err := parseBundle(b, have, w)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return &Bundle{First: number * width, Data: b[:frameEnd(b, w)], Leaves: leaves}, nil
}

// Entries returns the entries from the one at index on, as parts of Data. An
// index before the bundle means all of it.
func (b *Bundle) Entries(index int64) [][]byte {
	skip := int(min(max(index-b.First, 0), int64(len(b.Leaves))))
	entries := make([][]byte, 0, len(b.Leaves)-skip)
	for rest := b.Data; len(rest) > 0; {
		end := frameEnd(rest, 1)
		if skip--; skip < 0 {
			entries = append(entries, rest[2:end:end])
		}
		rest = rest[end:]
	}
	return entries
}
