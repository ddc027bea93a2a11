package tiles

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Sizes of resources, in bytes.
const (
	maxBundle = width * (2 + 1<<16 - 1)
	maxTile   = width * tlog.HashSize
)

// TilePath returns the path of a tile of a level, of which w hashes are wanted,
// according to c2sp.org/tlog-tiles; 256 are a full tile.
func TilePath(level int, index int64, w int) string { return tilePath(strconv.Itoa(level), index, w) }

// BundlePath returns the path of an entry bundle, of which w entries are wanted.
func BundlePath(index int64, w int) string { return tilePath("entries", index, w) }

// TileBytes returns a tile as it is served.
func TileBytes(hashes []tlog.Hash) []byte {
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

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

// CheckBundle reports whether a full entry bundle and the full tile of level 0
// beside it are what a subtree root of level 1 says.
func CheckBundle(bundle, tile []byte, root tlog.Hash) bool {
	leaves, err := parseBundle(bundle, width, width)
	return err == nil && perfect(leaves) == root && bytes.Equal(TileBytes(leaves), tile)
}
