package tiles

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Sizes of resources, in bytes.
const (
	maxBundle = width * (2 + 1<<16 - 1)
	maxTile   = width * tlog.HashSize
)

// tilePath returns the path of a tile, or of an entry bundle for level
// "entries", according to c2sp.org/tlog-tiles: the index in groups of three
// digits, all but the last with an x in front, and the width if it is partial.
func tilePath(level string, index int64, w int) string {
	groups := []string{fmt.Sprintf("%03d", index%1000)}
	for index /= 1000; index > 0; index /= 1000 {
		groups = append(groups, fmt.Sprintf("x%03d", index%1000))
	}
	var b strings.Builder
	b.WriteString("tile/" + level)
	for i := len(groups) - 1; i >= 0; i-- {
		b.WriteString("/" + groups[i])
	}
	if w < width {
		fmt.Fprintf(&b, ".p/%d", w)
	}
	return b.String()
}

// parseBundle returns the leaf hashes of the first w entries of an entry
// bundle, which must hold exactly have entries: each its length in two bytes,
// big-endian, and its bytes.
func parseBundle(b []byte, have, w int) ([]tlog.Hash, error) {
	leaves := make([]tlog.Hash, 0, have)
	for len(b) > 0 {
		if len(leaves) == have {
			return nil, fmt.Errorf("%w: more than %d entries", ErrMalformed, have)
		}
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, fmt.Errorf("%w: entry %d is cut off", ErrMalformed, len(leaves))
		}
		n := int(binary.BigEndian.Uint16(b))
		leaves = append(leaves, tlog.RecordHash(b[2:2+n]))
		b = b[2+n:]
	}
	if len(leaves) != have {
		return nil, fmt.Errorf("%w: %d entries, want %d", ErrMalformed, len(leaves), have)
	}
	return leaves[:w], nil
}

// frameEnd returns where the first n entries of a well-formed bundle end.
func frameEnd(b []byte, n int) (end int) {
	for range n {
		end += 2 + int(binary.BigEndian.Uint16(b[end:]))
	}
	return end
}

// parseTile returns the first w hashes of a tile that must hold exactly have.
func parseTile(b []byte, have, w int) ([]tlog.Hash, error) {
	if len(b) != have*tlog.HashSize {
		return nil, fmt.Errorf("%w: tile of %d bytes, want %d", ErrMalformed, len(b), have*tlog.HashSize)
	}
	hashes := make([]tlog.Hash, w)
	for i := range hashes {
		hashes[i] = tlog.Hash(b[i*tlog.HashSize:])
	}
	return hashes, nil
}
