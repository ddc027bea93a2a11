package logserver

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// largeReply is from how many bytes on a reply counts against what slow clients
// may make the log hold. A hash tile never does.
const largeReply = 32 << 10

// tile serves tiles and entry bundles.
func (h *handler) tile(w http.ResponseWriter, r *http.Request) error {
	p, ok := parseTilePath(r.URL.Path[1:])
	if !ok {
		return fmt.Errorf("%w: not the path of a tile", errNoResource)
	}
	if !p.within(h.log.servable()) {
		return fmt.Errorf("%w: no such tile at the last signed tree size", errNoResource)
	}
	zip := p.entries && acceptsGzip(r.Header["Accept-Encoding"])
	t, err := h.log.tileAt(p, zip)
	if err != nil {
		return err
	}
	body, length := t.body, t.length
	if p.entries {
		header := w.Header()
		header["Vary"] = varyEncoding
		if zip && t.zipped != nil {
			header["Content-Encoding"] = gzipped
			body, length = t.zipped, t.zippedLength
		}
	}
	if len(body) > largeReply && r.Method != http.MethodHead {
		if !h.log.replies.take(int64(len(body)), 0) {
			delete(w.Header(), "Content-Encoding")
			return errBusy
		}
		defer h.log.replies.give(int64(len(body)))
	}
	serveLength(w, contentBinary, cacheForever, body, length)
	return nil
}

// tileAt returns a tile or bundle that exists in the durable tree. Full ones,
// and with them the parts of full ones, come from the cache. Zip asks for the
// gzip form of a bundle.
func (l *Log) tileAt(p tilePath, zip bool) (*storedTile, error) {
	id, full := tileID{p.entries, p.level, p.number}, p
	full.width = TileWidth
	var part []byte
	if full.within(l.Size()) {
		t := l.tiles.get(id)
		if t == nil {
			var err error
			if t, err = l.tiles.load(id, func() ([]byte, error) { return l.readTile(full) }); err != nil {
				return nil, err
			}
		}
		if p.width == TileWidth {
			return t, nil
		}
		part = t.cut(p)
	} else {
		var err error
		if part, err = l.readTile(p); err != nil {
			return nil, err
		}
	}
	if zip {
		defer l.tiles.occupy()()
	}
	return newStoredTile(id, part, zip), nil
}

// cut returns the first hashes or entries of a full tile.
func (t *storedTile) cut(p tilePath) []byte {
	if !p.entries {
		return t.body[:p.width*HashSize]
	}
	rest := t.body
	for range p.width {
		_, rest = cutFrame(rest)
	}
	return t.body[:len(t.body)-len(rest)]
}

func (l *Log) readTile(p tilePath) ([]byte, error) {
	if p.entries {
		return l.Bundle(p.number, p.width)
	}
	return l.Tile(p.level, p.number, p.width)
}

// acceptsGzip reports whether Accept-Encoding names gzip, or anything, without
// forbidding it (RFC 9110 section 12.5.3).
func acceptsGzip(values []string) bool {
	if len(values) == 1 && values[0] == "gzip" {
		return true
	}
	found := false
	for item := range strings.SplitSeq(strings.Join(values, ","), ",") {
		coding, params, _ := strings.Cut(item, ";")
		coding = strings.TrimSpace(coding)
		weight, ok := strings.CutPrefix(strings.ToLower(strings.Join(strings.Fields(params), "")), "q=")
		q, err := strconv.ParseFloat(weight, 64)
		allowed := !ok || err == nil && q > 0
		if strings.EqualFold(coding, "gzip") {
			return allowed
		}
		if coding == "*" {
			found = allowed
		}
	}
	return found
}

// gzips holds writers: each costs hundreds of kilobytes to make.
var gzips = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	return z
}}

func compress(b []byte) []byte {
	z := gzips.Get().(*gzip.Writer)
	defer gzips.Put(z)
	var out bytes.Buffer
	z.Reset(&out)
	_, _ = z.Write(b) // a bytes.Buffer never fails
	z.Close()
	return bytes.Clone(out.Bytes())
}
