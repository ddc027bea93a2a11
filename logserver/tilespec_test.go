package logserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// TestTilesSpec holds the read interface to c2sp.org/tlog-tiles. Each test is
// named for a sentence of it.
func TestTilesSpec(t *testing.T) {
	t.Parallel()
	tl := newTestLog(t, testOptions(vfs.NewMem()))
	const size = 70000
	tl.addN(size)
	tl.mustPublish(size)
	h := Handler(tl.Log)
	get := func(t *testing.T, path string) (*http.Response, []byte) {
		t.Helper()
		res, body := do(t, h, "GET", path, "")
		if res.StatusCode != 200 {
			t.Fatalf("%s: %s", path, res.Status)
		}
		return res, body
	}
	header := func(t *testing.T, res *http.Response, name, want string) {
		t.Helper()
		if got := res.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	missing := func(t *testing.T, paths ...string) {
		t.Helper()
		for _, path := range paths {
			res, _ := do(t, h, "GET", path, "")
			if res.StatusCode != 404 || strings.Contains(res.Header.Get("Cache-Control"), "immutable") || res.Header.Get(codeHeader) != "not_found" {
				t.Errorf("%s: %s, %v", path, res.Status, res.Header)
			}
		}
	}

	t.Run("The Signed Tree Head MUST be served as a checkpoint at <prefix>/checkpoint with Content-Type: text/plain; charset=utf-8", func(t *testing.T) {
		res, _ := get(t, "/checkpoint")
		header(t, res, "Content-Type", "text/plain; charset=utf-8")
	})
	t.Run("This endpoint is mutable, so its headers SHOULD prevent caching beyond a few seconds", func(t *testing.T) {
		res, _ := get(t, "/checkpoint")
		header(t, res, "Cache-Control", "no-cache")
	})
	t.Run("the checkpoint MUST carry at least one Ed25519 signature by the log", func(t *testing.T) {
		_, body := get(t, "/checkpoint")
		key, err := note.NewVerifier(tl.Vkey())
		if err != nil {
			t.Fatal(err)
		}
		n, err := note.Open(body, note.VerifierList(key))
		if err != nil || n.Sigs[0].Name != tl.Origin() {
			t.Errorf("%v, %+v", err, n)
		}
	})
	t.Run("Tiles are served at <prefix>/tile/<L>/<N>[.p/<W>] with Content-Type: application/octet-stream", func(t *testing.T) {
		for _, path := range []string{"/tile/0/000", "/tile/0/273.p/112"} {
			res, _ := get(t, path)
			header(t, res, "Content-Type", "application/octet-stream")
		}
	})
	t.Run("<L> MUST be a decimal ASCII integer between 0 and 63, with no additional leading zeroes", func(t *testing.T) {
		missing(t, "/tile/00/000", "/tile/64/000", "/tile/-1/000", "/tile/0x0/000", "/tile/a/000", "/tile//000", "/tile/٠/000", "/tile/+1/000")
		for _, path := range []string{"tile/63/000", "tile/0/000"} {
			if _, ok := parseTilePath(path); !ok {
				t.Errorf("%s is no path", path)
			}
		}
	})
	t.Run("<N> MUST be a non-negative integer encoded into zero-padded 3-digit path elements. All but the last path element MUST begin with an x", func(t *testing.T) {
		if p, ok := parseTilePath("tile/0/x001/x234/067"); !ok || p.number != 1234067 {
			t.Errorf("x001/x234/067 is %d", p.number)
		}
		missing(t, "/tile/0/0", "/tile/0/00", "/tile/0/0000", "/tile/0/x000/000", "/tile/0/001/000", "/tile/0/x001", "/tile/0/x001/x000", "/tile/0/-01",
			"/tile/0/x01/000", "/tile/0/X001/000", "/tile/0/000/", "/tile/0/x999/x999/x999/x999/x999/x999/999")
	})
	t.Run("<W> is the width of the tile, a decimal ASCII integer between 1 and 255, with no additional leading zeroes", func(t *testing.T) {
		missing(t, "/tile/0/000.p/0", "/tile/0/000.p/256", "/tile/0/000.p/01", "/tile/0/000.p/", "/tile/0/000.p", "/tile/0/000.p/+1", "/tile/0/000.p/1/", "/tile/0/000.p/999999999999999999999")
		for w := 1; w <= 255; w++ {
			if _, body := get(t, fmt.Sprintf("/tile/0/000.p/%d", w)); len(body) != w*32 {
				t.Fatalf("width %d: %d bytes", w, len(body))
			}
		}
	})
	t.Run("This endpoint is immutable, so its caching headers SHOULD be long-lived", func(t *testing.T) {
		for _, path := range []string{"/tile/0/000", "/tile/1/000", "/tile/0/273.p/112", "/tile/entries/000", "/tile/entries/273.p/112"} {
			res, _ := get(t, path)
			header(t, res, "Cache-Control", "public, max-age=31536000, immutable")
		}
	})
	t.Run("Full tiles MUST be exactly 256 hashes wide, or 8,192 bytes", func(t *testing.T) {
		for n := range 273 {
			if _, body := get(t, fmt.Sprintf("/tile/0/%03d", n)); len(body) != 8192 {
				t.Fatalf("tile %d: %d bytes", n, len(body))
			}
		}
	})
	t.Run("At level 0 tiles contain leaf hashes. At level 1 and above, each hash in a tile is the Merkle Tree Hash of a full tile at the level below", func(t *testing.T) {
		for path, want := range map[string]struct{ level, number, width int }{
			"/tile/0/007": {0, 7, 256}, "/tile/0/273.p/112": {0, 273, 112}, "/tile/1/000": {1, 0, 256}, "/tile/1/001.p/17": {1, 1, 17}, "/tile/2/000.p/1": {2, 0, 1},
		} {
			_, body := get(t, path)
			reference, err := tlog.ReadTileData(tlog.Tile{H: 8, L: want.level, N: int64(want.number), W: want.width}, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
				out := make([]tlog.Hash, len(indexes))
				for i, x := range indexes {
					out[i] = tl.hashes[x]
				}
				return out, nil
			}))
			if err != nil || !bytes.Equal(body, reference) {
				t.Errorf("%s differs from x/mod/sumdb/tlog, %v", path, err)
			}
		}
	})
	t.Run("A partial tile contains between 1 and 255 hashes, and MUST NOT be hashed into a tile at the level above", func(t *testing.T) {
		missing(t, "/tile/1/001.p/18", "/tile/2/000.p/2")
	})
	t.Run("Empty tiles MUST NOT be served", func(t *testing.T) {
		missing(t, "/tile/3/000.p/1", "/tile/3/000", "/tile/2/001.p/1", "/tile/0/274.p/1", "/tile/entries/274.p/1", "/tile/63/000.p/1")
	})
	t.Run("a tree of size 70,000 will be represented by 273 full level 0 tiles, one partial level 0 tile of width 112, one full level 1 tile, one partial level 1 tile of width 17, and one partial level 2 tile of width 1", func(t *testing.T) {
		for _, path := range []string{"/tile/0/272", "/tile/0/273.p/112", "/tile/1/000", "/tile/1/001.p/17", "/tile/2/000.p/1"} {
			get(t, path)
		}
		missing(t, "/tile/0/273", "/tile/0/273.p/113", "/tile/1/001", "/tile/2/000")
	})
	t.Run("a tree of size 256 will be represented by a full level 0 tile and a partial level 1 tile of width 1", func(t *testing.T) {
		get(t, "/tile/0/000")
		get(t, "/tile/1/000.p/1")
	})
	t.Run("Logs MUST serve partial tiles corresponding to tree sizes for which a checkpoint was produced", func(t *testing.T) {
		for n := range int64(size / 997) {
			at := n*997 + 1
			for level, items := 0, at; items > 0; level, items = level+1, items/256 {
				if w := items % 256; w > 0 {
					get(t, "/"+tilePath{level: level, number: items / 256, width: int(w)}.String())
				}
			}
			if w := at % 256; w > 0 {
				get(t, "/"+tilePath{entries: true, number: at / 256, width: int(w)}.String())
			}
		}
	})
	t.Run("The log entries are served at <prefix>/tile/entries/<N>[.p/<W>] with Content-Type: application/octet-stream", func(t *testing.T) {
		for _, path := range []string{"/tile/entries/000", "/tile/entries/273.p/112"} {
			res, _ := get(t, path)
			header(t, res, "Content-Type", "application/octet-stream")
		}
	})
	t.Run("Entry bundles SHOULD be compressed at the HTTP layer", func(t *testing.T) {
		for _, path := range []string{"/tile/entries/000", "/tile/entries/273.p/112", "/tile/entries/000.p/99"} {
			res, _ := do(t, h, "GET", path, "", "Accept-Encoding", "gzip, identity")
			header(t, res, "Content-Encoding", "gzip")
			header(t, res, "Vary", "Accept-Encoding")
			res, _ = do(t, h, "GET", path, "", "Accept-Encoding", "identity")
			if got := res.Header.Get("Content-Encoding"); got != "" {
				t.Errorf("%s: %s to a client that wants none", path, got)
			}
		}
	})
	t.Run("Entry bundles are sequences of big-endian uint16 length-prefixed log entries. Each entry hashes to the corresponding entry in the corresponding level 0 tile", func(t *testing.T) {
		for path, tile := range map[string]string{"/tile/entries/000": "/tile/0/000", "/tile/entries/100": "/tile/0/100", "/tile/entries/273.p/112": "/tile/0/273.p/112"} {
			_, bundle := get(t, path)
			_, hashes := get(t, tile)
			for len(bundle) > 0 {
				n := binary.BigEndian.Uint16(bundle)
				leaf := tlog.RecordHash(bundle[2 : 2+n])
				if !bytes.HasPrefix(hashes, leaf[:]) {
					t.Fatalf("%s differs from %s", path, tile)
				}
				bundle, hashes = bundle[2+n:], hashes[32:]
			}
			if len(hashes) > 0 {
				t.Errorf("%s has more entries than %s", tile, path)
			}
		}
	})
	t.Run("Without a policy for when pruning is permitted, logs MUST NOT be pruned", func(t *testing.T) {
		get(t, "/tile/entries/000")
		get(t, "/tile/0/000")
	})

	// What the specification leaves open, and clients depend on.
	t.Run("browsers may read", func(t *testing.T) {
		for _, path := range []string{"/checkpoint", "/tile/0/000", "/tile/entries/000", "/tile/9/999", "/nothing"} {
			res, _ := do(t, h, "GET", path, "", "Origin", "https://browser.example")
			header(t, res, "Access-Control-Allow-Origin", "*")
			res, body := do(t, h, "OPTIONS", path, "", "Origin", "https://browser.example", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "x-any")
			header(t, res, "Access-Control-Allow-Origin", "*")
			header(t, res, "Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
			header(t, res, "Access-Control-Allow-Headers", "*")
			if res.StatusCode != 204 || len(body) > 0 {
				t.Errorf("preflight of %s: %s", path, res.Status)
			}
		}
		if res, _ := do(t, h, "OPTIONS", "/add", ""); res.StatusCode != 405 || res.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("preflight of a write: %s %v", res.Status, res.Header)
		}
	})
	t.Run("directories are not listed", func(t *testing.T) {
		missing(t, "/", "/tile", "/tile/", "/tile/0", "/tile/0/", "/tile/entries", "/tile/entries/", "/tile/0/x001", "/tile/0/x001/", "/index.html", "/tile/0/000.p/")
	})
	t.Run("no path has a second spelling", func(t *testing.T) {
		missing(t, "//checkpoint", "/checkpoint/", "/./checkpoint", "/tile/../checkpoint", "/%63heckpoint", "/tile/0/%30%30%30", "/tile//0/000", "/TILE/0/000")
	})
}
