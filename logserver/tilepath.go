package logserver

import (
	"fmt"
	"strconv"
	"strings"
)

// tilePath names a tile or entry bundle, at its full or at a partial width, as
// c2sp.org/tlog-tiles writes it after the log's prefix.
type tilePath struct {
	entries bool  // an entry bundle, which has no level
	level   int   // 0 to 63
	number  int64 // of the tile within its level, or of the bundle
	width   int   // 1 to TileWidth; TileWidth has no .p suffix
}

// maxTilePath bounds what parseTilePath looks at: the longest path has a number
// of 19 digits.
const maxTilePath = 64

// parseTilePath reads a path such as tile/0/x001/067.p/8. There is exactly one
// path for each resource: whatever does not format to itself is refused.
func parseTilePath(path string) (tilePath, bool) {
	var p tilePath
	if len(path) > maxTilePath {
		return p, false
	}
	rest, ok := strings.CutPrefix(path, "tile/")
	level, rest, slash := strings.Cut(rest, "/")
	if !ok || !slash {
		return p, false
	}
	if p.entries = level == "entries"; !p.entries {
		n, err := strconv.ParseUint(level, 10, 6)
		if err != nil {
			return p, false
		}
		p.level = int(n)
	}
	number, width, partial := strings.Cut(rest, ".p/")
	p.width = TileWidth
	if partial {
		n, err := strconv.ParseUint(width, 10, 8)
		if err != nil || n == 0 {
			return p, false
		}
		p.width = int(n)
	}
	digits := strings.ReplaceAll(strings.ReplaceAll(number, "/", ""), "x", "")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return p, false
	}
	p.number = n
	return p, p.String() == path
}

// String returns the path.
func (p tilePath) String() string {
	number := fmt.Sprintf("%03d", p.number%1000)
	for n := p.number / 1000; n > 0; n /= 1000 {
		number = fmt.Sprintf("x%03d/%s", n%1000, number)
	}
	kind := "entries"
	if !p.entries {
		kind = strconv.Itoa(p.level)
	}
	if p.width == TileWidth {
		return "tile/" + kind + "/" + number
	}
	return fmt.Sprintf("tile/%s/%s.p/%d", kind, number, p.width)
}

// within reports whether the resource exists in a tree of the given size: then,
// and only then, some tree size up to that one implies it.
func (p tilePath) within(size int64) bool {
	if p.level >= maxLevels {
		return false
	}
	items := size >> (p.level * tileHeight)
	return p.number <= items/TileWidth && p.number*TileWidth+int64(p.width) <= items
}
