package logserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// fsckSpan is how many entry bundles a worker checks at a time: enough that
// positioning iterators costs nothing, few enough that progress is seen.
const fsckSpan = 64

// checkTree hashes all entries and compares every tile. Workers take spans of
// bundles; their results are put together in order.
func (f *fsck) checkTree(ctx context.Context) (*treeCheck, error) {
	bundles := (f.size + TileWidth - 1) / TileWidth
	// A span's channel is in the queue while a worker has it, so the queue's
	// capacity bounds the workers.
	queue := make(chan chan *spanCheck, f.opts.Workers)
	go func() {
		defer close(queue)
		for first := int64(0); first < bundles && ctx.Err() == nil; first += fsckSpan {
			done := make(chan *spanCheck, 1)
			queue <- done
			go func() { done <- f.checkSpan(ctx, first, min(first+fsckSpan, bundles)) }()
		}
	}()
	t := &treeCheck{f: f}
	for done := range queue {
		s := <-done
		for _, h := range s.roots {
			t.add(1, h)
		}
		t.levels[0] = s.partial
		if f.opts.Progress != nil {
			f.opts.Progress(min(s.end*TileWidth, f.size), f.size)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for level := 1; level < maxLevels; level++ {
		if len(t.levels[level]) > 0 {
			t.compare(level)
		}
	}
	return t, nil
}

// spanCheck is a worker's check of some consecutive entry bundles, and of the
// tiles of level 0 and openings beside them. It belongs to the worker, then to
// whom the worker hands it.
type spanCheck struct {
	f                        *fsck
	end                      int64 // first bundle that is not of the span
	entries, tiles, openings *cursor

	bundle, tile []byte // scratch
	ends         []int  // scratch: where in bundle each entry ends
	leaves       []byte // scratch: computed leaf hashes

	roots   []Hash // of the span's full tiles
	partial []byte // leaf hashes of its unfinished tile, if it has one
}

func (f *fsck) checkSpan(ctx context.Context, first, end int64) *spanCheck {
	from, to := first*TileWidth, min(end*TileWidth, f.size)
	s := &spanCheck{f: f, end: end,
		entries:  f.cursor(resource{entries: true}, from, to),
		tiles:    f.cursor(resource{level: 0}, from, to),
		openings: f.openings(from, to),
	}
	defer s.entries.close()
	defer s.tiles.close()
	defer s.openings.close()
	for number := first; number < end && ctx.Err() == nil; number++ {
		s.check(number, int(min(f.size-number*TileWidth, TileWidth)))
	}
	f.count(&f.report.Bundles, end-first)
	f.count(&f.report.Tiles, end-first)
	return s
}

// check checks one bundle of the given width and its tile.
func (s *spanCheck) check(number int64, width int) {
	damage := s.readBundle(number, width)
	tileOK := s.readTile(number, width)
	if damage != nil {
		s.locate(damage, tileOK)
		s.f.found(*damage)
	}
	s.checkOpenings(number, width, damage == nil)

	// What goes on to the level above is what agrees with it, if only one of the
	// two does, so that one damage is not found again at every level.
	good := s.leaves
	switch {
	case damage == nil && tileOK:
		if i := firstDifference(s.tile, s.leaves); i >= 0 {
			good = s.blame(number, width, i)
		}
	case tileOK:
		good = s.tile
	case damage != nil:
		good = make([]byte, width*HashSize) // neither: the root will not match
	}
	if width == TileWidth {
		s.roots = append(s.roots, foldPerfect(good))
	} else {
		s.partial = append([]byte(nil), good...)
	}
}

// locate says from where on a bundle that is not of the form is wrong, if the
// tile beside it is there: from the first entry that does not have its leaf hash.
func (s *spanCheck) locate(damage *Finding, tileOK bool) {
	if !tileOK || len(s.bundle) == 0 || damage.End > 0 {
		return
	}
	n := len(s.ends)
	if i := firstDifference(s.tile, s.leaves[:min(len(s.leaves), len(s.tile))]); i >= 0 {
		n = int(i / HashSize)
	}
	if n > 0 {
		damage.First = int64(s.ends[n-1])
	}
	if damage.First < int64(len(s.bundle)) {
		damage.End = int64(len(s.bundle))
	}
	damage.Index = damage.Index/TileWidth*TileWidth + int64(n)
}

// blame reports the leaf hash at byte i of a tile that is not that of its entry,
// and says, where the level above knows, which of the two is wrong. It returns
// the leaf hashes to go on with.
func (s *spanCheck) blame(number int64, width int, i int64) []byte {
	n := int(i / HashSize)
	start := 0
	if n > 0 {
		start = s.ends[n-1]
	}
	entry := Finding{Resource: tilePath{entries: true, number: number, width: width}.String(),
		First: int64(start), End: int64(s.ends[n]), Index: number*TileWidth + int64(n)}
	tile := Finding{Resource: tilePath{number: number, width: width}.String(),
		First: i, End: i + HashSize, Index: entry.Index}
	if width == TileWidth {
		switch above, ok := s.f.hashAbove(number); {
		case ok && above == foldPerfect(s.tile):
			entry.What = "the entry is not the one that was hashed into the tree"
			s.f.found(entry)
			return s.tile
		case ok && above == foldPerfect(s.leaves):
			tile.What = "the leaf hash is not that of its entry"
			s.f.found(tile)
			return s.leaves
		}
	}
	entry.What = "entry and leaf hash differ"
	s.f.found(entry)
	return s.leaves
}

// hashAbove returns the stored hash of a full tile of level 0.
func (f *fsck) hashAbove(number int64) (Hash, bool) {
	c := f.cursor(resource{level: 1}, number/TileWidth*TileWidth, (number/TileWidth+1)*TileWidth)
	defer c.close()
	tile, err := c.read(nil, number/TileWidth*TileWidth)
	at := int(number%TileWidth) * HashSize
	if err != nil || at+HashSize > len(tile) {
		return Hash{}, false
	}
	return Hash(tile[at:]), true
}

// readBundle reads a bundle and hashes as many of its entries as it can. It
// returns what is not of the form, or nil.
func (s *spanCheck) readBundle(number int64, width int) *Finding {
	damage := func(what string) *Finding {
		return &Finding{Resource: tilePath{entries: true, number: number, width: width}.String(), Index: number * TileWidth, What: what}
	}
	var unread error
	s.bundle, unread = s.entries.read(s.bundle[:0], number*TileWidth)
	s.ends, s.leaves = s.ends[:0], s.leaves[:0]
	b := s.bundle
	for pos := 0; pos+2 <= len(b); {
		if len(s.ends) == width {
			over := damage(fmt.Sprintf("bytes after the %d entries that it has", width))
			over.First, over.End, over.Index = int64(pos), int64(len(b)), over.Index+int64(width)
			return over
		}
		end := pos + 2 + int(binary.BigEndian.Uint16(b[pos:]))
		if end > len(b) {
			break // which cursor.read has noticed
		}
		// The second byte of the length makes room for the prefix of the leaf
		// hash: this is a private copy.
		b[pos+1] = leafPrefix
		h := sha256.Sum256(b[pos+1 : end])
		s.leaves = append(s.leaves, h[:]...)
		s.ends = append(s.ends, end)
		pos = end
	}
	switch {
	case unread != nil:
		return damage(unread.Error())
	case len(s.ends) < width:
		return damage(fmt.Sprintf("%d entries are stored, it has %d", len(s.ends), width))
	}
	return nil
}

// readTile reads a tile of level 0. It reports what is not of the form.
func (s *spanCheck) readTile(number int64, width int) bool {
	var err error
	s.tile, err = s.tiles.read(s.tile[:0], number*TileWidth)
	if err == nil && len(s.tile) != width*HashSize {
		err = fmt.Errorf("%d bytes are stored, it has %d", len(s.tile), width*HashSize)
	}
	if err != nil {
		s.f.found(Finding{Resource: tilePath{number: number, width: width}.String(), Index: number * TileWidth, What: err.Error()})
		return false
	}
	return true
}

// checkOpenings checks the openings of a bundle's entries.
func (s *spanCheck) checkOpenings(number int64, width int, entriesOK bool) {
	checked := int64(0)
	err := s.openings.each((number+1)*TileWidth, func(index int64, opening []byte) {
		checked++
		name := fmt.Sprintf("opening of entry %d", index)
		n := int(index - number*TileWidth)
		switch {
		case len(opening) > MaxOpeningSize:
			s.f.found(Finding{Resource: name, Index: index, What: fmt.Sprintf("%d bytes, at most %d are allowed", len(opening), MaxOpeningSize)})
		case s.f.opts.CheckOpening != nil && entriesOK && n < width:
			start := 2
			if n > 0 {
				start += s.ends[n-1]
			}
			if err := s.f.opts.CheckOpening(s.bundle[start:s.ends[n]], opening); err != nil {
				s.f.found(Finding{Resource: name, First: 0, End: int64(len(opening)), Index: index, What: err.Error()})
			}
		}
	})
	if err != nil {
		s.f.found(Finding{Resource: "openings", Index: number * TileWidth, What: err.Error()})
	}
	s.f.count(&s.f.report.Openings, checked)
}

// cursor walks over the runs of one kind of resource, in order.
type cursor struct {
	r     reader
	it    *pebble.Iterator
	end   []byte // the first key that is not its own
	err   error  // of making it
	seek  func(first int64) []byte
	items func(run []byte) (int, error) // how many items a run has
}

// cursor returns one for the runs from the items first to, not including, end.
func (f *fsck) cursor(r resource, first, end int64) *cursor {
	c := &cursor{seek: r.key, items: tileItems}
	if r.entries {
		c.items = frameItems
	}
	c.open(f.r, r.key(first), r.key(end))
	return c
}

// openings returns a cursor for openings.
func (f *fsck) openings(first, end int64) *cursor {
	c := &cursor{seek: func(i int64) []byte { return indexKey(kindOpening, i) }}
	c.open(f.r, c.seek(first), c.seek(end))
	return c
}

func (c *cursor) open(r reader, lower, upper []byte) {
	c.r, c.end = r, upper
	if c.it, c.err = r.from.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper}); c.err == nil {
		c.it.First()
	}
}

