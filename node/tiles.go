package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/membership"
)

const (
	tileHeight = 8 // c2sp.org/tlog-tiles
	tileWidth  = 1 << tileHeight
	tileBytes  = tileWidth * tlog.HashSize
	// maxBundleBytes bounds an entry bundle: 256 entries of 65,535 bytes with
	// their lengths.
	maxBundleBytes = tileWidth * (2 + 1<<16 - 1)
	// maxCachedTiles bounds what is kept of a log's full tiles: 2 MiB.
	maxCachedTiles = 256
)

// HTTPLogs reads the logs of a control plane over HTTP. It sends no token: what
// it reads is public. It is safe for concurrent use.
type HTTPLogs struct {
	Server string       // URL without a final slash
	Client *http.Client // nil means http.DefaultClient
}

// Get reads <Server>/<log>/<path>. See LogSource.
func (h HTTPLogs) Get(ctx context.Context, log membership.LogName, path string, limit int64) ([]byte, error) {
	url := h.Server + "/" + string(log) + "/" + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := h.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%w: %s", ErrNotFound, url)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", url, limit)
	}
	return data, err
}

// callBound is a source whose calls end in bounded time.
type callBound struct {
	LogSource
	timeout time.Duration
}

func (c callBound) Get(ctx context.Context, log membership.LogName, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.LogSource.Get(ctx, log, path, limit)
}

// logTiles reads the tiles of one log for as long as ctx lasts. It implements
// tlog.TileReader, whose users authenticate every tile before they save it.
type logTiles struct {
	ctx    context.Context
	source LogSource
	log    membership.LogName
	cache  *tileCache
	// failed is the first failure to fetch, as opposed to a tile that was fetched
	// and does not hash to the checkpoint.
	failed error
	// fetched says that the log has served something.
	fetched bool
}

// Height returns the height of tiles.
func (t *logTiles) Height() int { return tileHeight }

// ReadTiles fetches tiles that are not in the cache.
func (t *logTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, tile := range tiles {
		data, err := t.tile(tile)
		if err != nil {
			if t.failed == nil {
				t.failed = err
			}
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}

func (t *logTiles) tile(tile tlog.Tile) ([]byte, error) {
	if data, ok := t.cache.get(tile); ok {
		return data[:tile.W*tlog.HashSize], nil
	}
	data, err := t.resource(tile, tileBytes)
	if err != nil {
		return nil, err
	}
	// What is too short is a tile that does not authenticate.
	return data[:min(len(data), tile.W*tlog.HashSize)], nil
}

// resource fetches a tile or bundle. A partial one may be gone once the full one
// exists, which begins with the same bytes. The error wraps ErrNotFound if the log
// has neither.
func (t *logTiles) resource(tile tlog.Tile, limit int64) ([]byte, error) {
	data, err := t.source.Get(t.ctx, t.log, tilePath(tile), limit)
	if errors.Is(err, ErrNotFound) && tile.W < tileWidth {
		tile.W = tileWidth
		data, err = t.source.Get(t.ctx, t.log, tilePath(tile), limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: reading the %s log: %w", ErrUnavailable, t.log, err)
	}
	t.fetched = true
	return data, nil
}

// SaveTiles keeps full tiles, which never change.
func (t *logTiles) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, tile := range tiles {
		if tile.W == tileWidth {
			t.cache.put(tile, data[i])
		}
	}
}

// entries returns the entries with index start ≤ i < end of a bundle, which are
// not authenticated. All must lie in one bundle.
func (t *logTiles) entries(start, end int64) ([][]byte, error) {
	n := start / tileWidth
	width := int(end - n*tileWidth)
	data, err := t.resource(tlog.Tile{H: tileHeight, L: -1, N: n, W: width}, maxBundleBytes)
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for i := range width {
		if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("entry bundle %d of the %s log ends in entry %d", n, t.log, i)
		}
		size := 2 + int(binary.BigEndian.Uint16(data))
		if n*tileWidth+int64(i) >= start {
			list = append(list, data[2:size])
		}
		data = data[size:]
	}
	return list, nil
}

// tilePath is the path of a tile or, at level −1, an entry bundle by
// c2sp.org/tlog-tiles: that of x/mod without the height, which is always 8.
func tilePath(t tlog.Tile) string {
	path := strings.TrimPrefix(t.Path(), "tile/8/")
	if rest, ok := strings.CutPrefix(path, "data/"); ok {
		path = "entries/" + rest
	}
	return "tile/" + path
}

// A tileCache keeps authenticated full tiles of one log. It is safe for
// concurrent use.
type tileCache struct {
	mu    sync.Mutex
	tiles map[tlog.Tile][]byte // guarded by mu
}

func newTileCache() *tileCache { return &tileCache{tiles: make(map[tlog.Tile][]byte)} }

// get returns the full tile, whatever width is asked for.
func (c *tileCache) get(t tlog.Tile) ([]byte, bool) {
	t.W = tileWidth
	c.mu.Lock()
	defer c.mu.Unlock()
	data, ok := c.tiles[t]
	return data, ok
}

func (c *tileCache) put(t tlog.Tile, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tiles) >= maxCachedTiles {
		for old := range c.tiles { // any one will do
			delete(c.tiles, old)
			break
		}
	}
	c.tiles[t] = data
}
