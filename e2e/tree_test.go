//go:build e2e

package e2e

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/keyfile"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

func newKey(t *testing.T, path string) {
	t.Helper()
	if _, err := keyfile.CreateEd25519(path, nil); err != nil {
		t.Fatal(err)
	}
}

// tiles reads the public tiles as a stranger's client does, with the Go
// project's own tile code.
type tiles struct{ base string }

func (r tiles) Height() int { return 8 }

func (r tiles) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(list))
	for i, tile := range list {
		// x/mod writes the height into the path, c2sp.org/tlog-tiles does not.
		path := tile.Path()[len("tile/8/"):]
		data, err := get(r.base + "/tile/" + path)
		if err != nil {
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}

func (r tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func get(url string) ([]byte, error) {
	res, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(url + ": " + res.Status)
	}
	return data, err
}

// auditTree recomputes both logs' roots from their tiles, partial ones included,
// and compares them with the cosigned checkpoints.
func auditTree(t *testing.T, c *cluster) {
	t.Helper()
	for _, log := range []string{"audit", "membership"} {
		base := c.server + "/" + log
		note, err := get(base + "/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(c.dir, log+".policy"))
		if err != nil {
			t.Fatal(err)
		}
		policy, err := checkpoint.ParsePolicy(text)
		if err != nil {
			t.Fatal(err)
		}
		verified, err := policy.Verify(note)
		if err != nil {
			t.Fatalf("%s: %v", log, err)
		}
		tree := verified.Checkpoint.Tree()
		hashes := tlog.TileHashReader(tree, tiles{base})
		for size := tree.N; size > 0; size /= 2 {
			if _, err := tlog.TreeHash(size, hashes); err != nil {
				t.Errorf("%s at size %d: %v", log, size, err)
			}
		}
		have, err := tlog.TreeHash(tree.N, hashes)
		if err != nil || have != tree.Hash {
			t.Errorf("%s: the tiles make root %v, the checkpoint says %v (%v)", log, have, tree.Hash, err)
		}
		for i := int64(0); i < tree.N; i++ {
			if _, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, i)}); err != nil {
				t.Errorf("%s: leaf %d: %v", log, i, err)
			}
		}
	}
}