// skip goes on at an item after an error, with another iterator: one that could
// not read values of some blob files may end before its time.
func (c *cursor) skip(to int64) {
	c.close()
	from := c.seek(to)
	if bytes.Compare(from, c.end) > 0 {
		from = c.end
	}
	c.open(c.r, from, c.end)
}

func (c *cursor) close() {
	if c.it != nil {
		c.it.Close() // its error is that of the last read
	}
}

// read appends the runs of the tile or bundle whose first item is given. After
// an error it goes on with the next one.
func (c *cursor) read(buf []byte, first int64) (_ []byte, err error) {
	if c.err != nil {
		return buf, c.r.failed(c.err)
	}
	defer func() {
		if err != nil {
			c.skip(first + TileWidth)
		}
	}()
	have := int64(0)
	for c.it.Valid() && keyIndex(c.it.Key()) < first+TileWidth {
		if at := keyIndex(c.it.Key()); at != first+have || len(c.it.Key()) != len(c.seek(first)) {
			return buf, fmt.Errorf("a run has the key %x, want that of item %d", c.it.Key(), have)
		}
		run, err := c.it.ValueAndErr()
		if err != nil {
			return buf, c.r.failed(err)
		}
		n, err := c.items(run)
		if buf, have = append(buf, run...), have+int64(n); err != nil {
			return buf, err
		}
		c.it.Next()
	}
	if err := c.it.Error(); err != nil {
		return buf, c.r.failed(err)
	}
	if have == 0 {
		return buf, fmt.Errorf("missing from the store")
	}
	return buf, nil
}

