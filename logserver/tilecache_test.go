package logserver

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestTileCache: what comes from the cache is what the store holds, in every
// width, from many readers at once and while tiles are displaced.
func TestTileCache(t *testing.T) {
	for name, size := range map[string]int{"default": 0, "small": 300 << 10, "none": -1} {
		t.Run(name, func(t *testing.T) {
			opts := testOptions(vfs.NewMem())
			opts.TileCacheBytes = size
			tl := newTestLog(t, opts)
			tl.addN(20*TileWidth + 7)
			tl.mustPublish(20*TileWidth + 7)
			h := ReadHandler(tl.Log)
			var wg sync.WaitGroup
			for seed := range uint64(4) {
				rng := rand.New(rand.NewPCG(seed, 1))
				wg.Go(func() {
					for range 300 {
						p := tilePath{entries: rng.IntN(2) == 0, number: rng.Int64N(20), width: 1 + rng.IntN(TileWidth)}
						want, err := tl.readTile(p)
						if err != nil {
							t.Error(err)
							return
						}
						if res, body := do(t, h, "GET", "/"+p.String(), ""); res.StatusCode != 200 || !bytes.Equal(body, want) {
							t.Errorf("%v: %s, %d bytes, want %d", p, res.Status, len(body), len(want))
						}
					}
				})
			}
			wg.Wait()
			switch used := tl.tiles.size(); {
			case size == 0 && used == 0, size > 0 && (used == 0 || used > size), size < 0 && used != 0:
				t.Errorf("%d bytes are in the cache", used)
			}
		})
	}
}

func TestTileCacheOrder(t *testing.T) {
	c := newTileCache(8 * (100 + cachedOverhead))
	read := 0
	load := func(n int64, size int) {
		t.Helper()
		id := tileID{number: n}
		if c.get(id) != nil {
			return
		}
		if _, err := c.load(id, func() ([]byte, error) { read++; return make([]byte, size), nil }); err != nil {
			t.Fatal(err)
		}
	}
	for n := range int64(8) {
		load(n, 100)
	}
	load(0, 100) // used again
	load(8, 100) // displaces 1
	if read != 9 || c.get(tileID{number: 1}) != nil || c.get(tileID{number: 0}) == nil {
		t.Errorf("%d reads; the wrong one was displaced", read)
	}
	load(9, 101) // larger than an eighth
	if c.get(tileID{number: 9}) != nil {
		t.Error("one tile may fill the cache")
	}
	gone := errors.New("gone")
	if _, err := c.load(tileID{number: 10}, func() ([]byte, error) { return nil, gone }); err != gone {
		t.Errorf("error of the store: %v", err)
	}
	if c.size() != 8*(100+cachedOverhead) {
		t.Errorf("%d bytes", c.size())
	}
}

// TestReplyBudget: large replies that are being sent are bounded; tiles are
// served nevertheless.
func TestReplyBudget(t *testing.T) {
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	for i := range TileWidth {
		tl.add(Entry{Data: fmt.Appendf(nil, "%d %s", i, strings.Repeat("long ", 200))})
	}
	tl.mustPublish(TileWidth)
	h := ReadHandler(tl.Log)
	tl.replies.take(tl.replies.total, 0)
	for path, want := range map[string]int{"/tile/entries/000": 503, "/tile/0/000": 200, "/tile/entries/000.p/1": 200} {
		if res, _ := do(t, h, "GET", path, ""); res.StatusCode != want || want == 503 && (res.Header.Get(codeHeader) != "busy" || strings.Contains(res.Header.Get("Cache-Control"), "immutable")) {
			t.Errorf("%s: %s %v", path, res.Status, res.Header)
		}
	}
	if res, _ := do(t, h, "HEAD", "/tile/entries/000", ""); res.StatusCode != 200 {
		t.Errorf("HEAD sends nothing: %s", res.Status)
	}
	tl.replies.give(tl.replies.total)
	if res, _ := do(t, h, "GET", "/tile/entries/000", "", "Accept-Encoding", "gzip"); res.StatusCode != 200 || tl.replies.held() != 0 {
		t.Errorf("%s, %d bytes held", res.Status, tl.replies.held())
	}
}

func TestBodies(t *testing.T) {
	b := newBudget(1 << 20)
	p, err := newBody(b)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 600<<10)
	for i := range want {
		want[i] = byte(i * 7)
	}
	if err := p.readFull(bytes.NewReader(want), len(want)); err != nil || !bytes.Equal(p.buf, want) || b.held() != int64(cap(p.buf)) {
		t.Errorf("%v, %d bytes, %d held of %d", err, len(p.buf), b.held(), cap(p.buf))
	}
	if err := p.readFull(bytes.NewReader(want), len(want)); err != errBusy {
		t.Errorf("three quarters are the most that large bodies may take: %v", err)
	}
	p.release()
	if p, err = newBody(b); err != nil {
		t.Fatal(err)
	}
	if err := p.readFull(bytes.NewReader(want[:9]), 10); err != errCutShort {
		t.Errorf("cut short: %v", err)
	}
	p.release()
	if b.held() != 0 {
		t.Errorf("%d bytes are held", b.held())
	}
}
