package logserver

import (
	"fmt"
	"math"
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

// parseTilePath reads a path such as tile/0/x001/067.p/8. There is exactly one
// path for each resource, and no other is accepted.
func parseTilePath(path string) (p tilePath, ok bool) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok {
		return p, false
	}
	if rest, p.entries = strings.CutPrefix(rest, "entries/"); !p.entries {
		level, after, slash := strings.Cut(rest, "/")
		if p.level, ok = smallNumber(level, maxTileLevel); !ok || !slash {
			return p, false
		}
		rest = after
	}
	// Groups of three digits, all but the last with an x in front.
	for first := true; ; first = false {
		more := strings.HasPrefix(rest, "x")
		if more {
			rest = rest[1:]
		}
		n, ok := group(rest)
		if !ok || p.number > (math.MaxInt64-n)/1000 || more && first && n == 0 {
			return p, false
		}
		p.number, rest = p.number*1000+n, rest[3:]
		if !more {
			break
		}
		if rest, ok = strings.CutPrefix(rest, "/"); !ok {
			return p, false
		}
	}
	p.width = TileWidth
	if rest == "" {
		return p, true
	}
	width, ok := strings.CutPrefix(rest, ".p/")
	if !ok {
		return p, false
	}
	p.width, ok = smallNumber(width, TileWidth-1)
	return p, ok && p.width > 0
}

// maxTileLevel is the largest level that a path can name.
const maxTileLevel = 63

// group reads the three digits that s begins with.
func group(s string) (n int64, ok bool) {
	if len(s) < 3 {
		return 0, false
	}
	for i := range 3 {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// smallNumber reads a decimal of up to three digits, without leading zeros, that
// is at most limit.
func smallNumber(s string, limit int) (n int, ok bool) {
	if len(s) == 0 || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, n <= limit
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