// each calls visit for every item before end.
func (c *cursor) each(end int64, visit func(index int64, value []byte)) error {
	if c.err != nil {
		return c.r.failed(c.err)
	}
	for c.it.Valid() && keyIndex(c.it.Key()) < end {
		v, err := c.it.ValueAndErr()
		if err != nil {
			c.skip(end)
			return c.r.failed(err)
		}
		visit(keyIndex(c.it.Key()), v)
		c.it.Next()
	}
	if err := c.it.Error(); err != nil {
		c.skip(end)
		return c.r.failed(err)
	}
	return nil
}

// end returns the index after the last item of the runs with keys in [from, to), and
// -1 if it cannot be found, of which what reads those runs tells more. If only the
// last run cannot be read it is taken to fill its bundle or tile.
func (r reader) end(from, to []byte, items func(run []byte) (int, error)) (int64, error) {
	it, err := r.from.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return 0, fmt.Errorf("reading the store: %w", r.failed(err))
	}
	defer it.Close() // its error is that of the last read
	if !it.Last() {
		if r.failed(it.Error()) != nil {
			return -1, nil
		}
		return 0, nil
	}
	first := max(keyIndex(it.Key()), 0)
	end := (first/TileWidth + 1) * TileWidth
	if run, err := it.ValueAndErr(); err != nil {
		_ = r.failed(err) // what reads the bundle or tile says so
	} else if n, err := items(run); err == nil {
		end = min(end, first+int64(n))
	}
	return end, nil
}

func tileItems(run []byte) (int, error) {
	if len(run) == 0 || len(run)%HashSize != 0 {
		return 0, fmt.Errorf("a run of %d bytes is no hashes", len(run))
	}
	return len(run) / HashSize, nil
}

func frameItems(run []byte) (n int, err error) {
	for pos := 0; pos < len(run); n++ {
		if len(run)-pos < 2 {
			return 0, fmt.Errorf("an entry frame is cut short at byte %d of its run", pos)
		}
		pos += 2 + int(binary.BigEndian.Uint16(run[pos:]))
		if pos > len(run) {
			return 0, fmt.Errorf("entry frames do not fill their run of %d bytes", len(run))
		}
	}
	return n, nil
}
