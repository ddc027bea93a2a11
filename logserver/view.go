package logserver

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// view is an immutable picture of the tree at one size: what is unfinished, in
// memory. Everything else is in full tiles and bundles in the store, which
// never change, so a view stays readable while the log grows past it.
type view struct {
	size   int64
	root   Hash
	tiles  [maxLevels][]byte // hashes of the unfinished tile of each level
	nodes  [maxLevels][]Hash // the same with what is above them: see appendNodes
	bundle []byte            // framed entries of the unfinished bundle
	ends   []uint32          // where in bundle each entry ends
}

// snapshot reads tiles, bundles and entries of one view.
type snapshot struct {
	*view
	store reader
	cache *nodeCache // nil where only stored bytes count
}

// tile returns the first width hashes of a tile; all of them exist in the view.
// The caller must not change the bytes.
func (s snapshot) tile(level int, number int64, width int) ([]byte, error) {
	if level < 0 || level >= maxLevels || number < 0 || width < 1 || width > TileWidth {
		return nil, ErrNotFound
	}
	hashes := s.size >> (level * tileHeight)
	if number > hashes/TileWidth || number*TileWidth+int64(width) > hashes {
		return nil, ErrNotFound
	}
	if number == hashes/TileWidth {
		return s.tiles[level][:width*HashSize], nil
	}
	b, err := s.store.get(tileKey(level, number*TileWidth))
	if err != nil {
		return nil, fmt.Errorf("reading tile %d/%d: %w", level, number, lost(err))
	}
	if len(b) != TileWidth*HashSize {
		return nil, corrupt("tile %d/%d has %d bytes", level, number, len(b))
	}
	return b[:width*HashSize], nil
}

// bundleBytes returns the first width entries of an entry bundle, framed; all
// of them exist in the view. The caller must not change the bytes.
func (s snapshot) bundleBytes(number int64, width int) ([]byte, error) {
	if number < 0 || width < 1 || width > TileWidth ||
		number > s.size/TileWidth || number*TileWidth+int64(width) > s.size {
		return nil, ErrNotFound
	}
	if number == s.size/TileWidth {
		return s.bundle[:s.ends[width-1]], nil
	}
	run, err := s.store.get(indexKey(kindEntry, number*TileWidth))
	if err != nil {
		return nil, fmt.Errorf("reading entry bundle %d: %w", number, lost(err))
	}
	ends, err := frameEnds(run)
	if err != nil {
		return nil, fmt.Errorf("entry bundle %d: %w", number, err)
	}
	if len(ends) < width {
		if run, ends, err = readRuns(s.store, number); err != nil {
			return nil, err
		}
	}
	if len(ends) < width {
		return nil, corrupt("entry bundle %d has %d entries", number, len(ends))
	}
	return run[:ends[width-1]], nil
}

// readRuns concatenates all runs of an entry bundle.
func readRuns(r reader, number int64) (bundle []byte, ends []uint32, err error) {
	err = r.scan(indexKey(kindEntry, number*TileWidth), indexKey(kindEntry, (number+1)*TileWidth),
		func(key, run []byte) error {
			if have := number*TileWidth + int64(len(ends)); keyIndex(key) != have {
				return corrupt("run of entries at index %d follows %d", keyIndex(key), have)
			}
			runEnds, err := frameEnds(run)
			if err != nil {
				return fmt.Errorf("run of entries at index %d: %w", keyIndex(key), err)
			}
			for _, end := range runEnds {
				ends = append(ends, uint32(len(bundle))+end)
			}
			bundle = append(bundle, run...)
			return nil
		})
	if err == nil && len(ends) > TileWidth {
		err = corrupt("entry bundle %d has %d entries", number, len(ends))
	}
	return bundle, ends, err
}

// frameEnds returns where each entry of a run ends. A run of the store holds
// at least one entry and at most TileWidth.
func frameEnds(run []byte) ([]uint32, error) {
	ends := make([]uint32, 0, TileWidth)
	for pos := 0; pos < len(run); {
		if len(run)-pos < 2 {
			return nil, corrupt("entry frame cut short at byte %d", pos)
		}
		pos += 2 + int(binary.BigEndian.Uint16(run[pos:]))
		if pos > len(run) || len(ends) == TileWidth {
			return nil, corrupt("entry frames do not fill their run of %d bytes", len(run))
		}
		ends = append(ends, uint32(pos))
	}
	if len(ends) == 0 {
		return nil, corrupt("empty run of entries")
	}
	return ends, nil
}

// entry returns the bytes of one entry below the view's size.
func (s snapshot) entry(index int64) ([]byte, error) {
	if index < 0 || index >= s.size {
		return nil, fmt.Errorf("entry %d: %w", index, ErrNotFound)
	}
	b, err := s.bundleBytes(index/TileWidth, int(index%TileWidth)+1)
	if err != nil {
		return nil, err
	}
	return lastFrame(b, int(index%TileWidth)), nil
}

// entries iterates over the entries from start up to, not including, end, and
// ends after the first error.
func (s snapshot) entries(start, end int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if start < 0 || start > end || end > s.size {
			yield(nil, fmt.Errorf("entries %d to %d: %w", start, end, ErrNotFound))
			return
		}
		for start < end {
			number := start / TileWidth
			stop := min(end, (number+1)*TileWidth)
			b, err := s.bundleBytes(number, int(stop-number*TileWidth))
			if err != nil {
				yield(nil, err)
				return
			}
			for range start % TileWidth {
				_, b = cutFrame(b)
			}
			for ; start < stop; start++ {
				var data []byte
				if data, b = cutFrame(b); !yield(data, nil) {
					return
				}
			}
		}
	}
}

// cutFrame splits well-formed frames after the first entry.
func cutFrame(b []byte) (data, rest []byte) {
	end := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:end:end], b[end:]
}

// lastFrame returns the entry that skip others precede in well-formed frames.
func lastFrame(b []byte, skip int) []byte {
	for range skip {
		_, b = cutFrame(b)
	}
	data, _ := cutFrame(b)
	return data
}

// lost turns the absence of something that the tree implies into corruption.
func lost(err error) error {
	if err == ErrNotFound {
		return corrupt("missing from the store")
	}
	return err
}
